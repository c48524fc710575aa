"""From layers in the making to the layer graph: names, ties, edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from initlint.load.onnx.metadata import NOTHING, Metadata
from initlint.load.onnx.names import (
    Modules,
    best_stored_name,
    is_generic,
    is_path,
    public_name,
    script_index,
    script_module,
    where,
)
from initlint.load.onnx.values import Draft, Fixed, ParamDraft
from initlint.model import Edge, Layer, Op, Param, Role, Tensor, Where
from initlint.model.record import maker

_new_layer, _new_param, _new_place = maker(Layer), maker(Param), maker(Where)

_SCAN = 1 << 16
"""Elements per piece when looking for a second value in a tensor: most have one at once."""


@dataclass(slots=True)
class Finished:
    """Layers, edges, and the value that each layer's output is.

    Attributes:
        outputs: by identity of the layer's `Where` and by its node name; pattern fusion hands
            either on from the layer whose output a fused layer has.
    """

    layers: list[Layer] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    outputs: dict[int, str | None] = field(default_factory=dict)
    by_node: dict[str | None, str | None] = field(default_factory=dict)

    def output(self, layer: Layer) -> str | None:
        """The main-graph value that holds a layer's output."""
        if id(layer.where) in self.outputs:
            return self.outputs[id(layer.where)]
        return self.by_node.get(layer.where.node)


