"""What each PyTorch function is in the closed vocabulary of operators."""

from __future__ import annotations

from initlint.load.torch_arithmetic import Handler, Simple, arithmetic, other
from initlint.load.torch_products import Mapped, einsum, matrix_product, operand, recurrent
from initlint.load.torch_shapes import (
    adaptive_pool,
    clip,
    compare,
    concat,
    detach,
    dropout,
    gather,
    index,
    pad,
    perm,
    pool,
    prelu,
    reduce,
    reshape,
    resize,
    rrelu,
    select,
    split,
    threshold,
    where,
)
from initlint.load.torch_tracer import Call
from initlint.load.torch_weighted import (
    attention,
    bilinear,
    conv,
    conv_transpose,
    embedding,
    layer_norm_settings,
    linear_layer,
    norm,
)
from initlint.model import Op

_UNARY: dict[str, Op] = {
    "relu": Op.RELU,
    "relu6": Op.RELU6,
    "selu": Op.SELU,
    "silu": Op.SILU,
    "mish": Op.MISH,
    "hardswish": Op.HARD_SWISH,
    "sigmoid": Op.SIGMOID,
    "special_expit": Op.SIGMOID,
    "hardsigmoid": Op.HARD_SIGMOID,
    "logsigmoid": Op.LOG_SIGMOID,
    "log_sigmoid": Op.LOG_SIGMOID,
    "tanh": Op.TANH,
    "softsign": Op.SOFTSIGN,
    "erf": Op.ERF,
    "special_erf": Op.ERF,
    "atan": Op.ATAN,
    "arctan": Op.ATAN,
    "sin": Op.SIN,
    "cos": Op.COS,
    "square": Op.SQUARE,
    "sqrt": Op.SQRT,
    "reciprocal": Op.RECIPROCAL,
    "rsqrt": Op.RECIPROCAL_SQRT,
    "exp": Op.EXP,
    "log": Op.LOG,
    "abs": Op.ABS,
    "absolute": Op.ABS,
    "neg": Op.NEG,
    "negative": Op.NEG,
    "positive": Op.IDENTITY,
}

_SETTINGS: dict[str, Simple] = {
    "leaky_relu": Simple(Op.LEAKY_RELU, {"negative_slope": (1, "negative_slope", 0.01)}),
    "elu": Simple(Op.ELU, {"alpha": (1, "alpha", 1.0)}),
    "celu": Simple(Op.CELU, {"alpha": (1, "alpha", 1.0)}),
    "gelu": Simple(Op.GELU, {"approximate": (1, "approximate", "none")}),
    "softplus": Simple(Op.SOFTPLUS, {"beta": (1, "beta", 1.0)}),
    "hardtanh": Simple(Op.HARD_TANH, {"min": (1, "min_val", -1.0), "max": (2, "max_val", 1.0)}),
    "softshrink": Simple(Op.SOFTSHRINK, {"lambd": (1, "lambd", 0.5)}),
    "hardshrink": Simple(Op.HARDSHRINK, {"lambd": (1, "lambd", 0.5)}),
    "softmax": Simple(Op.SOFTMAX, {"axis": (1, "dim", -1)}),
    "log_softmax": Simple(Op.LOG_SOFTMAX, {"axis": (1, "dim", -1)}),
    "glu": Simple(Op.GLU, {"axis": (1, "dim", -1)}),
    "local_response_norm": Simple(
        Op.LOCAL_RESPONSE_NORM,
        {"size": (1, "size", None), "alpha": (2, "alpha", 1e-4), "beta": (3, "beta", 0.75)},
    ),
    "normalize": Simple(
        Op.LP_NORM, {"p": (1, "p", 2.0), "axis": (2, "dim", 1), "eps": (3, "eps", 1e-12)}
    ),
    "pixel_shuffle": Simple(Op.PIXEL_SHUFFLE, {"factor": (1, "upscale_factor", None)}),
}

_COMPARISONS = {
    "gt": "greater",
    "greater": "greater",
    "lt": "less",
    "less": "less",
    "ge": "greater_equal",
    "greater_equal": "greater_equal",
    "le": "less_equal",
    "less_equal": "less_equal",
    "eq": "equal",
    "ne": "not_equal",
    "not_equal": "not_equal",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
    "logical_xor": "logical_xor",
    "logical_not": "logical_not",
    "isnan": "is_nan",
    "isinf": "is_inf",
    "isfinite": "is_finite",
}

_SHAPES: dict[str, Handler] = {
    **dict.fromkeys(
        [
            "reshape",
            "view",
            "view_as",
            "reshape_as",
            "flatten",
            "unflatten",
            "squeeze",
            "unsqueeze",
            "ravel",
            "pixel_unshuffle",
            "channel_shuffle",
            "atleast_2d",
        ],
        reshape,
    ),
    **dict.fromkeys(
        [
            "permute",
            "transpose",
            "t",
            "T",
            "mT",
            "swapaxes",
            "swapdims",
            "movedim",
            "moveaxis",
            "adjoint",
            "H",
            "mH",
        ],
        perm,
    ),
    **dict.fromkeys(
        ["expand", "expand_as", "broadcast_to", "repeat", "tile", "repeat_interleave"],
        Simple(Op.EXPAND),
    ),
    **dict.fromkeys(["chunk", "split", "split_with_sizes", "tensor_split", "unbind"], split),
    **dict.fromkeys(
        [
            "gather",
            "index_select",
            "take",
            "take_along_dim",
            "masked_select",
            "roll",
            "flip",
            "unfold",
            "_pack_padded_sequence",
            "_pad_packed_sequence",
        ],
        gather,
    ),
    **dict.fromkeys(["cat", "concat", "concatenate", "stack", "hstack", "vstack"], concat),
    **dict.fromkeys(["interpolate", "upsample", "upsample_nearest", "upsample_bilinear"], resize),
    "getitem": index,
    "select": select,
    "narrow": select,
    "pad": pad,
}

