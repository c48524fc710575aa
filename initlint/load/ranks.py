"""Checkpoints that several processes wrote side by side: one file for each rank."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from initlint.load.files import MAX_HELD, File, Folder
from initlint.load.stored import Contents
from initlint.model import LoadError, Tensor

MAX_RANKS = 64
"""Ranks compared: tensor parallelism stays within a node or a few."""

_TENSOR_PARALLEL = re.compile(
    r"(?P<before>(.*[._-])?(mp|tp|model|tensor)[._-]?(parallel)?[._-]?rank[._-]?|consolidated\.)"
    r"(?P<rank>\d{1,4})(?P<after>[._-].*)"
)
"""``mp_rank_00_model_states.pt`` (DeepSpeed), ``consolidated.00.pth`` (Llama), ``tp_rank_0.pt``."""

_REPLICA = re.compile(
    r"(?P<before>(.*[._-])?((dp|ddp|data)[._-]?rank|rank|replica)[._-]?)"
    r"(?P<rank>\d{1,4})(?P<after>[._-].*)"
)

Reader = Callable[[File], Contents]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The tensors of every rank of one checkpoint.

    Attributes:
        tensors: by rank, then by name.
        tensor_parallel: True when the file names say that each rank holds a part of each matrix;
            False when they only count processes.
        notices: ranks that could not be read, one line each.
    """

    tensors: Mapping[int, Mapping[str, Tensor]]
    tensor_parallel: bool
    notices: tuple[str, ...] = ()


def read_ranks(path: str, own: Contents, read: Reader) -> Ranks | None:
    """The other ranks of a checkpoint, for the file of its first rank.

    Args:
        path: a checkpoint file; only its folder is looked into.
        own: what it holds.
        read: reader of one file.

    Returns:
        None for a file without a rank in its name, without siblings, and for all ranks but the
        first, so that a comparison is made once.
    """
    folder, name = os.path.split(path)
    tensor_parallel = _TENSOR_PARALLEL.fullmatch(name) is not None
    pattern = _TENSOR_PARALLEL if tensor_parallel else _REPLICA
    match = pattern.fullmatch(name)
    if match is None:
        return None
    opened = Folder.of(folder)
    siblings = _siblings(opened, pattern, match)
    first = int(match["rank"])
    if len(siblings) < 2 or first != min(siblings):
        return None
    tensors: dict[int, Mapping[str, Tensor]] = {first: _tensors(own)}
    notices: list[str] = []
    for rank in sorted(siblings)[1:MAX_RANKS]:
        try:
            tensors[rank] = _tensors(
                read(opened.open(siblings[rank], hold=len(siblings) <= MAX_HELD))
            )
        except LoadError as error:
            notices.append(f"rank {rank} was not compared: {error}")
    return Ranks(tensors, tensor_parallel, tuple(notices)) if len(tensors) > 1 else None


def _siblings(folder: Folder, pattern: re.Pattern[str], match: re.Match[str]) -> dict[int, str]:
    """File names by rank that differ from one name in the rank alone."""
    found: dict[int, str] = {}
    for name in folder.names():
        other = pattern.fullmatch(name)
        if other and other["before"] == match["before"] and other["after"] == match["after"]:
            found.setdefault(int(other["rank"]), name)
    return found


def _tensors(contents: Contents) -> dict[str, Tensor]:
    return {name: stored.tensor for name, stored in contents.tensors.items()}
