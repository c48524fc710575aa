"""How well what was said before training agrees with what happened; and the fit of the risk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from benchmarks.outcome import judging, training
from benchmarks.outcome.models import ZOO, Entry
from initlint.risk import OFFSET, WEIGHTS

TERMS = tuple(WEIGHTS)

PENALTY = 0.2
"""Strength of the pull of every weight towards what theory started from. Chosen among 0.005 to 0.5
by the likelihood of the architectures left out, which is flat from 0.1 on: the data know little of
single weights."""

PRIOR = dict.fromkeys(TERMS, 1.5)
"""Where the fit starts and what it is pulled to: one decade beyond a limit takes a model from
three in a hundred to about one in eight, two to two in five."""

Terms = Mapping[str, float]


def _matrix(terms: Sequence[Terms]) -> np.ndarray:
    return np.array([[found.get(name, 0.0) for name in TERMS] for found in terms])


def predict(weights: np.ndarray, offset: float, terms: Sequence[Terms]) -> np.ndarray:
    """The risk of every model."""
    return 1.0 / (1.0 + np.exp(-(offset + _matrix(terms) @ weights)))


def fit(terms: Sequence[Terms], harmed: np.ndarray) -> tuple[np.ndarray, float]:
    """Non-negative weights and offset of highest penalised likelihood."""
    prior = np.array([PRIOR[name] for name in TERMS])
    matrix = _matrix(terms)

    def cost(point: np.ndarray) -> float:
        weights, offset = point[:-1], point[-1]
        sums = matrix @ weights + offset
        likelihood = np.logaddexp(0.0, np.where(harmed, -sums, sums)).mean()
        return float(likelihood + PENALTY * np.square(weights - prior).mean())

    start = np.array([*prior, -2.5])
    bounds = [(0.1, 6.0)] * len(TERMS) + [(-5.0, -2.0)]
    found = minimize(cost, start, method="L-BFGS-B", bounds=bounds)
    return found.x[:-1], float(found.x[-1])


def cases(
    road: str,
    zoo: Sequence[Entry] = ZOO,
    losses: Mapping[str, training.Losses] | None = None,
    said: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Every model that was trained and judged."""
    scores = training.scores(training.load() if losses is None else losses, zoo)
    said = judging.load() if said is None else said
    return [
        {
            "name": name,
            "architecture": name.split("/")[0],
            "score": score,
            "outcome": training.outcome(score),
            **said[f"{name}@{road}"],
        }
        for name, score in scores.items()
        if f"{name}@{road}" in said
    ]


def cross_validated(found: list[dict[str, Any]]) -> np.ndarray:
    """Risks from weights fitted on the other architectures."""
    risks = np.zeros(len(found))
    groups = np.array([case["architecture"] for case in found])
    harmed = np.array([case["outcome"] != training.FINE for case in found])
    terms = [case["terms"] for case in found]
    for group in dict.fromkeys(groups):
        other = groups != group
        weights, offset = fit([x for x, o in zip(terms, other, strict=True) if o], harmed[other])
        own = [x for x, o in zip(terms, other, strict=True) if not o]
        risks[~other] = predict(weights, offset, own)
    return risks


def names_right(case: dict[str, Any]) -> bool:
    """True when an error or warning names layers of which at least half are at fault.

    A layer can be a part of a module (``lstm.l0``, ``attention.in_proj``), or a further use of one
    (``second#2``).
    """
    architecture, variant = case["name"].split("/", 1)
    faulty = set(Entry(architecture, variant).faulty())
    inside = tuple(f"{name}." for name in faulty)
    for _, _, found in case["findings"]:
        layers = [layer.partition("#")[0] for layer in found]
        own = [layer for layer in layers if layer in faulty or layer.startswith(inside)]
        if own and 2 * len(own) >= len(layers):
            return True
    return False


