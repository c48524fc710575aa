"""position-table: positions that a network cannot tell apart, or that drown the tokens."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np

from initlint.api import (
    Confidence,
    Context,
    Finding,
    Fix,
    Layer,
    Need,
    Op,
    Param,
    Rule,
    Severity,
    Stage,
)

from ._tables import Addend, Rotation, addends, is_circle, missing, rates, rotations

WIDE = 3.0
"""Standard deviation of a learned table over that of the tokens: the tokens then are less than
1/(1 + 9), a tenth, of the variance that the first layer sees."""

NARROW = 1 / 30
"""Below it positions are a thousandth of the variance. They still have gradients of their own, as a
table of zeros has, so that this is no more than an info."""

USUAL = 1.0
"""Rms of the widest learned table in use, N(0, 1), `torch.nn.Embedding`'s own."""

FAR = 3.0
"""Factor from the scale in use beyond which a scale is a mistake and no choice: schemes differ by
less (He and PyTorch's default by 2.4). Tokens that are further below theirs than positions are
above are what has to change: narrowed to tokens of 1e-5, positions of a usual width left a ViT half
of its twin's progress, where it made all of it as it was (a projection of patches times 1e-4)."""

FAINT = 0.1
"""Rms of tokens over that of a fixed table below which they are less than a hundredth of the
variance. With a thirtieth (N(0, 0.02) beside sines) a network reached half of its twin's progress
in twice the steps (benchmarks/outcome: sinusoidal). Sinusoids of rms 0.7 beside N(0, 0.02) times
sqrt(width) are beyond it from a width of 13 on."""

EQUAL = 1e-3
"""Relative spread below which frequencies are one number. Neighbours of a real table differ by
10000^(2/d): 15 % at a head of width 128, 0.2 % at one of 8192."""

RELATIVE_ORDER = 1e-2
"""Share by which a stored frequency may exceed the one before it: three times what bfloat16 leaves
(2^-8)."""

ORDER = 0.02
"""Radians per position by which the same may happen to one read off cosines and sines: bfloat16
leaves 2^-8 of noise there, whatever the frequency."""


