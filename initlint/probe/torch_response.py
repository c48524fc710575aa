"""The empirical tangent kernel of a module, at the start and after two small sign steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from initlint.load.torch_functions import tensors_in
from initlint.load.torch_run import TorchRunnable
from initlint.load.torch_tracer import Call
from initlint.model import NORMALISERS, RECURRENT, LayerGraph, Op, Role
from initlint.model.residual import residual_branches
from initlint.model.written_cells import keeping_gates
from initlint.probe.kernel import summary
from initlint.probe.result import Response
from initlint.probe.torch_gradients import gradients, sign_step
from initlint.probe.torch_loss import choose, judged
from initlint.probe.torch_observe import rms

INPUTS = 12
"""Inputs of the kernel: 66 pairs; a rank up to 11 tells one direction from several."""

FEWEST = 4
"""Below this many inputs a rank says nothing."""

STEPS = 2
"""Steps before the second look: a zero behind a zero (a zero head over zero branches) ends after
two."""

FACTORS = frozenset({Role.WEIGHT, Role.RECURRENT_WEIGHT, Role.PROJECTION, Role.GAIN})
"""Parameters that signal and gradient are multiplied by."""

OPENED = 0.1
"""Step of a factor that starts at zero (a weight, a gain), relative to what an ordinary one is: 1
for a gain, 1/sqrt(fan-in) for a weight. Some ten steps of training take it there; judged any
earlier, everything behind it would seem cut off."""

ALIKE = 1e-6
"""Relative distance up to which rows count as equal: rounding of the passes."""

MOST_WORK = 1 << 33
"""Multiplications that all backward passes may take: half a second on one core. Every input's
gradient is one backward pass of the batch, twice its forward pass."""

MOST_ELEMENTS = 1 << 25
"""Gradient elements held together: 128 MB."""

Forward = Callable[[Callable[[Call], None]], Any]
"""Runs the module once and tells of every call."""


def responses(
    forward: Forward,
    runnable: TorchRunnable,
    graph: LayerGraph,
    *,
    samples: int,
    seed: int,
    loss: str | None,
    work: int,
) -> tuple[Response, ...]:
    """The kernel at the start and after small sign steps; empty where it would take too long.

    The parameters are put back bit for bit.

    Args:
        forward: one forward pass.
        runnable: the module.
        graph: its layer graph.
        samples: rows of the batch.
        seed: of the cotangent.
        loss: name of the loss that the steps follow.
        work: multiplications of one forward pass.
    """
    tensors = {
        name: tensor
        for name, tensor in runnable.names.tensors.items()
        if tensor.requires_grad and tensor.is_leaf and tensor.numel()
    }
    held = max(sum(tensor.numel() for tensor in tensors.values()), 1)
    inputs = min(
        samples,
        INPUTS,
        MOST_WORK // max(2 * 2 * work, 1),
        MOST_ELEMENTS // held,
    )
    if inputs < FEWEST or not tensors:
        return ()
    first = _response(forward, runnable, graph, tensors, inputs, samples, seed)
    if first is None:
        return ()
    opened, closing = _opened(runnable, graph), _closing_gains(runnable, graph)
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        for _ in range(STEPS):
            chosen = choose(forward(lambda call: None), graph, seed, loss)
            if chosen is None:
                return (first,)
            sign_step(tensors, gradients(chosen.value, tensors), opened, closing)
        second = _response(forward, runnable, graph, tensors, inputs, samples, seed)
    finally:
        for name, tensor in tensors.items():
            tensor.data.copy_(copies[name])
    return (first,) if second is None else (first, second)


def _opened(runnable: TorchRunnable, graph: LayerGraph) -> dict[str, float]:
    """Steps for factors that start at zero, by the name of their tensor."""
    found: dict[str, float] = {}
    for _, param in graph.params:
        if param.role in FACTORS:
            fan = math.prod(param.shape[1:]) if len(param.shape) > 1 else 1
            for name in runnable.sources.get(param.key, ()):
                found[name] = OPENED / math.sqrt(max(fan, 1))
    return found


def _closing_gains(runnable: TorchRunnable, graph: LayerGraph) -> frozenset[str]:
    """Names of the gains that close residual branches (LayerScale, ReZero).

    Those of 1e-4 are small on purpose and grow as those of zero do, by a learning rate a step.
    """
    gates = {branch.gate for branch in residual_branches(graph)}
    return frozenset(
        name
        for layer, param in graph.params
        if layer.id in gates and layer.op is Op.MUL and param.role is Role.GAIN
        for name in runnable.sources.get(param.key, ())
    )


def _is_normalised(graph: LayerGraph, name: str) -> bool:
    """True when normalisers alone read a layer, or its fixed multiples: its scale is lost."""
    readers = graph.effective_consumers(name)
    return bool(readers) and all(
        item.op in NORMALISERS
        or item.op is Op.LP_NORM
        or (
            item.op in (Op.MUL, Op.DIV)
            and not item.params
            and len(graph.inputs(item.id)) == 1
            and _is_normalised(graph, item.id)
        )
        for item in readers
    )


def _units(
    runnable: TorchRunnable, graph: LayerGraph, tensors: Mapping[str, Any]
) -> dict[str, float]:
    """What small weights before a normaliser are of ordinary ones, by the name of their tensor.

    Their gradient is long by as much. A step that is too large for them makes them larger, which
    changes no output, and the next step smaller: it counts as that of ordinary weights. Zeros have
    no direction yet, and the first step is all that gives them one; but each row of a table gets
    its own.
    """
    found: dict[str, float] = {}
    for layer, param in graph.params:
        if param.role is Role.WEIGHT and _is_normalised(graph, layer.id):
            fan = 1 if layer.op is Op.EMBEDDING else math.prod(param.shape[1:])
            for name in runnable.sources.get(param.key, ()):
                size = rms(tensors[name]) if name in tensors else 0.0
                if size > 0.0 or layer.op is Op.EMBEDDING:
                    found[name] = min(size * math.sqrt(max(fan, 1)), 1.0)
    return found


@dataclass(slots=True)
class _Lengths:
    """Lengths of the gradient at every layer's output, and along the steps of sequences.

    What only normalisers read has no scale of its own: where it is small, its gradient is long by
    as much, and counts for a change of its own size.
    """

    runnable: TorchRunnable
    graph: LayerGraph
    layers: dict[str, float] = field(default_factory=dict)
    read: list[tuple[Any, int]] = field(default_factory=list)

    def on_call(self, call: Call) -> None:
        """Have the backward pass measure at this call."""
        name = self.runnable.layers.get(call.key)
        result = next(tensors_in(call.result), None)
        if name is None or result is None or not result.requires_grad:
            return
        if self.graph[name].op in RECURRENT:
            self._along_steps(call)
        if self.graph[name].op not in (Op.OUTPUT, Op.SHAPE, Op.CONSTANT):
            unit = min(rms(result) or 1.0, 1.0) if _is_normalised(self.graph, name) else 1.0
            result.register_hook(self._length(name, unit))

    def _length(self, name: str, unit: float) -> Callable[[Any], None]:
        def hook(gradient: Any) -> None:
            if gradient is None:
                return
            self.layers[name] = unit * rms(gradient) * math.sqrt(gradient.numel())

        return hook

    def _along_steps(self, call: Call) -> None:
        """Have the backward pass measure every step of what a recurrent layer reads."""
        read = next(tensors_in(call.args), None)
        if read is None or not read.requires_grad or read.ndim != 3:
            return
        steps = 1 if call.args and call.args[-1] is True else 0  # batch_first is the last argument
        self.read.append((read, steps))

    def reach(self, gradients: Sequence[Any]) -> float:
        """Decades between the shortest and the longest gradient of a step, given those of `read`.

        Of several recurrent layers the worst counts. A gated cell in a loop, written out, has one
        state for every step.
        """
        found = [_spread(sizes) for sizes in self._written_out()]
        for gradient, (_, steps) in zip(gradients, self.read, strict=True):
            others = [axis for axis in range(3) if axis != steps]
            found.append(_spread(torch.linalg.vector_norm(gradient.double(), dim=others).tolist()))
        return min((value for value in found if not math.isnan(value)), default=math.nan)

    def _written_out(self) -> Iterator[list[float]]:
        """Lengths of the gradient at the states of every gated cell in a loop, step by step."""
        for gate in keeping_gates(self.graph):
            yield [self.layers[name] for name in gate.states if name in self.layers]

    def ratio(self) -> float:
        """Decades between the first and the last quarter of the layers before the output.

        The longest gradient of each quarter counts: branches closed by a zero are no loss beside
        an open trunk, and where the first quarter is nothing but such a branch (adapters in front
        of frozen layers), it is left out. The last layer with parameters is left out, since a zero
        head is no loss behind it, and so is what comes after: a loss, or a logarithm of
        probabilities, whose gradient is longer by their number.
        """
        before = _before_parameters(self.graph)
        inside = {
            key
            for item in residual_branches(self.graph)
            if item.projection is None
            for key in item.branch
        }
        order = [
            layer.id
            for layer in self.graph.order
            if layer.id in self.layers and layer.id in before
            if self.layers[layer.id] > 0.0 or layer.id not in inside
        ]
        if len(order) < 2:
            return math.nan
        quarter = max(len(order) // 4, 1)
        early = max(self.layers[name] for name in order[:quarter])
        late = max(self.layers[name] for name in order[-quarter:])
        if not late > 0.0 or not math.isfinite(early) or not math.isfinite(late):
            return math.nan
        return math.log10(max(early, 1e-45)) - math.log10(late)


def _spread(sizes: Sequence[float]) -> float:
    """Decades between the smallest and the largest; not a number where nothing is told."""
    most = max(sizes, default=0.0)
    if not most > 0.0 or not math.isfinite(most):
        return math.nan
    return math.log10(max(min(sizes) / most, 1e-45))


def _before_parameters(graph: LayerGraph) -> set[str]:
    """Layers that a later one with parameters reads."""
    found: set[str] = set()
    for layer in reversed(graph.order):
        for edge in graph.outputs(layer.id):
            if edge.target in found or graph[edge.target].params:
                found.add(layer.id)
                break
    return found


def _response(
    forward: Forward,
    runnable: TorchRunnable,
    graph: LayerGraph,
    tensors: Mapping[str, Any],
    inputs: int,
    samples: int,
    seed: int,
) -> Response | None:
    """One kernel; None when the outputs have no row per input."""
    lengths = _Lengths(runnable, graph)
    outputs = judged(forward(lengths.on_call))
    outputs = [tensor for tensor in outputs if tensor.ndim and tensor.shape[0] == samples]
    if not outputs:
        return None
    generator = torch.Generator().manual_seed(seed)
    rows: Any = 0
    elements = 0
    for tensor in outputs:
        one = torch.randn(tensor.shape[1:], generator=generator).to(tensor.device)
        rows = rows + (tensor.float() * one).flatten(1).sum(1) if tensor.ndim > 1 else tensor * one
        elements += tensor[0].numel()
    names = list(tensors)
    found = torch.zeros(inputs, inputs, dtype=torch.float64)
    pieces: dict[str, list[Any]] = {name: [] for name in names}
    for number in range(inputs):
        gradient = torch.autograd.grad(
            rows[number],
            [tensors[name] for name in names],
            retain_graph=True,
            allow_unused=True,
        )
        for name, piece in zip(names, gradient, strict=True):
            if piece is not None:
                piece = piece.to_dense() if piece.is_sparse else piece
                pieces[name].append(piece.detach().reshape(-1).float().cpu())
    sources = [tensor for tensor, _ in lengths.read]
    # Rows are weighed, not added: batch normalisation holds every sum over a batch at one value.
    weighed = rows * torch.randn(samples, generator=generator).to(rows.device)
    last = torch.autograd.grad(  # of all rows: fills the lengths, too
        weighed.sum(), [*sources, *(tensors[name] for name in names)], allow_unused=True
    )
    steps = [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(sources, last, strict=False)
    ]
    silent, relative = 0, 0.0
    units = _units(runnable, graph, tensors)
    for name in names:
        if not pieces[name]:
            continue
        stacked = torch.stack(pieces.pop(name)).double()
        if not bool(stacked.any()):
            silent += tensors[name].numel()
            continue
        own = stacked @ stacked.T
        relative += float(own.trace()) * rms(tensors[name]) ** 2
        found += own * units.get(name, 1.0) ** 2
    total = sum(tensor.numel() for tensor in tensors.values())
    output = rms(torch.cat([tensor.detach().float().flatten() for tensor in outputs]))
    copied = sum(map(_copied, tensors.values(), last[len(sources) :]))
    moved = math.sqrt(relative / inputs / max(elements, 1))
    reached = sum(tensors[name].numel() for name in names if name not in pieces or pieces[name])
    return summary(
        (found / max(elements, 1)).numpy(),
        parameters=total,
        output=output,
        silent=silent / max(reached, 1),
        depth_ratio=lengths.ratio(),
        reach=lengths.reach(steps),
        sensitivity=moved / output if output > 0.0 else math.nan,
        copies=copied / max(total, 1),
    )


def _copied(tensor: Any, gradient: Any) -> int:
    """Elements in rows that equal another in weights and gradient, but for one of each group.

    Not of what gets no gradient at all: that is silent.
    """
    if tensor.ndim < 2 or tensor.shape[0] < 2 or gradient is None:
        return 0
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    if rms(gradient) == 0.0:
        return 0
    units, width = int(tensor.shape[0]), int(tensor[0].numel())
    generator = torch.Generator().manual_seed(0)
    alike = units
    for _ in range(2):  # neighbours by chance in one projection are none in the other
        shadows = torch.zeros(units, dtype=torch.float64)
        for part in (tensor.detach(), gradient):
            along = torch.randn(width, generator=generator, dtype=torch.float64)
            rows = part.double().reshape(units, -1).cpu()
            shadows += (rows @ along) / (rms(part) or 1.0)
        close = shadows.sort().values.diff() <= ALIKE * math.sqrt(2 * width)
        alike = min(alike, int(torch.count_nonzero(close)))
    return alike * width
