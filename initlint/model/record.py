"""Records that are immutable to the type checker and quick to make at run time.

``@record(frozen=True, slots=True)`` is ``dataclasses.dataclass`` to a type checker, which refuses
every assignment to a field. At run time nothing guards the fields: the guard of a frozen dataclass
makes each one cost a call of ``object.__setattr__``, four times what the assignment itself costs,
and a graph of 10^5 nodes makes 1.5 million records of ten fields. Equality and hash are those of a
frozen dataclass.

Records of one module's own are such, too: the class of a frozen dataclass takes twice as long to
make as one without a guard, and a lint imports a hundred of them. What users and third-party rules
hold in their hands (layers, parameters, findings) is frozen at run time as well. Where many of
those are made, `maker` saves half of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from dataclasses import dataclass

    def record(*, frozen, slots, eq=True):
        """As ``dataclass(frozen=…, slots=…, eq=…)``, without the guard on assignments."""
        return dataclass(slots=slots, eq=eq, unsafe_hash=frozen and eq)


__all__ = ["maker", "record"]

Given = ParamSpec("Given")
Made = TypeVar("Made")


def maker(kind: Callable[Given, Made]) -> Callable[Given, Made]:
    """What makes objects of a frozen dataclass with slots faster than calling the class does.

    Each object starts in an open class of the same fields, whose assignments cost no call, and
    becomes one of the frozen class once it is filled.
    """

    def freeze(self: Any) -> None:
        self.__class__ = kind

    frozen: Any = kind
    given = [(item.name, item.type, field(**_default(item))) for item in fields(frozen)]
    namespace = {"__post_init__": freeze}
    made: Any = make_dataclass(kind.__name__, given, namespace=namespace, slots=True, eq=False)
    return made  # type: ignore[no-any-return]


def _default(item: Any) -> dict[str, Any]:
    """The settings of a field that say what it holds where nothing is given."""
    defaults = {"default": item.default, "default_factory": item.default_factory}
    return {key: value for key, value in defaults.items() if value is not MISSING}
