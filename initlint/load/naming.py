"""What the names in a checkpoint say: which tensors belong together, and what words they carry."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from initlint.load.stored import Stored

_Rank = tuple[int, tuple[tuple[int, int, str], ...]]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_PARAMETRISED = re.compile(
    r"(?P<path>.*?)\.?parametrizations\.(?P<stem>\w+)\.original(?P<index>\d?)"
)
_BESIDE_WEIGHT = re.compile(r"(?P<path>.*?)[._](?P<stem>weight\..+)")
_JOINED = re.compile(r"(?P<path>.+)_(?P<stem>weight|bias)")
_RECURRENT = re.compile(
    r"(?P<kind>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(_l(?P<layer>\d+))?(?P<back>_reverse)?"
)

PACKED_ATTENTION = frozenset(
    {"in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight"}
)
_PARAMETRISATION = {"0": "_g", "1": "_v", "": ""}

EMBEDDING_WORDS = frozenset(
    {
        "codebook",
        "emb",
        "embed",
        "embedding",
        "embeddings",
        "embeds",
        "embs",
        "lut",
        "vocab",
        "wpe",
        "wte",
    }
)
PROJECTION_WORDS = frozenset(
    {
        "classifier",
        "decoder",
        "dense",
        "fc",
        "head",
        "linear",
        "mlp",
        "out",
        "output",
        "proj",
        "project",
        "projection",
    }
)
NORM_WORDS = frozenset(
    {"layer_norm", "layernorm", "ln", "lnorm", "norm", "norms", "rms", "rmsnorm"}
)
SLOPE_WORDS = frozenset({"prelu", "relu", "act", "activation", "slope"})
GAIN_WORDS = frozenset(
    {"alpha", "gain", "gamma", "gate", "lambda", "ls", "resweight", "scale", "skip", "temperature"}
)
BUFFER_WORDS = frozenset(
    {
        "alphas",
        "anchors",
        "basis",
        "betas",
        "bins",
        "buffer",
        "cos",
        "cumprod",
        "freq",
        "freqs",
        "hann",
        "ids",
        "index",
        "indices",
        "inv",
        "mask",
        "masked",
        "rope",
        "rotary",
        "sigmas",
        "sin",
        "sinusoidal",
        "timesteps",
        "window",
    }
)
"""Fixed tables that modules register as buffers: never drawn, so never judged as weights."""

BASIS_WORDS = frozenset({"stft", "istft", "mel", "dft", "cqt", "spectrogram"})
"""Transforms that are stored as kernels but fixed."""

HEAD_WORDS = frozenset({"classifier", "head", "lm", "logits", "score"})


@dataclass(frozen=True, slots=True)
class Group:
    """The tensors of one module.

    Attributes:
        path: module path.
        members: by their name inside the module (``weight``, ``bias_ih_l0``, ``weight.scale``).
        names: their names in the file, by the same keys.
    """

    path: str
    members: Mapping[str, Stored]
    names: Mapping[str, str]

    @property
    def leaf(self) -> str:
        """Last component of the path that is not a number."""
        return leaf(self.path)

    @property
    def parent(self) -> str:
        """Path of the enclosing module."""
        return self.path.rpartition(".")[0]


def leaf(path: str) -> str:
    """Last component of a path that is not a number."""
    parts = [part for part in path.split(".") if part and not part.isdigit()]
    return parts[-1] if parts else ""


@lru_cache(maxsize=1 << 14)
def words(text: str) -> frozenset[str]:
    """The lower-case words of a name: ``LayerNorm_2`` gives ``layer``, ``norm``, ``2``."""
    found = [word.lower() for word in _WORD.findall(text)]
    joined = ["".join(pair) for pair in itertools.pairwise(found)]
    return frozenset(found + joined)


def split_name(name: str) -> tuple[str, str]:
    """Module path and name within the module of a stored tensor."""
    match = _PARAMETRISED.fullmatch(name)
    if match:
        return match["path"], match["stem"] + _PARAMETRISATION.get(match["index"], match["index"])
    match = _BESIDE_WEIGHT.fullmatch(name)
    if match:
        return match["path"], match["stem"]
    path, _, stem = name.rpartition(".")
    match = _JOINED.fullmatch(stem)
    if match and stem not in PACKED_ATTENTION:
        return f"{path}.{match['path']}" if path else match["path"], match["stem"]
    return path, stem


def recurrent_stem(stem: str) -> tuple[str, int, int] | None:
    """Kind, layer and direction of a recurrent parameter; None for any other name."""
    match = _RECURRENT.fullmatch(stem)
    if match is None:
        return None
    return match["kind"], int(match["layer"] or 0), int(match["back"] is not None)


def group_by_module(tensors: Mapping[str, Stored]) -> list[Group]:
    """Tensors that belong to one module, modules in the order of their first tensor."""
    members: dict[str, dict[str, Stored]] = {}
    names: dict[str, dict[str, str]] = {}
    for name, stored in tensors.items():
        path, stem = split_name(name)
        if stem in members.get(path, {}):
            path, stem = name.rpartition(".")[0], name.rpartition(".")[2]
        if stem in members.get(path, {}):
            path, stem = name, "value"  # "a" and ".a" are two tensors: the second stands alone
        members.setdefault(path, {})[stem] = stored
        names.setdefault(path, {})[stem] = name
    return [Group(path, members[path], names[path]) for path in members]


def in_reading_order(names: Iterable[str]) -> list[str]:
    """Names sorted so that block 10 follows block 9, tables come first and heads last.

    For files that sort their names; it approximates the order in which the modules run.
    """
    return sorted(names, key=_order)


def _order(name: str) -> tuple[_Rank, ...]:
    return tuple(_rank(part) for part in name.split("."))


@lru_cache(maxsize=1 << 14)
def _rank(part: str) -> _Rank:
    found = words(part)
    place = 0 if found & EMBEDDING_WORDS else 2 if found & HEAD_WORDS else 1
    pieces = re.findall(r"\d{1,18}|\D+", part)
    return place, tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces)


def path_words(path: str) -> frozenset[str]:
    """The words of all components of a path."""
    return frozenset().union(*map(words, path.split(".")))


def shared_prefix(names: Iterable[str]) -> str:
    """``module.`` or ``_orig_mod.`` (or both) when every name begins with it, else empty."""
    listed = list(names)
    prefix = ""
    while listed:
        for wrapper in ("module.", "_orig_mod.", "_fsdp_wrapped_module."):
            if all(name.startswith(prefix + wrapper) for name in listed):
                prefix += wrapper
                break
        else:
            return prefix
    return prefix
