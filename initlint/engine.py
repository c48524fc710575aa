"""The one place where a model, its evidence and the rules meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from initlint.lint.code import pasteable
from initlint.lint.finding import Finding, Fix, Severity
from initlint.lint.fold import fold
from initlint.lint.registry import all_rules, family, summary
from initlint.lint.rule import Context, Need, Rule
from initlint.measure.kept import Kept
from initlint.measure.measures import Measures
from initlint.measure.result import Stage
from initlint.model import Draws, Kind, LoadError, Model, Where
from initlint.model.collector import collector_paused
from initlint.probe.result import Activations, ProbeStatus, Response
from initlint.risk import Risk, risk, with_findings
from initlint.rows import Record, finding_record, layer_record
from initlint.selection import choose
from initlint.settings import Settings
from initlint.theory.result import Prediction

if TYPE_CHECKING:
    from initlint.profile import Profile

ASSUMED_STEPS = 50
"""Sequence length for recurrent layers where nobody tells: messages say that it is assumed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured, predicted and observed of one model."""

    measures: Measures
    stage: Stage
    theory: Prediction | None
    probe: Activations | None
    profile: Profile | None = None


def measure(model: Model, settings: Settings, kept: Kept | None = None) -> Measures:
    """The measurements of a model, with the stage the user says, if any."""
    return Measures(model, None if settings.stage == "auto" else Stage(settings.stage), kept)


def gather(
    model: Model, settings: Settings, needs: frozenset[Need], measures: Measures | None = None
) -> Evidence:
    """Measure and predict as far as the given needs ask; the probe is a separate step."""
    measures = measures or measure(model, settings)
    theory = None
    if Need.THEORY in needs and model.connected:
        from initlint.theory.propagation import predict

        theory = predict(model, measures, sequence_length=_sequence_length(model, settings)[0])
    charts = None
    if settings.profile:
        from initlint.profile import Profile

        charts = Profile(model, measures)
    return Evidence(measures, measures.model_stage, theory, None, charts)


def _sequence_length(model: Model, settings: Settings) -> tuple[int, bool]:
    """Steps of recurrent layers, and whether the user or the graph told them."""
    length = settings.sequence_length or model.metadata.get("sequence_length")
    return (int(length), True) if length else (ASSUMED_STEPS, False)


Prober = Callable[[Model, Settings, Stage], Activations]
"""Runs a model once: `run_probe`, or what waits for a process that does it beside this one."""


def run_probe(model: Model, settings: Settings, stage: Stage) -> Activations:
    """Run the model once by the road its kind has; never raises for what a model does."""
    if model.runnable is None:
        what = "structure" if model.kind is Kind.TORCH else "weights"
        return Activations(ProbeStatus.SKIPPED, f"there is nothing to run: {what} only")
    if model.kind is not Kind.ONNX:  # a bound checkpoint runs in its module
        from initlint.probe.torch import probe_torch

        return probe_torch(model, seed=settings.seed, loss=settings.loss)
    from initlint.probe.child import run_in_child

    inputs_file = model.metadata.get("inputs_file") or settings.input
    observed = run_in_child(
        model,
        seed=settings.seed,
        timeout=settings.probe_timeout,
        memory_mb=settings.probe_memory,
        inputs_file=inputs_file,
        train_norm=stage is Stage.FRESH,
    )
    made_up = inputs_file is None or bool(model.metadata.get("inputs_guessed"))
    return replace(observed, given=not made_up)


def _missing(
    rule: type[Rule], model: Model, evidence: Evidence, *, probe_pending: bool
) -> str | None:
    """Why a rule cannot run on this evidence; None when it can."""
    needs = rule.needs
    if not model.connected and needs & {Need.GRAPH, Need.THEORY}:
        return "the target has no graph"
    if Need.THEORY in needs and evidence.theory is None:
        return "there is no prediction"
    if Need.PROBE in needs and evidence.probe is None:
        return "the probe comes later" if probe_pending else "the probe did not run"
    if Need.BACKWARD in needs and not (evidence.probe and evidence.probe.gradients):
        return "the probe comes later" if probe_pending else "there are no gradients"
    return None


def _context(rule: type[Rule], model: Model, evidence: Evidence, settings: Settings) -> Context:
    options = {name: option.default for name, option in rule.options.items()}
    options.update(settings.rule_options.get(rule.name, {}))
    length, known = _sequence_length(model, settings)
    return Context(
        model=model,
        measures=evidence.measures,
        stage=evidence.stage,
        theory=evidence.theory,
        probe=evidence.probe,
        options=options,
        sequence_length=length,
        sequence_length_known=known,
    )


def _complete(finding: Finding, rule: type[Rule], model: Model) -> Finding:
    layers = finding.layers or (finding.layer,)
    where = finding.where
    if where is None:
        places = (model.graph[key].where for key in layers if key in model.graph)
        where = next((place for place in places if place.file or place.node), None)
    fix = finding.fix
    if fix is not None and fix.code:
        names = (p.name for key in layers if key in model.graph for p in model.graph[key].params)
        fix = replace(fix, code=pasteable(fix.code, names))
        if model.kind is Kind.TORCH and where is not None:
            fix = _with_edit(fix, where, model)
    return replace(
        finding,
        fix=fix,
        severity=_severity(finding, rule, model),
        code=finding.code or rule.code,
        name=finding.name or rule.name,
        layers=layers,
        where=where,
        culprits=finding.culprits or layers,
    )


def _severity(finding: Finding, rule: type[Rule], model: Model) -> Severity:
    """The finding's own, one level milder for a scale that no trained weight answers for."""
    layers = (model.graph[key] for key in finding.layers if key in model.graph)
    weights = [layer.weight for layer in layers if layer.weight is not None]
    chosen = rule.about_scale and weights and not any(weight.trainable for weight in weights)
    return finding.severity.milder if chosen else finding.severity


