"""Stage: do weights still fit the distribution they were drawn from?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod, sqrt

from initlint.measure.candidates import is_common
from initlint.measure.families import LEAST
from initlint.measure.precision import is_float
from initlint.measure.result import Family, Identification, Moments, Stage
from initlint.model import NORMALISERS, Layer, Param, Role
from initlint.model.record import record

WEIGHT_ROLES = frozenset({Role.WEIGHT, Role.RECURRENT_WEIGHT, Role.PROJECTION})
"""The parameters whose elements decide the stage of a model."""

RANDOM = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL, Family.SPARSE})

STRUCTURED = frozenset(
    {
        Family.IDENTITY,
        Family.DIRAC,
        Family.ORTHOGONAL,
        Family.DELTA_ORTHOGONAL,
        Family.HADAMARD,
    }
)
"""Exact structures that one step of training destroys."""

UNINFORMATIVE = frozenset({Family.ZEROS, Family.ONES, Family.CONSTANT, Family.DETERMINISTIC})
"""Values that are the same before and after training, or that training never touches."""

TRAINED_SHARE = 0.3
"""Share of the decided weight elements that must fail every initial distribution for a model to be
trained: a fresh model fails with 1e-3 of its tensors, a trained one with nearly all, and a large
fresh embedding or head on a trained trunk may hold two thirds of the elements."""

MIXED_SHARE = 0.3
"""Share of the decided weight elements of a trained model that must be fresh for sure before the
model is called mixed, as large as the share that makes it trained. Below it single layers are
reported tensor by tensor: whole unused layers at their initial values are common in released
models (a decoder direction that nothing reads, a neck that the export cut off)."""

DECIDED_SHARE = 0.1
"""Share of the variable weight elements that must be decidable. In a quantised model what is left
in floating point (norms, scales, a small head) does not speak for the rest."""

TRUNK_SHARE = 0.1
TRUNK_TENSORS = 3
"""A fresh tensor fails one of about ten tests at four standard errors with probability 1e-3, so
three failures that hold 10 % of the elements are no chance."""

PLAUSIBLE_STD = (1e-12, 1e4)
"""Scales that someone may have drawn: from score-SDE's 1e-10 zero convolutions to StyleGAN's stored
standard deviation of 100, with two decades to spare."""

STRONG_NORMAL = 4096
STRONG_SIDE = 32
"""Size from which passing all tests is strong evidence for a Gaussian: row and column norms and the
singular-value edge then resolve a relative change of the weights of about 1/√32 = 18 %."""

STRONG_UNIFORM = 256
"""A trained tensor's largest weight falls into the window of 12/n below a framework's bound by
chance with probability below 12/256 = 5 %, on top of having passed the tests of shape."""


def tensor_stage(
    identification: Identification, moments: Moments, layer: Layer, param: Param
) -> Stage:
    """Stage of one tensor, from its own numbers alone.

    FRESH when it is an exact random structure or fits a family with a plausible scale, TRAINED when
    it is large enough to decide and fits none. UNKNOWN when nothing can be told: too few values,
    independent draws from a distribution without a name, constants and analytic tables (which look
    the same before and after), quantised grids, values that are not finite; biases and other
    vectors unless they meet PyTorch's default bound.
    """
    family = identification.family
    if param.role not in WEIGHT_ROLES | {Role.TABLE}:
        # A short trained vector looks Gaussian; only a hit on a framework's bound is evidence.
        known = "torch_default" in identification.names()
        return Stage.FRESH if known else Stage.UNKNOWN
    if family in STRUCTURED:
        return Stage.FRESH
    if family in RANDOM:
        low, high = PLAUSIBLE_STD
        return Stage.FRESH if low <= moments.std <= high else Stage.UNKNOWN
    if family is not Family.UNKNOWN or identification.n < LEAST or moments.non_finite:
        return Stage.UNKNOWN
    if identification.independent:
        return Stage.UNKNOWN
    undecidable = param.quantised or not is_float(param.dtype)
    return Stage.UNKNOWN if undecidable or param.role not in WEIGHT_ROLES else Stage.TRAINED


def is_certain(identification: Identification, param: Param) -> bool:
    """True when a fresh verdict would convince even inside a trained model.

    Exact structures; uniforms whose largest weight meets a named bound; Gaussians large enough for
    the tests of independence to have power and with a named scale.
    """
    family, n = identification.family, identification.n
    if family in STRUCTURED:
        return True
    named = any(is_common(match) for match in identification.matches)
    if family is Family.UNIFORM:
        return named and n >= STRONG_UNIFORM
    sides = sorted(param.shape)[-2:] if len(param.shape) > 1 else [0]
    return named and n >= STRONG_NORMAL and sides[0] >= STRONG_SIDE


@record(frozen=True, slots=True)
class Verdict:
    """What one weight tensor says about its model.

    Attributes:
        stage: its own stage.
        size: elements.
        certain: fresh, and `is_certain`.
        head: True for a layer whose output goes to the loss alone.
    """

    stage: Stage
    size: int
    certain: bool = False
    head: bool = False


def model_stage(verdicts: Iterable[Verdict]) -> Stage:
    """Stage of a model from its weight tensors, weighted by elements.

    Constants and analytic tables must be left out of ``verdicts``: they say nothing. Of the rest,
    trained when at least 30 % of the decided elements fit no initial distribution; mixed when,
    beside them, tensors that are certainly fresh and are not heads hold at least 30 % (a fresh head
    on a trained trunk is an ordinary start of fine-tuning: trained), or when a smaller trunk is
    trained beyond chance. Unknown when too little can be decided.
    """
    found = list(verdicts)
    failed = [item.size for item in found if item.stage is Stage.TRAINED]
    trained = sum(failed)
    fresh = sum(item.size for item in found if item.stage is Stage.FRESH)
    certain = sum(item.size for item in found if item.certain and not item.head)
    decided = trained + fresh
    if decided == 0 or decided < DECIDED_SHARE * sum(item.size for item in found):
        return Stage.UNKNOWN
    if trained >= TRAINED_SHARE * decided:
        return Stage.MIXED if certain >= MIXED_SHARE * decided else Stage.TRAINED
    trunk = len(failed) >= TRUNK_TENSORS and trained >= TRUNK_SHARE * decided
    return Stage.MIXED if trunk else Stage.FRESH


LEAST_VECTOR = 8
"""Values of a vector that are all exactly 1 or 0: training moves each of them by its own amount, so
that not even eight keep one value."""

LEAST_BIASES = 3
"""Layers whose biases are all exactly zero before that counts as evidence: one or two may belong to
layers that nothing trains."""

_BIASES = frozenset({Role.BIAS, Role.RECURRENT_BIAS})
_VECTORS = frozenset({Role.GAIN, Role.SHIFT}) | _BIASES
_STATISTICS = frozenset({Role.RUNNING_MEAN, Role.RUNNING_VAR})


def never_stepped(
    layers: Iterable[Layer],
    moments_of: Callable[[Param], Moments | None],
    *,
    stored: bool,
    speaking: bool = False,
) -> bool:
    """True when the small parameters show that no step was ever taken.

    Weights that were put together (repeated over frames, an identity with noise, masked) fit no
    distribution though they are fresh. Then the vectors beside them tell: training moves every
    gain, shift and bias, and the statistics of every batch norm. So none may be anything but
    constant (a bias may also lie inside PyTorch's default bound), and a normaliser or the biases of
    several layers must be there to speak.

    Args:
        layers: all layers of the model.
        moments_of: moments of a parameter; None where its values are not known.
        stored: True when every vector that exists is a trainable parameter. In an ONNX graph a
            gain of ones or a bias of zeros may stand for one that the network never had, and only
            the statistics of a batch norm speak.
        speaking: True when the weights themselves speak for it, and no vector has to.
    """
    zero_biases: set[str] = set()
    for layer in layers:
        for param in layer.params:
            if param.role not in _VECTORS | _STATISTICS:
                continue
            moments = moments_of(param)
            if moments is None:
                return False
            if not moments.constant:
                bound = default_bound(layer) if param.role in _BIASES else 0.0
                if moments.max_abs > bound:
                    return False
                continue
            if param.size < LEAST_VECTOR or moments.mean not in (0.0, 1.0):
                continue
            normalises = layer.op in NORMALISERS and (param.trainable and stored)
            speaking = speaking or normalises or param.role in _STATISTICS
            if stored and param.role in _BIASES and param.trainable:
                zero_biases.add(layer.id)
    return speaking or len(zero_biases) >= LEAST_BIASES


def default_bound(layer: Layer) -> float:
    """1/sqrt(fan_in), or 1/sqrt(hidden) for recurrent layers: where PyTorch draws biases."""
    weight = layer.weight
    if weight is None or len(weight.shape) < 2:
        return 0.0
    recurrent = layer.with_role(Role.RECURRENT_WEIGHT)
    values = recurrent[0].shape[-1] if recurrent else prod(weight.shape[1:])
    return 1.0 / sqrt(values) if values else 0.0
