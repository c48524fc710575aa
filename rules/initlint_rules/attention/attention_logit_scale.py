"""attention-logit-scale: attention logits so wide that the softmax starts frozen."""

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

from ._logits import Logits, Scores, attention_logits, place_scores

HALF_ENTROPY = 1.0
"""Logit variance over ln T at which half of the softmax's entropy is gone: for Gaussian logits the
entropy is ln T - s^2/2 up to s^2 = 2 ln T, where it freezes (random-energy model; 3.2 of 64 keys
were effective there in a measurement)."""

FROZEN = 2.0
"""Logit variance over ln T from which single keys take all of the attention."""

FAR = 3.0
"""Gain of a layer of scores beyond which its scale is a mistake and no choice. The schemes in use
give 0.6 to 1.4; wide scores behind less are what it reads."""


class AttentionLogitScale(Rule):
    """Attention logits start so wide that a few keys take all of the softmax.

    What it does
    ------------
    Works out the standard deviation s of the attention logits from the queries and keys, measured
    or predicted, and compares it with the number T of keys.

    Why is this bad
    ---------------
    Gaussian logits leave the softmax an entropy of ln T - s^2/2. At s = sqrt(2 ln T) it is frozen:
    each query looks at one random key, its own gradient vanishes, and that of the layers before
    grows with the logits: weights three times too wide in a 12-block transformer multiplied the
    gradient of the input by 10^7.7.

    How it decides
    --------------
    s^2 above ln T (half of the entropy gone): warning. Above 2 ln T (frozen): error, or a warning
    where the attentions are residual branches of a trunk that trains and a backward pass finds its
    gradient within one decade over all blocks: such networks trained to 0.70, 0.70, 0.99 and 1.01
    of their twins, beyond it to 0.76, 0.26 and 0.04 (`benchmarks/outcome`). Behind normalised
    queries and keys the width is a factor's alone, narrow on purpose in small heads (10 on cosines
    of width 16 has s = 2.5): a warning where it is frozen, else silence. Of queries and keys those
    are named that are wide: the wider, and the other from half of its decades above unit scale on.
    Scores of places that one linear layer makes (additive attention, pooling): an info where they
    are frozen by weights more than three times too wide.

    What it does not flag
    ---------------------
    Near-uniform attention (small logits learn well); wide weights behind normalised queries and
    keys (QK-norm, cosine attention), whose logits they do not reach: a normaliser on one of the two
    leaves the width of the other; masks and position biases, which are added later; fewer than four
    keys; trained weights.

    Example
    -------
    ::

        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.k, self.v = (nn.Linear(64, 64) for _ in range(3))
                for layer in (self.q, self.k):
                    nn.init.normal_(layer.weight, std=0.5)

            def forward(self, x):
                return nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))

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
                return nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))

        def model():
            return nn.Sequential(
                nn.Embedding(100, 64), nn.LayerNorm(64), Model(), nn.Linear(64, 10)
            )

    References
    ----------
    - Vaswani et al. 2017, Attention is all you need, section 3.2.1.
    - Zhai et al. 2023, Stabilizing transformer training by preventing attention entropy collapse.
    - Derrida 1981, Random-energy model.
    """

    code = "ATT701"
    name = "attention-logit-scale"
    formula = "s^2 = scale^2 d_h (n Var W_q) (n Var W_k) q^2 (1 - c)\nfrozen at s* = sqrt(2 ln T)"
    needs = frozenset({Need.WEIGHTS, Need.GRAPH, Need.THEORY})
    optional = frozenset({Need.PROBE})
    stages = frozenset({Stage.FRESH, Stage.MIXED})
    local = True
    folds = ("attention-entropy", "forward-drift", "gradient-profile", "variance-profile")

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding that names every such attention, the worst first."""
        found = [
            (logits.variance / log(logits.keys), logits)
            for logits in attention_logits(context)
            if logits.variance >= (HALF_ENTROPY if logits.scaling else FROZEN) * log(logits.keys)
        ]
        if found:
            found.sort(key=lambda item: -item[0])
            yield _finding(context, [logits for _, logits in found], found[0][0])
        scores = [
            item
            for item in place_scores(context)
            if item.gain > FAR and item.variance >= FROZEN * log(item.keys)
        ]
        if scores:
            yield _of_scores(context, scores)


def _finding(context: Context, found: list[Logits], excess: float) -> Finding:
    worst = found[0]
    frozen = excess >= FROZEN
    drawn = any(item.scaling for item in found)
    harmful = frozen and drawn and not is_spared(context, [item.layer for item in found])
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    assumed = "" if worst.measured else " predicted"
    state = "frozen on single keys" if frozen else "peaked"
    makers = tuple(dict.fromkeys(key for item in found for key in item.wide))
    widest = (worst.scaling or worst.params)[0]
    name, owner = widest.name, context.measures.layer(widest)
    return Finding(
        severity=Severity.ERROR if harmful else Severity.WARNING,
        confidence=Confidence.HIGH if worst.measured else Confidence.MEDIUM,
        layer=owner.id if owner is not None else worst.layer,
        param=name,
        layers=(*makers, *(item.layer for item in found)),
        message=f"attention logits of {worst.layer}{more} have a{assumed} std of {worst.std:.2g} "
        f"over {worst.keys} keys: the softmax starts {state}",
        evidence={
            "logit_std": worst.std,
            "frozen_at": worst.frozen,
            "keys": worst.keys,
            "head_dim": worst.head_dim,
            "scale": worst.scale,
            "attentions": len(found),
        },
        why="Gaussian logits leave the softmax an entropy of ln T - s^2/2; past sqrt(2 ln T) = "
        f"{worst.frozen:.1f} one key takes all; a warm-up only keeps it from falling further",
        measured=f"logit std {worst.std:.2g}",
        expected=f"logit std of about 1, below {sqrt(log(worst.keys)):.1f} for {worst.keys} keys",
        fix=_fix(found, name),
    )


def _of_scores(context: Context, found: list[Scores]) -> Finding:
    """Places weighed by one linear score (additive attention, pooling): an info.

    Only the scores' own weights wait behind such a softmax, values and the rest of the network
    learn through the place that it picked. Sixty to two hundred times too wide, two networks
    trained to 0.77 and 1.00 of their twins.
    """
    found = sorted(found, key=lambda item: -item.variance / log(item.keys))
    worst = found[0]
    std, factor = sqrt(worst.variance), 1 / worst.gain
    makers = {item.weight.key: item for item in found}
    named = [context.measures.layer(item.weight) or item.maker for item in makers.values()]
    more = f" (and {len(makers) - 1} more)" if len(makers) > 1 else ""
    return Finding(
        severity=Severity.INFO,
        confidence=Confidence.HIGH if worst.measured else Confidence.MEDIUM,
        layer=named[0].id,
        param=worst.weight.name,
        layers=tuple(layer.id for layer in named),
        message=f"scores of {named[0].id}{more} have a std of {std:.2g} over {worst.keys} "
        "places: the softmax that weighs them starts frozen on single ones",
        evidence={
            "logit_std": std,
            "frozen_at": sqrt(2 * log(worst.keys)),
            "keys": worst.keys,
            "gain": worst.gain,
        },
        why="a softmax that sits on single places passes almost no gradient to their scores",
        measured=f"score std {std:.2g}, gain {worst.gain:.2g}",
        expected=f"score std of about 1, below {sqrt(log(worst.keys)):.1f}",
        fix=Fix(
            "rescale",
            params=tuple(makers),
            arguments={"factor": factor},
            code=f"multiply {worst.weight.name} by {factor:.2g}",
        ),
    )


def _fix(found: list[Logits], name: str) -> Fix:
    """Smaller weights, or a smaller factor where normalisers take their scale away.

    Queries and keys share it where both are wide: one that made up for the other would be as far
    too narrow, and its gradient too wide.
    """
    factor = 1 / found[0].std
    if not found[0].scaling:
        return Fix(
            "rescale",
            arguments={"factor": factor},
            code=f"multiply the factor on the logits by {factor:.2g}",
        )
    drawn = [item.scaling for item in found if item.scaling]
    both = all(len(item.wide) == len(item.scaling) == 2 for item in found if item.scaling)
    count = 2 if both else 1
    factor **= 1 / count
    params = dict.fromkeys(param.key for scaling in drawn for param in scaling[:count])
    more = " and that of the other factor" if both else ""
    return Fix(
        "rescale",
        params=tuple(params),
        arguments={"factor": factor},
        code=f"multiply {name}{more} by {factor:.2g}",
    )
