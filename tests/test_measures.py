from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from initlint.measure import leading
from initlint.measure import measures as measures_module
from initlint.measure.measures import Measures
from initlint.measure.result import Family, Stage
from initlint.model import (
    Edge,
    Kind,
    Layer,
    LayerGraph,
    Model,
    Op,
    Param,
    Role,
    Tensor,
    from_array,
)
from initlint.settings import Settings


def weight(name: str, array: np.ndarray, role: Role = Role.WEIGHT, **fields: object) -> Param:
    array = array.astype(np.float32)
    return Param(role, name, array.shape, "float32", from_array(name, array), **fields)  # type: ignore[arg-type]


def chain(*layers: Layer, hint: bool | None = None) -> Model:
    edges = [Edge(a.id, b.id) for a, b in pairwise(layers)]
    return Model("model", Kind.ONNX, LayerGraph(layers, edges), fresh_hint=hint)


def linear(name: str, array: np.ndarray) -> Layer:
    return Layer(name, Op.LINEAR, (weight(f"{name}.weight", array),))


def he(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return sqrt(2 / columns) * np.random.default_rng(seed).standard_normal((rows, columns))


def learned(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Heavy tails, and units that have moved by different amounts, as training leaves them."""
    rng = np.random.default_rng(seed)
    return 0.1 * rng.standard_t(3, (rows, columns)) * np.exp(rng.standard_normal((rows, 1)))


def mlp(*arrays: np.ndarray, hint: bool | None = None) -> Model:
    return chain(*(linear(f"l{i}", array) for i, array in enumerate(arrays)), hint=hint)


def only(model: Model) -> Param:
    return model.graph.params[0][1]


def test_one_layer_measured_in_every_way() -> None:
    array = he(64, 64)
    array[1] = array[0]
    model = mlp(array)
    measures, param = Measures(model), only(model)
    found = measures.moments(param)
    assert found is not None
    assert found.std == pytest.approx(array.std(), rel=1e-5)
    assert measures.duplicates(param) == ((0, 1),)
    assert measures.effective_std(param) == pytest.approx(sqrt((array**2).mean()), rel=1e-5)
    radius = measures.spectral_radius(param)
    assert radius == pytest.approx(np.abs(np.linalg.eigvals(array)).max(), rel=1e-4)
    assert measures.spectral_norm(param) == pytest.approx(np.linalg.norm(array, 2), rel=1e-4)
    orthogonality = measures.orthogonality(param)
    assert orthogonality is not None
    assert orthogonality.residual > 0.5
    read = measures.read(param)
    assert read is not None
    with pytest.raises(ValueError, match="read-only"):
        read[0, 0] = 1.0


def test_meta_tensors_have_no_numbers() -> None:
    param = Param(Role.WEIGHT, "w", (8, 8), "float32")
    model = chain(Layer("l", Op.LINEAR, (param,)))
    measures = Measures(model)
    assert measures.moments(param) is None
    assert measures.read(param) is None
    assert measures.effective_std(param) is None
    assert measures.orthogonality(param) is None
    assert measures.spectral_radius(param) is None
    assert measures.spectral_norm(param) is None
    assert measures.duplicates(param) == ()
    assert measures.identify(param).family is Family.UNKNOWN
    assert measures.stage(param) is Stage.UNKNOWN
    assert measures.model_stage is Stage.UNKNOWN


def test_loose_parameters_have_moments_and_no_scheme() -> None:
    loose = weight("unused", he(64, 64))
    measures = Measures(mlp(he(64, 64)))
    assert measures.moments(loose) is not None
    assert measures.layer(loose) is None
    assert measures.identify(loose).family is Family.UNKNOWN
    assert measures.stage(loose) is Stage.UNKNOWN


def test_independent_draws_without_a_name_are_nobodys_training() -> None:
    laplace = np.random.default_rng(0).laplace(size=(128, 128)) * 0.05
    alone = Measures(mlp(laplace))
    assert alone.identify(only(alone.model)).independent
    assert alone.stage(only(alone.model)) is Stage.UNKNOWN
    beside = Measures(mlp(laplace, he(128, 128)))
    assert beside.model_stage is Stage.FRESH
    assert [beside.stage(param) for _, param in beside.model.graph.params] == [Stage.FRESH] * 2
    among = Measures(mlp(laplace, learned(128, 128)))
    assert among.model_stage is Stage.TRAINED
    assert among.stage(next(iter(among.model.graph.params))[1]) is Stage.UNKNOWN


@pytest.mark.parametrize("grown", [1.0, 3.0])
def test_a_blurred_uniform_is_not_a_draw(grown: float) -> None:
    rng = np.random.default_rng(0)
    moved = rng.uniform(-1, 1, (128, 128)) + 0.05 * grown * rng.standard_normal((128, 128))
    assert not Measures(mlp(moved)).identify(only(mlp(moved))).independent


def test_stages_of_models() -> None:
    fresh = Measures(mlp(he(128, 64), he(128, 128, 1), he(10, 128, 2)))
    assert fresh.model_stage is Stage.FRESH
    trained = Measures(mlp(learned(128, 64), learned(128, 128, 1), he(10, 128)))
    assert trained.model_stage is Stage.TRAINED
    mixed = Measures(mlp(learned(128, 128), he(128, 128), learned(32, 128, 1)))
    assert mixed.model_stage is Stage.MIXED
    assert [str(mixed.stage(param)) for _, param in mixed.model.graph.params] == [
        "trained",
        "fresh",
        "trained",
    ]


def test_techniques_of_fresh_models_keep_them_fresh() -> None:
    gain = weight("norm.weight", np.zeros(64), Role.GAIN)
    scale = weight("scale", np.full(64, 1e-6), Role.GAIN)
    layers = (
        linear("fc", he(64, 64)),
        Layer("norm", Op.LAYER_NORM, (gain,)),
        Layer("scale", Op.MUL, (scale,)),
        linear("orthogonal", np.linalg.qr(he(64, 64, 1))[0]),
        linear("zero", np.zeros((64, 64))),
        linear("head", 0.01 * he(10, 64, 2)),
    )
    measures = Measures(chain(*layers))
    assert measures.model_stage is Stage.FRESH
    assert measures.stage(gain) is Stage.UNKNOWN


def test_a_small_gaussian_tensor_in_a_trained_model_is_not_called_fresh() -> None:
    model = mlp(learned(128, 128), he(10, 12))
    small = model.graph["l1"].params[0]
    assert Measures(model).stage(small) is Stage.UNKNOWN
    assert Measures(mlp(he(128, 128, 1), he(10, 12))).stage(small) is Stage.FRESH


def test_declared_and_known_stages_win() -> None:
    model = mlp(learned(64, 64))
    declared = Measures(model, Stage.FRESH)
    assert declared.model_stage is Stage.FRESH
    assert declared.stage(only(model)) is Stage.FRESH
    known = mlp(learned(64, 64), hint=True)
    assert Measures(known).model_stage is Stage.FRESH
    assert Measures(known).stage(only(known)) is Stage.FRESH
    assert Measures(mlp(np.zeros((8, 8)), hint=False)).model_stage is Stage.TRAINED


@dataclass
class CountingSource:
    array: np.ndarray
    elements: list[int] = field(default_factory=list)

    def read(self, start: int, stop: int) -> np.ndarray:
        self.elements.append(stop - start)
        return self.array.reshape(-1)[start:stop]


def ask_everything(measures: Measures, param: Param) -> None:
    measures.moments(param)
    measures.identify(param)
    measures.stage(param)
    measures.duplicates(param)
    measures.orthogonality(param)
    measures.effective_std(param)


def test_each_tensor_is_read_at_most_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    source = CountingSource(he(64, 64).astype(np.float32))
    tensor = Tensor("w", "float32", (64, 64), source)
    shared = Param(Role.WEIGHT, "w", (64, 64), "float32", tensor)
    model = chain(Layer("a", Op.LINEAR, (shared,)), Layer("b", Op.LINEAR, (shared,)))
    measures = Measures(model)
    for _, param in model.graph.params:
        ask_everything(measures, param)
        ask_everything(measures, param)
    assert sum(source.elements) == 64 * 64
    source.elements.clear()
    monkeypatch.setattr(leading, "WHOLE_ELEMENTS", 32 * 64)
    measures = Measures(model)
    measures.moments(shared)
    measures.identify(shared)
    assert sum(source.elements) == 64 * 64 + 32 * 64
    assert "he_normal" in measures.identify(shared).names()


def test_a_block_of_a_larger_transposed_tensor_keeps_its_orientation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leading, "WHOLE_ELEMENTS", 64 * 100)
    stored = he(300, 64).astype(np.float32)  # He's scale for fan_in 64
    param = Param(
        Role.WEIGHT, "w", (64, 300), "float32", from_array("w", stored).transpose(), module=None
    )
    model = chain(Layer("l", Op.LINEAR, (param,)))
    names = {match.fan for match in Measures(model).identify(param).matches}
    assert names == {"fan_out"}


def test_arrays_beyond_the_cache_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures_module, "CACHE_BYTES", 2 * 64 * 64 * 4)
    model = mlp(*(he(64, 64, seed) for seed in range(4)))
    measures = Measures(model)
    for _, param in model.graph.params:
        measures.read(param)
    assert measures._cached_bytes == 2 * 64 * 64 * 4
    assert len(measures._arrays) == 2


def test_blocks_of_one_tensor_are_different() -> None:
    packed = np.concatenate((he(32, 32), np.zeros((32, 32)))).astype(np.float32)
    whole = from_array("w", packed)
    gates = tuple(
        Param(
            Role.RECURRENT_WEIGHT,
            "w",
            (32, 32),
            "float32",
            whole.take(0, start, start + 32),
            gate=gate,
            stored_name="w",
            packed=2,
        )
        for gate, start in (("reset", 0), ("new", 32))
    )
    measures = Measures(chain(Layer("rnn", Op.GRU, gates)))
    assert measures.identify(gates[0]).family is Family.NORMAL
    assert measures.identify(gates[1]).family is Family.ZEROS


def test_packed_orthogonality_sees_what_the_gates_do_not() -> None:
    stacked = np.linalg.qr(he(96, 32))[0].astype(np.float32)
    whole = from_array("w", stacked)
    gates = tuple(
        Param(
            Role.RECURRENT_WEIGHT,
            "w",
            (32, 32),
            "float32",
            whole.take(0, 32 * index, 32 * index + 32),
            gate=gate,
            stored_name="w",
            packed=3,
        )
        for index, gate in enumerate(("update", "reset", "new"))
    )
    measures = Measures(chain(Layer("rnn", Op.GRU, gates)))
    alone, together = measures.orthogonality(gates[0]), measures.packed_orthogonality(gates[0])
    assert alone is not None
    assert together is not None
    assert alone.residual > 0.1
    assert together.residual < 1e-5


@pytest.mark.filterwarnings("error")
@settings(max_examples=150, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float64]),
        hnp.array_shapes(min_dims=0, max_dims=4, max_side=9),
        elements=st.floats(width=32) | st.sampled_from([0.0, 1.0, -1.0]),
    ),
    op=st.sampled_from([Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.EMBEDDING, Op.GRU, Op.BILINEAR]),
    role=st.sampled_from([Role.WEIGHT, Role.RECURRENT_WEIGHT, Role.BIAS, Role.GAIN, Role.TABLE]),
)
def test_no_tensor_breaks_a_measure(array: np.ndarray, op: Op, role: Role) -> None:
    dtype = str(array.dtype)
    param = Param(role, "w", array.shape, dtype, from_array("w", array), packed=3)
    measures = Measures(chain(Layer("l", op, (param,), {"groups": 2, "stride": (2, 2)})))
    ask_everything(measures, param)
    measures.spectral_radius(param)
    measures.spectral_norm(param)
    assert measures.model_stage in Stage


def test_large_tensors_judged_together_are_judged_as_by_themselves():
    torch = pytest.importorskip("torch")
    from initlint.load.torch_module import capture

    torch.manual_seed(0)
    layers = [torch.nn.Linear(160, 160) for _ in range(4)]
    torch.nn.init.orthogonal_(layers[1].weight)
    torch.nn.init.kaiming_normal_(layers[2].weight)
    model = capture(torch.nn.Sequential(*layers), torch.randn(2, 160))
    together, alone = Measures(model), Measures(model)
    alone._prepared = True
    weights = [layer.weight for layer in model.graph.weighted]
    assert [together.identify(weight) for weight in weights] == [
        alone.identify(weight) for weight in weights
    ]
    assert together.identify(weights[1]).family is not together.identify(weights[2]).family
    assert together.moments(weights[0]) == alone.moments(weights[0])


def test_a_very_large_model_is_judged_by_leading_rows_and_says_so(monkeypatch, tmp_path):
    from safetensors.numpy import save_file

    from initlint import engine
    from initlint.load.checkpoint import load_checkpoint
    from initlint.load.files import File

    rng = np.random.default_rng(0)
    path = tmp_path / "m.safetensors"
    save_file(
        {f"layers.{n}.weight": rng.normal(size=(512, 512)).astype("f4") for n in range(6)}, path
    )
    model = load_checkpoint(str(path))
    whole = engine.lint(model, Settings(layers=True))
    assert not whole["notices"]
    monkeypatch.setattr(leading, "VERY_LARGE", 1 << 18)
    monkeypatch.setattr(leading, "LEAST_BLOCK", 1 << 14)
    read: list[int] = []
    original = File.read_array

    def counted(self, offset, length):
        read.append(length)
        return original(self, offset, length)

    monkeypatch.setattr(File, "read_array", counted)
    model = load_checkpoint(str(path))
    part = engine.lint(model, Settings(layers=True))
    assert "6 tensors were judged by their first 16,384 elements" in part["notices"][0]
    assert part["stage"] == whole["stage"] == "fresh"
    assert part["findings"] == whole["findings"]
    for before, after in zip(whole["layers"], part["layers"], strict=True):
        assert before["params"][0]["mean"] == after["params"][0]["mean"]
        assert before["params"][0]["scheme"] == after["params"][0]["scheme"]
    # all elements once, and their leading rows a few times: never the whole once more
    assert sum(read) < 1.5 * path.stat().st_size
