"""A checkpoint's values in a live PyTorch module, so that the probe runs the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from initlint.load.torch_run import TorchRunnable
from initlint.model import Tensor


@dataclass(frozen=True, slots=True)
class StateDict:
    """What a module stores.

    Attributes:
        shapes: shape by key of its ``state_dict()``.
        twins: for each key, all keys of the same storage (tied parameters), itself among them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    twins: Mapping[str, tuple[str, ...]]


def state_of(runnable: Any) -> StateDict | None:
    """The keys that a checkpoint of the module has; None when there is no live module."""
    if not isinstance(runnable, TorchRunnable):
        return None
    state = _state(runnable)
    by_storage: dict[Any, list[str]] = {}
    for key, tensor in state.items():
        by_storage.setdefault(_storage(key, tensor), []).append(key)
    return StateDict(
        {key: tuple(tensor.shape) for key, tensor in state.items()},
        {key: tuple(by_storage[_storage(key, tensor)]) for key, tensor in state.items()},
    )


def fill(runnable: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Copy tensors into the module by key; False, with nothing copied, where it has no storage.

    Args:
        runnable: a `TorchRunnable`.
        tensors: by the module's own keys, of the module's shapes.
    """
    state = _state(runnable)
    targets = {key: state[key] for key in tensors if key in state}
    if any(target.device.type == "meta" or target.is_quantized for target in targets.values()):
        return False
    with torch.no_grad():
        for key, target in targets.items():
            target.copy_(torch.from_numpy(tensors[key].read().copy()))
    return True


def _state(runnable: TorchRunnable) -> dict[str, Any]:
    """Tensors by the key that a ``state_dict()`` has for them."""
    names = runnable.names
    return {
        names.stored(name): tensor.detach()
        for name, tensor in names.tensors.items()
        if _is_persistent(names.owner(name), name)
    }


def _is_persistent(owner: Any, name: str) -> bool:
    return name.rpartition(".")[2] not in owner._non_persistent_buffers_set


def _storage(key: str, tensor: Any) -> Any:
    if tensor.device.type == "meta" or not tensor.numel():
        return key
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride())
