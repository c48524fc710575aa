"""collapsed-spectrum: a trained matrix that is one outer product, or a gain that is gone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from initlint.api import (
    NORMALISERS,
    Context,
    Finding,
    Fix,
    Layer,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
)

RANK_ONE = 1e-6
"""Share of a matrix's energy outside its largest singular direction below which it counts as one
outer product: singular values of 1e-3 of the first, which no output scale resolves in half
precision. A voice detector that works well keeps 5 % there, so less collapse than this is usual."""

MIN_SIDE = 32
"""Shorter side a matrix needs: bottlenecks of a few units are of low rank by design."""

LARGEST = 1 << 22
"""Elements up to which a spectrum is computed."""

GAIN_GONE = 1e-4
"""Size of a gain, relative to its layer's largest, that counts as gone. LayerScale starts at 1e-6
in every channel alike, so only the spread inside one layer tells."""

GAIN_SHARE = 0.9
"""Share of gains that must be gone; good models were found with 78 % below 0.01."""


@dataclass(frozen=True, slots=True)
class _Collapsed:
    layer: Layer
    param: Param
    measured: str


class CollapsedSpectrum(Rule):
    """A trained weight matrix has collapsed to rank one, or nearly all gains of a norm are zero.

    What it does
    ------------
    In trained models, compares the largest singular value of each weight matrix with its norm, and
    the gains of each normaliser with the largest of them.

    Why is this bad
    ---------------
    A matrix of rank one passes one number on, whatever its width: everything upstream is reduced to
    a single feature. Training that diverged and came back, too strong a weight decay, or a state
    written while it was being updated leave such layers.

    How it decides
    --------------
    Less than 10^-6 of the squared norm lies outside the largest singular direction, both sides
    being 32 or more; or nine tenths of a normaliser's gains are below 10^-4 of its largest. A
    matrix is a warning, gains are an info.

    What it does not flag
    ---------------------
    Low stable rank by itself, which good models have. Heads of few outputs, embeddings, factors of
    low-rank adapters, quantised weights, fresh models (rank-deficient draws are another rule's).

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(*[nn.Linear(128, 128) for _ in range(4)])
            with torch.no_grad():
                for layer in net:
                    layer.weight += torch.randn(128, 4) @ torch.randn(4, 128) / 50
                    layer.bias += 0.1 * torch.randn(128)
                net[2].weight.copy_(torch.randn(128, 1) @ torch.randn(1, 128) / 11)
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(*[nn.Linear(128, 128) for _ in range(4)])
            with torch.no_grad():
                for layer in net:
                    layer.weight += torch.randn(128, 4) @ torch.randn(4, 128) / 50
                    layer.bias += 0.1 * torch.randn(128)
            return net

    References
    ----------
    - Zhai et al. 2023, Stabilizing transformer training by preventing attention entropy collapse:
      spectral norms during divergence.
    - Martin, Mahoney 2021, Implicit self-regularization in deep neural networks.
    """

    code = "CKP105"
    name = "collapsed-spectrum"
    formula = "1 - s_1^2 / sum s_i^2 < 1e-6;  or |gamma_i| < 1e-4 max|gamma| for 90 % of i"
    stages = frozenset({Stage.TRAINED, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for all matrices, and one for all gains."""
        params = context.model.graph.params
        matrices = [found for layer, param in params if (found := _rank_one(context, layer, param))]
        if matrices:
            yield _finding(
                matrices,
                Severity.WARNING,
                "has collapsed to rank one",
                "all units of the layer are multiples of one another",
            )
        gains = [found for layer, param in params if (found := _gone(context, layer, param))]
        if gains:
            yield _finding(
                gains,
                Severity.INFO,
                "has lost nearly all its gains",
                "a channel whose gain is zero passes nothing on",
            )


def _rank_one(context: Context, layer: Layer, param: Param) -> _Collapsed | None:
    if param.role not in (Role.WEIGHT, Role.RECURRENT_WEIGHT) or layer.op is Op.EMBEDDING:
        return None
    if param.quantised or not param.trainable or len(param.shape) < 2 or param.size > LARGEST:
        return None
    if min(param.shape[0], param.size // max(param.shape[0], 1)) < MIN_SIDE:
        return None
    moments = context.measures.moments(param)
    if moments is None or moments.non_finite or moments.max_abs == 0:
        return None
    values = context.measures.read(param)
    assert values is not None
    rest = _outside_one_direction(values.reshape(param.shape[0], -1))
    if rest >= RANK_ONE:
        return None
    return _Collapsed(layer, param, f"{max(rest, 0.0):.1e} of the energy outside one direction")


def _outside_one_direction(matrix: np.ndarray) -> float:
    """Share of the squared norm outside a direction found by two power iterations.

    From the longest row, whose share of the first direction is largest: exact for a matrix of rank
    one, an upper bound of the true share for any other.
    """
    wide = matrix.astype(np.float64)
    direction = wide[np.argmax(np.einsum("ij,ij->i", wide, wide))]
    for _ in range(2):
        direction = wide.T @ (wide @ (direction / np.linalg.norm(direction)))
    along = wide @ (direction / np.linalg.norm(direction))
    return 1.0 - float(along @ along) / float(np.vdot(wide, wide))


def _gone(context: Context, layer: Layer, param: Param) -> _Collapsed | None:
    if param.role is not Role.GAIN or layer.op not in NORMALISERS or param.size < MIN_SIDE:
        return None
    values = context.measures.read(param)
    if values is None or not np.isfinite(values).all():
        return None
    sizes = np.abs(values)
    share = float(np.mean(sizes < GAIN_GONE * sizes.max())) if sizes.max() > 0 else 0.0
    return (
        _Collapsed(layer, param, f"{share:.0%} of the gains gone") if share > GAIN_SHARE else None
    )


def _finding(found: list[_Collapsed], severity: Severity, what: str, why: str) -> Finding:
    first = found[0]
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Finding(
        severity=severity,
        layer=first.layer.id,
        param=first.param.name,
        layers=tuple(dict.fromkeys(item.layer.id for item in found)),
        message=f"{first.param.name} {what}{others}",
        evidence={"params": [item.param.name for item in found[:20]], "first": first.measured},
        why=why,
        measured=first.measured,
        expected="many directions of comparable size",
        fix=Fix(
            "reload",
            params=tuple(item.param.key for item in found),
            code="go back to a checkpoint from before the collapse, or draw the layer again",
        ),
    )