class PositionTable(Rule):
    """A table of positions is constant, not finite, out of order, or drowns the tokens.

    What it does
    ------------
    Looks at rotary frequencies (tensors called inv_freq, and the cosines and sines that turn
    queries and keys), at fixed tables of positions, and at learned tables where they are added to
    the tokens.

    Why is this bad
    ---------------
    Attention without positions is a function of a set. Rotary frequencies that are all equal, all
    zero or never computed (a buffer that was left out when a model was built without memory, or
    overwritten by a loader) leave all positions alike, or wrong, and nothing learns them: buffers
    have no gradient. A learned table ten times as wide as the tokens leaves them a hundredth of the
    variance that the first layer sees.

    How it decides
    --------------
    Not finite, all frequencies equal, or all rows of a fixed table equal: an error. Frequencies
    that go neither up nor down throughout, and a fixed sinusoidal table with equal rows: a warning.
    A fixed table of zeros in front of attention that sees both sides, with no other table in the
    network: a warning. Learned: more than 3 times the tokens' standard deviation is a warning, less
    than 1/30 an info. Looked-up tokens below a tenth of a fixed table: an info. A class token that
    is joined to the tokens does not count as one of them. Where the tokens' own weights are further
    below the scale in use than the table is above it, they are what the fix widens.

    What it does not flag
    ---------------------
    Scaled rotary embeddings (linear, NTK, YaRN, Llama 3, LongRoPE), which fall without being
    geometric; zeros at the end of partial rotations; grids of two axes and positions that jump;
    learnable tables of zeros (their rows receive different gradients), relative biases of zeros,
    ALiBi, networks without positions, trained tables. NaN in a stored tensor is told by
    non-finite, here only where it is in tables that are computed. Cosines and sines that a file's
    graph works out as it runs (ONNX with positions that are not constants) are not seen.

    Example
    -------
    ::

        import torch
        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens = nn.Embedding(100, 64)
                self.q, self.k, self.v = (nn.Linear(64, 64) for _ in range(3))
                for layer in (self.q, self.k, self.v):
                    nn.init.xavier_uniform_(layer.weight)
                self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 100)
                self.register_buffer("inv_freq", torch.ones(32))

            def turn(self, x):
                angle = torch.outer(torch.arange(x.shape[1]), self.inv_freq).repeat(1, 2)
                left, right = x.chunk(2, -1)
                return x * angle.cos() + torch.cat([-right, left], -1) * angle.sin()

            def forward(self, ids):
                x = self.norm(self.tokens(ids))
                q, k = self.turn(self.q(x)), self.turn(self.k(x))
                return self.head(
                    x + nn.functional.scaled_dot_product_attention(q, k, self.v(x))
                )

        def model():
            return Model()

    Use instead
    -----------
    ::

        import torch
        from torch import nn

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.tokens = nn.Embedding(100, 64)
                self.q, self.k, self.v = (nn.Linear(64, 64) for _ in range(3))
                for layer in (self.q, self.k, self.v):
                    nn.init.xavier_uniform_(layer.weight)
                self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 100)
                self.register_buffer("inv_freq", 10000 ** (-torch.arange(0, 64, 2) / 64))

            def turn(self, x):
                angle = torch.outer(torch.arange(x.shape[1]), self.inv_freq).repeat(1, 2)
                left, right = x.chunk(2, -1)
                return x * angle.cos() + torch.cat([-right, left], -1) * angle.sin()

            def forward(self, ids):
                x = self.norm(self.tokens(ids))
                q, k = self.turn(self.q(x)), self.turn(self.k(x))
                return self.head(
                    x + nn.functional.scaled_dot_product_attention(q, k, self.v(x))
                )

        def model():
            return Model()

    References
    ----------
    - Su et al. 2021, RoFormer: enhanced transformer with rotary position embedding.
    - Vaswani et al. 2017, Attention is all you need, section 3.5.
    - transformers, modeling_rope_utils.py: the scaled variants.
    - NovaSky-AI/SkyRL#1709, huggingface/transformers#48932: frequencies lost on the way.
    """

    code = "ATT703"
    name = "position-table"
    formula = (
        "inv_freq_i = base^(-2i/d)\nshare of the tokens = 1 / (1 + Var(positions) / Var(tokens))"
    )
    needs = frozenset({Need.WEIGHTS})
    optional = frozenset({Need.GRAPH, Need.THEORY})
    stages = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN, Stage.TRAINED})

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per kind of fault, naming all tables that have it."""
        yield from _stored(context)
        turned = list(rotations(context))
        faults: dict[tuple[Severity, str], list[Layer]] = {}
        for item in turned:
            found = _fault(item)
            if found is not None:
                faults.setdefault(found, []).append(item.layer)
        for (severity, fault), layers in faults.items():
            yield _fixed(severity, layers, None, f"the rotary tables of {layers[0].id}", fault)
        added = list({_table(addend): addend for addend in addends(context)}.values())
        for addend in added:
            yield from _added(context, addend, alone=not turned and len(added) == 1)


def _table(addend: Addend) -> str:
    """What is added: one table, however often (a loop that adds it in every step)."""
    return addend.layer.id if addend.param is None else addend.param.key


def _stored(context: Context) -> Iterator[Finding]:
    """Tensors called inv_freq: no other tensor has this name, and each holds frequencies."""
    params = (*context.model.loose, *(param for _, param in context.model.graph.params))
    seen: set[str] = set()
    for param in params:
        if not param.name.endswith("inv_freq") or param.name in seen or "float" not in param.dtype:
            continue
        seen.add(param.name)
        values = context.measures.read(param) if param.size > 1 else None
        if values is None or sum(side > 1 for side in values.shape) != 1:
            continue
        frequencies = np.asarray(values, dtype=np.float64).reshape(-1)
        if not np.isfinite(frequencies).all():
            continue  # told by non-finite
        fault = _frequencies_fault(frequencies, RELATIVE_ORDER * np.abs(frequencies[:-1]))
        if fault is not None:
            owner = context.measures.layer(param)
            layers = [owner] if owner is not None else []
            yield _fixed(fault[0], layers, param, param.name, fault[1])


def _frequencies_fault(values: Any, slack: Any) -> tuple[Severity, str] | None:
    """What is wrong with rotary frequencies, fastest first or last, all of them finite.

    Args:
        values: the frequencies; zeros do not turn (the rest of a partial rotation).
        slack: by how much one may be on the wrong side of the one before it.
    """
    values = np.abs(values)
    moving = values[values > 0]
    if not moving.size:
        return Severity.ERROR, "do not turn: all positions are the same"
    if moving.size > 1 and moving.max() / moving.min() - 1 < EQUAL:
        return Severity.ERROR, "turn at one frequency only"
    both = (values[1:] > 0) & (values[:-1] > 0)
    steps = np.diff(values)
    if (both & (steps > slack)).any() and (both & (steps < -slack)).any():
        return Severity.WARNING, "have frequencies in no order"
    return None


def _fault(item: Rotation) -> tuple[Severity, str] | None:
    if not np.isfinite(item.values).all():
        return Severity.ERROR, "are not finite"
    if not is_circle(item.values):
        return None
    if (item.values == item.values[0]).all():
        return Severity.ERROR, "do not turn: all positions are the same"
    found = rates(item.values)
    return None if found is None or len(found) < 2 else _frequencies_fault(found, ORDER)


def _added(context: Context, addend: Addend, *, alone: bool) -> Iterator[Finding]:
    param = addend.param
    if param is not None and param.trainable:
        if context.measures.stage(param) is not Stage.TRAINED:
            yield from _learned(context, addend, param)
        return
    values = addend.values
    if values is None or not values.size:
        return
    if not np.isfinite(values).all():
        if param is None:  # a parameter's are told by non-finite
            yield _fixed(Severity.ERROR, [addend.layer], None, _name(addend), "is not finite")
    elif not values.any():
        if alone and _sees_both_sides(context):
            fault = "is zero and never learned: all positions are the same"
            yield _fixed(Severity.WARNING, [addend.layer], param, _name(addend), fault)
    elif (values == values[0]).all() and _is_sinusoidal(values[0]):
        fault = "has the same row at every position"
        yield _fixed(Severity.WARNING, [addend.layer], param, _name(addend), fault)
    else:
        yield from _drowned(context, addend)


def _drowned(context: Context, addend: Addend) -> Iterator[Finding]:
    """Token vectors far below a fixed table: what can be changed is theirs."""
    table, tokens = addend.start, addend.tokens
    weight = table.weight if addend.embedded else None
    if weight is None or not weight.trainable or not tokens or not addend.power:
        return
    ratio = sqrt(tokens / addend.power)
    if ratio >= FAINT or context.measures.stage(weight) is Stage.TRAINED:
        return
    share = ratio * ratio / (1 + ratio * ratio)
    std = (context.measures.effective_std(weight) or 0.0) / ratio
    yield Finding(
        severity=Severity.INFO,
        confidence=Confidence.HIGH,
        layer=table.id,
        param=weight.name,
        layers=(table.id,),
        message=f"vectors of {table.id} start {ratio:.2g} times as wide as the fixed positions "
        f"that are added to them: {share:.2%} of the variance is tokens",
        evidence={"ratio": 1 / ratio, "token_share": share},
        why="the first layer sees the sum; what is a small part of its variance is a small part of "
        "every product until training has changed the scales",
        measured=f"rms of tokens over positions {ratio:.2g}",
        expected=f"about 1, at least {FAINT:g}",
        fix=Fix(
            "rescale",
            params=(weight.key,),
            arguments={"factor": 1 / ratio},
            code=f"torch.nn.init.normal_({weight.name}, std={std:.2g}), or multiply what is looked "
            "up by sqrt(width)",
        ),
    )


def _name(addend: Addend) -> str:
    kind = "table of positions"
    return f"the {kind} {addend.param.name}" if addend.param else f"the {kind} at {addend.layer.id}"


def _sees_both_sides(context: Context) -> bool:
    """Attention without a causal mask, which by itself would tell positions apart."""
    return any(
        layer.op is Op.ATTENTION and layer.attrs.get("causal") is False
        for layer in context.model.graph
    )


def _is_sinusoidal(row: Any) -> bool:
    """Sines beside cosines of the same angles, alternating or in halves."""
    half = len(row) // 2
    if len(row) % 2 or half < 2:
        return False
    return is_circle(row[::2] + 1j * row[1::2]) or is_circle(row[:half] + 1j * row[half:])


def _learned(context: Context, addend: Addend, param: Param) -> Iterator[Finding]:
    """A learned table much wider or narrower than the tokens it is added to."""
    moments = context.measures.moments(param)
    if moments is None or moments.non_finite or not addend.tokens or not addend.power:
        return
    ratio = sqrt(addend.power / addend.tokens)
    if NARROW <= ratio <= WIDE or (ratio < NARROW and not addend.embedded):
        return
    wide = ratio > WIDE
    share = 1 / (1 + ratio * ratio)
    faint = missing(context, addend.start) if wide else 1.0
    tokens = addend.start if faint > max(FAR, sqrt(addend.power) / USUAL) else None
    changed, factor = param, 1 / ratio
    if tokens is not None and tokens.weight is not None:
        changed, factor = tokens.weight, min(faint, ratio)
    yield Finding(
        severity=Severity.WARNING if wide else Severity.INFO,
        confidence=Confidence.HIGH if addend.embedded else Confidence.MEDIUM,
        layer=addend.layer.id,
        param=param.name,
        layers=tuple(
            dict.fromkeys(
                (addend.layer.id, addend.source, *((tokens.id,) if tokens is not None else ()))
            )
        ),
        message=f"the learned positions {param.name} are {ratio:.3g} times as wide as the tokens "
        f"they are added to: {share if wide else 1 - share:.2%} of the variance is "
        + ("tokens" if wide else "positions"),
        evidence={"ratio": ratio, "token_share": share},
        why="the first layer sees the sum; what is a small part of its variance is a small part of "
        "every product and gradient until training has changed the scales",
        measured=f"rms of positions over tokens {ratio:.3g}",
        expected=f"about 1, between {NARROW:.2g} and {WIDE:g}",
        fix=Fix(
            "rescale",
            params=(changed.key,),
            arguments={"factor": factor},
            code=f"multiply {changed.name} by {factor:.3g}",
        ),
    )


def _fixed(
    severity: Severity, layers: list[Layer], param: Param | None, subject: str, fault: str
) -> Finding:
    more = f" (and {len(layers) - 1} more)" if len(layers) > 1 else ""
    named = tuple(layer.id for layer in layers) or ((param.name,) if param is not None else ())
    return Finding(
        severity=severity,
        confidence=Confidence.HIGH,
        layer=named[0],
        param=param.name if param is not None else None,
        layers=named,
        message=f"{subject}{more} {fault}",
        evidence={"tables": max(len(layers), 1)},
        why="a fixed table has no gradient: what it does not tell about positions is never "
        "learned, and attention by itself is a function of a set",
        measured=fault,
        expected="finite, different at each position; rotary frequencies base^(-2i/d)",
        fix=Fix(
            "analytic",
            code="compute the table again after the weights are loaded: "
            "inv_freq = base ** (-torch.arange(0, d, 2) / d)",
        ),
    )