def evaluate(road: str) -> None:
    """Print the figures of one road."""
    every = cases(road)
    found = [case for case in every if case["risk"] is not None]
    if not found:
        print(f"{road}: nothing to evaluate")
        return
    print(f"{road}: {len(every)} models, without risk: {len(every) - len(found)}")
    _areas("cross-validated", found, cross_validated(found))
    figures(found)


def figures(found: list[dict[str, Any]]) -> None:
    """Print how the risk as it is shipped and the findings agree with what happened."""
    outcomes = np.array([case["outcome"] for case in found])
    fine, fails = outcomes == training.FINE, outcomes == training.FAILS
    counts = {kind: int((outcomes == kind).sum()) for kind in ("fine", "harmed", "fails")}
    print(f"  {len({case['architecture'] for case in found})} architectures: {counts}")
    shipped = predict(np.array([*WEIGHTS.values()]), OFFSET, [case["terms"] for case in found])
    _areas("as shipped", found, shipped)
    bare = [{**case["terms"], "named": 0.0} for case in found]
    _areas("without findings", found, predict(np.array([*WEIGHTS.values()]), OFFSET, bare))
    worst = np.array([_worst(case) for case in found])
    shares = ", ".join(
        f"{level} {(~fine)[worst == level].mean():.0%}"
        for level in ("error", "warning", "neither")
        if (worst == level).any()
    )
    print(f"  harmed or failing, by the worst finding: {shares}")
    flagged = np.array([any(f[0] == "error" for f in case["findings"]) for case in found])
    print(
        f"  any error finding: precision {(~fine)[flagged].mean():.2f}, "
        f"recall {flagged[~fine].mean():.2f}"
    )
    print(
        f"  fine models with an error finding: {flagged[fine].mean():.1%} ({flagged[fine].sum()})"
    )
    right = np.array([names_right(case) for case in found])
    print(f"  failing models named by an error or warning: {right[fails].mean():.1%}")
    for case, risk, error, named in zip(found, shipped, flagged, right, strict=True):
        if case["outcome"] == training.FINE and (error or risk > 0.5):
            print(f"    fine    {case['score']:.2f} risk {risk:.2f} {case['name']} {_short(case)}")
        if case["outcome"] == training.FAILS and (not named or risk < 0.5):
            print(f"    fails   {case['score']:.2f} risk {risk:.2f} {case['name']} {_short(case)}")
        if case["outcome"] == training.HARMED and risk < 0.2:
            print(f"    harmed  {case['score']:.2f} risk {risk:.2f} {case['name']} {_short(case)}")


def _worst(case: dict[str, Any]) -> str:
    levels = {severity for severity, _, _ in case["findings"]}
    return next((level for level in ("error", "warning") if level in levels), "neither")


def _areas(title: str, found: list[dict[str, Any]], risks: np.ndarray) -> None:
    outcomes = np.array([case["outcome"] for case in found])
    fine, fails = outcomes == training.FINE, outcomes == training.FAILS
    print(
        f"  AUROC {title}: harmed or failing against fine {roc_auc_score(~fine, risks):.3f}, "
        f"failing against fine {roc_auc_score(fails[fine | fails], risks[fine | fails]):.3f}"
    )


def table(found: list[dict[str, Any]]) -> None:
    """Print every model: progress, outcome, risk, findings."""
    for case in found:
        risk = "   -" if case["risk"] is None else f"{case['risk']:.2f}"
        print(f"{case['score']:.2f} {case['outcome']:<7}{risk} {case['name']:<38}{_short(case)}")


def _short(case: dict[str, Any]) -> str:
    return "; ".join(f"{s} {name} {layers[:3]}" for s, name, layers in case["findings"][:3])


def print_fit(road: str) -> None:
    """Print the weights fitted on all architectures."""
    found = [case for case in cases(road) if case["risk"] is not None]
    harmed = np.array([case["outcome"] != training.FINE for case in found])
    weights, offset = fit([case["terms"] for case in found], harmed)
    for name, weight in zip(TERMS, weights, strict=True):
        print(f'    "{name}": {weight:.1f},')
    print(f"OFFSET = {offset:.1f}")