class Finish:
    """Names and connects the layers of one model.

    Attributes:
        torch: True when the producer is PyTorch.
        modules: module paths of the model.
    """

    def __init__(self, modules: Modules, torch: bool) -> None:
        self._modules = modules
        self._torch = torch
        self._ids: Counter[str] = Counter()
        self._taken: set[str] = set()
        self._recurrent: Counter[tuple[str, ...]] = Counter()
        self._owners: dict[tuple[str, str | None, int], tuple[Param, Fixed]] = {}
        self._tables: dict[tuple[int, ...], dict[bytes | None, Param]] = {}
        self._constant: dict[int, bool] = {}

    def run(self, drafts: Sequence[Draft]) -> Finished:
        """All layers in the given order, which is an execution order."""
        layers = self._named(drafts)
        names = {id(draft): layer.id for draft, layer in zip(drafts, layers, strict=True)}
        edges = [
            Edge(names[id(value.layer)], layer.id, position, value.output, value.shape)
            for draft, layer in zip(drafts, layers, strict=True)
            for position, value in draft.inputs
        ]
        done = Finished(layers, edges)
        for draft, layer in zip(drafts, layers, strict=True):
            where = layer.where
            visible = draft.outputs[0] if draft.outputs and draft.origin.main else None
            done.outputs[id(where)] = visible
            if visible is not None and where.node is not None:
                done.by_node[where.node] = visible
        return done

    def _named(self, drafts: Sequence[Draft]) -> list[Layer]:
        """All layers with unique names.

        Layers with weights choose first: an exporter computes shapes and constants within the
        same module, before the layer that the module is.
        """
        layers = [self._layer(draft) for draft in drafts]
        named = [bool(layer.params) and _naming_param(layer.params) is not None for layer in layers]
        for index in sorted(range(len(layers)), key=named.__getitem__, reverse=True):
            layer = layers[index]
            name = self._unique(layer.id)
            if name != layer.id:
                layers[index] = replace(layer, id=name)
        return layers

    def _layer(self, draft: Draft) -> Layer:
        meta = draft.origin.metadata
        module = self._module(draft, meta)
        params = tuple(self._params(draft, meta, module)) if draft.params else ()
        return _new_layer(
            id=self._identity(draft, meta, module, params),
            op=draft.op,
            params=params,
            attrs=draft.attrs,
            scope=module or "",
            where=_where(draft, meta),
            output_shape=draft.shape,
            channel_axis=draft.channel_axis,
        )

    def _module(self, draft: Draft, meta: Metadata) -> str | None:
        """Path of the module that the node ran in, where the exporter tells it."""
        proto = draft.origin.proto
        if proto is None:
            return None
        if meta.scopes:
            return None if meta.folded else meta.module
        return script_module(proto.name) if self._torch else None

    def _params(self, draft: Draft, meta: Metadata, module: str | None) -> list[Param]:
        if draft.op in (Op.LSTM, Op.GRU, Op.RNN):
            names = self._recurrent_names(draft, meta, module)
        else:
            names = [self._name(param, draft, meta, module) for param in draft.params]
        return [
            self._param(param, name, draft, meta)
            for param, name in zip(draft.params, names, strict=True)
        ]

    def _param(self, draft: ParamDraft, name: str, layer: Draft, meta: Metadata) -> Param:
        trainable = draft.trainable
        if meta.references:
            parameter = self._modules.parameter
            mine = [ref for ref in meta.references if parameter(ref, meta.module) == name]
            trainable = trainable and (not mine or mine[0].startswith("p_"))
        tensor, fixed = draft.tensor, draft.fixed
        stored_name = fixed.names[0] if fixed.names else tensor.name
        key = (self._modules.first(name), draft.gate, draft.direction)
        owner = self._owners.get(key)
        param = _new_param(
            role=draft.role,
            name=name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            tensor=tensor,
            trainable=trainable,
            tied_to=None if owner is None else self._tied_to(*owner, draft, name, stored_name),
            gate=draft.gate,
            direction=draft.direction,
            stored_name=stored_name,
            packed=draft.packed,
            quantised=draft.quantised,
            module=None if meta.folded else meta.module_class or None,
        )
        if owner is not None:
            return param
        self._owners[key] = (param, fixed)
        return self._twin(param, tensor, layer.op)

    def _tied_to(
        self, first: Param, fixed: Fixed, draft: ParamDraft, name: str, stored_name: str
    ) -> str | None:
        """Key of the parameter that another layer owns, where this is the same one.

        Reading one parameter twice is tying; sharing storage under two parameter names is an
        exporter's merging of equal values. Vectors of one repeated value are never tied: nothing
        is learned from saying so, and mergers produce them.
        """
        same_named = first.stored_name == stored_name or not is_generic(name)
        if not same_named or first.size != draft.tensor.size or self._is_constant(draft):
            return None
        computed = draft.fixed.parameter is not None or fixed.parameter is not None
        return first.key if not computed or _same(first.tensor, draft.tensor) else None

    def _is_constant(self, draft: ParamDraft) -> bool:
        """As `is_constant`, remembered per stored tensor: unrolled steps ask again and again."""
        key = id(draft.fixed.tensor.source)
        if key not in self._constant:
            self._constant[key] = is_constant(draft.fixed.tensor)
        return self._constant[key]

    def _twin(self, param: Param, tensor: Tensor, op: Op) -> Param:
        """An embedding and a head with the same content are one parameter, stored twice.

        Exporters fold the transposition of a tied head into a second initializer. Chance cannot
        make two drawn matrices equal.
        """
        if param.role is not Role.WEIGHT or len(param.shape) != 2 or param.gate is not None:
            return param
        if param.size < _TWIN_ELEMENTS or op not in (Op.EMBEDDING, Op.LINEAR) or param.module:
            return param
        if op is Op.EMBEDDING:
            self._tables.setdefault(param.shape, {}).setdefault(_fingerprint(tensor), param)
            return param
        tables = self._tables.get(param.shape)
        mark = _fingerprint(tensor) if tables else None
        first = tables.get(mark) if tables and mark is not None else None
        if first is None or is_constant(tensor) or not _same(first.tensor, tensor):
            return param
        return replace(param, tied_to=first.key)

    def _name(self, param: ParamDraft, draft: Draft, meta: Metadata, module: str | None) -> str:
        """Full name of a parameter: traced reference, stored name, module path, in this order."""
        if param.name is not None:
            return param.name
        if not meta.folded and (meta.references or draft.bias_origin is not None):
            traced = self._traced(param, draft, meta)
            if traced is not None:
                return traced
        stored = param.fixed.parameter or best_stored_name(param.fixed.names)
        if stored is not None:
            return public_name(stored)
        if module:
            return f"{module}.{param.leaf}"
        return param.fixed.names[0] if param.fixed.names else f"{draft.origin.name}.{param.leaf}"

    def _traced(self, param: ParamDraft, draft: Draft, meta: Metadata) -> str | None:
        """The parameter that the traced call names for this operand."""
        if param.role is Role.BIAS and draft.bias_origin is not None:
            meta = draft.bias_origin.metadata
        if not meta.references:
            return None
        names = [self._modules.parameter(ref, meta.module) for ref in meta.references]
        taken = {name for other in draft.params if other is not param for name in other.fixed.names}
        names = [name for name in names if name not in taken or name in param.fixed.names]
        for name in names:
            if name in param.fixed.names or name.rpartition(".")[2] == param.leaf:
                return name
        shift = param.role in (Role.BIAS, Role.SHIFT)
        sides = [name for name in names if _is_bias_name(name) == shift]
        if not sides:
            ordered = names[::-1] if "addmm" in meta.target or "baddbmm" in meta.target else names
            sides = ordered[1:2] if shift and len(draft.params) > 1 else ordered[:1]
            if not shift and any(_is_bias_name(name) for name in sides):
                return None  # the weight reaches the call through another, such as a transposition
        if param.role in (Role.RUNNING_MEAN, Role.RUNNING_VAR):
            sides = [name for name in names if name.endswith(param.leaf)]
        return sides[0] if sides else None

    def _recurrent_names(self, draft: Draft, meta: Metadata, module: str | None) -> list[str]:
        """Names of packed recurrent parameters: PyTorch's where it is the producer."""
        key = (draft.op.value, module or "", " ".join(meta.references))
        layer = self._recurrent[key] if meta.references else 0
        self._recurrent[key] += 1
        if not meta.references and module is not None and draft.origin.proto is not None:
            layer = script_index(draft.origin.proto.name)
        directions = sorted({param.direction for param in draft.params})
        blocks = [ref for ref in meta.references if ref.startswith("p_")]
        per = 4 if any("bias" in ref for ref in blocks) else 2
        start = layer * per * len(directions)
        found: list[str] = []
        for param in draft.params:
            position = start + directions.index(param.direction) * per
            offset = {"weight_ih": 0, "weight_hh": 1, "bias_ih": 2, "bias_hh": 3}.get(param.leaf)
            if blocks and offset is not None and offset < per and position + per <= len(blocks):
                ref = blocks[position + offset]
                found.append(self._modules.parameter(ref, meta.module))
                continue
            stored = best_stored_name(param.fixed.names)
            if stored is None and module is not None and self._torch:
                suffix = "_reverse" if param.direction else ""
                stem = f"{module}." if module else ""
                stored = f"{stem}{param.leaf}_l{layer}{suffix}"
            elif param.leaf.startswith("bias"):
                stored = f"{stored or param.fixed.names[0]}.{param.leaf}"
            found.append(public_name(stored or param.fixed.names[0]))
        return found

    def _identity(
        self, draft: Draft, meta: Metadata, module: str | None, params: Sequence[Param]
    ) -> str:
        """Module path where known, else the node's name."""
        weight = _naming_param(params) if params else None
        origin = draft.origin
        base = ""
        if origin.proto is None:
            base = origin.name
            if draft.part == "output":
                return f"output:{base}"
        elif weight is not None and self._names_a_layer(weight.name, module):
            several = any(ref.endswith("_weight_ih_l1") for ref in meta.references)
            stem = _stem(weight.name, weight, several)
            foreign = bool(module) and not f"{stem}.".startswith(f"{module}.")
            base = (module or "") if foreign and meta.module_class.startswith("torch.") else stem
        elif module and meta.scopes and _is_leaf_class(meta.module_class):
            base = module
        elif module is not None and meta.scopes:
            last = meta.scopes[-1] if meta.scopes[-1] else origin.name
            base = f"{module}/{last}" if module else last
        if not base:
            base = f"{origin.prefix}{origin.name}".lstrip("/") or str(draft.op)
        elif origin.prefix and not origin.main and module is None:
            base = f"{origin.prefix}{base}".lstrip("/")
        return f"{base}/{draft.part}" if draft.part and draft.part != "output" else base

    def _names_a_layer(self, name: str, module: str | None) -> bool:
        """True for a module path, and for a parameter that the outermost PyTorch module holds."""
        return is_path(name) or (self._torch and not module and not is_generic(name))

    def _unique(self, name: str) -> str:
        candidate = name
        while candidate in self._taken:
            self._ids[name] += 1
            candidate = f"{name}#{self._ids[name] + 1}"
        self._taken.add(candidate)
        return candidate


