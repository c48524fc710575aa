"""What the probe's child process is told, and how it travels: lengths first, then bytes."""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from initlint.probe.inputs import Array, InputSpec

_LENGTH = struct.Struct("<Q")

MAX_HEADER = 1 << 28
"""A header of 200,000 layers takes some 40 MB."""


NUMPY_TYPES = {
    1: "<f4",
    2: "u1",
    3: "i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "?",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}
"""ONNX element types that NumPy has."""

CARRIERS = {16: "<u2", 17: "u1", 18: "u1", 19: "u1", 20: "u1"}
"""Element types that NumPy lacks (bfloat16, float8), by the integer type that carries them."""

HANDED_OVER = frozenset(NUMPY_TYPES) | frozenset(CARRIERS)
"""ONNX element types of weights that onnxruntime takes from memory."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One layer whose output is measured.

    Attributes:
        layer: layer id.
        value: the graph value that holds its first output.
        op: value of `initlint.model.Op`.
        channel_axis: axis of the units.
        bounds: lower and upper bound of a hard tanh, else empty.
        weights: weights used once per position: their number times positions is the work.
        varies: False when the value is the same for all samples: it depends on masks only, or on
            positions, or on nothing.
        batched: False when nothing but the sizes of inputs enters the value.
    """

    layer: str
    value: str
    op: str
    channel_axis: int = -1
    bounds: Sequence[float] = ()
    weights: int = 0
    varies: bool = True
    batched: bool = True


@dataclass(frozen=True, slots=True)
class External:
    """A weight that is not inside the model's own bytes.

    Attributes:
        name: initializer name.
        data_type: ONNX element type.
        dims: shape.
        size: number of its bytes.
        read: gives them, raw and little-endian.
        offset: where they lie in the model's file; None where they do not.
    """

    name: str
    data_type: int
    dims: tuple[int, ...]
    size: int
    read: Callable[[], bytes | memoryview]
    offset: int | None = None

    @classmethod
    def of(
        cls, name: str, data_type: int, dims: Iterable[int], data: bytes | memoryview
    ) -> External:
        """A weight whose bytes are there."""
        return cls(name, data_type, tuple(dims), len(data), lambda: data)


@dataclass(frozen=True, slots=True)
class Request:
    """One probe run.

    Attributes:
        model: serialised ``ModelProto``.
        external: weights to hand over beside it.
        inputs: how to make every input.
        given: arrays that the user gave instead, by input name; empty to synthesise.
        observed: what to measure.
        seed: seeds inputs and sampling.
        activation_bytes: memory that the outputs of one run may take together.
        batch_norms: BatchNormalization nodes that use batch statistics.
        opset: version of the ai.onnx operators; 0 where the graph uses none.
    """

    model: bytes
    inputs: tuple[InputSpec, ...]
    observed: tuple[Observed, ...]
    external: tuple[External, ...] = ()
    given: Mapping[str, Array] = field(default_factory=dict)
    seed: int = 0
    activation_bytes: int = 1 << 29
    batch_norms: int = 0
    opset: int = 0

    def pieces(self, file: int | None = None) -> Iterator[bytes | memoryview]:
        """The request as bytes, piece by piece.

        Args:
            file: the reader's descriptor of the model's file, if it has that open: weights that lie
                in there are not sent.

        Raises:
            ValueError: a weight has another size than it stated.
        """
        given = {name: _bytes_of(array) for name, array in self.given.items()}
        offsets = [None if file is None else item.offset for item in self.external]
        header = {
            "model": len(self.model),
            "inputs": [spec.to_json() for spec in self.inputs],
            "observed": [asdict(item) for item in self.observed],
            "external": [
                [item.name, item.data_type, item.dims, item.size, offset]
                for item, offset in zip(self.external, offsets, strict=True)
            ],
            "file": file,
            "given": [
                [name, _dtype_name(array), array.shape, len(given[name])]
                for name, array in self.given.items()
            ],
            "seed": self.seed,
            "activation_bytes": self.activation_bytes,
            "batch_norms": self.batch_norms,
            "opset": self.opset,
        }
        encoded = json.dumps(header).encode()
        yield _LENGTH.pack(len(encoded))
        yield encoded
        yield self.model
        for item, offset in zip(self.external, offsets, strict=True):
            if offset is not None:
                continue
            data = item.read()
            if len(data) != item.size:
                raise ValueError(f"weight {item.name} does not have the size that it stated")
            yield data
        yield from given.values()

    @classmethod
    def read(cls, read: Callable[[int], bytes]) -> Request:
        """The inverse of `pieces`; ``read`` returns exactly so many bytes, fewer at the end."""
        (length,) = _LENGTH.unpack(_exactly(read, _LENGTH.size))
        if length > MAX_HEADER:
            raise EOFError("the request's header is too long")
        header = json.loads(_exactly(read, length))
        model = _exactly(read, header["model"])
        weights = header["external"]
        whole = _whole(header["file"]) if any(item[-1] is not None for item in weights) else b""
        external = tuple(
            External.of(
                name,
                data_type,
                dims,
                _exactly(read, size) if offset is None else whole[offset : offset + size],
            )
            for name, data_type, dims, size, offset in weights
        )
        given = {
            name: _array_of(_exactly(read, size), dtype, shape)
            for name, dtype, shape, size in header["given"]
        }
        return cls(
            model=model,
            inputs=tuple(InputSpec.from_json(item) for item in header["inputs"]),
            observed=tuple(Observed(**item) for item in header["observed"]),
            external=external,
            given=given,
            seed=header["seed"],
            activation_bytes=header["activation_bytes"],
            batch_norms=header["batch_norms"],
            opset=header["opset"],
        )


def _whole(descriptor: int) -> memoryview:
    """A file as memory. Should somebody shorten it, this process ends, and no other."""
    size = os.fstat(descriptor).st_size
    return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise EOFError("the request ended early")
    return data


def _dtype_name(array: Array) -> str:
    return "string" if array.dtype.kind in "OUS" else str(array.dtype)


def _bytes_of(array: Array) -> bytes:
    if _dtype_name(array) == "string":
        return json.dumps([str(item) for item in array.reshape(-1)]).encode()
    return np.ascontiguousarray(array).tobytes()


def _array_of(data: bytes, dtype: str, shape: list[int]) -> Array:
    if dtype == "string":
        return np.array(json.loads(data), dtype=object).reshape(shape)
    return np.frombuffer(data, dtype=dtype).reshape(shape)
