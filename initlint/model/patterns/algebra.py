"""Small polynomials written as arithmetic primitives, whatever their order and grouping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from initlint.model.op import Op
from initlint.model.patterns.draft import Draft, Ref, close, fixed_operand

Polynomial = tuple[float, ...]
"""Coefficients by rising power."""

_DEGREE = 3
"""The tanh form of GELU is cubic; nothing that matchers look for is higher."""

_VISITS = 24
"""Primitives that one polynomial may consist of; the tanh form of GELU needs nine."""

_ARITHMETIC = frozenset(
    {Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.NEG, Op.SQUARE, Op.POW, Op.CAST, Op.IDENTITY}
)


def _times(first: Polynomial, second: Polynomial) -> Polynomial | None:
    if len(first) + len(second) - 2 > _DEGREE:
        return None
    result = [0.0] * (len(first) + len(second) - 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            result[i + j] += a * b
    return tuple(result)


def _plus(first: Polynomial, second: Polynomial, sign: float = 1.0) -> Polynomial:
    size = max(len(first), len(second))
    left = (*first, *[0.0] * (size - len(first)))
    right = (*second, *[0.0] * (size - len(second)))
    return tuple(a + sign * b for a, b in zip(left, right, strict=True))


def _power(base: Polynomial, exponent: float) -> Polynomial | None:
    if exponent not in (1.0, 2.0, 3.0):
        return None
    result: Polynomial | None = base
    for _ in range(int(exponent) - 1):
        result = result and _times(result, base)
    return result


class _Expansion:
    """Expands one expression in powers of one tensor, within a budget of visits."""

    def __init__(self, draft: Draft, base: Ref) -> None:
        self._draft = draft
        self._base = draft.skip(base)
        self._visits = 0

    def of(self, ref: Ref) -> Polynomial | None:
        draft = self._draft
        ref = draft.skip(ref)
        if ref == self._base:
            return (0.0, 1.0)
        self._visits += 1
        layer = draft.layers[ref.layer]
        if self._visits > _VISITS or layer.params or layer.op not in _ARITHMETIC:
            return None
        parts: list[Polynomial] = []
        for operand in draft.inputs[layer.id]:
            expanded = self.of(operand)
            if expanded is None:
                return None
            parts.append(expanded)
        if "constant" in layer.attrs:
            constant = fixed_operand(layer)
            if constant is None:
                return None
            at = 0 if layer.attrs.get("constant_first") else len(parts)
            parts.insert(at, (constant,))
        return self._combine(layer.op, parts)

    def _combine(self, op: Op, parts: Sequence[Polynomial]) -> Polynomial | None:
        if op is Op.NEG and len(parts) == 1:
            return _times(parts[0], (-1.0,))
        if op is Op.SQUARE and len(parts) == 1:
            return _times(parts[0], parts[0])
        if len(parts) != 2:
            return None
        first, second = parts
        if op is Op.ADD:
            return _plus(first, second)
        if op is Op.SUB:
            return _plus(first, second, -1.0)
        if op is Op.MUL:
            return _times(first, second)
        if len(second) != 1:
            return None
        if op is Op.DIV:
            return _times(first, (1.0 / second[0],)) if second[0] else None
        return _power(first, second[0]) if op is Op.POW else None


def expand(draft: Draft, ref: Ref, base: Ref) -> Polynomial | None:
    """Coefficients of ``ref`` in powers of ``base``; None when it is no small polynomial of it."""
    polynomial = _Expansion(draft, base).of(ref)
    if polynomial is None:
        return None
    while len(polynomial) > 1 and polynomial[-1] == 0.0:
        polynomial = polynomial[:-1]
    return polynomial


def is_polynomial(found: Polynomial | None, wanted: Polynomial) -> bool:
    """Equality of all coefficients, up to rounding in half precision."""
    if found is None or len(found) != len(wanted):
        return False
    return all(close(a, b) if b else abs(a) < 1e-6 for a, b in zip(found, wanted, strict=True))


def candidates(draft: Draft, ref: Ref) -> Iterator[Ref]:
    """Tensors that an expression may be a polynomial of, the nearest first."""
    queue = [draft.skip(ref)]
    seen: list[Ref] = []
    while queue and len(seen) < _VISITS:
        item = queue.pop(0)
        if item in seen:
            continue
        seen.append(item)
        yield item
        layer = draft.layers[item.layer]
        if layer.op in _ARITHMETIC and not layer.params:
            queue.extend(draft.operands(layer))


def base_of(draft: Draft, ref: Ref, wanted: Polynomial) -> Ref | None:
    """The tensor of which an expression is the wanted polynomial."""
    for base in candidates(draft, ref):
        if is_polynomial(expand(draft, ref, base), wanted):
            return base
    return None