_NAMING_ROLES = (Role.WEIGHT, Role.GAIN, Role.SLOPE, Role.RECURRENT_WEIGHT)

_TWIN_ELEMENTS = 256
"""Smallest matrix compared with others by content; heads and tables of real models are larger."""

_READ_WHOLE = 1 << 12
"""Elements that one read takes in less time than sixteen reads of one element each."""


def _naming_param(params: Sequence[Param]) -> Param | None:
    """The parameter that names its layer."""
    for param in params:
        if param.role in _NAMING_ROLES:
            return param
    return None


def _stem(name: str, param: Param, several: bool) -> str:
    """Module path of a parameter: the name without its last part when that is conventional.

    A recurrent module of ``several`` layers has a path for each.
    """
    head, _, leaf = name.rpartition(".")
    if several and leaf == "weight_ih_l0":
        return f"{head}.l0"
    if leaf in ("weight", "kernel", "gamma", "scale", "embedding", "w", "W", "weight_ih_l0"):
        return head or (name if leaf != "weight" else "")
    if leaf.startswith("weight_ih_l") and param.gate is not None:
        return f"{head}.l{leaf[len('weight_ih_l') :].removesuffix('_reverse')}"
    if leaf.endswith("_weight"):
        return f"{head}.{leaf[: -len('_weight')]}"
    return name


