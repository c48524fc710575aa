from dataclasses import replace

import numpy as np
import pytest

from initlint.engine import lint
from initlint.lint.finding import Finding, Fix, Severity
from initlint.lint.fold import fold
from initlint.settings import Settings
from initlint.testing import Network, as_model, he_normal, xavier_normal


class _Rule:
    def __init__(self, name, *folds, local=False):
        self.name = name
        self.folds = folds
        self.local = local


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


def test_a_milder_cause_takes_over_what_its_layers_answer_for():
    effect = replace(_finding("effect", "a"), layers=("a", "c"), shares={("a",): 1.7, ("c",): 0.02})
    (found,) = fold([effect, _finding("cause", "a", Severity.INFO)], RULES, _graph())
    assert (found.name, found.severity, found.layers) == ("cause", Severity.ERROR, ("a",))
    assert found.message == "cause at a; effect at a"
    assert found.evidence["consequences"] == ["effect: effect at a"]


def test_an_effect_with_a_second_origin_stays():
    effect = replace(_finding("effect", "a"), shares={("a",): 1.0, ("c",): 1.0})
    for severity in Severity:
        found = fold([effect, _finding("cause", "a", severity)], RULES, _graph())
        assert {item.name for item in found} == {"cause", "effect"}


def test_two_causes_answer_for_one_effect_together():
    effect = replace(_finding("effect", "a"), shares={("a",): 1.0, ("b", "c"): 2.0})
    causes = [_finding("cause", "a", Severity.INFO), _finding("cause", "c", Severity.INFO)]
    found = fold([effect, *causes], RULES, _graph())
    assert [(item.layer, item.severity) for item in found] == [
        ("c", Severity.ERROR),
        ("a", Severity.INFO),
    ]


def test_causes_of_one_kind_share_the_severity_of_what_they_lead_to():
    effect = replace(_finding("effect", "a"), shares={("a",): 1.0, ("c",): 1.0})
    causes = [_finding("cause", "a", Severity.INFO), _finding("cause", "c", Severity.INFO)]
    assert {item.severity for item in fold([effect, *causes], RULES, _graph())} == {Severity.ERROR}


def test_odd_weights_elsewhere_are_no_consequence():
    rules = (_Rule("cause", "odd"), _Rule("odd", local=True))
    found = fold([_finding("cause", "a"), _finding("odd", "c")], rules, _graph())
    assert len(found) == 2
    found = fold([_finding("cause", "a"), _finding("odd", "a")], rules, _graph())
    assert [item.name for item in found] == ["cause"]


def _plain(faults):
    net = Network()
    x = net.input(32)
    for index in range(8):
        weight = he_normal(net.rng, 64, 32 if index == 0 else 64)
        bias = np.zeros(64, np.float32)
        kind = faults.get(index)
        if kind == "loud":
            weight *= 30
        elif kind == "copied":
            weight[8:] = np.tile(weight[:8], (7, 1))
        elif kind == "dead":
            bias -= 1e4
        x = net.relu(net.linear(x, weight, bias, name=f"fc{index}"))
    net.output(net.linear(x, he_normal(net.rng, 10, 64), name="head"))
    return net


@pytest.mark.parametrize("kind", ["loud", "copied", "dead"])
def test_one_fault_is_one_finding(kind):
    found = lint(as_model(_plain({3: kind})), Settings())["findings"]
    loud = [item for item in found if item["severity"] != "info"]
    assert len(loud) == 1
    assert "fc3" in loud[0]["layers"]


@pytest.mark.parametrize(
    "faults", [("loud", "copied"), ("copied", "loud"), ("copied", "dead"), ("dead", "copied")]
)
def test_two_faults_are_both_named(faults):
    first, second = faults
    found = lint(as_model(_plain({2: first, 5: second})), Settings())["findings"]
    loud = [item["layers"] for item in found if item["severity"] != "info"]
    assert sorted(loud) == [["fc2"], ["fc5"]]


def test_what_a_bias_saturates_is_no_doing_of_the_weights_beside_it():
    net = Network()
    x = net.input(48)
    for index in range(6):
        bias = np.full(48, 5.0 * (index == 2), np.float32)
        weight = xavier_normal(net.rng, 48, 48)
        x = net.tanh(net.linear(x, weight, bias, name=f"fc{index}"), name=f"act{index}")
    net.output(net.linear(x, xavier_normal(net.rng, 10, 48), name="head"))
    findings = lint(as_model(net), Settings())["findings"]
    (found,) = (item for item in findings if item["severity"] != "info")
    assert found["layers"] == ["fc2"]
