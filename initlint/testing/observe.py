"""What a probe would measure, from a forward pass in NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from initlint.model.graph import LayerGraph
from initlint.model.op import Op
from initlint.model.tensor import Array
from initlint.probe.activations import output_stats
from initlint.probe.result import Activations, ProbeStatus
from initlint.testing.forward import evaluate


def observe(graph: LayerGraph, feeds: Mapping[str, Array]) -> Activations:
    """Statistics of every layer's first output for the given inputs, without gradients.

    Batch normalisation uses batch statistics, as in training.

    Raises:
        ValueError: see `initlint.testing.forward.evaluate`.
    """
    samples = max((len(array) for array in feeds.values()), default=0)
    with np.errstate(all="ignore"):
        values = evaluate(graph, feeds)
    skipped = (Op.OUTPUT, Op.CONSTANT, Op.COMPARE)
    outputs = {
        layer.id: output_stats(
            values[layer.id][0],
            layer.op,
            samples=samples,
            channel_axis=layer.channel_axis,
            attrs=layer.attrs,
        )
        for layer in graph.order
        if layer.op not in skipped
    }
    return Activations(
        ProbeStatus.OK,
        detail=f"{samples} samples",
        samples=samples,
        outputs=outputs,
        train_mode=True,
        inputs={key: f"{array.dtype}{list(array.shape)}" for key, array in feeds.items()},
    )
