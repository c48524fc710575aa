"""Running somebody's module and leaving it bit for bit as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Saved:
    """What a forward pass may change, saved, to be put back in place.

    Buffers are copied (running statistics change in every training step); parameters are copied
    when something is about to write to them, so that a large module is not held twice.
    """

    def __init__(self, module: Any) -> None:
        self._modules = [
            (child, dict(child.__dict__), _containers(child)) for child in module.modules()
        ]
        self._tables = [
            (table, dict(table))
            for child in module.modules()
            for table in (child._parameters, child._buffers, child._modules)
            if isinstance(table, dict)
        ]
        self._copies: dict[int, tuple[Any, Any]] = {}
        for buffer in module.buffers():
            self.keep(buffer)
        for child, state, _ in self._modules:
            del child
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    self.keep(value)
        self._gradients = [(parameter, parameter.grad) for parameter in module.parameters()]

    def keep(self, tensor: Any) -> None:
        """Copy a tensor that is about to be written to."""
        if id(tensor) not in self._copies and tensor.device.type != "meta":
            self._copies[id(tensor)] = (tensor, tensor.detach().clone())

    def restore(self) -> None:
        """Put everything back."""
        for child, state, containers in self._modules:
            child.__dict__.clear()
            child.__dict__.update(state)
            for container, content in containers:
                if isinstance(container, list):
                    container[:] = content
                else:
                    container.clear()
                    container.update(content)
        for table, content in self._tables:
            table.clear()
            table.update(content)
        with torch.no_grad():
            for tensor, copy in self._copies.values():
                if tensor.shape != copy.shape:
                    tensor.data = copy
                elif not _same_bits(tensor, copy):
                    tensor.data.copy_(copy)
        for parameter, gradient in self._gradients:
            if parameter.grad is not gradient:
                parameter.grad = gradient


def _containers(module: Any) -> list[tuple[Any, Any]]:
    """Plain lists and dicts among a module's attributes: forward passes append to them."""
    return [
        (value, list(value) if type(value) is list else dict(value))
        for name, value in module.__dict__.items()
        if type(value) in (list, dict) and not name.startswith("_")
    ]


def _same_bits(tensor: Any, copy: Any) -> bool:
    if tensor.is_quantized or not tensor.numel():
        return True
    left = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return bool(torch.equal(left, copy.contiguous().view(-1).view(torch.uint8)))


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Seed every generator, and give each its state back afterwards."""
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        seed_everything(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


@contextmanager
def borrowed(module: Any, seed: int, *, frozen_norms: bool = False) -> Iterator[Saved]:
    """The module in training mode, with seeded generators; everything is put back afterwards.

    A module whose root is in evaluation mode is switched as a whole; one in training mode keeps
    the parts that its owner froze as they are. With ``frozen_norms``, batch normalisation uses its
    stored statistics.
    """
    saved = Saved(module)
    with random_state(seed):
        try:
            if not module.training:
                for child in module.modules():
                    child.training = True
            if frozen_norms:
                for child in module.modules():
                    if isinstance(child, torch.nn.modules.batchnorm._NormBase):
                        child.training = False
            yield saved
        finally:
            saved.restore()
