"""Which function handles which operator."""

from __future__ import annotations

from collections.abc import Callable

from initlint.load.onnx.builder import Builder
from initlint.load.onnx.call import Call
from initlint.load.onnx.values import Fixed, Value
from initlint.model import Op, Role

Result = Value | None | list[Value | None]
Handler = Callable[[Builder, Call], Result]

HANDLERS: dict[tuple[str, str], Handler] = {}
"""(domain, operator) to handler; a handler that returns None declines: the operator is OTHER."""

MICROSOFT = "com.microsoft"
ML = "ai.onnx.ml"


def handles(*operators: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Register a function for operators of a domain."""

    def register(function: Handler) -> Handler:
        for operator in operators:
            HANDLERS[(domain, operator)] = function
        return function

    return register


def other(builder: Builder, call: Call) -> list[Value | None]:
    """An operator outside the vocabulary; matrices it reads are its parameters."""
    params = [
        builder.param(Role.OTHER, value, f"input_{index}")
        for index, value in enumerate(call.inputs)
        if isinstance(value, Fixed)
        and value.floating
        and len(value.shape) >= 2
        and (value.stored or not value.small)
    ]
    operator = f"{call.domain}.{call.op}" if call.domain else call.op
    result = builder.emit(Op.OTHER, call, call.inputs, params, {"operator": operator})
    return builder.outputs(result, call)
