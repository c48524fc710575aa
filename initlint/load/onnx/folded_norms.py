"""Batch normalisation that an exporter folded into the layer before it.

An export for inference multiplies the weights of a convolution by gain / sqrt(variance + eps) and
drops the normaliser. For a network that never ran this factor is 1, so what is left looks like a
plain network, while training would normalise. The normaliser is put back as a layer without
parameters wherever the exporter left a trace of it:

- PyTorch's dynamo exporter notes the rewriting rule (``FuseBatchNormIntoConv``);
- its TorchScript exporter renames weight and bias of such a convolution to ``onnx::Conv_<number>``
  (torch/csrc/jit/passes/onnx/eval_peephole.cpp), and of no other that has parameters of its own;
- TensorFlow names the operations of a normaliser ``batchnorm/mul_1``, ``batchnorm/add_1``
  (tf.nn.batch_normalization) or ``FusedBatchNormV3``, and tf2onnx keeps the name of the last
  operation that it merged;
- onnxruntime names fused weights ``ConvBnFusion_W_…`` (conv_bn_fusion.cc).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from initlint.load.onnx.values import Draft, Dynamic, Fixed, Origin, ParamDraft
from initlint.load.onnx_runnable import FoldedNorm
from initlint.model import Op, Role

EPS = 1e-5
"""Assumed guard of a folded normaliser: the default of PyTorch and onnx. Keras has 1e-3."""

_TRACED = frozenset({Op.CONV, Op.CONV_TRANSPOSE, Op.LINEAR, Op.MUL})
_SCRIPT = re.compile(r"onnx::Conv(?:Transpose)?_\d+$")
_TENSORFLOW = re.compile(
    r"(?P<scope>.+)/(?:batchnorm/(?:mul_1|add_1)|FusedBatchNorm(?:V\d)?)(?:__\d+)?$"
)
_RUNTIME = ("ConvBnFusion_W_", "ConvBnFusion_BN_B_")


def restore_norms(drafts: list[Draft]) -> list[Draft]:
    """The layers with folded normalisers put back, in execution order."""
    found: list[Draft] = []
    norms: dict[int, Draft] = {}
    for draft in drafts:
        if norms:
            draft.inputs = [
                (position, _after(value, norms) if value.output == 0 else value)
                for position, value in draft.inputs
            ]
        found.append(draft)
        name = _folded(draft)
        if name is None:
            continue
        if draft.op is Op.MUL:
            _becomes_norm(draft)
            continue
        norm = Draft(
            Op.BATCH_NORM,
            [(0, Dynamic(draft, 0, draft.shape))],
            [],
            {"eps": EPS, "folded": True},
            Origin(None, name, draft.origin.prefix, draft.origin.main, draft.origin.index),
            draft.shape,
            draft.outputs,
            draft.channel_axis,
            "",
            uses=draft.uses,
        )
        draft.outputs, draft.uses = [], 1
        norms[id(draft)] = norm
        found.append(norm)
    return found


def _after(value: Dynamic, norms: dict[int, Draft]) -> Dynamic:
    norm = norms.get(id(value.layer))
    return value if norm is None else replace(value, layer=norm)


def _folded(draft: Draft) -> str | None:
    """Name of the normaliser that was folded into a layer, or that an elementwise gain is left of.

    None when there is no trace of one.
    """
    proto = draft.origin.proto
    if proto is None or not draft.outputs or draft.op not in _TRACED:
        return None
    name = draft.origin.name
    # A node without a name goes by its output's, which is no operation's.
    tensorflow = _TENSORFLOW.match(proto.name) if "/" in name else None
    if draft.op is Op.MUL:
        gain = draft.params[0] if len(draft.params) == 1 and len(draft.inputs) == 1 else None
        vector = gain is not None and sum(side != 1 for side in gain.tensor.shape) <= 1
        return tensorflow["scope"] if tensorflow and vector else None
    weight = draft.param(Role.WEIGHT)
    if weight is None:
        return None
    meta = draft.origin.metadata
    if meta.folded:
        return meta.module or f"{name}/batch_norm"
    if tensorflow:
        return tensorflow["scope"]
    runtime = any(stored.startswith(_RUNTIME) for stored in weight.fixed.names)
    if runtime or (not meta.scopes and _script_folded(weight.fixed, draft.param(Role.BIAS))):
        return f"{name.lstrip('/')}/batch_norm"
    return None


def _script_folded(weight: Fixed, bias: ParamDraft | None) -> bool:
    """True when the TorchScript exporter renamed weight and bias as it does after folding."""
    return bias is not None and all(
        fixed.names and all(_SCRIPT.match(name) for name in fixed.names)
        for fixed in (bias.fixed, weight)
    )


def _becomes_norm(draft: Draft) -> None:
    """A per-channel gain that is all that inference left of a normaliser."""
    draft.op = Op.BATCH_NORM
    draft.attrs = {"eps": EPS, "folded": True}
    gain = draft.params[0]
    gain.role, gain.leaf = Role.GAIN, "weight"
    last = gain.fixed.shape[-1:] != (1,)
    draft.channel_axis = -1 if last else 1


def folded_values(drafts: Iterable[Draft]) -> tuple[FoldedNorm, ...]:
    """The values of the main graph that folded normalisers would produce."""
    found: list[FoldedNorm] = []
    for draft in drafts:
        if not draft.attrs.get("folded") or not draft.origin.main or not draft.outputs:
            continue
        layer = draft if draft.params else draft.inputs[0][1].layer
        tensor = layer.params[0].tensor
        width = tensor.size if draft.params else tensor.shape[0]
        found.append(FoldedNorm(draft.outputs[0], draft.channel_axis, width, tensor.dtype))
    return tuple(found)