def _with_edit(fix: Fix, where: Where, model: Model) -> Fix:
    """The fix with its place in the user's source, where the constructor can be told."""
    if where.file is None or where.line is None:
        return fix
    from linecache import getlines

    from initlint.lint.source_edit import insertion

    keys = set(fix.params)
    names = [param.name for _, param in model.graph.params if param.key in keys]
    source = "".join(getlines(where.file))
    return replace(fix, edit=insertion(source, where.line, names, fix.code))


def _run(
    rules: Iterable[type[Rule]],
    model: Model,
    evidence: Evidence,
    settings: Settings,
    *,
    probe_pending: bool,
    held: dict[type[Rule], list[Finding]],
) -> tuple[list[Finding], dict[str, list[str]], list[str]]:
    """Findings, rules that did not run by the reason, and failures.

    What a rule finds is held; who takes in more evidence drops what looks at it.
    """
    findings: list[Finding] = []
    skipped: dict[str, list[str]] = {}
    failures: list[str] = []
    for rule in rules:
        if rule in held:
            findings.extend(held[rule])
            continue
        reason = _missing(rule, model, evidence, probe_pending=probe_pending)
        if reason is not None:
            skipped.setdefault(reason, []).append(rule.name)
            continue
        try:
            found = list(rule().check(_context(rule, model, evidence, settings)))
        except LoadError:  # the file turned out to be damaged where it was read only now
            raise
        except Exception as error:  # one crashing rule must not silence the others
            failures.append(f"rule {rule.name} crashed: {type(error).__name__}: {error}")
            continue
        held[rule] = [_complete(finding, rule, model) for finding in found]
        findings.extend(held[rule])
    return fold(findings, rules, model.graph), skipped, failures


def _uses_probe(rules: Iterable[type[Rule]]) -> bool:
    wanted = {Need.PROBE, Need.BACKWARD}
    return any((rule.needs | rule.optional) & wanted for rule in rules)


def _chosen(settings: Settings) -> tuple[type[Rule], ...]:
    return choose(
        all_rules(),
        select=settings.select,
        ignore=settings.ignore,
        extend_select=settings.extend_select,
        preview=settings.preview,
    )


def may_probe(model: Model, settings: Settings) -> bool:
    """False when `lint` will not run the model, whatever its weights turn out to be."""
    wanted = settings.probe and (settings.profile or _uses_probe(_chosen(settings)))
    return wanted and model.runnable is not None


def lint(
    model: Model,
    settings: Settings,
    emit: Callable[[Record], None] | None = None,
    kept: Kept | None = None,
    probe: Prober = run_probe,
) -> Record:
    """Lint one model: the target object of the JSON report; see `lint_observed`."""
    return lint_observed(model, settings, emit, kept, probe)[0]


