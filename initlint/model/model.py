"""Model: the narrow waist between loading and everything after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from initlint.model.graph import LayerGraph
from initlint.model.layer import Param


class Kind(str, Enum):
    """Where a model came from; the values are those of the JSON report."""

    ONNX = "onnx"
    TORCH = "torch"
    CHECKPOINT = "checkpoint"
    HUGGINGFACE = "huggingface"
    TORCH_EXPORT = "torch_export"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Model:
    """A layer graph with lazily readable tensors, and a way to run it where there is one.

    Attributes:
        target: the target as the user wrote it.
        kind: the road it took.
        graph: the layer graph. For a bare checkpoint it holds the inferred layers without edges.
        connected: False when the graph's edges are unknown (a bare checkpoint): rules that need a
            graph then stay out.
        loose: parameters and buffers that belong to no layer (unused initializers, optimiser
            moments are not included).
        runnable: what the probe of this kind runs (opaque to everything else); None when the
            model cannot be run.
        notices: what the loader could not read or decide, one line each.
        producer: exporter or framework and version, as the file tells it.
        fresh_hint: True when the loader knows that the weights were just drawn (a module that was
            constructed here), False when it knows they were not, None when only the numbers tell.
        metadata: what else the road knows: ``opsets``, ``sequence_length`` (steps of recurrent
            layers that the graph or the user told), ``inputs_file`` (inputs for an export's probe),
            ``draws`` (a `Draws`, where the target was built several times), ``optimiser`` (an
            `OptimiserState`, where a checkpoint holds one), ``earlier`` (tensors of an earlier
            state by parameter key, in a comparison of two states), ``widths`` (a `WidthScaling`,
            where the target was built with several widths).
    """

    target: str
    kind: Kind
    graph: LayerGraph
    connected: bool = True
    loose: tuple[Param, ...] = ()
    runnable: Any = None
    notices: tuple[str, ...] = ()
    producer: str = ""
    fresh_hint: bool | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
