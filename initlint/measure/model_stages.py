"""Stages of the tensors of one model, each in the light of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from initlint.measure.folded_rows import scaled_rows
from initlint.measure.moments import array_moments
from initlint.measure.result import Family, Identification, Moments, Stage
from initlint.measure.scheme import identify
from initlint.measure.stage import (
    UNINFORMATIVE,
    WEIGHT_ROLES,
    Verdict,
    default_bound,
    is_certain,
    model_stage,
    never_stepped,
    tensor_stage,
)
from initlint.model import Kind, Layer, Model, Param, Tensor

Array = NDArray[Any]

RANK_SIDE, RANK_TOLERANCE = 64, 1e-5
"""Rows and columns from which a matrix is known to have rank one, up to the rounding of a product
in float32; no trained or drawn matrix comes that near by chance."""

MOSTLY = 0.5
"""Share of a network's weights that speaks for it when the rest is too small to be judged."""


class Numbers(Protocol):
    """What is measured about a model's tensors: `initlint.measure.measures.Measures`."""

    def layer(self, param: Param) -> Layer | None:
        """The layer that reads a parameter."""
        ...

    def moments(self, param: Param) -> Moments | None:
        """Its moments; None for meta tensors."""
        ...

    def identify(self, param: Param) -> Identification:
        """The schemes it is compatible with."""
        ...

    def duplicates(self, param: Param) -> tuple[tuple[int, ...], ...]:
        """Groups of equal output units."""
        ...

    def leading(self, param: Param, rows: int | None = None) -> Array | None:
        """All values, or the leading rows of a huge tensor; ``rows`` of them are enough."""
        ...

    def key(self, tensor: Tensor) -> Any:
        """Identity of stored elements under views."""
        ...


