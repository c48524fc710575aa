"""A loss for a module whose own loss is unknown."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch.nn import functional

from initlint.load.torch_run import output_tensors
from initlint.model import TRANSPARENT, Layer, LayerGraph, Op
from initlint.model.structure import before_averaging

LOSSES = ("cross_entropy", "binary_cross_entropy", "mse", "energy")


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar to differentiate, what it is, and what an uninformed guess would score."""

    value: Any
    name: str
    chance: float | None = None


def choose(result: Any, graph: LayerGraph, seed: int, name: str | None) -> Loss | None:
    """The loss of a forward pass; None when no output depends on a trainable parameter.

    A loss the module returns itself is used as it is. Outputs that are logits (a linear layer over
    classes or a vocabulary) get the cross-entropy against random targets; any other output y gets
    ⟨u, y⟩ with u ~ N(0, 1), per row: in expectation its gradient is the Frobenius norm of the
    Jacobian, whatever the true loss is.

    Args:
        result: what forward returned.
        graph: the module's layer graph.
        seed: seeds targets and cotangents.
        name: one of `LOSSES` to use instead of the guess.
    """
    own = _own_loss(result)
    if own is not None and name is None:
        return Loss(own.float(), "the module's own loss")
    tensors = judged(result)
    if not tensors:
        return None
    generator = torch.Generator().manual_seed(seed)
    kind = name or ("cross_entropy" if _logits(result, tensors[0], graph) else "energy")
    first = tensors[0].float()
    if kind == "cross_entropy":
        loss = _cross_entropy(first, generator)
    elif kind == "binary_cross_entropy":
        target = torch.randint(0, 2, first.shape, generator=generator).to(first)
        value = functional.binary_cross_entropy_with_logits(first, target)
        loss = Loss(value, "binary cross-entropy", log(2.0))
    elif kind == "mse":
        target = torch.randn(first.shape, generator=generator).to(first)
        loss = Loss(functional.mse_loss(first, target), "mean squared error against N(0, 1)", 1.0)
    else:
        loss = Loss(_energy(first, generator), "output energy (random cotangent)")
    for tensor in tensors[1:]:
        loss = Loss(loss.value + _energy(tensor.float(), generator), loss.name, None)
    return loss


def _own_loss(result: Any) -> Any:
    loss = result.get("loss") if isinstance(result, dict) else getattr(result, "loss", None)
    if isinstance(result, torch.Tensor) and result.ndim == 0:
        loss = result
    usable = isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad
    return loss if usable else None


def judged(result: Any) -> list[Any]:
    """Outputs that a loss would look at: logits where the result names them, else all."""
    if isinstance(result, dict):
        named = {key: value for key, value in result.items() if str(key).startswith("logits")}
        named = named or {key: value for key, value in result.items() if "logits" in str(key)}
        if named:
            result = named
    found: dict[int, Any] = {}
    for tensor in output_tensors(result):
        if tensor.is_floating_point() and tensor.requires_grad and tensor.numel():
            found.setdefault(id(tensor), tensor)
    return list(found.values())


def _logits(result: Any, tensor: Any, graph: LayerGraph) -> bool:
    """True for scores over classes: named so, or a linear head over classes or a vocabulary.

    A head as wide as the input reconstructs it, and is none. A fixed temperature or a mean
    over positions may follow the head.
    """
    if tensor.ndim not in (2, 3) or tensor.shape[-1] < 2:
        return False
    if isinstance(result, dict) and any("logits" in str(key) for key in result):
        return not any("per_image" in str(key) for key in result)
    outputs = [layer for layer in graph if layer.op is Op.OUTPUT]
    head = _producer(graph, outputs[0]) if outputs else None
    while head is not None and _scales_by_constant(head):
        head = _producer(graph, head)
    if head is None or not _scores(graph, head, tensor.shape[-1]):
        return False
    inputs = [layer for layer in graph if layer.op is Op.INPUT]
    if tensor.ndim == 3:
        return any(str(layer.attrs.get("dtype", "")).startswith("int") for layer in inputs)
    return all((layer.output_shape or (0,))[-1] != tensor.shape[-1] for layer in inputs)


def _scores(graph: LayerGraph, head: Layer, classes: int) -> bool:
    """True for a linear layer, or scores of classes at positions, which are averaged."""
    scores = graph[before_averaging(graph, head.id)]
    if scores.id == head.id or scores.weight is None:
        return head.op is Op.LINEAR
    return scores.op in (Op.LINEAR, Op.CONV) and scores.weight.shape[0] == classes


def _scales_by_constant(layer: Layer) -> bool:
    """True for a product with, or a quotient by, one fixed number."""
    return (
        layer.op in (Op.MUL, Op.DIV)
        and not layer.params
        and not layer.attrs.get("constant_first")
        and isinstance(layer.attrs.get("constant"), int | float)
    )


def _producer(graph: LayerGraph, layer: Layer) -> Layer | None:
    seen: set[str] = set()
    while layer.id not in seen:
        seen.add(layer.id)
        above = graph.producers(layer.id)
        if len(above) != 1:
            return None
        layer = above[0]
        if layer.op not in TRANSPARENT:
            return layer
    return None


def _cross_entropy(logits: Any, generator: Any) -> Loss:
    classes = logits.shape[-1]
    flat = logits.reshape(-1, classes)
    target = torch.randint(0, classes, (flat.shape[0],), generator=generator).to(flat.device)
    return Loss(
        functional.cross_entropy(flat, target),
        f"cross-entropy over {classes} classes",
        log(classes),
    )


def _energy(tensor: Any, generator: Any) -> Any:
    cotangent = torch.randn(tensor.shape, generator=generator).to(tensor)
    rows = max(tensor.numel() // max(tensor.shape[-1] if tensor.ndim else 1, 1), 1)
    return (tensor * cotangent).sum() / rows
