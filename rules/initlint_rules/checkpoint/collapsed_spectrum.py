"""collapsed-spectrum: trained matrices that collapsed or blew up, gains and variances gone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import sqrt

import numpy as np

from initlint.api import (
    NORMALISERS,
    RELU_FAMILY,
    Context,
    Finding,
    Fix,
    Layer,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Stage,
    median,
    record,
)

RANK_ONE = 1e-6
"""Share of a matrix's energy outside its largest singular direction below which it counts as one
outer product: singular values of 1e-3 of the first, which no output scale resolves in half
precision. A voice detector that works well keeps 5 % there, so less collapse than this is usual."""

RESOLVED = 1e-3
"""Share of energy that single precision tells from none: sums of 2²² squares err by less than
2⁻²⁴ · 2¹¹ = 1e-4 of themselves."""

MIN_SIDE = 32
"""Shorter side a matrix needs: bottlenecks of a few units are of low rank by design."""

LARGEST = 1 << 22
"""Elements up to which a spectrum is computed."""

GAIN_GONE = 1e-4
"""Size of a gain, relative to its layer's largest, that counts as gone. LayerScale starts at 1e-6
in every channel alike, so only the spread inside one layer tells."""

GAIN_SHARE = 0.9
"""Share of gains that must be gone; good models were found with 78 % below 0.01."""


GAIN_SMALL = 0.01
GAIN_MAJORITY = 0.5
GAIN_PRESENT = 0.1
"""A gain of 0.01 passes 1e-4 of the power that a gain of 1 does: more than half of a layer's
channels below it leave the layer with less than half of its width. Where no gain is a decade
above, all are small alike (LayerScale, a branch that starts at zero), which is a choice."""

SPECTRAL_FACTOR = 10.0
"""Largest singular value over the median of the siblings'. Fresh siblings agree to a few percent
(the edge of a random matrix scatters by n^(-2/3)); training separates them by small factors, and
one decade is the backward drift that counts as a warning between layers."""

LEAST_SIBLINGS = 4
"""Matrices a median needs, so that one that is off cannot move it by itself."""

EPSILON = 1e-5
"""Epsilon of torch and ONNX batch norms, where the layer does not tell its own."""

FLAT = 0.01
"""Variance over epsilon below which a channel is flat: its output is below a tenth of its gain,
sqrt(v / (v + eps)). Between that and 1 epsilon only shrinks it."""

FLAT_LEAST = 16
"""Channels a batch normalisation needs before a share of them says something."""


@record(frozen=True, slots=True)
class _Collapsed:
    layer: Layer
    param: Param
    measured: str
    expected: str = "many directions of comparable size"


@record(frozen=True, slots=True)
class _Spectrum:
    """A weight matrix, a lower bound of its largest singular value, and the energy beside it."""

    layer: Layer
    param: Param
    largest: float
    rest: float


class CollapsedSpectrum(Rule):
    """A trained weight matrix has collapsed or blown up, or a norm's gains or variances are gone.

    What it does
    ------------
    In trained models, compares the largest singular value of each weight matrix with its norm and
    with that of its siblings (same name but for numbers, same shape), the gains of each normaliser
    with the largest of them, and the running variances of batch normalisation with its epsilon.

    Why is this bad
    ---------------
    A matrix of rank one passes one number on, whatever its width: everything upstream is reduced to
    a single feature. A norm far above that of the siblings is what divergence looks like from
    inside. A batch normalisation whose variances are below epsilon no longer normalises: what it
    reads hardly depends on the input. Training that diverged and came back, too strong a weight
    decay, or a state written while it was being updated leave such layers.

    How it decides
    --------------
    Less than 10^-6 of the squared norm lies outside the largest singular direction, both sides
    being 32 or more: a warning. The largest singular value, times the rms of the gain of the
    normaliser in front, is above ten times the median of at least four siblings: a warning, an info
    where a normaliser follows and takes the scale off, an error where the model holds
    values that are not finite. Nine tenths of a normaliser's gains below 10^-4 of its largest, or
    more than half below 0.01 while the largest is above 0.1: an info. More than half of the running
    variances below epsilon: an info; a warning where all are below a hundredth of it.

    What it does not flag
    ---------------------
    Low stable rank by itself, which good models have. Heads, embeddings, factors of low-rank
    adapters, quantised weights, gains that are small in every channel alike (LayerScale, zero-init
    residual branches), fresh models (rank-deficient draws are another rule's).

    Example
    -------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(*[nn.Linear(128, 128) for _ in range(4)])
            with torch.no_grad():
                for layer in net:
                    layer.weight += torch.randn(128, 4) @ torch.randn(4, 128) / 50
                    layer.bias += 0.1 * torch.randn(128)
                net[2].weight.copy_(torch.randn(128, 1) @ torch.randn(1, 128) / 11)
            return net

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        def model():
            net = nn.Sequential(*[nn.Linear(128, 128) for _ in range(4)])
            with torch.no_grad():
                for layer in net:
                    layer.weight += torch.randn(128, 4) @ torch.randn(4, 128) / 50
                    layer.bias += 0.1 * torch.randn(128)
            return net

    References
    ----------
    - Zhai et al. 2023, Stabilizing transformer training by preventing attention entropy collapse:
      spectral norms during divergence.
    - Martin, Mahoney 2021, Implicit self-regularization in deep neural networks.
    """

    code = "CKP105"
    name = "collapsed-spectrum"
    formula = (
        "1 - s_1^2 / sum s_i^2 < 1e-6;  s_1 > 10 median s_1;\n"
        "|gamma_i| < 1e-4 max|gamma| for 90 % of i, < 0.01 for half;  v_i < eps for half"
    )
    stages = frozenset({Stage.TRAINED, Stage.MIXED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding for each way of collapse, over all layers."""
        params = context.model.graph.params
        spectra = [item for layer, param in params if (item := _spectrum(context, layer, param))]
        matrices = [
            _Collapsed(
                item.layer,
                item.param,
                f"{max(item.rest, 0.0):.1e} of the energy outside one direction",
            )
            for item in spectra
            if item.rest < RANK_ONE
        ]
        if matrices:
            yield _finding(
                matrices,
                Severity.WARNING,
                "has collapsed to rank one",
                "all units of the layer are multiples of one another",
            )
        gains = [found for layer, param in params if (found := _gone(context, layer, param))]
        if gains:
            yield _finding(
                gains,
                Severity.INFO,
                "has lost most of its gains",
                "a channel whose gain is zero passes nothing on",
            )
        yield from _blown_up(context, spectra)
        yield from _flat(context)


def _spectrum(context: Context, layer: Layer, param: Param) -> _Spectrum | None:
    if param.role not in (Role.WEIGHT, Role.RECURRENT_WEIGHT) or layer.op is Op.EMBEDDING:
        return None
    if param.quantised or not param.trainable or len(param.shape) < 2 or param.size > LARGEST:
        return None
    if min(param.shape[0], param.size // max(param.shape[0], 1)) < MIN_SIDE:
        return None
    moments = context.measures.moments(param)
    if moments is None or moments.non_finite or moments.max_abs == 0:
        return None
    values = context.measures.read(param)
    assert values is not None
    largest, rest = _leading_direction(values.reshape(param.shape[0], -1))
    return _Spectrum(layer, param, largest, rest)


def _leading_direction(matrix: np.ndarray) -> tuple[float, float]:
    """Length along a direction found by two power iterations, and the energy outside it.

    From the longest row, whose share of the first direction is largest: exact for a matrix of rank
    one; for any other the length is a lower bound of the largest singular value, and the share of
    the squared norm outside an upper bound.
    """
    narrow = _along(matrix)
    # Of single precision four digits are right; only where fewer decide does the second pass.
    return narrow if narrow[1] > RESOLVED else _along(matrix.astype(np.float64))


@np.errstate(all="ignore")  # what single precision does not hold is left to double
def _along(wide: np.ndarray) -> tuple[float, float]:
    """`_leading_direction` in the precision of the matrix."""
    direction = wide[np.argmax(np.einsum("ij,ij->i", wide, wide))]
    for _ in range(2):
        direction = wide.T @ (wide @ (direction / np.linalg.norm(direction)))
    along = wide @ (direction / np.linalg.norm(direction))
    energy = float(along @ along)
    return sqrt(energy), 1.0 - energy / float(np.vdot(wide, wide))


def _blown_up(context: Context, spectra: Sequence[_Spectrum]) -> Iterator[Finding]:
    """One finding for the matrices whose norm is far above that of their siblings."""
    families: dict[tuple[object, ...], list[_Spectrum]] = defaultdict(list)
    for item in spectra:
        if context.model.connected and context.model.graph.is_head(item.layer.id):
            continue
        pattern = re.sub(r"\d+", "#", item.param.name)
        families[pattern, item.param.role, item.param.shape].append(item)
    found: list[_Collapsed] = []
    for family in families.values():
        if len(family) >= LEAST_SIBLINGS:
            found += _far_above(context, family)
    if not found:
        return
    normalised = all(_scale_is_taken_off(context, item.layer) for item in found)
    severity = Severity.INFO if normalised else Severity.WARNING
    if any(
        (moments := context.measures.moments(param)) is not None and moments.non_finite
        for _, param in context.model.graph.params
    ):
        severity = Severity.ERROR
    yield _finding(
        found,
        severity,
        "is far larger than in the sibling layers",
        "one layer that multiplies by ten times what its siblings do sets the scale of all others",
    )


def _far_above(context: Context, family: Sequence[_Spectrum]) -> Iterator[_Collapsed]:
    """The matrices above the limit, by bounds first and exactly where those speak."""
    gains = [_gain_before(context, item.layer) for item in family]
    bounds = [item.largest for item in family]
    limit = SPECTRAL_FACTOR * median(np.array(bounds))
    if limit <= 0.0 or max(bounds) <= limit:
        return
    norms = [context.measures.spectral_norm(item.param) or 0.0 for item in family]
    usual = median(np.array(norms))
    scaled = [norm * gain for norm, gain in zip(norms, gains, strict=True)]
    usual_scaled = median(np.array(scaled))
    for item, norm, whole in zip(family, norms, scaled, strict=True):
        if norm > SPECTRAL_FACTOR * usual and whole > SPECTRAL_FACTOR * usual_scaled:
            yield _Collapsed(
                item.layer,
                item.param,
                f"largest singular value {norm:.3g}, {norm / usual:.0f} times the median",
                f"about {usual:.3g}, as in {len(family) - 1} siblings",
            )


def _gain_before(context: Context, layer: Layer) -> float:
    """Rms of the gain of a normaliser right in front, which a large weight may only undo."""
    producers = context.model.graph.effective_producers(layer.id)
    if len(producers) != 1 or producers[0].op not in NORMALISERS:
        return 1.0
    gains = [param for param in producers[0].params if param.role is Role.GAIN]
    moments = context.measures.moments(gains[0]) if gains else None
    return 1.0 if moments is None else sqrt(moments.second_moment)


def _scale_is_taken_off(context: Context, layer: Layer) -> bool:
    """True when all that reads the layer is a normaliser, through half-linear activations."""
    graph = context.model.graph
    queue, ends = [layer], list[Layer]()
    while queue:
        readers = graph.effective_consumers(queue.pop().id)
        ends += [item for item in readers if item.op not in RELU_FAMILY]
        queue += [item for item in readers if item.op in RELU_FAMILY]
    return bool(ends) and all(item.op in NORMALISERS for item in ends)


def _flat(context: Context) -> Iterator[Finding]:
    """One finding for batch normalisations whose running variances are below epsilon."""
    some: list[_Collapsed] = []
    every: list[_Collapsed] = []
    for layer, param in context.model.graph.params:
        eps = layer.attrs.get("eps", EPSILON)
        if param.role is not Role.RUNNING_VAR or layer.attrs.get("folded"):
            continue
        if eps <= 0 or param.size < FLAT_LEAST:
            continue
        values = context.measures.read(param)
        if values is None or not np.isfinite(values).all():
            continue
        if values.min() < 0 or values.max() == 0:  # running-stats-invalid speaks about those
            continue
        share = float(np.mean(values < eps))
        if share <= GAIN_MAJORITY:
            continue
        whole = bool((values < FLAT * eps).all())
        (every if whole else some).append(
            _Collapsed(
                layer,
                param,
                f"{share:.0%} of the variances below epsilon {eps:g}, largest {values.max():.2g}",
                "variances well above epsilon",
            )
        )
    why = "below epsilon the layer no longer normalises, and what it reads hardly varies"
    if every:
        yield _finding(every, Severity.WARNING, "is far below epsilon in every channel", why)
    if some:
        yield _finding(some, Severity.INFO, "is below epsilon in most channels", why)


def _gone(context: Context, layer: Layer, param: Param) -> _Collapsed | None:
    if param.role is not Role.GAIN or layer.op not in NORMALISERS or param.size < MIN_SIDE:
        return None
    values = context.measures.read(param)
    if values is None or not np.isfinite(values).all():
        return None
    sizes = np.abs(values)
    largest = float(sizes.max())
    gone = float(np.mean(sizes < GAIN_GONE * largest))
    if gone > GAIN_SHARE:
        return _Collapsed(layer, param, f"{gone:.0%} of the gains gone", "gains of one size")
    small = float(np.mean(sizes < GAIN_SMALL))
    if small > GAIN_MAJORITY and largest > GAIN_PRESENT:
        return _Collapsed(layer, param, f"{small:.0%} of the gains below {GAIN_SMALL}", "about 1")
    return None


def _finding(found: list[_Collapsed], severity: Severity, what: str, why: str) -> Finding:
    first = found[0]
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Finding(
        severity=severity,
        layer=first.layer.id,
        param=first.param.name,
        layers=tuple(dict.fromkeys(item.layer.id for item in found)),
        message=f"{first.param.name} {what}{others}",
        evidence={"params": [item.param.name for item in found[:20]], "first": first.measured},
        why=why,
        measured=first.measured,
        expected=first.expected,
        fix=Fix(
            "reload",
            params=tuple(item.param.key for item in found),
            code="go back to a checkpoint from before the collapse, or draw the layer again",
        ),
    )