class ModelStages:
    """The stage of a model, and of each of its tensors in its light.

    Args:
        model: the model.
        numbers: its measurements, asked when a stage is.
        override: stage the user declared, for every tensor.
    """

    def __init__(self, model: Model, numbers: Numbers, override: Stage | None) -> None:
        self._model = model
        self._numbers = numbers
        self._override = override
        self._whole: Stage | None = None
        self._unmoved = False
        self._stages: dict[int, tuple[Param, Stage]] = {}
        self._computed: dict[Any, Stage] = {}
        self._copies: dict[int, tuple[Param, bool]] = {}
        self._folded: dict[Any, float | None] = {}

    def of(self, param: Param) -> Stage:
        """Stage of one tensor, in the light of its model.

        Inside a trained or mixed model a tensor counts as fresh only when that is certain: small
        trained tensors look Gaussian often enough. Inside a fresh model independent draws that fit
        no family come from one that has no name, as does every tensor where the loader knows it.
        """
        held = self._stages.get(id(param))
        if held is None:
            held = self._stages[id(param)] = param, self._find(param)
        return held[1]

    def _find(self, param: Param) -> Stage:
        if self._override is not None:
            return self._override
        layer, moments = self._numbers.layer(param), self._numbers.moments(param)
        if layer is None or moments is None:
            return Stage.UNKNOWN
        identification = self._numbers.identify(param)
        own = self._own_stage(layer, param, moments)
        whole = self.whole
        if own is Stage.FRESH and whole in (Stage.TRAINED, Stage.MIXED):
            return own if is_certain(identification, param) else Stage.UNKNOWN
        if whole is Stage.FRESH and identification.independent:
            return Stage.FRESH
        surely_fresh = self._model.fresh_hint or self._unmoved
        return Stage.FRESH if own is Stage.TRAINED and surely_fresh else own

    def _own_stage(self, layer: Layer, param: Param, moments: Moments) -> Stage:
        """Stage of one tensor from its own numbers, or from those that it is computed from.

        A mean plus noise, a sum with a low-rank product, a weight behind a softplus fit no family
        though every number in them was just drawn; so the matrices that the file holds decide.
        """
        identification = self._numbers.identify(param)
        own = tensor_stage(identification, moments, layer, param)
        if own is Stage.TRAINED and self._is_folded_draw(layer, param):
            return Stage.FRESH
        if identification.family is not Family.UNKNOWN or own is Stage.FRESH:
            return own
        if param.tensor is None or param.quantised or not param.tensor.operands:
            return own
        key = self._numbers.key(param.tensor)
        if key not in self._computed:
            held = {
                _stage_of_operand(layer, param, operand)
                for operand in param.tensor.operands
                if len(operand.shape) > 1
            }
            order = (Stage.TRAINED, Stage.FRESH)
            self._computed[key] = next((s for s in order if s in held), own)
        return self._computed[key]

    def _is_folded_draw(self, layer: Layer, param: Param) -> bool:
        """True for a draw whose rows carry the gains of a batch normaliser folded into them.

        A fresh normaliser only scales the layer's bias: nothing, or within PyTorch's bound times
        the largest gain.
        """
        if not self._model.connected or param.tensor is None or len(param.shape) < 2:
            return False
        bias = self._numbers.moments(layer.bias) if layer.bias is not None else None
        if layer.bias is not None and bias is None:
            return False
        key = self._numbers.key(param.tensor)
        if key not in self._folded:
            block = self._numbers.leading(param)
            self._folded[key] = scaled_rows(block) if block is not None else None
        gains = self._folded[key]
        most = bias.max_abs if bias is not None else 0.0
        return gains is not None and most <= default_bound(layer) * gains

    @property
    def whole(self) -> Stage:
        """Stage of the whole model: declared, known to the loader, or told by the weights."""
        if self._whole is None:
            self._whole = self._find_whole()
        return self._whole

    def _find_whole(self) -> Stage:
        if self._override is not None:
            return self._override
        if self._model.fresh_hint is True:
            return Stage.FRESH
        verdicts = self._verdicts()
        found = model_stage(verdicts)
        if found is Stage.UNKNOWN and self._model.fresh_hint is False:
            return Stage.TRAINED
        if found is Stage.UNKNOWN and self._mostly(verdicts, self._is_constant):
            return Stage.FRESH
        copied = found is Stage.UNKNOWN and self._mostly(verdicts, self._mostly_copies)
        if found is not Stage.FRESH and (copied or verdicts) and self._never_stepped(copied):
            self._unmoved = True
            return Stage.FRESH
        return found

    def _never_stepped(self, copied: bool) -> bool:
        if self._model.fresh_hint is False:
            return False
        quantised = any(param.quantised for _, param in self._model.graph.params)
        stored = self._model.kind is not Kind.ONNX
        return not quantised and never_stepped(
            self._model.graph, self._numbers.moments, stored=stored, speaking=copied
        )

    def _mostly(self, verdicts: Sequence[Verdict], odd: Callable[[Param], bool]) -> bool:
        """True when odd weight matrices hold most of a network of several layers.

        Training does not leave matrices of one value behind, since the gradients of different
        layers differ, nor units that are copies, beside biases that never moved. What else the
        network holds must be too small to speak against it.
        """
        if any(verdict.stage is not Stage.UNKNOWN for verdict in verdicts):
            return False
        weights = [
            param
            for layer, param in self._model.graph.params
            if param.role in WEIGHT_ROLES and param.trainable and len(param.shape) > 1
        ]
        known = (param for param in weights if self._numbers.moments(param) is not None)
        held = [param.size for param in known if odd(param)]
        return len(weights) > 1 and sum(held) >= MOSTLY * sum(param.size for param in weights)

    def _is_constant(self, param: Param) -> bool:
        constant = {Family.CONSTANT, Family.ONES, Family.ZEROS}
        return self._numbers.identify(param).family in constant

    def _verdicts(self) -> list[Verdict]:
        verdicts: list[Verdict] = []
        seen: set[Any] = set()
        for layer in self._model.graph:
            for param in layer.params:
                if param.role not in WEIGHT_ROLES or param.tensor is None:
                    continue
                key = self._numbers.key(param.tensor)
                moments = self._numbers.moments(param)
                if key in seen or moments is None:
                    continue
                seen.add(key)
                identification = self._numbers.identify(param)
                if identification.family in UNINFORMATIVE or self._mostly_copies(param):
                    continue
                stage = self._own_stage(layer, param, moments)
                certain = stage is Stage.FRESH and is_certain(identification, param)
                head = certain and self._model.connected and self._model.graph.is_head(layer.id)
                verdicts.append(Verdict(stage, param.size, certain, head))
        return verdicts

    def _mostly_copies(self, param: Param) -> bool:
        """True when at least half of the units equal another one, or all are multiples of one.

        Their draws decide nothing.
        """
        held = self._copies.get(id(param))
        if held is None:
            held = self._copies[id(param)] = param, self._find_copies(param)
        return held[1]

    def _find_copies(self, param: Param) -> bool:
        odd = (Family.UNKNOWN, Family.DETERMINISTIC)
        if self._numbers.identify(param).family not in odd or len(param.shape) < 2:
            return False
        copies = sum(len(group) - 1 for group in self._numbers.duplicates(param))
        return 2 * copies >= param.shape[0] or self._is_rank_one(param)

    def _is_rank_one(self, param: Param) -> bool:
        moments = self._numbers.moments(param)
        block = self._numbers.leading(param, RANK_SIDE)
        assert moments is not None
        assert block is not None
        if _has_minor(block.reshape(len(block), -1), moments.max_abs):
            return False
        corner = block.reshape(len(block), -1)[:RANK_SIDE, :RANK_SIDE].astype(np.float64)
        if min(corner.shape) < 2:
            return False
        row, column = np.unravel_index(np.abs(corner).argmax(), corner.shape)
        pivot = corner[row, column]
        if not np.isfinite(pivot) or pivot == 0:
            return False
        rest = corner - np.outer(corner[:, column], corner[row] / pivot)
        return bool(np.abs(rest).max() <= RANK_TOLERANCE * abs(pivot))


def _has_minor(matrix: Array, most: float) -> bool:
    """True when the first two rows and columns alone tell that a matrix is not of rank one.

    A matrix of rank one up to errors of t·p, p its largest magnitude, has minors of at most
    4 t (1 + t) p² + 2 t² p². Nearly every matrix is refused here, for four of its elements.

    Args:
        matrix: (units, features).
        most: magnitude that no finite element exceeds.
    """
    if min(matrix.shape) < 2:
        return False
    a, b, c, d = (float(matrix[i, j]) for i in (0, 1) for j in (0, 1))
    return abs(a * d - b * c) > 5 * RANK_TOLERANCE * most * most


def _stage_of_operand(layer: Layer, param: Param, operand: Tensor) -> Stage:
    part = replace(param, tensor=operand, shape=operand.shape, dtype=operand.dtype)
    array = operand.read()
    moments = array_moments(array, operand.dtype)
    return tensor_stage(identify(layer, part, array, moments), moments, layer, part)
