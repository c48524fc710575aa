"""checkpoint-mismatch: a checkpoint and its module differ in names or shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from initlint.api import BUFFERS, Context, Finding, Fix, Layer, Param, Rule, Severity, Stage, record

DROPPED_SHARE = 0.1
"""Share of the file's elements that the module has no place for, beyond which what is lost is more
than a head: the largest usual heads, untied vocabularies apart, hold less than a tenth."""

SHOWN = 20
"""Names in the evidence: enough to see what they have in common."""


@record(frozen=True, slots=True)
class _Mismatch:
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mis_shaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    renamed: tuple[str, str] | None

    @property
    def unfilled(self) -> tuple[str, ...]:
        """Names of the module that keep what they were constructed with."""
        return (*self.missing, *self.mis_shaped)


class CheckpointMismatch(Rule):
    """A checkpoint lacks parameters of its module, holds others, or has other shapes.

    What it does
    ------------
    Compares the names and shapes of a checkpoint with those of the module that `--model` gives it.

    Why is this bad
    ---------------
    A parameter that the checkpoint lacks keeps its random initial values when the checkpoint is
    loaded with `strict=False`, and by the loaders that only print a warning. The model runs, partly
    untrained.

    How it decides
    --------------
    Names are compared after the prefixes that wrappers add are dropped. Missing or mis-shaped
    parameters are an error; a warning when they are all in the last layers, as for a new head;
    missing buffers alone are an info. Tensors that the module has no place for are an info, and a
    warning when they hold more than a tenth of the file. A prefix that had to be dropped or added
    is an info: loading needs the same.

    What it does not flag
    ---------------------
    Tied parameters stored under one of their names. Checkpoints without `--model`.

    Example
    -------
    ::

        import os
        import tempfile

        import torch
        from torch import nn

        from initlint.load.checkpoint import bind, load_checkpoint
        from initlint.load.torch_module import capture

        def model():
            net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
            state = net.state_dict()
            del state["1.weight"]
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "net.pt")
                torch.save(state, path)
                return bind(load_checkpoint(path), capture(net))

    Use instead
    -----------
    ::

        import os
        import tempfile

        import torch
        from torch import nn

        from initlint.load.checkpoint import bind, load_checkpoint
        from initlint.load.torch_module import capture

        def model():
            net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "net.pt")
                torch.save(net.state_dict(), path)
                return bind(load_checkpoint(path), capture(net))

    References
    ----------
    - torch.nn.Module.load_state_dict: `strict=False` returns missing and unexpected keys, and
      leaves the missing ones as they are.
    - transformers issue 48722: missing keys that nobody saw.
    """

    code = "CKP107"
    name = "checkpoint-mismatch"
    formula = "names and shapes of the module  !=  names and shapes of the file"
    stages = frozenset(Stage)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield at most one finding: all names that differ have one cause."""
        facts = context.model.metadata
        if "missing" not in facts:
            return
        mismatch = _Mismatch(
            tuple(facts["missing"]),
            tuple(facts["unexpected"]),
            facts["mis_shaped"],
            facts.get("renamed_prefix"),
        )
        severity = _severity(context, mismatch)
        if severity is not None:
            yield _finding(context, mismatch, severity)


def _owners(context: Context) -> dict[str, tuple[Layer | None, Param]]:
    """Layer and parameter by stored name."""
    owners: dict[str, tuple[Layer | None, Param]] = {
        param.stored_name or param.name: (None, param) for param in context.model.loose
    }
    owners.update(
        {param.stored_name or param.name: (layer, param) for layer, param in _params(context)}
    )
    return owners


def _params(context: Context) -> tuple[tuple[Layer, Param], ...]:
    return context.model.graph.params


def _severity(context: Context, mismatch: _Mismatch) -> Severity | None:
    owners = _owners(context)
    unfilled = [owners[name] for name in mismatch.unfilled if name in owners]
    learned = [layer for layer, param in unfilled if param.role not in BUFFERS and param.trainable]
    if learned:
        graph = context.model.graph
        heads = all(layer is not None and graph.is_head(layer.id) for layer in learned)
        return Severity.WARNING if heads else Severity.ERROR
    if _dropped_share(context, mismatch) > DROPPED_SHARE:
        return Severity.WARNING
    if mismatch.unfilled or mismatch.unexpected or mismatch.renamed:
        return Severity.INFO
    return None


def _dropped_share(context: Context, mismatch: _Mismatch) -> float:
    dropped, _ = mismatch.renamed or ("", "")
    tensors: Mapping[str, Any] = context.model.metadata["tensors"]
    sizes: dict[str, int] = {
        name.removeprefix(dropped): tensor.size for name, tensor in tensors.items()
    }
    lost: int = sum(sizes.get(name, 0) for name in mismatch.unexpected)
    return lost / max(sum(sizes.values()), 1)


def _counts(mismatch: _Mismatch) -> str:
    parts = [
        (len(mismatch.missing), "missing from the checkpoint"),
        (len(mismatch.mis_shaped), "of another shape"),
        (len(mismatch.unexpected), "unknown to the module"),
    ]
    told = [f"{count} {what}" for count, what in parts if count]
    if not told:
        dropped, added = mismatch.renamed or ("", "")
        change = f"without {dropped!r}" if dropped else f"with {added!r} before them"
        return f"names match only {change}"
    return "tensors differ: " + ", ".join(told)


def _finding(context: Context, mismatch: _Mismatch, severity: Severity) -> Finding:
    owners = _owners(context)
    layers = [
        layer.id
        for name in mismatch.unfilled
        if name in owners and (layer := owners[name][0]) is not None
    ]
    first = next(iter((*mismatch.unfilled, *mismatch.unexpected)), "")
    shapes = [
        f"{name}: {list(wanted)} in the module, {list(found)} in the file"
        for name, (wanted, found) in list(mismatch.mis_shaped.items())[:SHOWN]
    ]
    examples = f" (first {first})" if first else ""
    return Finding(
        severity=severity,
        layer=layers[0] if layers else first.rpartition(".")[0] or context.model.target,
        param=first or None,
        layers=tuple(dict.fromkeys(layers)),
        message=_counts(mismatch) + examples,
        evidence={
            "missing": list(mismatch.missing[:SHOWN]),
            "unexpected": list(mismatch.unexpected[:SHOWN]),
            "mis_shaped": shapes,
            "counts": [len(mismatch.missing), len(mismatch.unexpected), len(mismatch.mis_shaped)],
            "renamed_prefix": list(mismatch.renamed or ()),
        },
        why="what the checkpoint does not fill keeps its random initial values"
        if mismatch.unfilled
        else "what the module has no place for is dropped in loading",
        measured=_counts(mismatch),
        expected="the same names and shapes on both sides",
        fix=Fix(
            "reload",
            code="load with strict=True; rename the keys, or build the module that this "
            "checkpoint was saved from",
        ),
    )
