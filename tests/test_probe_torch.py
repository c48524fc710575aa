"""The torch probe: true gradients, legitimate zeros, and a module left as it was."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from initlint.load.torch_module import capture  # noqa: E402
from initlint.model import TRANSPARENT, Op  # noqa: E402
from initlint.probe.result import Activations, ProbeStatus  # noqa: E402
from initlint.probe.torch import probe_torch  # noqa: E402
from initlint.probe.torch_observe import rms, thinned  # noqa: E402
from tests import architectures  # noqa: E402


def probe(module: nn.Module, *inputs: Any, **options: Any) -> Activations:
    return probe_torch(capture(module, *inputs), seed=0, **options)


def snapshot(module: nn.Module) -> list[Any]:
    """Everything a probe must not change, as comparable values."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [
        [(name, tensor.detach().numpy().tobytes()) for name, tensor in tensors],
        [(tensor.requires_grad, tensor.grad, id(tensor)) for _, tensor in tensors],
        [child.training for child in module.modules()],
        [sorted(child.__dict__) for child in module.modules()],
        [len(child._forward_hooks) for child in module.modules()],
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    ]


@pytest.mark.parametrize("function", architectures.ALL, ids=lambda function: function.__name__)
def test_an_architecture_is_probed_and_left_bit_for_bit_as_it_was(
    function: Callable[[], architectures.Architecture],
) -> None:
    if "_hf" in function.__code__.co_names:
        pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, args, kwargs = architectures.build(function)
        before = snapshot(module)
        model = capture(module, *args, **kwargs)
        observed = probe_torch(model, seed=0)
    assert snapshot(module) == before
    assert observed.status is ProbeStatus.OK, observed.detail
    assert observed.detail == ""
    trainable = {name for name, tensor in module.named_parameters() if tensor.requires_grad}
    judged = {
        source
        for key in observed.gradients
        for source in model.runnable.sources[key]
        if source in trainable
    }
    assert judged == trainable
    for stats in observed.gradients.values():
        assert stats.reached
        assert stats.rms > 0.0 or stats.unlocks
    silent = [
        layer.id
        for layer in model.graph.weighted
        if layer.id not in observed.outputs
        and layer.attrs.get("level", 0) == 0
        and layer.attrs.get("num_layers", 1) == 1
    ]
    assert silent == []


def test_gradients_and_activations_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(32, 6)
    observed = probe(module, x, loss="mse")
    generator = torch.Generator().manual_seed(0)
    output = module(x)
    loss = nn.functional.mse_loss(output, torch.randn(output.shape, generator=generator))
    loss.backward()
    assert observed.loss == pytest.approx(float(loss.detach()))
    for name, parameter in module.named_parameters():
        expected = float(parameter.grad.square().mean().sqrt())
        assert observed.gradients[name].rms == pytest.approx(expected, rel=1e-5)
    hidden = module[0](x).detach()
    assert observed.outputs["0"].rms == pytest.approx(float(hidden.square().mean().sqrt()))
    assert set(observed.backward) == {"0", "1", "2"}


def test_backward_signal_is_the_gradient_at_each_output() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 1))
    x = torch.randn(32, 6)
    observed = probe(module, x, loss="mse")
    first = module[0](x).detach().requires_grad_()
    output = module[2](torch.relu(first))
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(output.shape, generator=generator)
    nn.functional.mse_loss(output, target).backward()
    expected = float(first.grad.square().mean().sqrt())
    assert observed.backward["0"] == pytest.approx(expected, rel=1e-5)


class Residual(nn.Module):
    """A branch closed by a gate, in front of a head."""

    def __init__(self, gate: float, *, zero_last: bool) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.gate = nn.Parameter(torch.tensor(gate))
        self.head = nn.Linear(8, 3)
        if zero_last:
            nn.init.zeros_(self.last.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.gate * self.last(torch.relu(self.inner(x))))


