"""From the numbers of the first steps to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isfinite, sqrt
from statistics import fmean, median, pvariance
from typing import Any

from initlint.integrations.history import History, ParameterHistory
from initlint.integrations.texts import TEXTS
from initlint.lint.finding import Confidence, Finding, Severity

USUAL_UPDATE = 1e-3
"""‖Δw‖ / ‖w‖ per step that the field aims at (Karpathy, *A recipe for training neural
networks*)."""

LARGE_UPDATE = 100 * USUAL_UPDATE
"""A tenth per step: the weights are others after ten steps. Adam with a common rate of 1e-3 on
weights of std 0.02 makes 5e-2, which trains."""

REPLACED = 1.0
"""A first step as large as the weights themselves: of what was drawn, nothing is left. The weights
are larger by then, so the ratio of later steps looks harmless."""

SMALL_UPDATE = USUAL_UPDATE / 1000
"""A thousand times slower than usual: a run of 100,000 steps moves the weights by a tenth."""

LEFT_BEHIND = 1e-3
"""A layer this many times slower than the median layer is the layer's fault, not the rate's."""

EXCESS = ((3.0, Severity.ERROR), (1.5, Severity.WARNING), (0.75, Severity.INFO))
"""Nats of the first loss above a guess: the levels of the rule head-excess-loss, which derives
them."""

FEWEST_STEPS, LEAST_FALL = 20, 0.02
"""A loss is judged over at least twenty steps: five in each of the quarters that are compared. It
must be lower by two standard errors or by 2 %, which a network that trains shows in twenty steps of
any task whose loss starts near chance."""

FEWEST_MEASURED = 3
"""Measured steps from which on updates and units are judged: one alone may be the first step of a
warm-up, or of a branch that starts at zero."""

SATURATED = 0.5
"""Share of outputs beyond 0.97 of a bounded activation: half of them pass less than 6 % of the
gradient (1 - 0.97^2)."""

SILENT = ((0.9, Severity.ERROR), (0.5, Severity.WARNING))
"""Share of a layer's units that no gradient reached in any measured step. Under a ReLU a unit on
random inputs is silent for a whole batch of 32 with chance 2^-32, so a handful are dead already;
below a half the layer still trains with the others."""

GRADIENT_SPAN = 1e5
"""Ratio of largest to smallest median gradient rms over matrices, with an optimizer that does not
divide it out: at a rate where one moves by the usual 1e-3, the other moves 1e-8, less than the
rounding of float32 (6e-8)."""


def judge(history: History) -> list[Finding]:
    """Every finding about a run, worst first.

    Thresholds and their reasons are the constants of this module.
    """
    checks: tuple[Callable[[History], Iterator[Finding]], ...] = (
        _not_finite,
        _first_loss,
        _not_falling,
        _not_trained,
        _not_moving,
        _updates,
        _silent,
        _saturated,
        _gradients,
    )
    found = [finding for check in checks for finding in check(history)]
    return sorted(found, key=lambda finding: -finding.severity.rank)


def _finding(
    name: str, severity: Severity, message: str, places: list[ParameterHistory], **rest: Any
) -> Finding:
    layers = tuple(dict.fromkeys(place.layer or place.path for place in places)) or ("model",)
    text = TEXTS[name]
    return Finding(
        severity=severity,
        layer=layers[0],
        layers=layers,
        param=places[0].path if places else None,
        message=message,
        code=text.code,
        name=name,
        why=text.why,
        **rest,
    )


def _paths(places: list[ParameterHistory]) -> str:
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return ", ".join(place.path for place in places[:3]) + more


def _not_finite(history: History) -> Iterator[Finding]:
    bad = [n for n, loss in enumerate(history.losses) if not isfinite(loss)]
    if bad:
        yield _finding(
            "training-not-finite",
            Severity.ERROR,
            f"the loss is {history.losses[bad[0]]} at step {bad[0]}",
            [],
            evidence={"step": bad[0]},
            measured=f"{len(bad)} of {len(history.losses)} losses",
        )
    places = [
        p for p in history.parameters if any(g is not None and not isfinite(g) for g in p.gradients)
    ]
    if places:
        yield _finding(
            "training-not-finite",
            Severity.ERROR,
            f"gradients are not finite: {_paths(places)}",
            places,
            evidence={"parameters": len(places)},
            measured=f"{len(places)} of {len(history.parameters)} parameters",
        )


def _first_loss(history: History) -> Iterator[Finding]:
    if history.chance is None or not history.losses or not isfinite(history.losses[0]):
        return
    excess = history.losses[0] - history.chance
    severity = next((level for least, level in EXCESS if excess >= least), None)
    if severity is not None:
        yield _finding(
            "first-loss-above-chance",
            severity,
            f"the first loss is {history.losses[0]:.3g}; a guess costs {history.chance:.3g}",
            [],
            evidence={"loss": history.losses[0], "chance": history.chance},
            measured=f"{history.losses[0]:.4g} nats",
            expected=f"{history.chance:.4g} nats: the logarithm of the number of classes",
        )


def _not_falling(history: History) -> Iterator[Finding]:
    losses = [loss for loss in history.losses if isfinite(loss)]
    if len(losses) < max(FEWEST_STEPS, len(history.losses)):
        return
    quarter = len(losses) // 4
    first, last = losses[:quarter], losses[-quarter:]
    fall = fmean(first) - fmean(last)
    noise = sqrt((pvariance(first) + pvariance(last)) / (quarter - 1))
    if (fall >= 2 * noise and fall > 0) or fall >= LEAST_FALL * abs(fmean(first)):
        return
    yield _finding(
        "loss-not-falling",
        Severity.WARNING,
        f"the loss does not fall over {len(losses)} steps",
        [],
        confidence=Confidence.MEDIUM,
        evidence={"first": fmean(first), "last": fmean(last), "standard_error": noise},
        measured=f"{fmean(first):.4g} → {fmean(last):.4g} (± {noise:.2g}), {quarter} steps each",
        expected=f"lower by {LEAST_FALL:.0%}, or by two standard errors",
    )


def _not_trained(history: History) -> Iterator[Finding]:
    places = [p for p in history.parameters if not p.trained]
    if places:
        yield _finding(
            "not-in-optimizer",
            Severity.WARNING,
            f"{len(places)} trainable parameters are in no optimizer: {_paths(places)}",
            places,
            evidence={"parameters": len(places)},
            measured=f"{len(places)} of {len(history.parameters)} parameters",
        )


def _still(parameter: ParameterHistory) -> bool:
    return parameter.trained and not any(parameter.gradients)


def _not_moving(history: History) -> Iterator[Finding]:
    if len(history.measured) < FEWEST_MEASURED:
        return
    places = [p for p in history.parameters if _still(p)]
    if places:
        yield _finding(
            "layer-not-moving",
            Severity.ERROR if len(places) == len(history.parameters) else Severity.WARNING,
            f"no gradient reached {_paths(places)} in {len(history.measured)} measured steps",
            places,
            evidence={"parameters": len(places), "steps": len(history.measured)},
            measured="gradient exactly zero, or none",
        )


def _late(values: tuple[float | None, ...]) -> float | None:
    """Median over the later half: past the first step of what starts at zero or warms up."""
    numbers = [v for v in values if v is not None and isfinite(v)]
    return median(numbers[len(numbers) // 2 :]) if numbers else None


def _matrices(history: History) -> list[ParameterHistory]:
    return [p for p in history.parameters if p.trained and len(p.shape) > 1 and not _still(p)]


def _updates(history: History) -> Iterator[Finding]:
    if len(history.measured) < FEWEST_MEASURED:
        return
    ratios = [(p, r) for p in _matrices(history) if (r := _late(p.updates)) is not None]
    if not ratios:
        return
    typical = median(r for _, r in ratios)
    large = [
        (p, max(r, p.updates[0] or 0.0))
        for p, r in ratios
        if not p.started_at_zero and (r > LARGE_UPDATE or (p.updates[0] or 0.0) > REPLACED)
    ]
    if large:
        worst = max(r for _, r in large)
        places = [p for p, _ in large]
        yield _finding(
            "update-too-large",
            Severity.WARNING,
            f"a step changes {_paths(places)} by up to {worst:.0%} of their size",
            places,
            evidence={"ratio": worst},
            measured=f"‖Δw‖ / ‖w‖ up to {worst:.2g} per step",
            expected=f"about {USUAL_UPDATE:.0e}, at most {LARGE_UPDATE:.0e}",
        )
    if typical < SMALL_UPDATE:
        yield _finding(
            "update-too-small",
            Severity.INFO,
            f"the steps change the weights by {typical:.1g} of their size (a warm-up does so)",
            [],
            confidence=Confidence.MEDIUM,
            evidence={"ratio": typical},
            measured=f"median ‖Δw‖ / ‖w‖ {typical:.2g} per step",
            expected=f"about {USUAL_UPDATE:.0e}",
        )
        return
    slow = [(p, r) for p, r in ratios if r < SMALL_UPDATE and r < LEFT_BEHIND * typical]
    if slow:
        places = [p for p, _ in slow]
        least = min(r for _, r in slow)
        yield _finding(
            "update-too-small",
            Severity.WARNING,
            f"{_paths(places)} hardly move while the others do",
            places,
            evidence={"ratio": least, "median": typical},
            measured=f"‖Δw‖ / ‖w‖ {least:.2g} per step; the median layer's is {typical:.2g}",
            expected=f"about {USUAL_UPDATE:.0e}",
        )


def _silent(history: History) -> Iterator[Finding]:
    if len(history.measured) < FEWEST_MEASURED:
        return
    for parameter in _matrices(history):
        share = len(parameter.silent) / parameter.shape[0]
        severity = next((level for least, level in SILENT if share >= least), None)
        if severity is not None:
            yield _finding(
                "units-without-gradient",
                severity,
                f"no gradient reached {len(parameter.silent)} of {parameter.shape[0]} units of "
                f"{parameter.path}",
                [parameter],
                evidence={"units": len(parameter.silent), "of": parameter.shape[0]},
                measured=f"{share:.0%} of the rows zero in {len(history.measured)} measured steps",
            )


def _saturated(history: History) -> Iterator[Finding]:
    for path, shares in sorted(history.saturated.items()):
        share = median(shares)
        if share >= SATURATED:
            yield _finding(
                "activation-saturated",
                Severity.WARNING,
                f"{share:.0%} of the outputs of {path} are saturated",
                [ParameterHistory(f"{path}.", (), True, (), ())],
                evidence={"share": share},
                measured=f"{share:.0%} beyond 0.97 of the range",
                expected=f"less than {SATURATED:.0%}",
            )


def _gradients(history: History) -> Iterator[Finding]:
    if history.adaptive or len(history.measured) < FEWEST_MEASURED:
        return
    sizes = [(g, p) for p in _matrices(history) if (g := _late(p.gradients))]
    if len(sizes) < 2:
        return
    least, small = min(sizes, key=lambda pair: pair[0])
    most, large = max(sizes, key=lambda pair: pair[0])
    if most > GRADIENT_SPAN * least:
        yield _finding(
            "gradients-apart",
            Severity.WARNING,
            f"the gradient of {large.path} is {most / least:.1g} times that of {small.path}",
            [small, large],
            evidence={"smallest": least, "largest": most},
            measured=f"rms {least:.2g} and {most:.2g}",
            expected=f"a ratio below {GRADIENT_SPAN:.0e} with one learning rate for all",
        )
