"""Layer graphs made by hand from arrays, for rules' examples and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initlint.model.layer import Param, Role
from initlint.model.op import Op
from initlint.model.tensor import Array, from_array
from initlint.testing.builder import Builder, Value
from initlint.testing.recurrent import GATES

Weights = Array | Mapping[str, Array]
"""A packed array in `torch.nn` gate order, or one block per gate name."""

_RECURRENT_ROLES = (
    (Role.WEIGHT, "weight_ih"),
    (Role.RECURRENT_WEIGHT, "weight_hh"),
    (Role.BIAS, "bias_ih"),
    (Role.RECURRENT_BIAS, "bias_hh"),
)


class Network(Builder):
    """Builds a `LayerGraph` call by call, computing shapes on the way.

    Weights are in canonical orientation, ``(out, in/groups, *kernel)``. Every method names its
    layer ``op_1``, ``op_2``… unless told; a name with dots gives the scope, as module paths do.

    Example::

        net = Network()
        x = net.relu(net.linear(net.input(64), he_normal(net.rng, 256, 64)))
        net.output(net.linear(x, he_normal(net.rng, 10, 256)))
        model = net.model(fresh_hint=True)
    """

    # layers that own weights

    def _weights(
        self,
        name: str,
        weight: Array,
        bias: Array | None,
        trainable: bool,
        tied_to: str | None = None,
    ) -> list[Param]:
        common: dict[str, Any] = {"trainable": trainable}
        params = [self.param(Role.WEIGHT, f"{name}.weight", weight, tied_to=tied_to, **common)]
        if bias is not None:
            params.append(self.param(Role.BIAS, f"{name}.bias", bias, **common))
        return params

    def linear(
        self,
        x: Value,
        weight: Array,
        bias: Array | None = None,
        *,
        name: str | None = None,
        trainable: bool = True,
        tied_to: str | None = None,
    ) -> Value:
        """``x @ weight.T + bias``; weight ``(out, in)``."""
        name = self._name(Op.LINEAR, name)
        params = self._weights(name, weight, bias, trainable, tied_to)
        return self.layer(Op.LINEAR, x, params=params, name=name)

    def conv(
        self,
        x: Value,
        weight: Array,
        bias: Array | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        name: str | None = None,
        trainable: bool = True,
        transposed: bool = False,
        output_padding: int = 0,
    ) -> Value:
        """Convolution over 1, 2 or 3 spatial axes; weight ``(out, in/groups, *kernel)``."""
        op = Op.CONV_TRANSPOSE if transposed else Op.CONV
        name = self._name(op, name)
        kernel = weight.shape[2:]
        attrs: dict[str, Any] = {
            key: (value,) * len(kernel)
            for key, value in (("stride", stride), ("padding", padding), ("dilation", dilation))
        }
        if transposed:
            attrs["output_padding"] = (output_padding,) * len(kernel)
        params = self._weights(name, weight, bias, trainable)
        return self.layer(
            op, x, params=params, name=name, channel_axis=1, kernel=kernel, groups=groups, **attrs
        )

    def conv_transpose(
        self, x: Value, weight: Array, bias: Array | None = None, **settings: Any
    ) -> Value:
        """Transposed convolution; weight canonical, ``(out, in/groups, *kernel)``.

        ``settings`` are those of `conv`, and ``output_padding``.
        """
        return self.conv(x, weight, bias, transposed=True, **settings)

    def embedding(
        self,
        x: Value,
        weight: Array,
        *,
        name: str | None = None,
        trainable: bool = True,
        padding_idx: int | None = None,
    ) -> Value:
        """Rows of a table ``(rows, width)``."""
        name = self._name(Op.EMBEDDING, name)
        attrs = {} if padding_idx is None else {"padding_idx": padding_idx}
        params = self._weights(name, weight, None, trainable)
        return self.layer(Op.EMBEDDING, x, params=params, name=name, **attrs)

    def lstm(
        self,
        x: Value,
        weight_ih: Weights,
        weight_hh: Weights,
        bias_ih: Weights | None = None,
        bias_hh: Weights | None = None,
        **settings: Any,
    ) -> Value:
        """LSTM over ``(batch, time, features)``; gates input, forget, cell, output.

        Weights are packed arrays ``(4 * hidden, …)`` or one block per gate. ``settings``:
        ``reverse`` (the backward direction's four tensors), ``name``.
        """
        return self._recurrent(Op.LSTM, x, weight_ih, weight_hh, bias_ih, bias_hh, **settings)

    def gru(
        self,
        x: Value,
        weight_ih: Weights,
        weight_hh: Weights,
        bias_ih: Weights | None = None,
        bias_hh: Weights | None = None,
        **settings: Any,
    ) -> Value:
        """GRU; gates reset, update, new; otherwise as `lstm`."""
        return self._recurrent(Op.GRU, x, weight_ih, weight_hh, bias_ih, bias_hh, **settings)

    def rnn(
        self,
        x: Value,
        weight_ih: Array,
        weight_hh: Array,
        bias_ih: Array | None = None,
        bias_hh: Array | None = None,
        **settings: Any,
    ) -> Value:
        """Plain recurrent layer (``nonlinearity``: ``tanh`` or ``relu``); otherwise as `lstm`."""
        return self._recurrent(Op.RNN, x, weight_ih, weight_hh, bias_ih, bias_hh, **settings)

    def _recurrent(
        self,
        op: Op,
        x: Value,
        weight_ih: Weights,
        weight_hh: Weights,
        bias_ih: Weights | None = None,
        bias_hh: Weights | None = None,
        *,
        reverse: Sequence[Weights | None] = (),
        name: str | None = None,
        trainable: bool = True,
        **attrs: Any,
    ) -> Value:
        name = self._name(op, name)
        params: list[Param] = []
        for direction, tensors in enumerate([(weight_ih, weight_hh, bias_ih, bias_hh), reverse]):
            for tensor, (role, stem) in zip(tensors, _RECURRENT_ROLES, strict=False):
                suffix = "_reverse" if direction else ""
                full = f"{name}.{stem}_l0{suffix}"
                if tensor is not None:
                    blocks = self._gates(op, role, full, tensor, direction)
                    params += [replace(block, trainable=trainable) for block in blocks]
        hidden = next(p.shape[1] for p in params if p.role is Role.RECURRENT_WEIGHT)
        attrs |= {"hidden_size": hidden, "num_layers": 1, "batch_first": True}
        return self.layer(op, x, params=params, name=name, **attrs)

    def _gates(self, op: Op, role: Role, name: str, tensor: Weights, direction: int) -> list[Param]:
        gates = GATES[op]
        if isinstance(tensor, Mapping):
            tensor = np.concatenate([tensor[gate] for gate in gates])
        rows = tensor.shape[0] // len(gates)
        packed = from_array(name, np.asarray(tensor))
        blocks = [packed.take(0, rows * i, rows * (i + 1)) for i in range(len(gates))]
        return [
            Param(
                role,
                name,
                block.shape,
                block.dtype,
                block,
                gate=gate or None,
                direction=direction,
                stored_name=name,
                packed=len(gates),
            )
            for gate, block in zip(gates, blocks, strict=True)
        ]

    # normalisers

    def norm(
        self,
        op: Op,
        x: Value,
        gain: Array | None = None,
        shift: Array | None = None,
        *,
        name: str | None = None,
        trainable: bool = True,
        eps: float = 1e-5,
        **attrs: Any,
    ) -> Value:
        """A normaliser of the vocabulary with its gain and shift."""
        name = self._name(op, name)
        pairs = ((Role.GAIN, "weight", gain), (Role.SHIFT, "bias", shift))
        params = [
            self.param(role, f"{name}.{stem}", array, trainable=trainable)
            for role, stem, array in pairs
            if array is not None
        ]
        for role, stem in ((Role.RUNNING_MEAN, "running_mean"), (Role.RUNNING_VAR, "running_var")):
            if stem in attrs:
                array = attrs.pop(stem)
                params.append(self.param(role, f"{name}.{stem}", array, trainable=False))
        axis = -1 if op in (Op.LAYER_NORM, Op.RMS_NORM) or len(x.shape) == 2 else 1
        return self.layer(op, x, params=params, name=name, channel_axis=axis, eps=eps, **attrs)

    def _plain_norm(self, op: Op, x: Value, settings: dict[str, Any], axis: int) -> Value:
        units = x.shape[axis]
        if settings.pop("affine", True) and isinstance(units, int):
            settings.setdefault("gain", np.ones(units, np.float32))
            if op is not Op.RMS_NORM:
                settings.setdefault("shift", np.zeros(units, np.float32))
        return self.norm(op, x, **settings)

    def layer_norm(self, x: Value, **settings: Any) -> Value:
        """LayerNorm over the last axis; gain 1, shift 0 unless given (``affine=False``: none)."""
        return self._plain_norm(Op.LAYER_NORM, x, {"axis": -1, **settings}, -1)

    def rms_norm(self, x: Value, **settings: Any) -> Value:
        """RMSNorm over the last axis; gain 1 unless given."""
        return self._plain_norm(Op.RMS_NORM, x, {"axis": -1, **settings}, -1)

    def batch_norm(self, x: Value, **settings: Any) -> Value:
        """BatchNorm; running mean 0 and variance 1, gain 1, shift 0 unless given."""
        units = x.shape[1]
        settings.setdefault("running_mean", np.zeros(units or 1, np.float32))
        settings.setdefault("running_var", np.ones(units or 1, np.float32))
        return self._plain_norm(Op.BATCH_NORM, x, settings, 1)

    def group_norm(self, x: Value, groups: int, **settings: Any) -> Value:
        """GroupNorm; gain 1, shift 0 unless given."""
        return self._plain_norm(Op.GROUP_NORM, x, {"groups": groups, **settings}, 1)

    def instance_norm(self, x: Value, **settings: Any) -> Value:
        """InstanceNorm; gain 1, shift 0 unless given."""
        return self._plain_norm(Op.INSTANCE_NORM, x, settings, 1)

    # element-wise

    def activation(self, op: Op, x: Value, *, name: str | None = None, **attrs: Any) -> Value:
        """Any function of one input."""
        return self.layer(op, x, name=name, **attrs)

    def relu(self, x: Value, *, name: str | None = None) -> Value:
        """max(x, 0)."""
        return self.layer(Op.RELU, x, name=name)

    def leaky_relu(self, x: Value, slope: float = 0.01, *, name: str | None = None) -> Value:
        """max(x, slope x)."""
        return self.layer(Op.LEAKY_RELU, x, name=name, negative_slope=slope)

    def prelu(self, x: Value, slope: Array, *, name: str | None = None) -> Value:
        """Leaky ReLU with a trainable slope per channel (or one)."""
        name = self._name(Op.PRELU, name)
        params = [self.param(Role.SLOPE, f"{name}.weight", slope)]
        return self.layer(Op.PRELU, x, params=params, name=name)

    def gelu(self, x: Value, *, name: str | None = None, approximate: str = "none") -> Value:
        """X Φ(x)."""
        return self.layer(Op.GELU, x, name=name, approximate=approximate)

    def silu(self, x: Value, *, name: str | None = None) -> Value:
        """X σ(x)."""
        return self.layer(Op.SILU, x, name=name)

    def tanh(self, x: Value, *, name: str | None = None) -> Value:
        """Hyperbolic tangent."""
        return self.layer(Op.TANH, x, name=name)

    def sigmoid(self, x: Value, *, name: str | None = None) -> Value:
        """Logistic function."""
        return self.layer(Op.SIGMOID, x, name=name)

    def softmax(self, x: Value, axis: int = -1, *, name: str | None = None) -> Value:
        """Softmax along an axis."""
        return self.layer(Op.SOFTMAX, x, name=name, axis=axis)

    def dropout(self, x: Value, p: float = 0.5, *, name: str | None = None) -> Value:
        """Dropout; the forward pass here leaves values unchanged."""
        return self.layer(Op.DROPOUT, x, name=name, p=p)

    def _arithmetic(
        self, op: Op, x: Value, other: Value | float | Array, name: str | None, first: bool = False
    ) -> Value:
        if isinstance(other, Value):
            operands = (other, x) if first else (x, other)
            return self.layer(op, *operands, name=name)
        attrs: dict[str, Any] = {"constant": other}
        if first:
            attrs["constant_first"] = True
        return self.layer(op, x, name=name, **attrs)

    def add(self, x: Value, other: Value | float | Array, *, name: str | None = None) -> Value:
        """Sum of two tensors, or of a tensor and a fixed operand."""
        return self._arithmetic(Op.ADD, x, other, name)

    def sub(
        self,
        x: Value,
        other: Value | float | Array,
        *,
        name: str | None = None,
        constant_first: bool = False,
    ) -> Value:
        """Difference; ``constant_first`` gives ``other - x``."""
        return self._arithmetic(Op.SUB, x, other, name, constant_first)

    def mul(self, x: Value, other: Value | float | Array, *, name: str | None = None) -> Value:
        """Element-wise product of two tensors, or of a tensor and a fixed operand."""
        return self._arithmetic(Op.MUL, x, other, name)

    def div(
        self,
        x: Value,
        other: Value | float | Array,
        *,
        name: str | None = None,
        constant_first: bool = False,
    ) -> Value:
        """Quotient; ``constant_first`` gives ``other / x``."""
        return self._arithmetic(Op.DIV, x, other, name, constant_first)

    def pow(self, x: Value, exponent: Value | float, *, name: str | None = None) -> Value:
        """Power."""
        return self._arithmetic(Op.POW, x, exponent, name)

    def gain(self, x: Value, array: Array, *, name: str | None = None, **fields: Any) -> Value:
        """Product with a trainable operand: LayerScale, a ReZero scalar, a mask."""
        name = self._name(Op.MUL, name)
        return self.layer(
            Op.MUL, x, params=[self.param(Role.GAIN, name, array, **fields)], name=name
        )

    layer_scale = gain

    def shift(self, x: Value, array: Array, *, name: str | None = None, **fields: Any) -> Value:
        """Sum with a trainable operand that broadcasts over positions (a bias)."""
        name = self._name(Op.ADD, name)
        return self.layer(
            Op.ADD, x, params=[self.param(Role.SHIFT, name, array, **fields)], name=name
        )

    def table(self, x: Value, array: Array, *, name: str | None = None, **fields: Any) -> Value:
        """Sum with a trainable operand that differs by position (learned positions)."""
        name = self._name(Op.ADD, name)
        return self.layer(
            Op.ADD, x, params=[self.param(Role.TABLE, name, array, **fields)], name=name
        )

    # products, joins, reductions, shapes

    def matmul(self, x: Value, other: Value, *, name: str | None = None) -> Value:
        """Matrix product of two activations."""
        return self.layer(Op.MATMUL, x, other, name=name)

    def attention(
        self,
        query: Value,
        key: Value,
        value: Value,
        *,
        heads: int = 1,
        scale: float | None = None,
        causal: bool = False,
        name: str | None = None,
    ) -> Value:
        """Scaled dot-product attention over ``(batch, time, width)`` with ``heads`` heads.

        ``scale`` defaults to ``1 / sqrt(width / heads)``.
        """
        width = query.shape[-1] or 1
        scale = (width / heads) ** -0.5 if scale is None else scale
        attrs: dict[str, Any] = {
            "heads": heads,
            "head_dim": width // heads,
            "scale": scale,
            "causal": causal,
        }
        return self.layer(Op.ATTENTION, query, key, value, name=name, **attrs)

    def concat(self, *values: Value, axis: int = 1, name: str | None = None) -> Value:
        """Concatenation along an axis."""
        return self.layer(Op.CONCAT, *values, name=name, axis=axis)

    def split(
        self, x: Value, parts: int, axis: int = -1, *, name: str | None = None
    ) -> tuple[Value, ...]:
        """Equal parts along an axis."""
        first = self.layer(Op.SPLIT, x, name=name, axis=axis, parts=parts)
        return tuple(Value(first.layer, index, first.shape) for index in range(parts))

    def pool(self, x: Value, kind: str = "max", kernel: int | None = None, **attrs: Any) -> Value:
        """Pooling over windows of ``kernel`` per spatial axis, over all of space without one."""
        name = attrs.pop("name", None)
        if kernel is not None:
            axes = len(x.shape) - 2
            attrs = {key: (value,) * axes for key, value in attrs.items()}
            attrs["kernel"] = (kernel,) * axes
        return self.layer(Op.POOL, x, name=name, channel_axis=1, kind=kind, **attrs)

    def reduce(
        self,
        x: Value,
        kind: str = "mean",
        axis: int | tuple[int, ...] = -1,
        *,
        keepdims: bool = False,
        name: str | None = None,
    ) -> Value:
        """Mean, sum, maximum… along axes."""
        axes = (axis,) if isinstance(axis, int) else axis
        return self.layer(Op.REDUCE, x, name=name, kind=kind, axis=axes, keepdims=keepdims)

    def reshape(self, x: Value, *shape: int, name: str | None = None) -> Value:
        """Another shape; the batch axis is left out and stays."""
        return self.layer(Op.RESHAPE, x, name=name, shape=shape)

    def flatten(self, x: Value, *, name: str | None = None) -> Value:
        """All axes but the batch in one."""
        return self.reshape(x, -1, name=name)

    def transpose(self, x: Value, *perm: int, name: str | None = None) -> Value:
        """Axes permuted; the batch axis counts."""
        return self.layer(Op.TRANSPOSE, x, name=name, perm=perm)
