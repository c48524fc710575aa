"""Linear models of ai.onnx.ml, whose weights are attributes."""

from __future__ import annotations

from typing import Any

import numpy as np

from initlint.load.onnx.builder import Builder
from initlint.load.onnx.call import Call
from initlint.load.onnx.operators.registry import ML, Result, handles
from initlint.load.onnx.values import Dynamic, Fixed, ParamDraft
from initlint.model import Op, Role, from_array

_TRANSFORMS = {"LOGISTIC": Op.SIGMOID, "SOFTMAX": Op.SOFTMAX, "SOFTMAX_ZERO": Op.SOFTMAX}


def _attribute(call: Call, name: str, shape: tuple[int, ...]) -> Fixed | None:
    given = call.attrs.get(name, ())
    if not isinstance(given, tuple) or not given:
        return None
    label = f"{call.origin.name}.{name}"
    array = np.array(given, dtype=np.float32).reshape(shape)
    return Fixed(from_array(label, array), (label,))


@handles("LinearClassifier", "LinearRegressor", domain=ML)
def _linear(builder: Builder, call: Call) -> Result:
    coefficients = call.attrs.get("coefficients", ())
    intercepts = call.attrs.get("intercepts", ())
    classes = call.attrs.get("classlabels_ints") or call.attrs.get("classlabels_strings") or ()
    count = len(coefficients) if isinstance(coefficients, tuple) else 0
    targets = call.integer("targets", 1)
    if call.op == "LinearClassifier":
        targets = len(intercepts) or len(classes) or 1
    if count == 0 or targets < 1 or count % targets:
        return None
    weight = _attribute(call, "coefficients", (targets, count // targets))
    if weight is None:
        return None
    params: list[ParamDraft] = [builder.param(Role.WEIGHT, weight, "coefficients")]
    bias = _attribute(call, "intercepts", (-1,))
    if bias is not None and bias.size == targets:
        params.append(builder.param(Role.BIAS, bias, "intercepts"))
    shape = (None, targets)
    transform = _TRANSFORMS.get(call.text("post_transform", "NONE"))
    part = "linear" if transform is not None else ""
    result = builder.emit(Op.LINEAR, call, [call.value(0)], params, shape=shape, part=part)
    if transform is not None:
        attrs: dict[str, Any] = {"axis": -1} if transform is Op.SOFTMAX else {}
        result = builder.emit(transform, call, [result], attrs=attrs, shape=shape)
    if call.op == "LinearRegressor":
        return [result]
    scores = Dynamic(result.layer, 0, result.shape)
    result.layer.outputs = [name for name in call.outputs[1:2] if name]
    return [Dynamic(result.layer, 1, None), scores]


@handles("Scaler", domain=ML)
def _scaler(builder: Builder, call: Call) -> Result:
    """``(x - offset) * scale``, fixed numbers from the training data."""
    value = call.value(0)
    if value is None:
        return None
    offset, scale = call.attrs.get("offset", ()), call.attrs.get("scale", ())
    moved = builder.emit(
        Op.SUB,
        call,
        [value],
        attrs={"constant": np.array(offset, dtype=np.float32)},
        shape=value.shape,
        part="offset",
    )
    attrs = {"constant": np.array(scale, dtype=np.float32)}
    return builder.emit(Op.MUL, call, [moved], attrs=attrs, shape=value.shape)


@handles("Normalizer", domain=ML)
def _normalizer(builder: Builder, call: Call) -> Result:
    attrs = {"axis": -1, "norm": call.text("norm", "MAX")}
    return builder.emit(Op.LP_NORM, call, [call.value(0)], attrs=attrs, shape=call.shape(0))
