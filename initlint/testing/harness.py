"""Running one rule by itself on a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from initlint.lint.finding import Finding, Severity
from initlint.lint.rule import Context, Need, Rule
from initlint.model.graph import LayerGraph
from initlint.model.model import Kind, Model
from initlint.probe.result import Activations
from initlint.testing.builder import Builder


def as_model(target: Any) -> Model:
    """A `Model` for a network, a bare layer graph, a model, or a ``torch.nn.Module``.

    A network or graph counts as freshly drawn.
    """
    if isinstance(target, Model):
        return target
    if isinstance(target, Builder):
        return target.model(fresh_hint=True)
    if isinstance(target, LayerGraph):
        return Model("graph", Kind.TORCH, target, fresh_hint=True)
    from initlint.load.torch_module import capture

    return capture(target)


def drawn(build: Callable[[], Any], *inputs: Any, seeds: Sequence[int] = (0, 1, 2)) -> Model:
    """The model of a module that is built several times, as ``--seeds`` does it.

    Args:
        build: a class or function that returns a new ``torch.nn.Module``; called once with each
            seed set, and once more with the first.
        *inputs: what its forward is called with.
        seeds: at least two different ones.
    """
    from initlint.load.torch_draws import compare_builds
    from initlint.load.torch_module import capture
    from initlint.load.torch_state import random_state

    def make(seed: int) -> Any:
        with random_state(seed):
            return build()

    draws = compare_builds(make, seeds)
    model = replace(capture(make(seeds[0]), *inputs), fresh_hint=True)
    return replace(model, metadata={**model.metadata, "draws": draws})


def run_rule(
    rule: type[Rule],
    target: Any,
    *,
    probe: Activations | None = None,
    options: Mapping[str, Any] | None = None,
    stage: str = "auto",
    sequence_length: int | None = None,
    batch: int = 64,
    seed: int = 0,
) -> list[Finding]:
    """Findings of one rule on one target.

    The evidence the rule declares is computed as the engine would. A rule that declares a probe is
    given ``probe``; without it, a `Network` is run in NumPy (no gradients) and any other model by
    its own probe.

    Args:
        rule: the rule's class.
        target: see `as_model`.
        probe: measured activations to use instead of a run.
        options: the rule's options, by name.
        stage: ``auto``, or the stage to assume.
        sequence_length: for recurrent layers; None: unknown.
        batch: samples in the NumPy run.
        seed: seed of its inputs.
    """
    from initlint.engine import gather, run_probe
    from initlint.settings import Settings

    model = as_model(target)
    settings = Settings(stage=stage, seed=seed, sequence_length=sequence_length)
    needs = rule.needs | rule.optional
    evidence = gather(model, settings, needs)
    if evidence.stage not in rule.stages:
        return []
    if probe is None and needs & {Need.PROBE, Need.BACKWARD}:
        if isinstance(target, Builder):
            probe = target.run(batch, seed)
        elif model.runnable is not None:
            probe = run_probe(model, settings, evidence.stage)
    defaults = {name: option.default for name, option in rule.options.items()}
    context = Context(
        model=model,
        measures=evidence.measures,
        stage=evidence.stage,
        theory=evidence.theory,
        probe=probe,
        options={**defaults, **(options or {})},
        sequence_length=sequence_length or 50,
        sequence_length_known=sequence_length is not None,
    )
    return [
        replace(
            finding,
            code=finding.code or rule.code,
            name=finding.name or rule.name,
            layers=finding.layers or (finding.layer,),
        )
        for finding in rule().check(context)
    ]


def assert_fires(
    rule: type[Rule],
    target: Any,
    *,
    severity: Severity | str | None = None,
    layers: tuple[str, ...] | None = None,
    **evidence: Any,
) -> list[Finding]:
    """Check that a rule reports something, and what; returns the findings.

    Args:
        rule: the rule's class.
        target: see `as_model`.
        severity: the worst severity that must be reported.
        layers: ids that the findings together must name, exactly.
        **evidence: further arguments of `run_rule`.

    Raises:
        AssertionError: when it does not.
    """
    findings = run_rule(rule, target, **evidence)
    if not findings:
        raise AssertionError(f"{rule.name} found nothing")
    if severity is not None:
        worst = max(finding.severity for finding in findings)
        if worst is not Severity(severity):
            raise AssertionError(f"{rule.name}: {worst}, expected {Severity(severity)}")
    if layers is not None:
        named = sorted({layer for finding in findings for layer in finding.layers})
        if named != sorted(layers):
            raise AssertionError(f"{rule.name} names {named}, expected {sorted(layers)}")
    return findings


def assert_silent(rule: type[Rule], target: Any, **evidence: Any) -> None:
    """Check that a rule reports nothing.

    Raises:
        AssertionError: with what it reported.
    """
    findings = run_rule(rule, target, **evidence)
    if findings:
        text = "; ".join(f"{finding.layer}: {finding.message}" for finding in findings)
        raise AssertionError(f"{rule.name} reported {text}")