def _is_leaf_class(name: str) -> bool:
    """True for framework modules that do one thing, so that their path names the layer."""
    return name.startswith("torch.nn.modules.") and not name.startswith(
        ("torch.nn.modules.container.", "torch.nn.modules.transformer.")
    )


def _is_bias_name(name: str) -> bool:
    leaf = name.rpartition(".")[2].lower()
    return "bias" in leaf or leaf in ("beta", "shift", "b")


def _where(draft: Draft, meta: Metadata) -> Where:
    proto = draft.origin.proto
    if proto is None:
        return Where()
    name = f"{draft.origin.prefix}{draft.origin.name}"
    return _new_place(node=name) if meta is NOTHING else where(proto, name)


def is_constant(tensor: Tensor) -> bool:
    """True when all elements are the same; stops at the first that differs."""
    if tensor.dtype == "string":
        return False
    first: float | None = None
    for piece in tensor.chunks(_SCAN):
        if piece.size == 0:
            continue
        if first is None:
            first = float(piece[0])
        if piece[-1] != first or not (piece == first).all():  # drawn numbers differ at once
            return False
    return True


def _same(one: Tensor | None, other: Tensor) -> bool:
    """True when two tensors hold the same numbers."""
    if one is None or one.shape != other.shape:
        return False
    return one is other or np.array_equal(one.read(), other.read())


def _fingerprint(tensor: Tensor) -> bytes | None:
    """A few elements in canonical order; None when reading them would mean reading everything."""
    kinds = [view.kind for view in tensor.views]
    if kinds not in ([], ["transpose"]) or len(tensor.shape) != 2:
        return None
    rows, columns = tensor.shape
    spots = [(row * rows // 4, column * columns // 4) for row in range(4) for column in range(4)]
    turned = bool(kinds)
    stored = tensor.stored_shape[1]
    places = [column * stored + row if turned else row * stored + column for row, column in spots]
    if tensor.size <= _READ_WHOLE:
        found = tensor.source.read(0, tensor.size)[places]
    else:
        found = np.array([tensor.source.read(at, at + 1)[0] for at in places])
    return found.astype(np.float32).tobytes()
