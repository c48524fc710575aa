from dataclasses import replace

import numpy as np
import pytest

from initlint.model import Op
from initlint.theory.recurrent import RecurrentWeights, simulate

HIDDEN, WIDTH = 48, 24


def cell(op, std, rng, *, orthogonal=False, forget=0.0, activation="tanh"):
    gates = {
        Op.RNN: ("",),
        Op.LSTM: ("input", "forget", "cell", "output"),
        Op.GRU: ("reset", "update", "new"),
    }[op]

    def recurrent():
        if orthogonal:
            return np.linalg.qr(rng.standard_normal((HIDDEN, HIDDEN)))[0]
        return rng.normal(0, std, (HIDDEN, HIDDEN))

    return RecurrentWeights(
        op,
        {gate: rng.normal(0, WIDTH**-0.5, (HIDDEN, WIDTH)) for gate in gates},
        {gate: recurrent() for gate in gates},
        {gate: np.full(HIDDEN, forget if gate == "forget" else 0.0) for gate in gates},
        activation,
    )


def test_linear_orthogonal_recurrence_keeps_the_gradient():
    rng = np.random.default_rng(0)
    weights = cell(Op.RNN, 0, rng, orthogonal=True)
    still = RecurrentWeights(
        Op.RNN, {"": np.zeros((HIDDEN, WIDTH))}, weights.recurrent, weights.biases
    )
    assert simulate(still, 50).gradient_decades == pytest.approx([0.0] * 50, abs=1e-9)


def test_default_rnn_loses_the_gradient_as_measured_in_torch():
    # measured in torch: 1e-3 at 10 steps, 1e-6 at 20 for U(+-1/sqrt(h)); the input here is larger
    rng = np.random.default_rng(1)
    response = simulate(cell(Op.RNN, (3 * HIDDEN) ** -0.5, rng), 20)
    assert -8 < response.decades_at(20) < -4.5
    assert -4.2 < response.decades_at(10) < -2.2


@pytest.mark.parametrize("op", [Op.RNN, Op.LSTM, Op.GRU])
def test_unit_variance_recurrent_weights_saturate_or_explode(op):
    rng = np.random.default_rng(2)
    wild = simulate(cell(op, 1.0, rng), 30)
    tame = simulate(cell(op, 0, rng, orthogonal=True, forget=1.0), 30)
    assert wild.saturated > 0.3 or wild.decades_at(30) > 3
    assert tame.saturated < 0.15
    assert tame.decades_at(30) < 0.5


@pytest.mark.parametrize(("op", "gate"), [(Op.LSTM, "cell"), (Op.GRU, "new")])
def test_what_a_bias_saturates_of_the_candidate_is_no_doing_of_its_weights(op, gate):
    rng = np.random.default_rng(5)
    tame = cell(op, HIDDEN**-0.5, rng)
    biased = replace(tame, biases={**tame.biases, gate: np.full(HIDDEN, 6.0)})
    assert simulate(biased, 20).saturated > 0.2
    assert simulate(biased, 20).candidate_saturated < 0.1
    assert simulate(cell(op, 1.5, rng), 20).candidate_saturated > 0.3


def test_forget_bias_keeps_the_gradient():
    rng = np.random.default_rng(3)
    forgetful = simulate(cell(Op.LSTM, HIDDEN**-0.5, rng), 50)
    keeping = simulate(cell(Op.LSTM, HIDDEN**-0.5, rng, forget=3.0), 50)
    assert keeping.decades_at(50) > forgetful.decades_at(50) + 4


def test_the_tangent_is_the_jacobian():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    torch.manual_seed(0)
    module = torch.nn.LSTM(WIDTH, HIDDEN).double()
    names = ("input", "forget", "cell", "output")

    def split(parameter):
        return dict(zip(names, parameter.detach().numpy().reshape(4, HIDDEN, -1), strict=True))

    biases = (module.bias_ih_l0 + module.bias_hh_l0).detach().numpy().reshape(4, HIDDEN)
    weights = RecurrentWeights(
        Op.LSTM,
        split(module.weight_ih_l0),
        split(module.weight_hh_l0),
        dict(zip(names, biases, strict=True)),
    )
    steps = 12
    x = torch.from_numpy(rng.standard_normal((steps, 1, WIDTH)))

    def end(state):
        h, c = state[None, None, :HIDDEN], state[None, None, HIDDEN:]
        _, (h, c) = module(x, (h, c))
        return torch.cat([h.flatten(), c.flatten()])

    jacobian = torch.autograd.functional.jacobian(end, torch.zeros(2 * HIDDEN).double())
    true = np.log10(float(jacobian.norm()) / np.sqrt(2 * HIDDEN))
    assert simulate(weights, steps).decades_at(steps) == pytest.approx(true, abs=0.15)


def test_same_seed_same_bytes():
    rng = np.random.default_rng(5)
    weights = cell(Op.GRU, 0.2, rng)
    assert simulate(weights, 10, seed=3) == simulate(weights, 10, seed=3)


def test_weights_of_one_number_leave_one_direction_of_the_state():
    rng = np.random.default_rng(0)
    drawn = cell(Op.LSTM, HIDDEN**-0.5, rng, forget=2.0)
    alike = {gate: np.full((HIDDEN, HIDDEN), 0.1) for gate in drawn.recurrent}
    summed = RecurrentWeights(Op.LSTM, drawn.inputs, alike, drawn.biases)
    assert simulate(drawn, 24).one_direction < 0.3
    assert simulate(summed, 24).one_direction > 0.85
