"""attention-unscaled: dot products of queries and keys without 1/sqrt(head width)."""

from __future__ import annotations

from collections.abc import Iterator
from math import log, sqrt

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Need,
    Rule,
    Severity,
    Stage,
    is_spared,
)

from ._logits import Logits, attention_logits

HALF_ENTROPY = 1.0
"""Logit variance over ln T at which half of the softmax's entropy is gone (it is ln T - s^2/2 for
Gaussian logits)."""

FROZEN = 2.0
"""Logit variance over ln T from which single keys take all of the attention."""

LARGER = 4.0
"""Factor by which the scale must exceed 1/sqrt(head width): a learned or chosen temperature moves
it by 2 or so; leaving it out moves it by 4 at the smallest usual head, of width 16."""


class AttentionUnscaled(Rule):
    """Dot products of queries and keys go into the softmax without 1/sqrt(head width).

    What it does
    ------------
    Finds attentions whose factor on the dot products is far above 1/sqrt(d), with d the width of a
    head, and whose logits start wide because of it.

    Why is this bad
    ---------------
    A dot product of d independent terms has d times the variance of one. Without 1/sqrt(d) the
    logits of a head of width 64 start with a standard deviation of 8: the softmax looks at one
    random key, and no gradient reaches the queries and keys.

    How it decides
    --------------
    A factor of more than four times 1/sqrt(d), together with logits that have lost half of the
    softmax's entropy (warning) or are frozen (error), which they would not be with the factor. A
    warning, too, beside a trunk that trains and whose measured gradient stays within one decade.

    What it does not flag
    ---------------------
    T5, which draws its query weights smaller by sqrt(d) instead; normalised queries and keys; small
    weights that make up for it; trained weights.

    Example
    -------
    ::

        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.k, self.v = (nn.Linear(64, 64) for _ in range(3))
                for layer in (self.q, self.k):
                    nn.init.xavier_uniform_(layer.weight)

            def forward(self, x):
                scores = self.q(x) @ self.k(x).transpose(-1, -2)
                return scores.softmax(-1) @ self.v(x)

        def model():
            return nn.Sequential(
                nn.Embedding(100, 64), nn.LayerNorm(64), Model(), nn.Linear(64, 10)
            )

    Use instead
    -----------
    ::

        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.k, self.v = (nn.Linear(64, 64) for _ in range(3))
                for layer in (self.q, self.k):
                    nn.init.xavier_uniform_(layer.weight)

            def forward(self, x):
                scores = self.q(x) @ self.k(x).transpose(-1, -2) / 64**0.5
                return scores.softmax(-1) @ self.v(x)

        def model():
            return nn.Sequential(
                nn.Embedding(100, 64), nn.LayerNorm(64), Model(), nn.Linear(64, 10)
            )

    References
    ----------
    - Vaswani et al. 2017, Attention is all you need, section 3.2.1.
    - transformers, modeling_t5.py, _init_weights: q drawn with (d_model * d_kv) ** -0.5.
    """

    code = "ATT702"
    name = "attention-unscaled"
    formula = "Var(q . k) = d_h Var(q_i) Var(k_i);  wanted factor 1/sqrt(d_h)"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    folds = (
        "attention-logit-scale",
        "attention-entropy",
        "forward-drift",
        "gradient-profile",
        "variance-profile",
    )

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such attention."""
        found = [logits for logits in attention_logits(context) if _is_unscaled(logits)]
        if found:
            yield _finding(context, max(found, key=lambda item: item.variance), found)


def _is_unscaled(logits: Logits) -> bool:
    """Wide logits, for the sole reason that the factor is missing."""
    if logits.normalised or abs(logits.scale) * sqrt(logits.head_dim) < LARGER:
        return False
    scaled = logits.variance / (logits.scale**2 * logits.head_dim)
    limit = HALF_ENTROPY * log(logits.keys)
    return logits.variance >= limit > scaled


def _finding(context: Context, worst: Logits, found: list[Logits]) -> Finding:
    frozen = worst.variance >= FROZEN * log(worst.keys)
    harmful = frozen and not is_spared(context, [item.layer for item in found])
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    factor = 1 / (abs(worst.scale) * sqrt(worst.head_dim))
    makers = tuple(
        dict.fromkeys(key for item in found for key in (item.query, item.key) if key is not None)
    )
    return Finding(
        severity=Severity.ERROR if harmful else Severity.WARNING,
        confidence=Confidence.HIGH if worst.measured else Confidence.MEDIUM,
        layer=worst.layer,
        param=worst.params[0].name,
        layers=(*(item.layer for item in found), *makers),
        message=f"{worst.layer}{more} multiplies its logits by {worst.scale:.3g} instead of "
        f"1/sqrt({worst.head_dim}): they start with std {worst.std:.2g}",
        evidence={
            "scale": worst.scale,
            "head_dim": worst.head_dim,
            "logit_std": worst.std,
            "keys": worst.keys,
            "attentions": len(found),
        },
        why="a dot product of d terms has d times the variance of one",
        measured=f"factor {worst.scale:.3g}, logit std {worst.std:.2g}",
        expected=f"factor {worst.head_dim**-0.5:.3g}, logit std of about 1",
        fix=Fix(
            "rescale",
            params=tuple(dict.fromkeys(item.params[0].key for item in found)),
            arguments={"factor": factor},
            code=f"divide the logits by sqrt({worst.head_dim}), or multiply "
            f"{worst.params[0].name} by {factor:.3g}",
        ),
    )
