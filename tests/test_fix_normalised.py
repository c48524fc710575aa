"""Weights that a module normalises where it uses them are repaired through what it stores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import initlint
from initlint.fix.changes import Change, applied, factors_of, merged
from initlint.fix.normalised import factors
from initlint.fix.torch_code import code_for
from initlint.load.torch_module import capture
from initlint.model.tensor import ArraySource, Tensor

torch = pytest.importorskip("torch")
nn = torch.nn


@dataclass(frozen=True)
class Computed(ArraySource):
    """A weight in memory that was computed from others."""

    operands: tuple[Tensor, ...] = ()


def stored(name: str, array: np.ndarray) -> Tensor:
    return Tensor(name, "float32", array.shape, ArraySource(array))


def weight(gain: np.ndarray, direction: np.ndarray, axes: tuple[int, ...]) -> Tensor:
    lengths = np.sqrt(np.square(direction).sum(axis=axes, keepdims=True))
    value = (gain * direction / lengths).astype(np.float32)
    source = Computed(value, (stored("v", direction), stored("g", gain)))
    return Tensor("w", "float32", value.shape, source)


def drawn(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_any_weight_can_be_written(rows: int, columns: int, kernel: int, seed: int) -> None:
    tensor = weight(drawn((rows, 1, 1), seed), drawn((rows, columns, kernel), seed + 1), (1, 2))
    found = factors(tensor)
    assert found is not None
    wanted = drawn((rows, columns, kernel), seed + 2)
    new = found.through(wanted)
    lengths = np.sqrt(np.square(new["v"]).sum(axis=found.axes, keepdims=True))
    assert np.allclose(new["g"].reshape(found.gain.stored_shape) * new["v"] / lengths, wanted)


def test_a_change_of_scale_leaves_the_directions() -> None:
    gain, direction = np.abs(drawn((5, 1), 0)), drawn((5, 8), 1)
    found = factors(weight(gain, direction, (1,)))
    assert found is not None
    new = found.through(3.0 * found.product())
    assert np.array_equal(new["v"], direction)
    assert np.allclose(new["g"], 3.0 * gain)


def test_units_of_zeros_keep_a_direction() -> None:
    direction = drawn((4, 6), 0)
    found = factors(weight(np.ones((4, 1), np.float32), direction, (1,)))
    assert found is not None
    wanted = drawn((4, 6), 1)
    wanted[2] = 0.0
    new = found.through(wanted)
    assert new["g"][2] == 0.0
    assert np.array_equal(new["v"][2], direction[2])


def test_other_products_are_no_normalised_weights() -> None:
    plain = weight(drawn((4, 1), 0), drawn((4, 6), 1), (1,))
    product = plain.operands[1].read() * plain.operands[0].read()
    source = Computed(product, plain.operands)
    assert factors(Tensor("w", "float32", product.shape, source)) is None
    assert factors(stored("w", product)) is None


def parametrised(layer: Any) -> Any:
    return torch.nn.utils.parametrizations.weight_norm(layer)


def hooked(layer: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nn.utils.weight_norm(layer)


STYLES = {
    "parametrisation": (parametrised, "parametrizations.weight.original0", "original1"),
    "hook": (hooked, "weight_g", "weight_v"),
}


def net(wrap: Callable[[Any], Any]) -> Any:
    torch.manual_seed(0)
    layers: list[Any] = []
    for width in (8, 32, 32, 32, 32, 32):
        layer = nn.Linear(width, 32)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layers += [wrap(layer), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 3))


def change(module: Any, end: str, how: Callable[[Any], Any]) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(end):
                how(parameter)


def rms(module: Any) -> list[float]:
    return [float(layer.weight.detach().square().mean().sqrt()) for layer in module[:-1:2]]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("fault", ["faint", "loud", "constant", "closed"])
def test_a_fault_is_repaired_through_the_stored_factors(style: str, fault: str) -> None:
    wrap, gain, direction = STYLES[style]
    module, healthy = net(wrap), net(wrap)
    faults: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "faint": (gain, lambda p: p.mul_(0.01)),
        "loud": (gain, lambda p: p.mul_(10.0)),
        "constant": (direction, lambda p: p.fill_(0.1)),
        "closed": (gain, lambda p: p.zero_()),
    }
    change(module, *faults[fault])
    batch = torch.randn(32, 8)
    report = initlint.fix(module, batch)
    assert report.status == "fixed", str(report)
    module(batch)  # hooks compute the weight anew
    assert rms(module) == pytest.approx(rms(healthy), rel=0.3)
    left = report.to_dict()["after"]["findings"]
    assert not [item for item in left if item["severity"] != "info"]


@pytest.mark.parametrize("style", STYLES)
def test_nothing_is_left_of_what_was_only_tried(style: str) -> None:
    module = net(STYLES[style][0])
    batch = torch.randn(4, 8)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = capture(module, batch)
    layer, param = next(
        (layer, param) for layer, param in model.graph.params if factors_of(model, param)
    )
    seen = param.tensor.read().copy()
    new = Change(layer.id, param, 2.0 * seen.reshape(param.shape), "rescale", {"factor": 2.0})
    with applied(model, merged([new])):
        assert np.allclose(param.tensor.read(), 2.0 * seen, rtol=1e-5)
    assert np.array_equal(param.tensor.read(), seen)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("scheme", ["scale_preserving", "rescale", "zeros"])
def test_the_code_to_paste_does_the_same(style: str, scheme: str) -> None:
    model = net(STYLES[style][0])
    batch = torch.randn(4, 8)
    captured = capture(model, batch)
    layer, param = next(
        (layer, param) for layer, param in captured.graph.params if factors_of(captured, param)
    )
    values = {
        "scale_preserving": drawn(param.shape, 0) * np.float32((2 / param.shape[1]) ** 0.5),
        "rescale": 3.0 * param.tensor.read().reshape(param.shape),
        "zeros": np.zeros(param.shape, np.float32),
    }[scheme]
    arguments = {"factor": 3.0} if scheme == "rescale" else {}
    [entry] = code_for(captured, [Change(layer.id, param, values, scheme, arguments)])
    with torch.no_grad():
        exec("\n".join(entry["code"]), {"torch": torch, "model": model})
    model(batch)
    expected = float(np.sqrt(np.square(values).mean()))
    assert rms(model)[0] == pytest.approx(expected, rel=0.2)
    assert np.isfinite(rms(model)).all()