class Adapter(nn.Module):
    def __init__(self, *, zero_a: bool, zero_b: bool) -> None:
        super().__init__()
        self.base = nn.Linear(8, 4).requires_grad_(False)
        self.a = nn.Parameter(torch.zeros(2, 8) if zero_a else torch.randn(2, 8))
        self.b = nn.Parameter(torch.zeros(4, 2) if zero_b else torch.randn(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.a.T @ self.b.T


class ControlNet(nn.Module):
    """Zero convolutions in front of and behind a copied block (the gradient arrives in turn)."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.copy, self.leave = (nn.Linear(8, 8, bias=False) for _ in range(3))
        nn.init.zeros_(self.entry.weight)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) + self.leave(torch.tanh(self.copy(x + self.entry(x))))


@pytest.mark.parametrize(
    ("build", "unlocked", "locked"),
    [
        (lambda: Residual(0.0, zero_last=False), {"inner.weight", "last.weight"}, set()),
        (lambda: Residual(1.0, zero_last=True), {"inner.weight"}, set()),
        (lambda: Residual(0.0, zero_last=True), set(), {"inner.weight", "last.weight", "gate"}),
        (lambda: Adapter(zero_a=False, zero_b=True), {"a"}, set()),
        (lambda: Adapter(zero_a=True, zero_b=False), {"b"}, set()),
        (lambda: Adapter(zero_a=True, zero_b=True), set(), {"a", "b"}),
        (ControlNet, {"entry.weight", "copy.weight"}, set()),
    ],
    ids=["rezero", "fixup", "gate_and_last_zero", "lora", "lora_a", "lora_both", "controlnet"],
)
def test_zero_gradients_that_end_are_told_from_those_that_do_not(
    build: Callable[[], nn.Module], unlocked: set[str], locked: set[str]
) -> None:
    torch.manual_seed(0)
    module, x = build(), torch.randn(16, 8)
    before = snapshot(module)
    observed = probe(module, x)
    assert snapshot(module) == before
    verdicts = {key: stats.unlocks for key, stats in observed.gradients.items()}
    assert {key for key, verdict in verdicts.items() if verdict is True} >= unlocked
    assert {key for key, verdict in verdicts.items() if verdict is False} >= locked
    if not locked:
        assert False not in verdicts.values()


def test_dropout_is_off_and_batch_statistics_are_used() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.9), nn.BatchNorm1d(8)).eval()
    x = 100 + 5 * torch.randn(64, 6)
    observed = probe(module, x)
    assert observed.train_mode
    assert observed.outputs["2"].rms == pytest.approx(1.0, abs=0.01)
    assert observed.outputs["0"].zero_share == observed.outputs["2"].zero_share == 0.0


def test_a_batch_of_one_falls_back_to_stored_statistics() -> None:
    observed = probe(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(1, 3))
    assert observed.status is ProbeStatus.OK
    assert not observed.train_mode


def test_the_loss_is_chosen_by_what_the_output_is() -> None:
    x = torch.randn(16, 8)
    classifier = probe(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)), x)
    assert classifier.loss_name == "cross-entropy over 5 classes"
    assert classifier.chance == pytest.approx(math.log(5))
    autoencoder = probe(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8)), x)
    assert autoencoder.loss_name == "output energy (random cotangent)"
    squashed = probe(nn.Sequential(nn.Linear(8, 5), nn.Tanh()), x)
    assert squashed.loss_name == "output energy (random cotangent)"
    told = probe(nn.Linear(8, 1), x, loss="binary_cross_entropy")
    assert told.chance == pytest.approx(math.log(2))
    assert probe(nn.Linear(8, 1), x, loss="hinge").status is ProbeStatus.FAILED


def test_the_modules_own_loss_is_used() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.fc(x)
            return {"loss": logits.square().mean(), "logits": logits}

    observed = probe(WithLoss(), torch.randn(8, 4))
    assert observed.loss_name == "the module's own loss"


def test_non_finite_activations_are_counted_and_do_not_stop_the_probe() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
    observed = probe(module, torch.randn(8, 4))
    assert observed.status is ProbeStatus.OK
    assert observed.outputs["0"].non_finite == 8
    assert math.isnan(observed.gradients["2.weight"].rms)


def test_a_forward_that_fails_later_is_reported_not_raised() -> None:
    class Flaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                raise RuntimeError("only for inference")
            return self.fc(x)

    observed = probe(Flaky(), torch.randn(8, 4))
    assert observed.status is ProbeStatus.FAILED
    assert "only for inference" in observed.detail
    assert "test_probe_torch.py:" in observed.detail


def test_a_detached_parameter_is_not_reached() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).detach())

    observed = probe(Detached(), torch.randn(8, 4))
    assert not observed.gradients["first.weight"].reached
    assert observed.gradients["first.weight"].unlocks is None
    assert observed.gradients["second.weight"].reached


def test_state_that_a_forward_changes_is_put_back() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.utils.spectral_norm(nn.Linear(4, 4))
            self.register_buffer("steps", torch.zeros(1))
            self.history: list[Any] = []
            self.last: Any = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            self.steps = self.steps * 2
            self.history.append(x)
            self.last = self.fc(x) + np.random.randn() + random.random()
            with torch.no_grad():
                self.fc.bias.mul_(0.5)
            return self.last

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, x = Remembers(), torch.randn(8, 4)
        before, kept = snapshot(module), x.clone()
        observed = probe(module, x)
    assert observed.status is ProbeStatus.OK
    assert snapshot(module) == before
    assert module.history == []
    assert module.last is None
    assert torch.equal(x, kept)


def test_gradients_already_there_are_kept() -> None:
    module = nn.Linear(4, 2)
    module(torch.randn(3, 4)).sum().backward()
    kept = {name: parameter.grad for name, parameter in module.named_parameters()}
    values = {name: gradient.clone() for name, gradient in kept.items()}
    probe(module, torch.randn(8, 4))
    for name, parameter in module.named_parameters():
        assert parameter.grad is kept[name]
        assert torch.equal(parameter.grad, values[name])


def test_gates_have_their_own_gradients() -> None:
    torch.manual_seed(0)
    module = nn.LSTM(3, 4, batch_first=True)
    with torch.no_grad():
        module.weight_ih_l0[4:8].zero_()
    observed = probe(module, torch.randn(8, 5, 3))
    forget = observed.gradients["weight_ih_l0/forget"]
    assert forget.weight_rms == 0.0
    assert forget.rms > 0.0
    assert observed.gradients["weight_ih_l0/input"].weight_rms > 0.0


def test_the_probe_is_deterministic() -> None:
    module, args, kwargs = architectures.build(architectures.resnet)
    model = capture(module, *args, **kwargs)
    first, second = probe_torch(model, seed=3), probe_torch(model, seed=3)
    assert repr(first.outputs) == repr(second.outputs)  # NaN differs from itself
    assert first.gradients == second.gradients
    assert first.loss == second.loss


def test_a_fused_normaliser_has_the_statistics_of_its_output() -> None:
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, _, kwargs = architectures.build(architectures.llama)
        model = capture(module, **kwargs)
        observed = probe_torch(model, seed=0)
    norms = [layer.id for layer in model.graph if layer.op is Op.RMS_NORM]
    assert len(norms) == 5
    for name in norms:
        assert observed.outputs[name].rms == pytest.approx(1.0, abs=0.05)
    unseen = [
        layer.id
        for layer in model.graph
        if layer.op not in TRANSPARENT | {Op.INPUT, Op.CONSTANT}
        and layer.id not in observed.outputs
    ]
    assert unseen == []


def test_thinning_keeps_samples_and_units() -> None:
    tensor = torch.randn(4, 8, 64, 64)
    thin = thinned(tensor, 1, 1 << 12)
    assert thin.shape[:2] == (4, 8)
    assert thin.numel() <= 1 << 13
    assert thinned(tensor, 1, 1 << 30) is tensor


def test_rms_neither_under_nor_overflows() -> None:
    assert rms(torch.full((4,), 1e-30)) == pytest.approx(1e-30)
    assert rms(torch.full((4,), 1e30)) == pytest.approx(1e30)
    assert math.isnan(rms(torch.tensor([float("nan"), 1.0])))