_NORMS: dict[str, Handler] = {
    "layer_norm": norm(Op.LAYER_NORM, 2, 3, layer_norm_settings),
    "rms_norm": norm(Op.RMS_NORM, 2, None, layer_norm_settings),
    "batch_norm": norm(
        Op.BATCH_NORM,
        3,
        4,
        lambda call: {
            "eps": call.arg(7, "eps", 1e-5),
            "training": bool(call.arg(5, "training", False)),
        },
    ),
    "instance_norm": norm(Op.INSTANCE_NORM, 3, 4, lambda call: {"eps": call.arg(7, "eps", 1e-5)}),
    "group_norm": norm(
        Op.GROUP_NORM,
        2,
        3,
        lambda call: {"groups": int(call.arg(1, "num_groups")), "eps": call.arg(4, "eps", 1e-5)},
    ),
}

_POOLS: dict[str, Handler] = {
    **{
        f"{kind}_pool{n}d": pool(op)
        for n in "123"
        for kind, op in (("max", "max"), ("avg", "mean"))
    },
    **{f"lp_pool{n}d": pool("l2") for n in "12"},
    **{
        f"adaptive_{kind}_pool{n}d": adaptive_pool(op)
        for n in "123"
        for kind, op in (("max", "max"), ("avg", "mean"))
    },
}

_REDUCTIONS: dict[str, Handler] = {
    **{name: reduce(name) for name in ("mean", "sum", "max", "min", "prod", "var", "std", "norm")},
    "amax": reduce("max"),
    "amin": reduce("min"),
    "nanmean": reduce("mean"),
    "nansum": reduce("sum"),
    "logsumexp": reduce("logsumexp"),
    "vector_norm": reduce("norm"),
    "linalg_vector_norm": reduce("norm"),
}

_ARITHMETIC: dict[str, Handler] = {
    "add": arithmetic(Op.ADD),
    "sub": arithmetic(Op.SUB),
    "subtract": arithmetic(Op.SUB),
    "rsub": arithmetic(Op.SUB, swapped=True),
    "mul": arithmetic(Op.MUL),
    "multiply": arithmetic(Op.MUL),
    "div": arithmetic(Op.DIV),
    "divide": arithmetic(Op.DIV),
    "true_divide": arithmetic(Op.DIV),
    "rdiv": arithmetic(Op.DIV, swapped=True),
    "pow": arithmetic(Op.POW),
    "rpow": arithmetic(Op.POW, swapped=True),
    "maximum": arithmetic(Op.MAXIMUM),
    "minimum": arithmetic(Op.MINIMUM),
}

_LAYERS: dict[str, Handler] = {
    "linear": linear_layer,
    "bilinear": bilinear,
    "embedding": embedding,
    "embedding_bag": embedding,
    **{f"conv{n}d": conv for n in "123"},
    **{f"conv_transpose{n}d": conv_transpose for n in "123"},
    **dict.fromkeys(
        [
            "lstm",
            "gru",
            "rnn_tanh",
            "rnn_relu",
            "lstm_cell",
            "gru_cell",
            "rnn_tanh_cell",
            "rnn_relu_cell",
        ],
        recurrent,
    ),
    **dict.fromkeys(
        [
            "matmul",
            "rmatmul",
            "mm",
            "bmm",
            "mv",
            "dot",
            "inner",
            "addmm",
            "addmv",
            "baddbmm",
            "addbmm",
            "vecdot",
            "linalg_matmul",
            "_grouped_mm",
            "grouped_mm",
        ],
        matrix_product,
    ),
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
}

_CHOICES: dict[str, Handler] = {
    "where": where,
    "masked_fill": where,
    **{name: compare(kind) for name, kind in _COMPARISONS.items()},
    **dict.fromkeys(["clamp", "clip", "clamp_min", "clamp_max"], clip),
    "rrelu": rrelu,
    "prelu": prelu,
    "threshold": threshold,
    **dict.fromkeys(
        [
            "dropout",
            "dropout1d",
            "dropout2d",
            "dropout3d",
            "alpha_dropout",
            "feature_alpha_dropout",
            "feature_dropout",
        ],
        dropout,
    ),
    "detach": detach,
    "data": detach,
}

UNCHANGED = frozenset(
    [
        "contiguous",
        "clone",
        "to",
        "float",
        "half",
        "double",
        "bfloat16",
        "type",
        "type_as",
        "requires_grad",
        "identity",
        "alias",
        "cpu",
        "cuda",
        "_to_copy",
        "conj",
        "resolve_conj",
        "resolve_neg",
        "view_as_real",
        "int",
        "long",
        "lift_fresh",
    ]
)
"""Functions whose result holds the same values in the same shape: no layer of their own."""

HANDLERS: dict[str, Handler] = {
    **{name: Simple(op) for name, op in _UNARY.items()},
    **_SETTINGS,
    **_SHAPES,
    **_NORMS,
    **_POOLS,
    **_REDUCTIONS,
    **_ARITHMETIC,
    **_LAYERS,
    **_CHOICES,
}


def describe(call: Call) -> list[Mapped]:
    """The layers that one call stands for, in order; each but the first reads the one before."""
    if call.name in UNCHANGED and operand(call).shape == call.outputs[0].shape:
        return []
    return HANDLERS.get(call.name, other)(call)
