"""What weights that are wrong show elsewhere, for the rules that name such weights."""

from __future__ import annotations

SIGNALS = (
    "forward-drift",
    "backward-drift",
    "variance-profile",
    "gradient-profile",
    "correlation-collapse",
    "head-excess-loss",
    "output-scale",
    "saturation",
    "dead-relu",
    "unit-cannot-fire",
    "bias-dominates",
    "zero-gradient",
    "attention-logit-scale",
    "attention-entropy",
    "epsilon-dominates",
)
"""Rules that see what weights of a wrong scale do to signal and gradient."""

ODD_WEIGHTS = (
    "rank-deficient-init",
    "mean-shifted-weights",
    "distribution-anomaly",
    "gain-mismatch",
    "relu-after-xavier",
    "inconsistent-siblings",
    "recurrent-not-orthogonal",
    "residual-branch-unscaled",
)
"""Rules that see in the weights themselves what copied units or raw memory leave there."""
