"""One fault in a healthy network: the finding names its cause and its layer, and no other."""

import numpy as np
import pytest

from benchmarks.mutants.faults import Mutant
from benchmarks.mutants.linting import lint
from benchmarks.mutants.networks import HEALTHY
from initlint.testing import Network, he_normal, run_rule
from initlint_rules.symmetry.mean_shifted_weights import MeanShiftedWeights

CAUSES = [
    ("RNN", "zeros", "recurrent-not-orthogonal", "rnn"),
    ("RNN", "sparse", "recurrent-not-orthogonal", "rnn"),
    ("RNN", "ones", "recurrent-not-orthogonal", "rnn"),
    ("LSTM", "ones", "recurrent-not-orthogonal", "rnn"),
    ("LSTM", "constant 0.05", "recurrent-not-orthogonal", "rnn"),
    ("autoencoder", "ones", "output-scale", "10"),
    ("mlp of 4 layers, ReLU", "ones", "output-scale", "6"),
    ("RNN", "saturating bias", "gate-saturated", "rnn"),
    ("LSTM", "saturating bias", "gate-saturated", "rnn"),
    ("LSTM", "dead bias", "gate-saturated", "rnn"),
    ("GRU", "dead bias", "gate-saturated", "rnn"),
    ("residual net without norm", "saturating bias", "bias-dominates", "5.body.2"),
]


@pytest.mark.parametrize(
    ("network", "fault", "rule", "layer"), CAUSES, ids=[f"{row[0]} {row[1]}" for row in CAUSES]
)
def test_the_cause_is_the_only_finding(network, fault, rule, layer):
    everywhere = network in ("RNN", "LSTM", "GRU")
    said = lint(Mutant(network, fault, everywhere), "module")["said"]
    assert [(item[1], item[2]) for item in said] == [(rule, layer)]


@pytest.mark.parametrize("network", HEALTHY)
def test_the_original_is_silent(network):
    assert lint(Mutant(network), "module")["said"] == []


@pytest.mark.parametrize("network", ["LSTM", "GRU"])
def test_gated_cells_remember_without_recurrent_weights(network):
    assert lint(Mutant(network, "zeros", everywhere=True), "module")["said"] == []


@pytest.mark.parametrize(
    ("norm", "severity"), [("rms_norm", "error"), ("batch_norm", "error"), ("layer_norm", "info")]
)
def test_a_normaliser_that_keeps_the_common_part_makes_units_copies(norm, severity):
    net = Network()
    x = net.input(64)
    for index in range(4):
        weight = net.rng.uniform(0, 1, (64, 64)).astype(np.float32)
        x = net.relu(getattr(net, norm)(net.linear(x, weight, name=f"layers.{index}")))
    net.output(net.linear(x, he_normal(net.rng, 10, 64), name="head"))
    (finding,) = run_rule(MeanShiftedWeights, net)
    assert finding.severity.value == severity
    assert ("copies" in finding.message) == (severity == "error")


def test_one_saturated_tanh_layer_of_ten_does_no_harm_by_itself():
    (found,) = lint(Mutant("mlp of 10 layers, tanh", "N(0, 1)"), "module")["said"]
    assert found[:2] == ["warning", "saturation"]
    (found,) = lint(Mutant("mlp of 10 layers, tanh", "x 10", everywhere=True), "module")["said"]
    assert found[:2] == ["error", "saturation"]


def test_growth_at_the_head_alone_is_no_error():
    (found,) = lint(Mutant("mlp of 4 layers, ReLU", "ones"), "module")["said"]
    assert found[:2] == ["warning", "output-scale"]
