"""Products of several tensors in Einstein's notation, as products of two."""

from __future__ import annotations

from collections.abc import Sequence


def pairwise(equation: str) -> tuple[str, ...]:
    """The products of two tensors, from left to right, that an equation of more is made of.

    Each keeps the labels that a later operand or the result has. Empty for one or two operands, for
    ellipses and implied results, and for a bilinear form, which is one layer.
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) < 3 or is_bilinear(terms, result):
        return ()
    steps, made = [], terms[0]
    for number, term in enumerate(terms[1:], start=2):
        later = "".join(terms[number:]) + result
        kept = "".join(dict.fromkeys(label for label in made + term if label in later))
        target = kept if number < len(terms) else result
        steps.append(f"{made},{term}->{target}")
        made = kept
    return tuple(steps)


def is_bilinear(terms: Sequence[str], result: str) -> bool:
    """True for ``x W y``: of three operands one meets each other one in a label of its own."""
    return len(terms) == 3 and any(_between(terms, index, result) for index in range(3))


def is_elementwise(equation: str) -> bool:
    """True for a product of two tensors, whatever their axes, that sums over none of them."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    return bool(arrow) and left.count(",") == 1 and set(left) - {",", "."} <= set(result)


def _between(terms: Sequence[str], index: int, result: str) -> bool:
    own = terms[index]
    first, second = (term for number, term in enumerate(terms) if number != index)
    summed = [label for label in own if label not in result]
    sides = [(label in first, label in second) for label in summed]
    shared = any(label in first + second for label in own if label in result)
    return sorted(sides) == [(False, True), (True, False)] and not shared
