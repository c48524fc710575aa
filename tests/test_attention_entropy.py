"""Entropy of attention weights: the function, and the three roads that measure it."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest

from initlint.engine import lint
from initlint.load import load
from initlint.probe.entropy import attention_entropy
from initlint.settings import Settings


def _softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def test_uniform_and_single_keys() -> None:
    assert attention_entropy(np.full((2, 3, 8, 8), 1 / 8)) == pytest.approx((1.0, 1.0, 1.0))
    assert attention_entropy(np.tile(np.eye(8), (2, 1, 1, 1))) == pytest.approx((0.0,), abs=1e-9)


def test_gaussian_logits_follow_the_random_energy_model() -> None:
    logits = np.random.default_rng(0).standard_normal((4, 1, 64, 256))
    (entropy,) = attention_entropy(_softmax(logits))
    assert entropy == pytest.approx(1 - 0.5 / log(256), abs=0.01)


def test_heads_are_told_apart() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 2, 32, 64))
    logits[:, 1] *= 10
    wide, narrow = attention_entropy(_softmax(logits))
    assert wide > 0.8
    assert narrow < 0.25


def test_causal_rows_count_the_keys_they_see() -> None:
    masked = np.where(np.tri(32) > 0, 0.0, -np.inf)[None, None]
    assert attention_entropy(_softmax(np.broadcast_to(masked, (2, 1, 32, 32)))) == (
        pytest.approx((1.0,))
    )


def test_softmax_over_another_axis_is_no_attention() -> None:
    assert attention_entropy(np.random.default_rng(0).random((2, 4, 8, 16))) == ()
    assert attention_entropy(np.full((2, 4, 3), 1 / 3)) == ()


def _narrow_in_parts(fused: bool):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(64, 64, bias=False) for _ in range(3))
            with torch.no_grad():
                self.q.weight.copy_(torch.eye(64))
                self.k.weight.copy_(0.9 * torch.eye(64))

        def forward(self, x):
            query, key, value = self.q(x), self.k(x), self.v(x)
            if fused:
                return nn.functional.scaled_dot_product_attention(query, key, value)
            return torch.softmax(query @ key.transpose(1, 2) / 8, dim=-1) @ value

    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(100, 64), nn.LayerNorm(64), Attention(), nn.Linear(64, 10))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fused", [True, False])
def test_both_roads_find_the_same_head(tmp_path, fused) -> None:
    torch = pytest.importorskip("torch")
    from initlint.load.torch_module import capture

    module, ids = _narrow_in_parts(fused), torch.randint(0, 100, (2, 12))
    file = str(tmp_path / "narrow.onnx")
    torch.onnx.export(module, (ids,), file, dynamo=False, input_names=["ids"])
    models = [capture(module, ids), replace(load(file), fresh_hint=True)]
    for model in models:
        record = lint(model, Settings(stage="fresh"))
        assert record["failures"] == []
        assert record["probe"]["status"] == "ok"
        found = [item for item in record["findings"] if item["name"] == "attention-entropy"]
        assert [item["severity"] for item in found] == ["error"]
        assert found[0]["evidence"]["lowest"] < 0.1
        assert found[0]["layers"][:2] == ["2.q", "2.k"]


def _cosine_attention(factor: float, learned_queries: bool, width: int, keys: int):
    torch = pytest.importorskip("torch")
    nn, normalize = torch.nn, torch.nn.functional.normalize

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
            self.queries = nn.Parameter(torch.randn(4, width)) if learned_queries else None
            self.log_factor = nn.Parameter(torch.tensor(log(factor)))

        def forward(self, x):
            query = self.q(x) if self.queries is None else self.queries
            cosines = normalize(query, dim=-1) @ normalize(self.k(x), dim=-1).transpose(1, 2)
            factor = self.log_factor.clamp(max=log(403)).exp()
            return torch.softmax(cosines * factor, dim=-1) @ self.v(x)

    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Linear(width, width), Attention(), nn.Linear(width, 10)),
        torch.randn(8, keys, width),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("learned_queries", [True, False])
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize(("factor", "found"), [(10, 0), (1 / 0.07, 0), (403, 1)])
def test_cosines_are_judged_by_the_largest_factor_in_use(
    tmp_path, learned_queries, width, factor, found
) -> None:
    torch = pytest.importorskip("torch")
    from initlint.load.torch_module import capture

    module, inputs = _cosine_attention(factor, learned_queries, width, 49)
    file = str(tmp_path / "cosine.onnx")
    torch.onnx.export(module, (inputs,), file, dynamo=False)
    for model in (capture(module, inputs), replace(load(file), fresh_hint=True)):
        record = lint(model, Settings(stage="fresh"))
        assert record["failures"] == []
        severities = [
            item["severity"] for item in record["findings"] if item["name"] == "attention-entropy"
        ]
        assert severities == ["warning"] * found


def test_a_factor_of_100_leaves_cosines_of_width_32_the_limit() -> None:
    random = np.random.default_rng(0)
    for keys in (16, 64, 1024):
        query, key = (
            random.standard_normal((1, 1, 64, 32)),
            random.standard_normal((1, 1, keys, 32)),
        )
        query, key = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key))
        (entropy,) = attention_entropy(_softmax(100 * query @ key.swapaxes(-1, -2)))
        assert entropy == pytest.approx(0.06, abs=0.02)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
def test_a_token_compared_with_itself_is_its_own_nearest(tied) -> None:
    pytest.importorskip("torch")
    from initlint.load.torch_module import capture

    module, inputs = _cosine_attention(403, False, 32, 49)
    if tied:
        module[1].k = module[1].q
    record = lint(capture(module, inputs), Settings(stage="fresh"))
    names = [item["name"] for item in record["findings"]]
    assert ("attention-entropy" in names) is not tied
