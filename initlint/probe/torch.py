"""Probe of a PyTorch module: one forward and one true backward pass, in training mode."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from initlint.load.torch_functions import map_tensors
from initlint.load.torch_run import (
    TorchRunnable,
    input_names,
    one_line,
    output_tensors,
    user_frame,
)
from initlint.load.torch_state import Saved, borrowed
from initlint.load.torch_tracer import Call, Tracer, tracing
from initlint.model import LayerGraph, Model, Op
from initlint.probe.result import (
    Activations,
    GradientStats,
    OutputStats,
    ProbeStatus,
    Response,
)
from initlint.probe.torch_coherent import coherent
from initlint.probe.torch_gradients import (
    STEPS,
    Leaf,
    gradients,
    leaves,
    sign_step,
    statistics,
    still_zero,
)
from initlint.probe.torch_loss import LOSSES, Loss, choose
from initlint.probe.torch_observe import Observer
from initlint.probe.torch_response import responses


def probe_torch(model: Model, *, seed: int, loss: str | None = None) -> Activations:
    """Run a captured module once forward and once backward, and measure both.

    The module runs in training mode with dropout off; batch normalisation uses batch statistics.
    Parameters whose gradient is exactly zero are judged again after small sign steps on the
    others. Module, generators, buffers, gradients and flags are left bit for bit as they were.

    Args:
        model: what `initlint.load.torch_module` gave, with a `TorchRunnable`.
        seed: seeds noise, targets and cotangents.
        loss: ``cross_entropy``, ``binary_cross_entropy``, ``mse`` or ``energy``; None: chosen by
            what the output looks like.

    Returns:
        What was measured; a forward or backward pass that raises gives status FAILED with one line
        that names the user's own frame. Never raises for what the module does.
    """
    started = time.perf_counter()
    runnable = model.runnable
    if not isinstance(runnable, TorchRunnable):
        return Activations(ProbeStatus.SKIPPED, "there is nothing to run: structure only")
    if loss is not None and loss not in LOSSES:
        return Activations(ProbeStatus.FAILED, f"no loss {loss!r}; known: {', '.join(LOSSES)}")
    run = _Run(runnable, model.graph, seed, loss)
    try:
        with borrowed(runnable.module, seed, frozen_norms=runnable.frozen_norms) as saved:
            observed = run.measure(saved)
    except Exception as error:
        detail = f"{one_line(error)}{user_frame(error)}"
        return Activations(ProbeStatus.FAILED, detail, time.perf_counter() - started)
    return replace(observed, seconds=time.perf_counter() - started)


class _Run:
    """The passes of one probe."""

    def __init__(
        self, runnable: TorchRunnable, graph: LayerGraph, seed: int, loss: str | None
    ) -> None:
        self.runnable = runnable
        self.graph = graph
        self.seed = seed
        self.loss = loss
        self.samples = _samples(runnable)

    def measure(self, saved: Saved) -> Activations:
        """Forward, backward, and the second look at zero gradients."""
        observer = Observer(self.runnable, self.graph, self.samples, self.seed)
        inputs = self._inputs(observer)
        result = self._forward(observer.on_call, saved)
        if not _all_finite(result):
            observer.whole = True
            result = self._forward(observer.on_call, saved)
        outputs = {**inputs, **observer.outputs}
        self._ends(outputs)
        chosen = choose(result, self.graph, self.seed, self.loss)
        del result
        activations = Activations(
            ProbeStatus.OK,
            samples=self.samples,
            outputs=outputs,
            train_mode=not self.runnable.frozen_norms,
            inputs=dict(self.runnable.label),
            given=not (self.runnable.guessed or self.runnable.drawn),
        )
        if chosen is None:
            detail = "no output depends on a trainable parameter: no backward pass"
            return replace(activations, detail=detail)
        return self._with_gradients(activations, chosen, observer, saved)

    def _with_gradients(
        self, activations: Activations, chosen: Loss, observer: Observer, saved: Saved
    ) -> Activations:
        keys = leaves(self.graph, self.runnable)
        names = dict.fromkeys(name for leaf in keys.values() for name in leaf.sources)
        tensors = {name: self.runnable.names.tensors[name] for name in names}
        detail = ""
        stats: dict[str, GradientStats] = {}
        answers: tuple[Response, ...] = ()
        if tensors:
            try:
                found = gradients(chosen.value, tensors)
                stats = {key: statistics(leaf, tensors, found) for key, leaf in keys.items()}
                answers = self._responses(observer.work, saved)
                stats = self._look_again(keys, stats, tensors, found, saved)
            except Exception as error:
                detail = f"backward raised {one_line(error)}{user_frame(error)}"
                stats = {}
        order = {layer.id: index for index, layer in enumerate(self.graph)}
        backward = dict(sorted(observer.backward.items(), key=lambda item: order[item[0]]))
        return replace(
            activations,
            detail=detail,
            gradients=stats,
            backward=backward,
            loss=float(chosen.value.detach()),
            loss_name=chosen.name,
            chance=chosen.chance,
            responses=answers,
        )

    def _responses(self, work: int, saved: Saved) -> tuple[Response, ...]:
        """The tangent kernel, where the outputs have one row per input and it is cheap enough.

        A module whose passes cannot be repeated has none; the gradients it gave stand.
        """
        try:
            return responses(
                lambda on_call: self._forward(on_call, saved, from_inputs=True),
                self.runnable,
                self.graph,
                samples=self.samples,
                seed=self.seed,
                loss=self.loss,
                work=work,
            )
        except Exception:
            return ()

    def _look_again(
        self,
        keys: dict[str, Leaf],
        stats: dict[str, GradientStats],
        tensors: dict[str, Any],
        found: dict[str, Any],
        saved: Saved,
    ) -> dict[str, GradientStats]:
        """Zero gradients judged again after small steps on the parameters that have one."""
        zero = set(still_zero(keys, stats))
        locked = set(zero)
        for tensor in tensors.values() if zero else ():
            saved.keep(tensor)
        for _ in range(STEPS):
            if not locked:
                break
            sign_step(tensors, found)
            chosen = choose(
                self._forward(lambda call: None, saved), self.graph, self.seed, self.loss
            )
            if chosen is None:
                break
            found = gradients(chosen.value, tensors)
            again = {key: statistics(keys[key], tensors, found) for key in locked}
            locked = set(still_zero({key: keys[key] for key in locked}, again))
        return {
            key: replace(value, unlocks=key not in locked) if key in zero else value
            for key, value in stats.items()
        }

    def _forward(
        self, on_call: Callable[[Call], None], saved: Saved, *, from_inputs: bool = False
    ) -> Any:
        names, module = self.runnable.names, self.runnable.module
        tracer = Tracer(names, on_call, before_write=saved.keep, keep_dropout=False)
        generator = torch.Generator().manual_seed(self.seed)

        def fed(tensor: Any) -> Any:
            if from_inputs:
                tensor = coherent(tensor, generator)
            return _copied(tensor, with_gradient=from_inputs)

        args, kwargs = map_tensors((self.runnable.args, dict(self.runnable.kwargs)), fed)
        for _, tensor in input_names(module, args, kwargs):
            tracer.mark_fed(tensor)
        with torch.enable_grad(), tracing(tracer):
            return module(*args, **kwargs)

    def _inputs(self, observer: Observer) -> dict[str, OutputStats]:
        """Statistics of what is fed."""
        layers = [layer for layer in self.graph if layer.op is Op.INPUT]
        named = input_names(self.runnable.module, self.runnable.args, self.runnable.kwargs)
        return {
            layer.id: observer.measure(layer, tensor.detach())
            for layer, (_, tensor) in zip(layers, named, strict=False)
            if tensor.is_floating_point() and tensor.numel()
        }

    def _ends(self, outputs: dict[str, OutputStats]) -> None:
        """An output of the network has the statistics of the layer it comes from."""
        for layer in self.graph:
            if layer.op is Op.OUTPUT:
                for above in self.graph.producers(layer.id):
                    if above.id in outputs:
                        outputs[layer.id] = outputs[above.id]


def _copied(tensor: Any, *, with_gradient: bool) -> Any:
    """A copy of an input: no leaf, so that the module may write to it."""
    tensor = tensor.detach()
    if with_gradient and tensor.is_floating_point():
        tensor = tensor.requires_grad_()
    return tensor.clone()


def _all_finite(result: Any) -> bool:
    """False when a network returns NaN or infinity: then its layers are searched for the first."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in output_tensors(result))


def _samples(runnable: TorchRunnable) -> int:
    """Rows of the batch: the first side of the first input with an axis."""
    for _, tensor in input_names(runnable.module, runnable.args, runnable.kwargs):
        if tensor.ndim:
            return int(tensor.shape[0])
    return 1