def lint_observed(
    model: Model,
    settings: Settings,
    emit: Callable[[Record], None] | None = None,
    kept: Kept | None = None,
    probe: Prober = run_probe,
) -> tuple[Record, Activations]:
    """Lint one model: the target object of the JSON report, and what running it measured.

    Before the probe runs, ``emit`` is given ``{"type": "static", "target": {...}}``, so that a
    probe that takes the process down loses nothing. Beyond the contract the object holds
    ``notices`` (what the loader or the probe could not do), ``skipped`` (rule names by the reason
    they did not run) and ``failures`` (rules that crashed: the target counts as not checked).

    Raises:
        UnknownRule: (from `initlint.selection`) for a selector that names no rule.
    """
    started = time.perf_counter()
    rules = _chosen(settings)
    with collector_paused():
        measures = measure(model, settings, kept)
        rules = tuple(rule for rule in rules if measures.model_stage in rule.stages)
        needs = frozenset(need for rule in rules for need in rule.needs | rule.optional)
        if settings.profile:
            needs |= {Need.THEORY}
        evidence = gather(model, settings, needs, measures)
        asked = settings.probe and (_uses_probe(rules) or settings.profile)
        probing = asked and model.runnable is not None
        held: dict[type[Rule], list[Finding]] = {}
        findings, skipped, failures = _run(
            rules, model, evidence, settings, probe_pending=probing, held=held
        )
    if asked and not probing:
        pending = run_probe(model, settings, evidence.stage)
    else:
        reason = "" if probing else "no rule needs it" if settings.probe else "not asked for"
        pending = Activations(ProbeStatus.SKIPPED, reason)
    record = _record(model, settings, evidence, pending, findings, skipped, failures, started)
    if emit is not None:
        emit({"type": "static", "target": record})
    if not probing:
        return record, pending
    observed = probe(model, settings, evidence.stage)
    if observed.status is ProbeStatus.OK:
        evidence = replace(evidence, probe=observed)
        held = {rule: found for rule, found in held.items() if not _uses_probe((rule,))}
    findings, skipped, failures = _run(
        rules, model, evidence, settings, probe_pending=False, held=held
    )
    if observed.invalid:
        failures.insert(0, f"the graph contradicts itself: {observed.detail}")
    record = _record(model, settings, evidence, observed, findings, skipped, failures, started)
    return record, observed


def describe(model: Model, settings: Settings, draws: Draws | None = None) -> Record:
    """What each layer was initialised with: the target object with its table of layers.

    Args:
        model: the model.
        settings: of the linter.
        draws: how the weights depend on the seed, where the target was built several times.
    """
    from initlint.description import complete

    started = time.perf_counter()
    evidence = gather(model, settings, frozenset({Need.WEIGHTS}))
    settings = replace(settings, layers=True)
    skipped = Activations(ProbeStatus.SKIPPED, "not asked for")
    record = _record(model, settings, evidence, skipped, [], {}, [], started)
    return complete(record, model, evidence.measures, draws)


def catalogue() -> list[Record]:
    """Every installed rule: code, name, family, since, preview, needs, summary, documentation."""
    import inspect

    return [
        {
            "code": rule.code,
            "name": rule.name,
            "family": family(rule),
            "since": rule.since,
            "preview": rule.preview,
            "needs": sorted(need.value for need in rule.needs),
            "options": {
                name: {"default": option.default, "why": option.why}
                for name, option in rule.options.items()
            },
            "summary": summary(rule),
            "doc": inspect.getdoc(rule) or "",
            "formula": inspect.cleandoc(rule.formula),
        }
        for rule in all_rules()
    ]


def predicted_risk(model: Model, settings: Settings, evidence: Evidence) -> Risk | None:
    """The risk of a fresh model, with the tangent kernel estimated where it was not measured."""
    probe, theory, measures = evidence.probe, evidence.theory, evidence.measures

    def estimate() -> Response | None:
        from initlint.estimate import local_response

        steps = _sequence_length(model, settings)[0]
        return None if probe is None else local_response(model, probe, theory, measures, steps)

    return risk(model.graph, probe, theory, estimate)


def _record(
    model: Model,
    settings: Settings,
    evidence: Evidence,
    probe: Activations,
    findings: Sequence[Finding],
    skipped: Mapping[str, Sequence[str]],
    failures: Sequence[str],
    started: float,
) -> Record:
    counts = {"error": 0, "warning": 0, "info": 0}
    for finding in findings:
        counts[finding.severity.value] += 1
    judged = None
    if evidence.stage is Stage.FRESH and evidence.probe is not None:
        judged = predicted_risk(model, settings, evidence)
    if judged is not None:
        judged = with_findings(judged, counts["error"], counts["warning"])
    record: Record = {
        "target": model.target,
        "kind": model.kind.value,
        "stage": evidence.stage.value,
        "risk": None if judged is None else round(judged.value, 4),
        "risk_reasons": [] if judged is None else list(judged.reasons),
        "risk_basis": "" if judged is None else judged.basis,
        "summary": counts,
        "probe": {
            "status": probe.status.value,
            "detail": probe.detail,
            "seconds": round(probe.seconds, 3),
            "inputs": dict(sorted(probe.inputs.items())),
        },
        "producer": model.producer,
        "parameters": sum(param.size for _, param in model.graph.params if param.tied_to is None),
        "findings": [finding_record(finding) for finding in findings],
        "notices": [*model.notices, *evidence.measures.notices],
        "skipped": {reason: sorted(names) for reason, names in sorted(skipped.items())},
        "ended_at": list(evidence.theory.ended_at) if evidence.theory else [],
        "failures": list(failures),
        "seconds": round(time.perf_counter() - started, 3),
    }
    if settings.layers:
        record["layers"] = [
            layer_record(model, evidence.measures, layer)
            for layer in model.graph.order
            if layer.params
        ]
    if evidence.profile is not None:
        record["profile"] = evidence.profile.record(evidence.theory or Prediction(), probe)
    return record
