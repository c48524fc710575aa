"""What the functions of PyTorch are called, and which of them matter how to a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from initlint.load.einsum import pairwise

QUERIES = frozenset(
    [
        "size",
        "dim",
        "shape",
        "dtype",
        "device",
        "ndim",
        "numel",
        "nelement",
        "stride",
        "storage_offset",
        "is_contiguous",
        "layout",
        "requires_grad",
        "is_cuda",
        "is_meta",
        "is_cpu",
        "is_sparse",
        "is_mkldnn",
        "is_quantized",
        "is_nested",
        "is_mps",
        "is_floating_point",
        "is_complex",
        "is_signed",
        "element_size",
        "grad_fn",
        "grad",
        "is_leaf",
        "data_ptr",
        "_set_grad_enabled",
        "__len__",
        "names",
        "itemsize",
        "nbytes",
        "output_nr",
        "_version",
        "retain_grad",
        "register_hook",
        "untyped_storage",
        "storage",
        "is_tensor",
        "is_grad_enabled",
        "__format__",
        "__repr__",
        "__hash__",
        "is_inference",
        "get_device",
        "is_xpu",
        "is_same_size",
        "set_grad_enabled",
        "is_set_to",
        "__dir__",
        "get_default_dtype",
        "is_autocast_enabled",
        "_has_compatible_shallow_copy_type",
        "__dlpack_device__",
        "is_shared",
        "is_pinned",
        "can_cast",
        "result_type",
        "promote_types",
    ]
)
"""Functions that tell something about a tensor and make none."""

COMPOSITE = frozenset({"multi_head_attention_forward"})
"""Functions that are traced through instead of seen as one call."""

FACTORIES = frozenset(
    [
        "zeros",
        "ones",
        "empty",
        "full",
        "arange",
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "rand_like",
        "randn_like",
        "randint_like",
        "new_zeros",
        "new_ones",
        "new_empty",
        "new_full",
        "new_tensor",
        "new_empty_strided",
    ]
)
"""Functions that take only shape and type from their tensor."""

SAME_SHAPE = frozenset(
    [
        "batch_norm",
        "layer_norm",
        "group_norm",
        "instance_norm",
        "rms_norm",
        "local_response_norm",
        "normalize",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_alpha_dropout",
        "softmax",
        "log_softmax",
        "relu",
        "relu6",
        "leaky_relu",
        "rrelu",
        "prelu",
        "elu",
        "celu",
        "selu",
        "gelu",
        "silu",
        "mish",
        "softplus",
        "sigmoid",
        "hardsigmoid",
        "hardswish",
        "hardtanh",
        "logsigmoid",
        "tanh",
        "softsign",
        "softshrink",
        "hardshrink",
        "threshold",
    ]
)
"""Functions whose result has the shape and type of their first argument.

On meta tensors nothing else is to be known of them, and torch computes some of them there in
Python, through modules that take longer to import than a network takes to run.
"""

DEVICE_MOVES = frozenset({"to", "cpu", "cuda"})


def function_name(function: Any) -> str:
    """``add`` for ``torch.add``, ``Tensor.add_``, ``x += y``; the property name for getters."""
    name = getattr(function, "__name__", None) or type(function).__name__
    if name == "__get__":
        return str(getattr(function.__self__, "__name__", name))
    return str(name)


def plain_name(name: str) -> str:
    """A function name without its in-place or operator spelling."""
    if name.startswith("__") and name.endswith("__"):
        stem = name[2:-2]
        return _OPERATORS.get(stem, stem)
    return name[:-1] if name.endswith("_") and len(name) > 1 else name


_OPERATORS = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "rsub": "rsub",
    "imul": "mul",
    "rmul": "mul",
    "itruediv": "div",
    "truediv": "div",
    "idiv": "div",
    "rtruediv": "rdiv",
    "ipow": "pow",
    "and": "logical_and",
    "or": "logical_or",
    "xor": "logical_xor",
    "invert": "logical_not",
    "getitem": "getitem",
    "setitem": "setitem",
}


def changes_in_place(name: str) -> bool:
    """True for functions that write to their first argument."""
    if name.startswith("__"):
        return name == "__setitem__" or (name[2] == "i" and name[2:-2] in _OPERATORS)
    return name.endswith("_")


def tensors_in(value: Any, depth: int = 4) -> Iterator[Any]:
    """Tensors inside nested containers, dataclasses and plain objects, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from tensors_in(item, depth - 1)
    elif depth and isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, (type, torch.nn.Module)):
        for item in vars(value).values():
            yield from tensors_in(item, depth - 1)


def map_tensors(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with every tensor in its lists, tuples and dicts replaced."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        items = [map_tensors(item, change) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return type(value)(items) if type(value) in (list, tuple) else value
    if type(value) is dict:
        return {key: map_tensors(item, change) for key, item in value.items()}
    return value


WEIGHTED = frozenset(
    [
        "linear",
        "bilinear",
        "embedding",
        "embedding_bag",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "lstm",
        "gru",
        "rnn_tanh",
        "rnn_relu",
    ]
)
NORMALISING = frozenset(["layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm"])
FLIPS = frozenset({"transpose", "mT", "permute", "swapaxes", "t"})


def without_device(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of ``x.to(...)`` with the device left out."""
    if name != "to":
        return args[:1], {}
    kept: list[Any] = [args[0]]
    for item in args[1:]:
        if isinstance(item, torch.Tensor):
            kept.append(item.dtype)
        elif isinstance(item, torch.dtype):
            kept.append(item)
    named = {key: item for key, item in kwargs.items() if key == "dtype" and item is not None}
    return tuple(kept), named


def without_dropout(
    plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments with its dropout probability set to zero."""
    if "dropout" in plain:
        position, keyword = 1, "p"
    elif plain == "scaled_dot_product_attention":
        position, keyword = 4, "dropout_p"
    elif plain in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        position, keyword = (6 if isinstance(args[3], (list, tuple)) else 5), "dropout"
    else:
        return args, kwargs
    if len(args) > position:
        return (*args[:position], 0.0, *args[position + 1 :]), kwargs
    if plain in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return args, kwargs
    return args, {**kwargs, keyword: 0.0}


def products(name: str, args: tuple[Any, ...]) -> tuple[str, ...]:
    """The products of two tensors that an Einstein sum of several is made of, if it is one."""
    return pairwise(args[0]) if name == "einsum" and args and isinstance(args[0], str) else ()


def in_pairs(func: Any, steps: tuple[str, ...], args: tuple[Any, ...]) -> Any:
    """The sum, as these products one after the other."""
    first, *others = args[1] if isinstance(args[1], (list, tuple)) else args[1:]
    for step, other in zip(steps, others, strict=True):
        first = func(step, first, other)
    return first
