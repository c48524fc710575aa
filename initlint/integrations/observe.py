"""Taking numbers from a running training loop and changing nothing in it.

Numbers stay tensors on the model's device until the end: reading one would make the host wait.
"""

from __future__ import annotations

from typing import Any

import torch

from initlint.integrations.history import ParameterHistory

SAMPLE = 1 << 16
"""Elements of a parameter whose change is measured: the ratio is then right to 0.3 %."""

EDGE = 0.97
"""Outputs beyond this share of an activation's bound are saturated: tanh' is below 0.06."""

BOUNDS = {
    torch.nn.Tanh: (-1.0, 1.0),
    torch.nn.Sigmoid: (0.0, 1.0),
    torch.nn.Hardtanh: (-1.0, 1.0),
    torch.nn.Hardsigmoid: (0.0, 1.0),
}

UNITS = (
    torch.nn.Linear,
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.Conv3d,
)
"""Layers whose weight has one row for each unit. An embedding's rows are tokens, and those that are
not in a batch get no gradient."""


def dense(tensor: Any) -> Any:
    """The numbers of a tensor: of a distributed one the local part, of a sparse one its values."""
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def sampled(tensor: Any, *, copy: bool = True) -> Any:
    """At most `SAMPLE` elements, evenly over the tensor, in float32; a copy unless not wanted."""
    flat = dense(tensor).reshape(-1)
    step = -(-flat.numel() // SAMPLE)
    step += 1 - step % 2  # an odd stride does not stay in one column of a power of two
    return flat[::step].to(torch.float32, copy=copy)


class ParameterWatch:
    """One trainable parameter: its gradients, updates and units over the measured steps."""

    def __init__(self, path: str, parameter: Any, *, trained: bool, units: bool) -> None:
        self.path = path
        self.parameter = parameter
        self.trained = trained
        self._units = units
        self._reached: Any = None
        self._before: Any = None
        self._gradients: list[Any] = []
        self._sizes: list[Any] = []
        self._changes: list[Any] = []

    def before(self) -> None:
        """Keep the weights, just before a step."""
        self._before = sampled(self.parameter)

    def after(self) -> None:
        """Compare the weights with those before the step, and look at the gradient it used.

        The gradient is read now because a step with a closure computes it itself, and because a
        gradient scaler has been taken out of it by now.
        """
        before, self._before = self._before, None
        if before is None:
            return
        self._sizes.append(before.norm())
        self._changes.append(before.sub_(sampled(self.parameter, copy=False)).norm())
        gradient = self.parameter.grad
        if gradient is None:
            self._gradients.append(None)
            return
        numbers = dense(gradient)
        self._gradients.append(numbers.norm(dtype=torch.float32))
        if self._units and numbers.shape == self.parameter.shape:
            reached = numbers.flatten(1).any(dim=1)
            self._reached = reached if self._reached is None else self._reached | reached

    def forget(self) -> None:
        """Drop a step that did not happen."""
        self._before = None

    def history(self) -> ParameterHistory:
        """The numbers, read from the device."""
        silent: tuple[int, ...] = ()
        if self._reached is not None:
            silent = tuple((~self._reached).nonzero().flatten().tolist())
        sizes = [float(size) for size in self._sizes]
        root = max(self.parameter.numel(), 1) ** 0.5
        updates = [
            float(change) / size if size > 0 else None
            for size, change in zip(sizes, self._changes, strict=True)
        ]
        return ParameterHistory(
            path=self.path,
            shape=tuple(self.parameter.shape),
            trained=self.trained,
            gradients=tuple(None if g is None else float(g) / root for g in self._gradients),
            updates=tuple(None if value != value else value for value in updates),
            silent=silent,
            started_at_zero=bool(sizes) and sizes[0] == 0,
        )


def watched_parameters(model: Any, optimizers: Any) -> list[ParameterWatch]:
    """Every trainable parameter of a model, once, by its first path."""
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    rows = {f"{path}.weight" for path, m in model.named_modules() if isinstance(m, UNITS)}
    return [
        ParameterWatch(path, p, trained=id(p) in held, units=path in rows or path == "weight")
        for path, p in model.named_parameters()
        if p.requires_grad
    ]


def saturation(module: Any, output: Any) -> Any:
    """Share of a bounded activation's outputs that are at its bounds, as a tensor."""
    low, high = BOUNDS[type(module)]
    middle, half = (low + high) / 2, (high - low) / 2
    flat = output.detach().reshape(-1)
    step = -(-flat.numel() // SAMPLE)
    far = (flat[:: step + 1 - step % 2] - middle).abs() > EDGE * half
    return far.float().mean()


def guess(loss: Any, *, divided: bool = False) -> float | None:
    """Cross-entropy of an uninformed guess, when the loss is a mean cross-entropy over classes.

    Read from the shapes that the autograd graph keeps: the loss itself must be the mean, since a
    factor after it (accumulation) would make the two incomparable.

    Args:
        loss: as it is before ``backward``.
        divided: the caller knows that one division follows and leaves a mean.
    """
    from math import log

    node = getattr(loss, "grad_fn", None)
    if divided and node is not None and node.name().startswith("Div"):
        node = node.next_functions[0][0]
    if node is None or not node.name().startswith("NllLoss") or loss.dim() > 0:
        return None
    (parent, _), *_ = node.next_functions
    if parent is None or not parent.name().startswith("LogSoftmax"):
        return None
    try:
        shape, axis = parent._input_metadata[0].shape, parent._saved_dim
    except (AttributeError, IndexError, RuntimeError):
        return None
    axis = axis - (1 << 64) if axis >= 1 << 63 else axis
    return log(shape[axis]) if shape[axis] > 1 else None
