"""Finding the weights in what a checkpoint's pickle holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from initlint.load.files import shown
from initlint.load.optimiser import optimiser_state
from initlint.load.pickle_file import Pickled
from initlint.load.pickle_globals import numpy_tensor
from initlint.load.pickle_machine import Record
from initlint.load.stored import MAX_TENSORS, Contents, Stored, check_overlap, checked_name
from initlint.model import LoadError

MAX_DEPTH = 64
"""Levels of containers: the deepest module trees have about twenty."""

MAX_CONTAINERS = 1_000_000
"""Containers entered. One that is shared is entered once for each path to it, and thirty pairs of
references, each to the next, make 2³⁰ paths."""

_OPTIMISER = re.compile(
    r".*optim.*|.*sched.*|.*scaler.*|.*rng.*|.*random_state.*|amp|loops|callbacks"
)
_AVERAGED = re.compile(r"(.*[_.])?(ema|swa|averaged|shadow)([_.].*)?")
_WRAPPER = re.compile(
    r"((model|module|net|network|weights|params|parameters|encoder|decoder|generator|discriminator"
    r"|teacher|student|actor|critic|policy|backbone|g|d)([_-](state|weights|params))?([_-]dict)?)"
    r"|.*state_dict.*|.*ema.*|.*swa.*"
)
_CONFIGURATION = frozenset({"hyper_parameters", "hparams", "args", "config", "cfg", "opt"})


@dataclass(slots=True)
class _Found:
    """Tensors by path, and what was passed over."""

    tensors: dict[tuple[str, ...], Stored] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    entered: int = 0


def find_weights(pickled: Pickled, name: str) -> Contents:
    """The model's tensors among what a pickle describes, by their names in the state dict.

    Optimiser and scheduler states are left out. Of an averaged copy (EMA, SWA) and the weights it
    averages, the weights are taken. Keys that only wrap the state dict (``state_dict``, ``model``)
    are not part of the names; ``module.`` and ``_orig_mod.`` are, as the file has them.

    Raises:
        LoadError: no tensor in it.
    """
    found = _Found()
    root = pickled.value
    _collect(root, (), found, 0, set())
    wrapped = _wraps(root)
    weights = {
        path: stored
        for path, stored in found.tensors.items()
        if not _is_training_state(path, wrapped)
    }
    left_out = len(found.tensors) - len(weights)
    notices: list[str] = []
    if left_out:
        notices.append(f"{left_out} tensors of optimiser or training state were left out")
    averaged = {path for path in weights if _is_averaged(path)}
    if averaged and len(averaged) < len(weights):
        notices.append(f"an averaged copy of the weights ({len(averaged)} tensors) was left out")
        weights = {path: stored for path, stored in weights.items() if path not in averaged}
    if found.unreadable:
        first = shown(found.unreadable[0])
        notices.append(
            f"{len(found.unreadable)} values could not be read as tensors, first {first}"
        )
    if not weights:
        raise LoadError(f"{shown(name)}: no tensors in it: nothing to check")
    named = _named(weights)
    check_overlap(named, pickled.stored_bytes)
    metadata: dict[str, object] = {}
    if averaged:
        metadata["averaged"] = sorted({path[0] for path in averaged})
    remembered = optimiser_state(root, named) if left_out else None
    if remembered is not None:
        metadata["optimiser"] = remembered
    return Contents(
        named,
        tuple(notices),
        metadata=metadata,
        producer=pickled.producer,
        ordered=True,
    )


def _collect(value: Any, path: tuple[str, ...], found: _Found, depth: int, above: set[int]) -> None:
    """Tensors below ``value``; a container that holds itself is entered once."""
    if depth > MAX_DEPTH:
        raise LoadError(f"containers nested more than {MAX_DEPTH} deep: no honest checkpoint")
    if isinstance(value, Stored):
        _keep(value, path, found)
        return
    if isinstance(value, Record) and value.kind == "numpy.ndarray":
        stored = numpy_tensor(".".join(path), value)
        if stored is None:
            found.unreadable.append(".".join(path))
        else:
            _keep(stored, path, found)
        return
    if isinstance(value, Record) and value.kind.startswith("torch._utils._rebuild"):
        found.unreadable.append(".".join(path))
        return
    if not isinstance(value, (dict, list, tuple, Record)) or id(value) in above:
        return
    found.entered += 1
    if found.entered > MAX_CONTAINERS:
        raise LoadError(f"refused: more than {MAX_CONTAINERS} containers in one file")
    above.add(id(value))
    for key, child in _children(value):
        _collect(child, (*path, *key), found, depth + 1, above)
    above.discard(id(value))


def _keep(stored: Stored, path: tuple[str, ...], found: _Found) -> None:
    if len(found.tensors) >= MAX_TENSORS:
        raise LoadError(f"refused: more than {MAX_TENSORS} tensors in one file")
    found.tensors[path or ("tensor",)] = stored


def _children(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Record):
        yield from _record_children(value)
    elif isinstance(value, dict):
        for key, child in value.items():
            if isinstance(key, (str, int)) and key not in _CONFIGURATION:
                yield (str(key),), child
    else:
        for index, child in enumerate(value):
            if isinstance(child, (Stored, dict, Record)):
                yield (str(index),), child


def _record_children(record: Record) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Parameters, buffers and submodules of a pickled module; the entries of a dict subclass."""
    if record.kind.startswith("torch.nn.modules.") and isinstance(record.state, dict):
        for attribute in ("_parameters", "_buffers", "_modules"):
            inner = record.state.get(attribute)
            if isinstance(inner, dict):
                yield from (((str(key),), child) for key, child in inner.items())
        return
    yield from (((str(key),), child) for key, child in record.items.items())


def _wraps(root: Any) -> bool:
    """True when the outermost container holds a state dict beside other things."""
    return isinstance(root, Mapping) and any(
        isinstance(key, str) and isinstance(value, (dict, Record)) and _is_wrapper(key)
        for key, value in root.items()
    )


def _is_training_state(path: tuple[str, ...], wrapped: bool) -> bool:
    """True for a tensor below a key of training state, or loose beside a wrapped state dict."""
    return wrapped if len(path) == 1 else _OPTIMISER.fullmatch(path[0].lower()) is not None


def _is_wrapper(key: str) -> bool:
    return _WRAPPER.fullmatch(key.lower()) is not None


def _is_averaged(path: tuple[str, ...]) -> bool:
    first = path[0].lower()
    prefix = first.partition(".")[0]
    return _AVERAGED.fullmatch(first if len(path) > 1 else prefix) is not None


def _named(weights: Mapping[tuple[str, ...], Stored]) -> dict[str, Stored]:
    """Dotted names, without the keys that wrap all of them."""
    paths = list(weights)
    common = 0
    while all(len(path) > common + 1 for path in paths) and (
        len({path[common] for path in paths}) == 1 and _is_wrapper(paths[0][common])
    ):
        common += 1
    named: dict[str, Stored] = {}
    for path, stored in weights.items():
        name = checked_name(".".join(path[common:]))
        if name in named:
            raise LoadError(f"two tensors called {shown(name)!r}")
        named[name] = replace(stored, tensor=replace(stored.tensor, name=name))
    return named
