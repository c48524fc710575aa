from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from initlint.measure import families, scheme
from initlint.measure.candidates import candidates, is_common, round_number
from initlint.measure.families import KS_BINS, REFERENCES, TRUNCATED_STD, _distribution_fits
from initlint.measure.moments import array_moments
from initlint.measure.precision import effective_dtype, is_quantised
from initlint.measure.result import Family, Identification, Match
from initlint.measure.scheme import identify
from initlint.model import Layer, Op, Param, Role

Shape = tuple[int, ...]


def identified(
    array: np.ndarray,
    op: Op | None = None,
    role: Role = Role.WEIGHT,
    dtype: str = "float32",
    attrs: dict[str, object] | None = None,
    **fields: object,
) -> Identification:
    op = op or (Op.CONV if array.ndim > 2 else Op.LINEAR)
    param = Param(role, "weight", array.shape, dtype, **fields)  # type: ignore[arg-type]
    layer = Layer("layer", op, (param,), attrs or {})
    return identify(layer, param, array, array_moments(array, dtype))


def uniform(shape: Shape, bound: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-bound, bound, shape).astype(np.float32)


def normal(shape: Shape, std: float, seed: int = 0) -> np.ndarray:
    return (std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def truncated(shape: Shape, sigma: float, seed: int = 0, cut: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal(2 * prod(shape) + 64)
    return (sigma * draws[np.abs(draws) < cut][: prod(shape)].reshape(shape)).astype(np.float32)


def orthogonal(rows: int, columns: int, gain: float = 1.0, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed).standard_normal((max(rows, columns), min(rows, columns)))
    q, _ = np.linalg.qr(draws)
    return (gain * (q if rows >= columns else q.T)).astype(np.float32)


def fan_in(shape: Shape) -> int:
    return prod(shape[1:])


def fan_avg(shape: Shape) -> float:
    return (shape[0] + shape[1]) * prod(shape[2:]) / 2


SCHEMES: dict[str, Callable[[Shape, int], np.ndarray]] = {
    "torch_default": lambda s, k: uniform(s, fan_in(s) ** -0.5, k),
    "he_uniform": lambda s, k: uniform(s, sqrt(6 / fan_in(s)), k),
    "he_normal": lambda s, k: normal(s, sqrt(2 / fan_in(s)), k),
    "xavier_uniform": lambda s, k: uniform(s, sqrt(3 / fan_avg(s)), k),
    "xavier_normal": lambda s, k: normal(s, fan_avg(s) ** -0.5, k),
    "lecun_normal": lambda s, k: truncated(s, fan_in(s) ** -0.5 / TRUNCATED_STD, k),
    "lecun_uniform": lambda s, k: uniform(s, sqrt(3 / fan_in(s)), k),
    "normal(0.02)": lambda s, k: normal(s, 0.02, k),
    "normal(0.01)": lambda s, k: normal(s, 0.01, k),
    "truncated_normal(0.02)": lambda s, k: truncated(s, 0.02, k),
}
SHAPES: list[Shape] = [(16, 8), (10, 64), (128, 64), (300, 200), (32, 16, 3, 3), (64, 1, 5, 5)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_identification_rate(scheme: str) -> None:
    """Every test is at four standard errors: about 1e-3 of fresh tensors are missed."""
    draws = [(shape, seed) for shape in SHAPES for seed in range(12)]
    attrs = {"groups": 1}
    missed = [
        (shape, seed)
        for shape, seed in draws
        if scheme not in identified(SCHEMES[scheme](shape, seed), attrs=attrs).names()
    ]
    assert len(missed) <= 1, missed


@pytest.mark.parametrize("shape", [(256, 256), (64, 64, 3, 3)])
def test_large_tensors_leave_one_explanation(shape: Shape) -> None:
    assert identified(normal(shape, sqrt(2 / fan_in(shape)))).names() == {"he_normal"}
    he_uniform = identified(uniform(shape, sqrt(6 / fan_in(shape))))
    assert he_uniform.names() == {"he_uniform"}
    assert he_uniform.matches[0].gain == pytest.approx(sqrt(2))
    assert he_uniform.matches[0].fan == "fan_in"


def test_indistinguishable_schemes_are_both_named() -> None:
    """Square layers: LeCun and Xavier coincide; at n = 100 so does He within sampling error."""
    square = identified(normal((64, 64), 1 / 8))
    assert {"xavier_normal", "lecun_normal"} <= square.names()
    assert square.scheme.startswith("xavier_normal | ")
    between = sqrt(1.5 / 10)
    assert {"he_normal", "lecun_normal"} <= identified(normal((10, 10), between)).names()
    assert len(identified(normal((512, 512), sqrt(2 / 512))).names()) == 1


def test_pytorch_default_comes_before_its_definition() -> None:
    found = identified(uniform((200, 100), 0.1))
    assert found.matches[0].scheme == "torch_default"
    assert "he_uniform(a=sqrt(5))" in found.names()
    assert found.bound == pytest.approx(0.1, rel=1e-3)


def test_he_with_fan_out_is_told_from_fan_in() -> None:
    found = identified(normal((256, 64), sqrt(2 / 256)))
    assert ("he_normal", "fan_out", True) in {(m.scheme, m.fan, m.true_fan) for m in found.matches}
    assert ("he_normal", "fan_in") not in {(m.scheme, m.fan) for m in found.matches}


def test_gains() -> None:
    leaky = identified(normal((400, 300), sqrt(2 / 1.04 / 300)))
    assert "he_normal(a=0.2)" in leaky.names()
    xavier = identified(uniform((400, 300), 5 / 3 * sqrt(6 / 700)))
    assert "xavier_uniform(gain=5/3)" in xavier.names()
    gelu = identified(normal((300, 500), 1.5335 / sqrt(500)))
    assert gelu.names() == {"he_normal(gelu)"}


def test_uncorrected_truncation_is_a_scheme_of_its_own() -> None:
    assert "lecun_normal(uncorrected)" in identified(truncated((300, 200), 200**-0.5)).names()
    assert identified(truncated((300, 200), 0.05)).names() == {"truncated_normal(0.05)"}


@pytest.mark.parametrize(
    ("array", "scheme"),
    [
        (normal((300, 200), 1.0), "normal(1.0)"),
        (normal((300, 200), 0.03), "normal(0.03)"),
        (uniform((300, 200), 0.05), "uniform(0.05)"),
        (uniform((300, 200), 0.3), "uniform(0.3)"),
        (np.abs(uniform((300, 200), 1.0)), "uniform(0, 1.0)"),
        (1.0 + normal((300, 200), 0.02), "normal(1.0, 0.02)"),
        (normal((96, 400), 0.02 / sqrt(2 * 12)), "gpt2_residual(L=12)"),
        (normal((256, 512), (512 * 64) ** -0.5), "t5_query(d_kv=64)"),
        (0.005 + normal((300, 200), 0.02), "normal(0.005, 0.02)"),
        (truncated((300, 200), 0.03, cut=3.0), "truncated_normal(0.03, cut=3)"),
        (truncated((300, 200), 0.03, cut=1.0), "truncated_normal(0.03, cut=1)"),
        (normal((300, 200), sqrt(2 / 200 / 16)), "he_normal(fixup L=16)"),
        (uniform((300, 200), sqrt(6 / 200) / 30), "siren_uniform"),
    ],
)
def test_fixed_scales(array: np.ndarray, scheme: str) -> None:
    assert scheme in identified(array).names()


def test_a_free_depth_names_nothing_when_n_is_small() -> None:
    assert not any("gpt2" in name for name in identified(normal((16, 16), 0.0031)).names())


def test_embeddings() -> None:
    assert "normal(1.0)" in identified(normal((500, 32), 1.0), Op.EMBEDDING).names()
    assert "embedding_normal" in identified(normal((500, 48), 48**-0.5), Op.EMBEDDING).names()
    padded = normal((500, 32), 1.0)
    padded[0] = 0.0
    assert "normal(1.0)" in identified(padded, Op.EMBEDDING).names()
    keras = identified(uniform((500, 32), 0.05), Op.EMBEDDING)
    assert "uniform(0.05)" in keras.names()


def test_recurrent_weights() -> None:
    attrs: dict[str, object] = {"hidden_size": 96}
    inputs = uniform((96, 40), 96**-0.5)
    found = identified(inputs, Op.LSTM, attrs=attrs, packed=4, gate="forget")
    assert found.matches[0].scheme == "torch_default"
    keras = orthogonal(96 * 4, 96)[:96]
    found = identified(keras, Op.LSTM, Role.RECURRENT_WEIGHT, attrs=attrs, packed=4)
    assert "orthogonal(packed)" in found.names()
    block = identified(orthogonal(96, 96), Op.GRU, Role.RECURRENT_WEIGHT, packed=3)
    assert block.family is Family.ORTHOGONAL


def test_biases_follow_the_fan_of_their_weight() -> None:
    weight = Param(Role.WEIGHT, "w", (300, 50), "float32")
    bias = Param(Role.BIAS, "b", (300,), "float32")
    layer = Layer("layer", Op.LINEAR, (weight, bias))
    array = uniform((300,), 50**-0.5)
    assert identify(layer, bias, array, array_moments(array)).names() == {"torch_default"}


def match_of(found: Identification, scheme: str) -> Match:
    return next(match for match in found.matches if match.scheme == scheme)


@pytest.mark.parametrize(
    ("shape", "std", "op", "attrs", "scheme", "fan"),
    [
        ((64, 32, 3, 3), sqrt(2 / 32), Op.CONV, {}, "he_normal", "missing_kernel"),
        ((512, 128), sqrt(1 / 512), Op.LINEAR, {}, "lecun_normal", "fan_out"),
        ((256, 1, 3, 3), sqrt(2 / 256 / 9), Op.CONV, {"groups": 256}, "he_normal", "ungrouped"),
        ((128, 96), sqrt(1 / (128 * 96)), Op.LINEAR, {}, "lecun_normal", "squared"),
    ],
)
def test_wrong_fans_are_named_as_such(shape, std, op, attrs, scheme, fan) -> None:
    found = match_of(identified(normal(shape, std), op, attrs=attrs), scheme)
    assert found.fan == fan
    assert found.true_fan is (fan == "fan_out")


def test_swapped_fan_of_pytorch_default() -> None:
    found = match_of(identified(uniform((512, 128), 512**-0.5)), "torch_default")
    assert (found.fan, found.true_fan) == ("swapped", False)


def test_transposed_convolution_uses_the_framework_fan() -> None:
    array = uniform((32, 64, 4, 4), (32 * 16) ** -0.5)
    attrs = {"stride": (2, 2)}
    found = match_of(identified(array, Op.CONV_TRANSPOSE, attrs=attrs), "torch_default")
    assert (found.fan, found.true_fan) == ("conv_transpose", False)


def test_packed_projection_of_attention() -> None:
    array = uniform((128, 128), sqrt(6 / (4 * 128)))
    fields = {"packed": 3, "gate": "query"}
    found = match_of(identified(array, **fields), "xavier_uniform")
    assert (found.fan, found.true_fan) == ("packed", False)
    module = "torch.nn.MultiheadAttention"
    assert identified(array, module=module, **fields).matches[0].scheme == "torch_default"


@pytest.mark.parametrize(
    ("array", "family", "scheme"),
    [
        (np.zeros((8, 9)), Family.ZEROS, "zeros"),
        (np.ones((8, 9)), Family.ONES, "ones"),
        (np.full((8, 9), 1e-6), Family.CONSTANT, "constant(1e-06)"),
        (np.eye(12), Family.IDENTITY, "identity"),
        (2.0 * np.eye(12, 20), Family.IDENTITY, "identity"),
        (orthogonal(40, 90), Family.ORTHOGONAL, "orthogonal"),
        (orthogonal(3, 64, 0.01), Family.ORTHOGONAL, "orthogonal"),
    ],
)
def test_exact_structures(array: np.ndarray, family: Family, scheme: str) -> None:
    found = identified(array.astype(np.float32))
    assert (found.family, found.scheme) == (family, scheme)


def test_gain_of_an_orthogonal_matrix() -> None:
    assert identified(orthogonal(64, 64, sqrt(2))).matches[0].gain == sqrt(2)
    assert identified(orthogonal(64, 64, 0.37)).matches[0].gain == pytest.approx(0.37)


def test_kernel_structures() -> None:
    dirac = np.zeros((8, 4, 3, 3), np.float32)
    dirac[np.arange(4), np.arange(4), 1, 1] = 1.0
    assert identified(dirac).family is Family.DIRAC
    grouped = np.zeros((8, 4, 3), np.float32)
    for group in range(2):
        grouped[group * 4 + np.arange(4), np.arange(4), 1] = 1.0
    assert identified(grouped, attrs={"groups": 2}).family is Family.DIRAC
    delta = np.zeros((32, 16, 3, 3), np.float32)
    delta[:, :, 1, 1] = orthogonal(32, 16)
    assert identified(delta).family is Family.DELTA_ORTHOGONAL


def test_hadamard() -> None:
    matrix = np.ones((1, 1))
    while matrix.shape[0] < 32:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    found = identified((matrix / sqrt(32)).astype(np.float32)[:, :20])
    assert found.family is Family.HADAMARD


def test_sparse_draws() -> None:
    rng = np.random.default_rng(0)
    array = normal((100, 80), 0.01)
    for column in range(80):
        array[rng.permutation(100)[:90], column] = 0.0
    found = identified(array)
    assert (found.family, found.scheme) == (Family.SPARSE, "sparse(0.9)")


POSITIONS = np.arange(64)[:, None] / 10000 ** (np.arange(16)[None, :] / 16)


@pytest.mark.parametrize(
    ("array", "scheme"),
    [
        (np.log(np.tile(np.arange(1, 17), (32, 1))), "log_sequence"),
        (10000 ** (-np.arange(0, 64, 2) / 64), "geometric_sequence"),
        (np.arange(128), "arithmetic_sequence"),
        (np.concatenate((np.sin(POSITIONS), np.cos(POSITIONS)), axis=1), "sinusoidal_table"),
        (np.tril(np.ones((32, 32))), "mask"),
        (
            np.hanning(128) * np.cos(np.outer(0.1 * np.arange(5, 60) ** 0.8, np.arange(128))),
            "fourier_basis",
        ),
        (
            np.maximum(0, 1 - np.abs(np.arange(100)[None, :] - 8 * np.arange(1, 11)[:, None]) / 8),
            "filter_bank",
        ),
    ],
)
def test_analytic_tables(array: np.ndarray, scheme: str) -> None:
    found = identified(array.astype(np.float32), role=Role.TABLE)
    assert (found.family, found.scheme) == (Family.DETERMINISTIC, scheme)


@pytest.mark.parametrize("seed", range(5))
def test_random_weights_are_no_tables(seed: int) -> None:
    for array in (normal((64, 128), 1.0, seed), np.abs(normal((16, 64), 1.0, seed))):
        assert identified(array).family is not Family.DETERMINISTIC


def test_small_tensors_have_no_family() -> None:
    found = identified(normal((7, 9), 0.02))
    assert (found.family, found.matches, found.n) == (Family.UNKNOWN, (), 63)


def test_learned_weights_fit_nothing() -> None:
    rng = np.random.default_rng(0)
    fresh = normal((128, 128), 0.05)
    low_rank = rng.standard_normal((128, 2)) @ rng.standard_normal((2, 128))
    scales = np.exp(0.2 * rng.standard_normal((128, 1)))
    heavy = 0.05 * rng.standard_t(4, (128, 128))
    shifted = fresh[:30, :30] + 0.01
    for learned in (fresh + 0.03 * low_rank, fresh * scales, heavy, shifted, fresh**3):
        assert identified(learned.astype(np.float32)).family is Family.UNKNOWN


def test_one_step_across_the_bound_is_seen() -> None:
    bound = 1 / 16
    fresh = uniform((256, 256), bound)
    assert "torch_default" in identified(fresh).names()
    signs = np.random.default_rng(1).choice([-1.0, 1.0], fresh.shape)
    assert identified((fresh + 3e-4 * signs).astype(np.float32)).matches == ()


def test_special_rows_and_values_are_set_aside() -> None:
    base = normal((64, 128), sqrt(2 / 128))
    repeated = np.concatenate((base, base))
    assert "he_normal" in identified(repeated).names()
    assert "he_normal" in identified(np.concatenate((base, -base))).names()
    clamped = normal((200, 200), 0.02)
    clamped[3, 4], clamped[100, 7] = 2.0, -2.0
    assert "normal(0.02)" in identified(clamped).names()


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float32)
    bits = array.view(np.uint32) + np.uint32(0x8000)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["rounded", "float32"])
def test_half_precision(dtype: str, stored: str) -> None:
    storage = dtype if stored == "rounded" else "float32"
    he = rounded(normal((256, 200), sqrt(2 / 200)), dtype)
    assert effective_dtype(he, storage) == dtype
    assert "he_normal" in identified(he, dtype=storage).names()
    default = rounded(uniform((256, 200), 200**-0.5), dtype)
    assert "torch_default" in identified(default, dtype=storage).names()


def test_quantised_grids_are_unknown() -> None:
    array = normal((256, 200), 0.05)
    scale = np.abs(array).max(axis=1, keepdims=True) / 127
    grid = (np.round(array / scale) * scale).astype(np.float32)
    assert is_quantised(grid)
    assert identified(grid).family is Family.UNKNOWN
    assert identified(array, quantised=True).family is Family.UNKNOWN
    assert identified(array, dtype="float8_e4m3fn").family is Family.UNKNOWN
    assert identified(np.zeros((8, 8), np.float32), quantised=True).family is Family.ZEROS


def test_non_finite_tensors_are_unknown() -> None:
    array = normal((64, 64), 0.05)
    array[0, 0] = np.nan
    assert identified(array).family is Family.UNKNOWN
    assert identified(np.zeros((0, 4), np.float32)).n == 0


def test_reference_scatter_matches_simulation() -> None:
    rng = np.random.default_rng(0)
    draws = rng.uniform(-1, 1, (4000, 400))
    draws -= draws.mean(axis=1, keepdims=True)
    z = draws / np.sqrt((draws**2).mean(axis=1, keepdims=True))
    kurtosis = (z**4).mean(axis=1)
    reference = REFERENCES[Family.UNIFORM]
    assert kurtosis.mean() == pytest.approx(reference.kurtosis, abs=0.01)
    assert kurtosis.std() * 20 == pytest.approx(reference.kurtosis_scatter, rel=0.1)
    assert (z**3).mean(axis=1).std() * 20 == pytest.approx(reference.skew_scatter, rel=0.1)
    normal_reference = REFERENCES[Family.NORMAL]
    assert normal_reference.kurtosis_scatter == pytest.approx(sqrt(24))
    assert normal_reference.skew_scatter == pytest.approx(sqrt(6))


def test_round_numbers() -> None:
    assert round_number(0.0201, 0.01) == 0.02
    assert round_number(0.0137, 0.01) is None
    assert round_number(0.99, 0.015) == 1.0
    assert round_number(0.02, 0.5) is None
    assert round_number(0.0, 0.01) is None


def test_common_schemes() -> None:
    assert is_common(Match("he_normal"))
    assert is_common(Match("normal(0.02)"))
    assert not is_common(Match("he_normal", true_fan=False))
    assert not is_common(Match("normal(0.03)"))
    assert not is_common(Match("gpt2_residual(L=7)"))


def test_every_candidate_predicts_a_positive_scale() -> None:
    for op in (Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE, Op.EMBEDDING, Op.LSTM, Op.BILINEAR):
        shape = {Op.CONV: (8, 4, 3, 3), Op.CONV_TRANSPOSE: (8, 4, 3, 3), Op.BILINEAR: (8, 4, 5)}
        param = Param(Role.WEIGHT, "w", shape.get(op, (8, 4)), "float32", packed=3)
        found = list(candidates(Layer("l", op, (param,)), param).all)
        assert all(candidate.match.std > 0 for candidate in found)
        assert [c.tier for c in found if c.match.scheme == "normal(0.02)"] == [0]


def test_noise_on_an_identity_is_a_draw_without_a_name() -> None:
    noise = normal((64, 64), 0.01)
    for height in (1.0, -0.5):
        found = identified((height * np.eye(64) + noise).astype(np.float32))
        assert (found.family, found.matches) == (Family.NORMAL, ())
        assert found.std > 0.05
    learned = np.diag(1.0 + 0.2 * np.random.default_rng(0).standard_normal(64)) + noise
    assert identified(learned.astype(np.float32)).family is Family.UNKNOWN


@given(st.floats(-30.0, 30.0), st.integers(0, 2**32 - 1))
def test_the_variance_beside_a_diagonal_follows_from_moments(height: float, seed: int) -> None:
    array = np.random.default_rng(seed).standard_normal((24, 40))
    index = np.arange(24)
    array[index, index] += height
    rest = array.copy()
    rest[index, index] -= height
    found = scheme._variance_without(array[index, index], height, array_moments(array))
    assert found == pytest.approx(rest.var(), rel=1e-3)


@pytest.mark.parametrize("size", [KS_BINS + 1, 1 << 16])
@pytest.mark.parametrize("shape", ["normal", "uniform", "laplace", "mixture", "triangle"])
@pytest.mark.parametrize("family", [Family.NORMAL, Family.UNIFORM, Family.TRUNCATED_NORMAL])
def test_counting_in_bins_decides_as_sorting_does(
    family: Family, shape: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(size)
    values = {
        "normal": rng.standard_normal(size),
        "uniform": rng.uniform(-1, 1, size),
        "laplace": rng.laplace(size=size),
        "mixture": rng.standard_normal(size) * np.where(rng.random(size) < 0.9, 1.0, 1.3),
        "triangle": rng.uniform(-1, 1, size) + rng.uniform(-1, 1, size),
    }[shape].astype(np.float32)
    binned = _distribution_fits(family, values, array_moments(values), 0.0, 2.0)
    monkeypatch.setattr(families, "KS_BINS", size)
    assert binned is _distribution_fits(family, values, array_moments(values), 0.0, 2.0)
    if shape == family.value:
        assert binned


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_absolute_values_of_a_draw_are_a_draw(sign: float) -> None:
    drawn = sign * np.abs(normal((64, 48), 0.1))
    found = identified(drawn)
    assert found.family is Family.NORMAL
    assert found.matches == ()
    scales = np.random.default_rng(1).uniform(1, 3, (64, 1)).astype(np.float32)
    assert identified(drawn * scales).family is Family.UNKNOWN
