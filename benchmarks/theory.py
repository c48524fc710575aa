"""Agreement of mean-field theory with real networks: ``python benchmarks/theory.py``.

Fresh networks of many architectures are built in PyTorch, run forward on synthetic inputs and
backward from a Gaussian gradient at their outputs, in float64. Per layer, log2(predicted rms /
measured rms) is taken; the table shows its median, its 5 and 95 % quantiles, and the share within
the target factor (1.5 forward, 2 backward). The last line pools all architectures.

Options: ``--only NAME`` (repeatable), ``--worst N`` (print the N worst layers), ``--seeds N``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from theory_networks import NETWORKS, Built
from torch import Tensor

from initlint.load.torch_module import capture
from initlint.load.torch_tracer import Call, Tracer, tracing
from initlint.measure.measures import Measures
from initlint.model import Layer, Model, Op
from initlint.theory.propagation import predict

FORWARD_FACTOR = 1.5
BACKWARD_FACTOR = 2.0
FLOOR = 1e-30

UNJUDGED = frozenset({Op.INPUT, Op.OUTPUT, Op.CONSTANT, Op.SHAPE, Op.COMPARE})


@dataclass(frozen=True)
class Measured:
    """Root mean squares per layer of one real run."""

    forward: dict[str, float]
    backward: dict[str, float]


def rms(tensor: Tensor) -> float:
    """Root mean square of a tensor."""
    return float(tensor.detach().double().square().mean().sqrt())


def run(model: Model, seed: int) -> Measured:
    """One forward and backward pass of a captured module, with dropout off."""
    runnable = model.runnable
    kept: dict[str, Tensor] = {}
    several: set[str] = set()

    def on_call(call: Call) -> None:
        layer = runnable.layers.get(call.key)
        if layer is None or not call.outputs:
            return
        tensor = call.outputs[0]
        if len(call.outputs) > 1:
            several.add(layer)
        if tensor.is_floating_point() and tensor.requires_grad:
            tensor.retain_grad()
            kept[layer] = tensor

    tracer = Tracer(runnable.names, on_call, keep_dropout=False)
    for value in (*runnable.args, *runnable.kwargs.values()):
        if isinstance(value, Tensor):
            tracer.mark_fed(value)
    with tracing(tracer):
        result = runnable.module(*runnable.args, **runnable.kwargs)
    first = result[0] if isinstance(result, tuple) else result
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(first.shape, generator=generator, dtype=torch.float64).to(first.dtype)
    (first * noise).sum().backward()
    return Measured(
        {key: rms(tensor) for key, tensor in kept.items()},
        {
            key: rms(tensor.grad)
            for key, tensor in kept.items()
            if tensor.grad is not None and key not in several
        },
    )


def is_judged(layer: Layer) -> bool:
    """Layers with a tensor of their own per sample.

    Not the inner levels of a stacked recurrent layer, which one call computes.
    """
    inner = layer.attrs.get("level", 0) + 1 < layer.attrs.get("num_layers", 1)
    return layer.op not in UNJUDGED and not inner


@dataclass(frozen=True)
class Row:
    """log2 ratios of one architecture, by layer."""

    forward: dict[str, float]
    backward: dict[str, float]
    unknown: int
    seconds: float


def compare(build: Callable[[], Built], seed: int) -> Row:
    """Predict, run, and take the ratios."""
    torch.manual_seed(seed)
    module, inputs = build()
    module.train().double()
    inputs = tuple(item.double() if item.is_floating_point() else item for item in inputs)
    model = capture(module, *inputs)
    measures = Measures(model)
    start = time.process_time()
    prediction = predict(model, measures)
    seconds = time.process_time() - start
    measured = run(model, seed)
    judged = [layer.id for layer in model.graph.order if is_judged(layer)]
    forward = {
        key: 0.5 * prediction.forward[key].log_q / math.log(2) - math.log2(measured.forward[key])
        for key in judged
        if key in prediction.forward and measured.forward.get(key, 0.0) > FLOOR
    }
    backward = {
        key: 0.5 * prediction.backward[key] / math.log(2) - math.log2(measured.backward[key])
        for key in judged
        if key in prediction.backward and measured.backward.get(key, 0.0) > FLOOR
    }
    unknown = sum(key in measured.forward and key not in prediction.forward for key in judged)
    return Row(forward, backward, unknown, seconds)


def summary(values: list[float], factor: float) -> str:
    """Median, quantiles, and share within a factor."""
    if not values:
        return f"{'-':>30}"
    array = np.asarray(values)
    low, middle, high = np.quantile(array, (0.05, 0.5, 0.95))
    within = float(np.mean(np.abs(array) <= math.log2(factor)))
    return f"{middle:+6.2f} [{low:+6.2f}, {high:+6.2f}] {within:6.1%}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--worst", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {
        key: build for key, build in NETWORKS.items() if not options.only or key in options.only
    }
    everything: tuple[list[float], list[float]] = ([], [])
    print(
        f"{'architecture':<24}{'layers':>7}{'unknown':>8}  {'forward (within 1.5)':<31}"
        f"{'backward (within 2)':<31}{'predict':>9}"
    )
    for name, build in chosen.items():
        for seed in range(options.seeds):
            row = compare(build, seed)
            forward, backward = list(row.forward.values()), list(row.backward.values())
            everything[0].extend(forward)
            everything[1].extend(backward)
            print(
                f"{name:<24}{len(forward):>7}{row.unknown:>8}  "
                f"{summary(forward, FORWARD_FACTOR):<31}"
                f"{summary(backward, BACKWARD_FACTOR):<31}{row.seconds * 1e3:>7.0f}ms",
                flush=True,
            )
            for label, ratios in (("forward", row.forward), ("backward", row.backward)):
                worst = sorted(ratios.items(), key=lambda item: -abs(item[1]))[: options.worst]
                for key, value in worst:
                    print(f"    {label:<9}{value:+6.2f}  {key}")
    print(
        f"{'all':<24}{len(everything[0]):>7}{'':>8}  {summary(everything[0], FORWARD_FACTOR):<31}"
        f"{summary(everything[1], BACKWARD_FACTOR):<31}"
    )


if __name__ == "__main__":
    main()
