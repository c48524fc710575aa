from dataclasses import replace

from initlint.lint.finding import Finding, Fix, Severity
from initlint.lint.fold import fold
from initlint.testing import Network, he_normal


class _Rule:
    def __init__(self, name, *folds):
        self.name = name
        self.folds = folds


def _graph():
    net = Network()
    x = net.input(8)
    for name in ("a", "b", "c"):
        x = net.relu(net.linear(x, he_normal(net.rng, 8, 8), name=name))
    net.output(x)
    return net.graph


def _finding(name, layer, severity=Severity.ERROR):
    return Finding(
        severity, layer, f"{name} at {layer}", name=name, layers=(layer,), culprits=(layer,)
    )


RULES = (_Rule("cause", "effect"), _Rule("effect"), _Rule("twin", "other"), _Rule("other", "twin"))


def test_a_consequence_downstream_is_folded():
    found = fold([_finding("effect", "c"), _finding("cause", "a")], RULES, _graph())
    assert [item.name for item in found] == ["cause"]


def test_a_worse_effect_stays():
    found = fold(
        [_finding("effect", "c"), _finding("cause", "a", Severity.WARNING)], RULES, _graph()
    )
    assert [item.name for item in found] == ["effect", "cause"]


def test_findings_that_explain_each_other_leave_one():
    found = fold([_finding("twin", "a"), _finding("other", "b")], RULES, _graph())
    assert len(found) == 1


def test_unrelated_findings_stay_worst_first():
    found = fold([_finding("effect", "a", Severity.INFO), _finding("twin", "b")], RULES, _graph())
    assert [item.name for item in found] == ["twin", "effect"]


def test_order_of_findings_does_not_matter():
    findings = [_finding("twin", "a"), _finding("other", "b"), _finding("effect", "c")]
    graph = _graph()
    assert fold(findings, RULES, graph) == fold(findings[::-1], RULES[::-1], graph)


def test_one_fault_in_many_blocks_is_one_finding():
    fix = Fix("redraw", params=("w",))
    blocks = [
        replace(_finding("effect", f"blocks.{index}.fc"), fix=replace(fix, params=(f"{index}",)))
        for index in range(3)
    ]
    other = _finding("effect", "head")
    merged, alone = fold([*blocks, other], RULES, _graph())
    assert merged.layers == ("blocks.0.fc", "blocks.1.fc", "blocks.2.fc")
    assert merged.message.endswith("the same in 2 more places")
    assert merged.fix.params == ("0", "1", "2")
    assert alone.layers == ("head",)


def test_different_severities_are_not_merged():
    found = fold(
        [_finding("effect", "b.0"), _finding("effect", "b.1", Severity.INFO)], RULES, _graph()
    )
    assert len(found) == 2
