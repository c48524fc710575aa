"""fan_in and fan_out of every kind of layer, computed in this one place."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from initlint.model.layer import Layer, Param, Role
from initlint.model.op import Op


@dataclass(frozen=True, slots=True)
class Fans:
    """The two fans of a weight.

    Attributes:
        fan_in: products of a weight and an input that are summed into one output number,
            averaged over positions (no padding correction).
        fan_out: output numbers that one input number feeds, averaged over positions.
    """

    fan_in: float
    fan_out: float


def fans(layer: Layer, param: Param) -> Fans | None:
    """True fans of ``param`` in ``layer``; None where the idea does not apply (a bias, a gain).

    With canonical shape ``(out, in/groups, *kernel)``, kernel volume k, groups g, stride volume s:

    ============== ==================== =====================
    operator       fan_in               fan_out
    ============== ==================== =====================
    linear         in                   out
    conv           (in/g)·k             (out/g)·k/s
    conv_transpose (in/g)·k/s           (out/g)·k
    bilinear       in1·in2              out
    embedding      1 (a one-hot input)  width
    recurrent gate in, or hidden        hidden
    ============== ==================== =====================

    A transposed convolution spreads each input over k outputs, s of which share one input
    position, hence k/s terms per output. `torch.nn.init` computes (out/g)·k as *its* fan_in there,
    and out·k as fan_out of a grouped convolution; both differ from the truth.
    """
    shape = param.shape
    if param.role in (Role.RECURRENT_WEIGHT, Role.PROJECTION):
        return Fans(shape[1], shape[0]) if len(shape) == 2 else None
    if param.role is not Role.WEIGHT or len(shape) < 2:
        return None
    if layer.op is Op.EMBEDDING:
        return Fans(1, shape[1])
    if layer.op is Op.BILINEAR and len(shape) == 3:
        return Fans(shape[1] * shape[2], shape[0])
    kernel = prod(shape[2:])
    groups = int(layer.attrs.get("groups", 1)) or 1
    stride = prod(int(step) for step in layer.attrs.get("stride", ())) or 1
    if layer.op is Op.CONV:
        return Fans(shape[1] * kernel, shape[0] / groups * kernel / stride)
    if layer.op is Op.CONV_TRANSPOSE:
        return Fans(shape[1] * kernel / stride, shape[0] / groups * kernel)
    return Fans(shape[1] * kernel, shape[0] * kernel)
