"""Modules whose inside cannot be seen."""

from __future__ import annotations

from typing import Any

import torch

from initlint.load.torch_functions import tensors_in
from initlint.load.torch_products import Mapped, Use
from initlint.load.torch_tracer import Call, Ref
from initlint.load.torch_weights import Names, Static, class_name
from initlint.model import Op, Role

_QUANTISED = {"Linear": Op.LINEAR, "Conv": Op.CONV, "Embedding": Op.EMBEDDING}


def is_quantised(module: Any) -> bool:
    """True for torch's quantised layers, whose weight is a method that unpacks it."""
    weight = getattr(module, "weight", None)
    return callable(weight) and not isinstance(weight, torch.Tensor)


def opaque(call: Call, module: Any, names: Names) -> list[Mapped]:
    """A module whose inside cannot be seen: quantised layers, scripts, own autograd functions."""
    fed = [item for item in tensors_in(call.args) if isinstance(call.value(item), Ref)]
    if is_quantised(module):
        weight = module.weight()
        kind = type(module).__name__
        op = next((op for stem, op in _QUANTISED.items() if stem in kind), Op.OTHER)
        uses = [Use(Role.WEIGHT, Static(weight), "weight", (), {"quantised": True})]
        bias = module.bias() if callable(getattr(module, "bias", None)) else None
        if isinstance(bias, torch.Tensor):
            uses.append(Use(Role.BIAS, Static(bias.detach()), "bias"))
        attrs: dict[str, Any] = {}
        if op is Op.CONV:
            for name in ("stride", "padding", "dilation"):
                attrs[name] = tuple(getattr(module, name))
            attrs |= {"kernel": tuple(module.kernel_size), "groups": module.groups}
        return [Mapped(op, attrs, fed, uses, 1 if op is Op.CONV else -1)]
    params = [
        Use(Role.OTHER, Static(tensor, (name,)), "weight")
        for name, tensor in names.unique()
        if name in names.parameters and (not call.path or name.startswith(f"{call.path}."))
    ]
    return [Mapped(Op.OTHER, {"function": class_name(module)}, fed, params)]
