"""seed-insensitive: different seeds, the same random weights."""

from __future__ import annotations

from collections.abc import Iterator

from initlint.api import Context, Draws, Family, Finding, Fix, Need, Param, Rule, Severity, Stage
from initlint_rules.reproducibility._places import layers_of, listed

_RANDOM = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL, Family.ORTHOGONAL})


class SeedInsensitive(Rule):
    """Random weights do not change with the seed.

    What it does
    ------------
    Compares the parameters of several builds of one module with different seeds (`--seeds`).

    Why is this bad
    ---------------
    A seed that is set inside the model, or a generator of its own, makes every repetition the same
    draw: the spread over seeds is too small, members of an ensemble start equal, and everything
    that is drawn after it repeats as well.

    How it decides
    --------------
    Trainable parameters that look drawn at random (uniform, normal, truncated normal, orthogonal)
    and are equal bit by bit for every seed.

    What it does not flag
    ---------------------
    Constant and deterministic weights (zeros, identities, sinusoids), frozen ones (random features
    that are meant to stay), weights that were loaded or trained, targets that were not built
    several times.

    Example
    -------
    ::

        import torch
        from torch import nn
        from initlint.testing import drawn

        def build():
            torch.manual_seed(42)
            return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

        def model():
            return drawn(build)

    Use instead
    -----------
    ::

        from torch import nn
        from initlint.testing import drawn

        def build():
            return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

        def model():
            return drawn(build)

    References
    ----------
    - Keras, initializers: "an initializer seeded with an integer will produce the same random
      values across multiple calls".
    - Lakshminarayanan et al. 2017 (arXiv:1612.01474): members of an ensemble differ by their
      random initialisation.
    """

    code = "REP102"
    name = "seed-insensitive"
    formula = "W(seed 0) = W(seed 1) = ..."
    needs = frozenset({Need.WEIGHTS})
    stages = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for all parameters that no seed reaches."""
        draws = context.model.metadata.get("draws")
        if not isinstance(draws, Draws):
            return
        fixed = set(draws.insensitive)
        names = list(
            dict.fromkeys(
                param.name
                for _, param in context.model.graph.params
                if param.name in fixed and _is_drawn(context, param)
            )
        )
        if not names:
            return
        layers = layers_of(context.model, names)
        rest = f"; {len(draws.random)} others change" if draws.random else ""
        yield Finding(
            severity=Severity.WARNING,
            layer=layers[0],
            param=names[0],
            layers=layers,
            message=f"{len(draws.seeds)} seeds give the same random weights: {listed(names)}{rest}",
            evidence={
                "compared": len(draws.seeds),
                "parameters": len(names),
                "first": names[:20],
                "changing": len(draws.random),
            },
            why="a seed set inside the model makes every repetition the same draw: an ensemble of "
            f"{len(draws.seeds)} differs by the order of its data alone, and the spread over seeds "
            "is too small",
            measured=f"{len(names)} parameters equal bit by bit",
            expected="another draw for another seed",
            fix=Fix(
                "redraw",
                code="set the seed where training starts, not where the model is built",
            ),
        )


def _is_drawn(context: Context, param: Param) -> bool:
    """True for a trainable tensor whose values look random and untrained."""
    if not param.trainable or param.tied_to is not None:
        return False
    if context.measures.stage(param) is Stage.TRAINED:
        return False
    return context.measures.identify(param).family in _RANDOM
