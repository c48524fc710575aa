"""What the names in a checkpoint's pickle stand for: tensors, and records that only carry data.

The functions that PyTorch writes are those of ``torch/_utils.py``; what they take is read off
there. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from initlint.load.decode import BITS, BytesSource, FileSource, Readable, bits
from initlint.load.files import shown
from initlint.load.pickle_machine import Global, Record, checked_key
from initlint.load.stored import Stored, checked_shape, real_parts, strided
from initlint.model import LoadError, Tensor
from initlint.model.tensor import Array

STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
}
UNTYPED = "torch.storage.UntypedStorage"

DTYPES = {name: name for name in BITS if bits(name) >= 8 and not name.endswith("e8m0")} | {
    "float": "float32",
    "double": "float64",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "float8_e8m0fnu": "float8_e8m0",
    "qint8": "int8",
    "quint8": "uint8",
    "qint32": "int32",
}

_STORAGE_NAME = re.compile(r"torch\.(?:cuda\.)?(?P<kind>\w+Storage)")
_MODULE_NAME = re.compile(r"torch\.nn\.modules\.\w+\.[A-Z]\w*")

_RECORDS = frozenset(
    {
        "argparse.Namespace",
        "types.SimpleNamespace",
        "datetime.datetime",
        "datetime.date",
        "datetime.timedelta",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "uuid.UUID",
        "collections.defaultdict",
        "collections.Counter",
        "typing.Any",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        "omegaconf.nodes.AnyNode",
        "omegaconf.nodes.BooleanNode",
        "omegaconf.nodes.FloatNode",
        "omegaconf.nodes.IntegerNode",
        "omegaconf.nodes.StringNode",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        "easydict.EasyDict",
        "addict.addict.Dict",
        "yacs.config.CfgNode",
        "fvcore.common.config.CfgNode",
        "mmcv.utils.config.ConfigDict",
        "mmengine.config.config.ConfigDict",
        "torch.torch_version.TorchVersion",
        "torch.device",
        "torch.strided",
        "torch.sparse_coo",
        "torch.per_tensor_affine",
        "torch.per_channel_affine",
        "torch.contiguous_format",
        "torch.channels_last",
        "torch.preserve_format",
        "torch.Tensor",
        "torch._tensor.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.serialization._get_layout",
        "torch._utils._rebuild_sparse_tensor",
        "torch._utils._rebuild_sparse_csr_tensor",
        "torch._utils._rebuild_meta_tensor_no_storage",
        "torch._utils._rebuild_nested_tensor",
        "torch._C._nn.gelu",
        "torch.nn.functional.relu",
        "torch.nn.functional.gelu",
    }
)
"""Names that stand for themselves. They are read and never looked up, so what matters is only that
a file with any other name is worth refusing: it holds more than weights."""

_BUILTINS = frozenset(
    ["int", "float", "bool", "str", "complex", "object", "type", "slice", "range"]
)
"""Built-in types as values, for instance the factory of a ``defaultdict``."""


@dataclass(slots=True, eq=False)
class StorageBytes:
    """The bytes behind one storage key.

    Attributes:
        key: its name in the file.
        size: number of bytes.
        where: what they are read from; set once the file told where they are.
        offset: first byte there.
    """

    key: str
    size: int
    where: Readable | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Elements:
    """The bytes of a storage as elements of one type (a `initlint.model.Source`)."""

    storage: StorageBytes
    dtype: str
    count: int
    first: int = 0

    def read(self, start: int, stop: int) -> Array:
        """Elements ``start`` to ``stop``."""
        if self.storage.where is None:
            raise LoadError(f"storage {shown(self.storage.key)!r} is not in the file")
        begin = self.storage.offset + self.first * bits(self.dtype) // 8
        return FileSource(self.storage.where, begin, self.dtype, self.count).read(start, stop)


class TorchBuilder:
    """The `initlint.load.pickle_machine.Builder` for PyTorch's and NumPy's names.

    Attributes:
        storages: every storage that the pickle refers to, by key.
    """

    def __init__(self) -> None:
        self.storages: dict[str, StorageBytes] = {}

    def allows(self, name: str) -> bool:
        """True for tensors, storages, plain containers and classes that only carry data."""
        return (
            name in _RECORDS
            or name in _CALLS
            or name == UNTYPED
            or _storage_dtype(name) is not None
            or _builtin(name) in _BUILTINS
            or (name.startswith("torch.") and name[6:] in DTYPES)
            or _MODULE_NAME.fullmatch(name) is not None
        )

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """The value that a call of an allowed global stands for."""
        if name == _FROM_TYPE:
            function, _, inner, *_ = arguments
            if not isinstance(function, Global):
                raise TypeError
            return self.call(function.name, tuple(inner))
        action = _CALLS.get(name)
        return Record(name, arguments) if action is None else action(*arguments)

    def persistent(self, reference: Any) -> Any:
        """The storage, or the class, that a persistent identifier names."""
        if not isinstance(reference, tuple) or len(reference) < 2:
            raise LoadError("malformed pickle: unknown persistent identifier")
        if reference[0] == "module":
            return reference[1]
        if reference[0] != "storage" or len(reference) < 5:
            raise LoadError("malformed pickle: unknown persistent identifier")
        kind, key, _, count = reference[1:5]
        if not isinstance(kind, Global) or type(count) is not int or not 0 <= count < 1 << 60:
            raise LoadError("malformed pickle: damaged storage")
        dtype = "uint8" if kind.name == UNTYPED else _storage_dtype(kind.name)
        if dtype is None:
            raise LoadError(f"malformed pickle: {shown(kind.name)} is no storage")
        key = str(key) if isinstance(key, (str, int)) else "?"
        size = count * bits(dtype) // 8
        storage = self.storages.setdefault(key, StorageBytes(key, size))
        if storage.size != size:
            raise LoadError(f"malformed pickle: two sizes of storage {shown(key)!r}")
        view = reference[5] if len(reference) > 5 else None
        if view is None:
            return Elements(storage, dtype, count)
        _, first, part = view
        checked_shape((first, part), key)
        if first + part > count:
            raise LoadError(f"storage {shown(key)!r} is smaller than a view of it")
        return Elements(storage, dtype, part, first)


def _storage_dtype(name: str) -> str | None:
    match = _STORAGE_NAME.fullmatch(name)
    return STORAGES.get(match["kind"]) if match else None


def _builtin(name: str) -> str:
    module, _, attribute = name.partition(".")
    return attribute if module in ("builtins", "__builtin__") else ""


def dtype_of(value: Any) -> str:
    """Element type that a ``torch.float32``-like name stands for."""
    if not isinstance(value, Global) or value.name[6:] not in DTYPES:
        raise LoadError("malformed pickle: unknown element type")
    return DTYPES[value.name[6:]]


def _tensor(
    elements: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = None,
    *_: Any,
    dtype: str | None = None,
) -> Stored:
    """``_rebuild_tensor``, ``_rebuild_tensor_v2``."""
    if not isinstance(elements, Elements) or type(offset) is not int:
        raise TypeError
    name = f"storage {elements.storage.key}"
    shape, strides = checked_shape(size, name), checked_shape(stride, name)
    stored_dtype = dtype or elements.dtype
    unit, sides = real_parts(stored_dtype, shape)
    factor = bits(stored_dtype) // bits(unit)
    if factor > 1:
        strides = (*(step * factor for step in strides), 1)
    available = elements.count * bits(elements.dtype) // bits(unit)
    first = elements.first * bits(elements.dtype) // bits(unit)
    source = Elements(elements.storage, unit, available, first)
    tensor = strided(name, unit, source, available, offset * factor, sides, strides)
    identity = (elements.storage.key, first, offset, shape, strides, stored_dtype)
    needs = requires_grad if isinstance(requires_grad, bool) else None
    return Stored(replace(tensor, dtype=stored_dtype), identity, needs)


def _tensor_v3(
    elements: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Stored:
    return _tensor(elements, offset, size, stride, grad, dtype=dtype_of(dtype))


def _parameter(data: Any, requires_grad: Any = True, *_: Any) -> Any:
    if isinstance(data, Stored):
        return replace(data, requires_grad=bool(requires_grad))
    return data


def _quantised(
    elements: Any, offset: Any, size: Any, stride: Any, quantiser: Any, *_: Any
) -> Stored:
    """``_rebuild_qtensor``: integers behind a scale and a zero point."""
    stored = _tensor(elements, offset, size, stride)
    if len(quantiser) < 3 or not isinstance(quantiser[0], Global):
        raise TypeError
    if quantiser[0].name != "torch.per_tensor_affine":
        return replace(stored, quantised=True)
    scale, zero = float(quantiser[1]), float(quantiser[2])
    return replace(stored, tensor=stored.tensor.shift(-zero).scale(scale), quantised=True)


def _sequence(*arguments: Any) -> Any:
    (values,) = arguments or ((),)
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise TypeError
    return values


def _mapping(*arguments: Any) -> dict[Any, Any]:
    (values,) = arguments or ({},)
    if isinstance(values, dict):
        return dict(values)
    return {checked_key(key): value for key, value in _sequence(values)}


def _keys(*arguments: Any) -> list[Any]:
    return [checked_key(value) for value in _sequence(*arguments)]


def _refuse() -> dict[Any, Any]:
    raise TypeError


def _bytes(*arguments: Any) -> bytes:
    """``bytearray(b"…")`` and ``_codecs.encode("…", "latin1")``; never ``bytearray(size)``."""
    if not arguments:
        return b""
    value = arguments[0]
    if isinstance(value, str) and len(arguments) > 1:
        return value.encode("latin-1")
    if not isinstance(value, bytes):
        raise TypeError
    return value


def _reconstructed(kind: Any, *_: Any) -> Record:
    if not isinstance(kind, Global):
        raise TypeError
    return Record(kind.name)


def _numpy_array(*arguments: Any) -> Record:
    return Record("numpy.ndarray", arguments)


def _numpy_dtype(code: Any, *_: Any) -> Record:
    return Record("numpy.dtype", (code,))


def _numpy_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Record:
    return Record("numpy.ndarray", (), (1, shape, dtype, order == "F", data))


def _numpy_scalar(*arguments: Any) -> Record:
    return Record("numpy.generic", arguments)


def numpy_tensor(name: str, array: Record) -> Stored | None:
    """A pickled NumPy array as a tensor; None for strings, objects and other byte orders.

    Raises:
        LoadError: its bytes do not match its shape and element type.
    """
    state = array.state
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Record):
        return None
    _, shape, dtype, fortran, data = state
    element = _numpy_element(dtype)
    if isinstance(data, str):
        data = data.encode("latin-1")
    if element is None or not isinstance(data, bytes):
        return None
    sides = checked_shape(shape, name)
    unit, real = real_parts(element, sides)
    if len(data) * 8 != prod(sides) * bits(element):
        raise LoadError(f"array {shown(name)!r} does not have the bytes of its shape")
    source = BytesSource(data, unit, prod(real))
    if fortran and len(sides) > 1:
        return Stored(Tensor(name, element, sides[::-1], source).transpose(), id(array))
    return Stored(Tensor(name, element, real, source), id(array))


_NUMPY_ELEMENTS = {
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "c8": "complex64",
    "c16": "complex128",
    "b1": "bool",
    **{
        f"{sign}{size}": f"{word}{8 * size}"
        for sign, word in (("i", "int"), ("u", "uint"))
        for size in (1, 2, 4, 8)
    },
}


def _numpy_element(dtype: Record) -> str | None:
    code = dtype.arguments[0] if dtype.arguments else None
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else "<"
    if not isinstance(code, str):
        return None
    element = _NUMPY_ELEMENTS.get(code.lstrip("<|="))
    return None if order == ">" and element and bits(element) > 8 else element


_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"

_CALLS: dict[str, Callable[..., Any]] = {
    _FROM_TYPE: _refuse,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch.Size": lambda *sides: tuple(_sequence(*sides)),
    "collections.OrderedDict": _mapping,
    "_codecs.encode": _bytes,
    "copy_reg._reconstructor": _reconstructed,
    "copyreg._reconstructor": _reconstructed,
    "numpy.ndarray": _numpy_array,
    "numpy.dtype": _numpy_dtype,
    **{
        f"{module}.{attribute}": action
        for module in ("builtins", "__builtin__")
        for attribute, action in {
            "dict": _mapping,
            "list": lambda *values: list(_sequence(*values)),
            "tuple": lambda *values: tuple(_sequence(*values)),
            "set": lambda *values: set(_keys(*values)),
            "frozenset": lambda *values: frozenset(_keys(*values)),
            "bytearray": _bytes,
            "bytes": _bytes,
        }.items()
    },
    **{
        f"numpy.{core}.{attribute}": action
        for core in ("core", "_core")
        for attribute, action in {
            "multiarray._reconstruct": _numpy_array,
            "multiarray.scalar": _numpy_scalar,
            "numeric._frombuffer": _numpy_buffer,
        }.items()
    },
}
