"""Writing HTML: one way to make an element, and everything in it escaped."""

from __future__ import annotations

from html import escape

Attribute = str | int | float | bool | None

VOID = frozenset({"input", "img", "line", "rect", "circle", "path", "polyline", "polygon", "meta"})


class Markup(str):
    """Text that is markup already; any other string is escaped."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: Attribute) -> Markup:
    """``<name …>children</name>``; a trailing underscore of an attribute is dropped, others are -.

    None and False leave an attribute out, True writes it without a value.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        parts.append(label if value is True else f'{label}="{escape(_plain(value))}"')
    if name in VOID and not children:
        return Markup(f"<{' '.join(parts)}/>")
    return Markup(f"<{' '.join(parts)}>{join(*children)}</{name}>")


def join(*children: str) -> Markup:
    """Children one after another, escaped unless they are markup."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    )


def _plain(value: str | int | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def number(value: float | int | None) -> str:
    """A number in at most three significant digits; an en dash where there is none."""
    if value is None:
        return "–"
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
