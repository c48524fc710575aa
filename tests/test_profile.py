import numpy as np
import pytest

from initlint.model import Op
from initlint.probe.profile import (
    OVERFLOWED,
    hidden_layers,
    measured_drift,
    saturates,
    signal_profile,
    stretches,
)
from initlint.testing import Network, he_normal, normal, zeros


def mlp(std, depth=6, width=64, norm_at=None):
    net = Network()
    x = net.input(width)
    for index in range(depth):
        weight = normal(net.rng, width, width, std=std * width**-0.5)
        x = net.relu(net.linear(x, weight, name=f"fc{index}"))
        if index == norm_at:
            x = net.layer_norm(x)
    net.output(x)
    return net


def test_drift_of_a_plain_chain_is_its_gain():
    net = mlp(2.0 * 2**0.5)
    layers = [f"fc{index}" for index in range(6)]
    drift = measured_drift(layers, net.graph, net.run(256, 0))
    assert drift == pytest.approx(5 * np.log10(2), abs=0.3)


def test_a_normaliser_cuts_the_chain():
    chains = stretches(mlp(1.0, norm_at=2).graph)
    assert sorted(chains) == [("fc0", "fc1", "fc2"), ("fc3", "fc4", "fc5")]


def test_a_zero_branch_is_no_loss():
    net = Network()
    x = net.linear(net.input(32), he_normal(net.rng, 32, 32), name="stem")
    for index in range(3):
        h = net.relu(net.linear(x, he_normal(net.rng, 32, 32), name=f"{index}.fc1"))
        x = net.add(x, net.linear(h, zeros(32, 32), name=f"{index}.fc2"))
    net.output(net.linear(x, he_normal(net.rng, 4, 32), name="head"))
    graph = net.graph
    chain = max(stretches(graph), key=len)
    drift = measured_drift(chain, graph, net.run(256, 0))
    assert drift is not None
    assert abs(drift) < 0.3


def test_the_inside_of_an_adapter_is_no_start_of_a_drift():
    net = Network()
    x = net.input(32)
    for index in range(3):
        down = net.linear(x, normal(net.rng, 4, 32, std=4.0), name=f"{index}.down")
        up = net.linear(down, zeros(32, 4), name=f"{index}.up")
        x = net.add(net.linear(x, he_normal(net.rng, 32, 32, gain=1.0), name=f"{index}.base"), up)
    net.output(net.linear(x, he_normal(net.rng, 4, 32), name="head"))
    chain = max(stretches(net.graph), key=len)
    assert chain[:2] == ("0.down", "0.up")
    assert hidden_layers(chain, net.graph)[0] == "1.down"
    plain = mlp(1.0).graph
    (chain,) = stretches(plain)
    assert hidden_layers(chain, plain) == chain[1:]


def test_unobserved_layers_give_no_drift():
    net = mlp(1.0)
    graph = net.graph
    assert measured_drift(["fc0"], graph, net.run(16, 0)) is None
    assert measured_drift([], graph, net.run(16, 0)) is None


def exponents(std: float, *, domain: bool = False) -> Network:
    """A signal times the exponential of what is made of it, or the root of what may be negative."""
    net = Network(seed=0)
    x = net.input(64)
    for index in range(4):
        scale = net.linear(x, normal(net.rng, 64, 64, std=std), name=f"fc{index}")
        x = net.layer(Op.SQRT, scale) if domain else net.mul(x, net.layer(Op.EXP, scale))
    net.output(net.linear(x, normal(net.rng, 4, 64, std=0.1), name="head"))
    return net


def test_an_overflow_counts_with_the_largest_number():
    net = exponents(1.0)
    chain = [f"fc{index}" for index in range(4)]
    profile = signal_profile(chain, net.graph, net.run(64, 0))
    assert profile[-1][1] == OVERFLOWED
    assert measured_drift(chain, net.graph, net.run(64, 0)) > 30


def test_what_is_not_finite_for_another_reason_is_no_growth():
    net = exponents(1.0, domain=True)
    chain = [f"fc{index}" for index in range(4)]
    assert [key for key, _ in signal_profile(chain, net.graph, net.run(64, 0))] == ["fc0"]
    assert measured_drift(chain, net.graph, net.run(64, 0)) is None


def test_bounded_activations_absorb_growth():
    net = Network()
    x = net.tanh(net.linear(net.input(8), he_normal(net.rng, 8, 8), name="fc"))
    net.output(x)
    assert saturates(["fc"], net.graph)
    assert not saturates(["fc0"], mlp(1.0).graph)


def test_a_sum_with_a_normalised_skip_path_begins_anew():
    net = Network()
    skip = net.layer_norm(net.input(32))
    small = net.linear(skip, normal(net.rng, 32, 32, std=1e-3), name="small")
    net.output(net.linear(net.add(skip, small), he_normal(net.rng, 4, 32), name="head"))
    assert sorted(stretches(net.graph)) == [("head",), ("small",)]
