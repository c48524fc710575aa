"""What a run of an ONNX model needs: the file, its inputs and the name of every layer's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class GraphInput:
    """One input of the main graph that the caller must feed (initializers are not listed).

    Attributes:
        name: value name.
        dtype: element type as `Tensor.dtype` spells it (``float32``, ``int64``, ``string``…);
            ``sequence``, ``map`` or ``unknown`` where the input is no dense tensor.
        dims: one entry per axis: a size, the name of a symbolic axis, or None for an unnamed
            dynamic axis (0, -1, ``?`` and absent sizes count as dynamic). None: unknown rank.
        optional: True when the declared type is ``optional``.
    """

    name: str
    dtype: str
    dims: tuple[int | str | None, ...] | None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class FoldedNorm:
    """A batch normalisation that the exporter folded into the layer before it.

    Attributes:
        value: the value that it would produce.
        channel_axis: axis of the channels, 1 or -1.
        width: number of channels.
        dtype: element type.
    """

    value: str
    channel_axis: int
    width: int
    dtype: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Raw data of initializers that stayed in the model's file; theirs is empty in the message.

    Attributes:
        places: offset and length by initializer.
        read: gives so many bytes from an offset on.
        is_same: tells of a descriptor whether it has that file open, as it was read.
    """

    places: Mapping[str, tuple[int, int]]
    read: Callable[[int, int], bytes]
    is_same: Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class OnnxRunnable:
    """Everything that a probe reads about an ONNX model beside the layer graph.

    Attributes:
        path: the model file, as the user gave it.
        inputs: the inputs to feed, in the graph's order.
        outputs: names of the main graph's outputs.
        layer_outputs: layer id to the main-graph value that holds its first output; None for
            layers inside subgraphs and local functions, whose values are not visible outside,
            and for layers that only a fused operator contains.
        initializers: names of the main graph's initializers, sparse ones included.
        external: True when some weight lives in a file beside the model.
        opsets: operator-set version per domain (``""`` is ai.onnx).
        model: the parsed ``onnx.ModelProto`` without external data loaded; treat as read-only.
        folded_norms: batch normalisations that the graph no longer holds.
        read_external: the bytes of a TensorProto whose data is external, read inside the model's
            folder; None where nothing is external.
        left_out: large raw data that ``model`` does not hold; None where it holds all.
    """

    path: str
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    layer_outputs: Mapping[str, str | None]
    initializers: frozenset[str]
    external: bool
    opsets: Mapping[str, int] = field(default_factory=dict)
    folded_norms: tuple[FoldedNorm, ...] = ()
    model: Any = field(default=None, compare=False, repr=False)
    read_external: Callable[[Any], bytes] | None = field(default=None, compare=False, repr=False)
    left_out: LeftOut | None = field(default=None, compare=False, repr=False)
