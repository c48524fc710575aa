"""The closed vocabulary of operators that every loader maps its framework to."""

from __future__ import annotations

from enum import Enum


class Op(str, Enum):
    """What a layer computes.

    The vocabulary is closed: an operator that a loader does not know is `OTHER`, which ends a
    prediction there instead of inventing one. Values are the lower-case names that reports print.
    """

    # graph ends
    INPUT = "input"
    OUTPUT = "output"
    CONSTANT = "constant"
    OTHER = "other"

    # layers that own weight matrices or tables
    LINEAR = "linear"
    CONV = "conv"
    CONV_TRANSPOSE = "conv_transpose"
    BILINEAR = "bilinear"
    EMBEDDING = "embedding"
    RNN = "rnn"
    LSTM = "lstm"
    GRU = "gru"

    # products of activations
    MATMUL = "matmul"
    ATTENTION = "attention"

    # normalisers
    BATCH_NORM = "batch_norm"
    LAYER_NORM = "layer_norm"
    RMS_NORM = "rms_norm"
    GROUP_NORM = "group_norm"
    INSTANCE_NORM = "instance_norm"
    LP_NORM = "lp_norm"
    LOCAL_RESPONSE_NORM = "local_response_norm"

    # activations (element-wise, one input)
    RELU = "relu"
    LEAKY_RELU = "leaky_relu"
    PRELU = "prelu"
    RELU6 = "relu6"
    THRESHOLDED_RELU = "thresholded_relu"
    ELU = "elu"
    CELU = "celu"
    SELU = "selu"
    GELU = "gelu"
    QUICK_GELU = "quick_gelu"
    SILU = "silu"
    MISH = "mish"
    HARD_SWISH = "hard_swish"
    SOFTPLUS = "softplus"
    SIGMOID = "sigmoid"
    HARD_SIGMOID = "hard_sigmoid"
    LOG_SIGMOID = "log_sigmoid"
    TANH = "tanh"
    HARD_TANH = "hard_tanh"
    SOFTSIGN = "softsign"
    ERF = "erf"
    ATAN = "atan"
    SIN = "sin"
    COS = "cos"
    SOFTSHRINK = "softshrink"
    HARDSHRINK = "hardshrink"
    GAUSSIAN = "gaussian"
    SNAKE = "snake"
    SQUARED_RELU = "squared_relu"

    # element-wise primitives
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    POW = "pow"
    SQUARE = "square"
    SQRT = "sqrt"
    RECIPROCAL = "reciprocal"
    RECIPROCAL_SQRT = "reciprocal_sqrt"
    EXP = "exp"
    LOG = "log"
    ABS = "abs"
    NEG = "neg"
    CLIP = "clip"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"
    WHERE = "where"
    COMPARE = "compare"

    # reductions, pooling, normalised exponentials
    POOL = "pool"
    REDUCE = "reduce"
    SOFTMAX = "softmax"
    LOG_SOFTMAX = "log_softmax"
    GLU = "glu"

    # joins and splits
    CONCAT = "concat"
    SPLIT = "split"

    # noise
    DROPOUT = "dropout"

    # shape only: the values pass unchanged
    IDENTITY = "identity"
    CAST = "cast"
    RESHAPE = "reshape"
    TRANSPOSE = "transpose"
    EXPAND = "expand"
    SLICE = "slice"
    GATHER = "gather"
    PAD = "pad"
    RESIZE = "resize"
    PIXEL_SHUFFLE = "pixel_shuffle"
    SHAPE = "shape"

    def __str__(self) -> str:
        return self.value


WEIGHTED = frozenset(
    {Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.BILINEAR, Op.EMBEDDING, Op.RNN, Op.LSTM, Op.GRU}
)
"""Layers that own weight matrices, kernels or tables."""

RECURRENT = frozenset({Op.RNN, Op.LSTM, Op.GRU})

NORMALISERS = frozenset(
    {
        Op.BATCH_NORM,
        Op.LAYER_NORM,
        Op.RMS_NORM,
        Op.GROUP_NORM,
        Op.INSTANCE_NORM,
        Op.LP_NORM,
    }
)
"""Operators whose output scale does not depend on the scale of their input."""

ACTIVATIONS = frozenset(
    {
        Op.RELU,
        Op.LEAKY_RELU,
        Op.PRELU,
        Op.RELU6,
        Op.THRESHOLDED_RELU,
        Op.ELU,
        Op.CELU,
        Op.SELU,
        Op.GELU,
        Op.QUICK_GELU,
        Op.SILU,
        Op.MISH,
        Op.HARD_SWISH,
        Op.SOFTPLUS,
        Op.SIGMOID,
        Op.HARD_SIGMOID,
        Op.LOG_SIGMOID,
        Op.TANH,
        Op.HARD_TANH,
        Op.SOFTSIGN,
        Op.ERF,
        Op.ATAN,
        Op.SIN,
        Op.COS,
        Op.SOFTSHRINK,
        Op.HARDSHRINK,
        Op.GAUSSIAN,
        Op.SNAKE,
        Op.SQUARED_RELU,
    }
)

RELU_FAMILY = frozenset({Op.RELU, Op.LEAKY_RELU, Op.PRELU, Op.RELU6, Op.THRESHOLDED_RELU})
"""Positively homogeneous (or nearly) half-linear activations, for which He's derivation holds."""

SATURATING = frozenset({Op.SIGMOID, Op.HARD_SIGMOID, Op.TANH, Op.HARD_TANH, Op.SOFTSIGN, Op.ERF})
"""Bounded activations whose derivative vanishes for large inputs."""

TRANSPARENT = frozenset(
    {
        Op.IDENTITY,
        Op.CAST,
        Op.RESHAPE,
        Op.TRANSPOSE,
        Op.EXPAND,
        Op.SLICE,
        Op.SPLIT,
        Op.GATHER,
        Op.PAD,
        Op.PIXEL_SHUFFLE,
        Op.DROPOUT,
    }
)
"""Operators that pass values through unchanged (dropout: in expectation), whatever the shape."""
