"""Everything that is measured about one model's weights, computed once when first asked."""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.measure import leading as _leading
from initlint.measure import moments as _moments
from initlint.measure import spectrum, symmetry
from initlint.measure.kept import LEAST_KEPT, Kept
from initlint.measure.model_stages import ModelStages
from initlint.measure.result import Family, Identification, Moments, Stage
from initlint.measure.scheme import identify
from initlint.measure.spectrum import Orthogonality
from initlint.model import Kind, Layer, Model, Param, Tensor

Array = NDArray[Any]

CACHE_BYTES = 64 << 20
"""Arrays kept for the next question about the same tensor."""

LARGE = 1 << 20
"""Elements from which threads pay: smaller tensors spend so much of their time in the interpreter
that two threads wait for each other (60 matrices of side 512: 0.095 s by one, 0.11 s by two)."""

MOST_THREADS = 8
"""Threads at once: more of them only wait for memory."""

WAITING = 8
"""Tensors that may wait for their judgement while others are read: their leading rows are then
still in the page cache."""

UNKNOWN = Identification(Family.UNKNOWN)

Groups = tuple[tuple[int, ...], ...]
"""Groups of equal units; see `symmetry.duplicate_units`."""


class Measures:
    """Moments, schemes, stages, symmetry and spectra of a model's parameters.

    Methods take a `Param` of the model and cache by its key and the layer that reads it; parameters
    over the same stored tensor and views are measured once. A parameter without a tensor (a meta
    tensor) has no numbers: methods then return None, UNKNOWN or an empty tuple, as typed.

    Args:
        model: what to measure.
        stage_override: stage the user declared; it replaces what the numbers say, for every tensor.
        kept: measurements of these files known from elsewhere.

    Attributes:
        whole_elements: tensors up to this many elements are judged whole, larger ones by their
            leading rows (`leading`); `initlint.measure.leading.WHOLE_ELEMENTS` unless the model is
            very large.
    """

    def __init__(
        self, model: Model, stage_override: Stage | None = None, kept: Kept | None = None
    ) -> None:
        self.model = model
        self._kept = kept or Kept()
        self._layers: dict[str, Layer] = {}
        self._by_identity: dict[int, Layer] = {}
        for layer in model.graph:
            for param in layer.params:
                self._layers.setdefault(param.key, layer)
                self._by_identity.setdefault(id(param), layer)
        self._arrays: OrderedDict[Any, Array] = OrderedDict()
        self._cached_bytes = 0
        self._moments: dict[Any, Moments] = {}
        self._identified: dict[Any, Identification] = {}
        self._duplicates: dict[Any, Groups] = {}
        self._orthogonality: dict[Any, Orthogonality] = {}
        self._radius: dict[Any, float] = {}
        self._norm: dict[Any, float] = {}
        self._prepared = False
        self.whole_elements = _leading.whole_elements(model)
        # What was asked about an object before; the object is kept, so that its id stays its own.
        self._keys: dict[int, tuple[Tensor, Any]] = {}
        self._asked: dict[int, tuple[Tensor, Moments]] = {}
        self._identifications: dict[int, tuple[Param, Identification]] = {}
        self._stages = ModelStages(model, self, stage_override)

    @property
    def notices(self) -> tuple[str, ...]:
        """What was looked at in part only, one line."""
        if self.whole_elements >= _leading.WHOLE_ELEMENTS:
            return ()
        count = len(self._large(self.whole_elements + 1, None))
        return (
            f"a very large model: {count} tensors were judged by their first "
            f"{self.whole_elements:,} elements each; moments are of all elements",
        )

    def layer(self, param: Param) -> Layer | None:
        """The (first) layer that reads a parameter; None for loose parameters."""
        return self._by_identity.get(id(param)) or self._layers.get(param.key)

    def read(self, param: Param) -> Array | None:
        """The values in canonical orientation, read-only; None for meta tensors.

        Raises:
            LoadError: the file does not hold what its header says.
        """
        tensor = param.tensor
        if tensor is None:
            return None
        key = self.key(tensor)
        held = self._arrays.get(key)
        if held is not None:
            self._arrays.move_to_end(key)
            return held
        array = tensor.read()
        array = array.view()
        array.flags.writeable = False
        if array.nbytes <= CACHE_BYTES:
            self._arrays[key] = array
            self._cached_bytes += array.nbytes
            while self._cached_bytes > CACHE_BYTES:
                _, dropped = self._arrays.popitem(last=False)
                self._cached_bytes -= dropped.nbytes
        return array

    def leading(self, param: Param, rows: int | None = None) -> Array | None:
        """All values of an ordinary tensor, the leading rows of a huge one; None for meta tensors.

        Args:
            param: the parameter.
            rows: stored rows that are enough where the tensor is huge; None for as many as are
                judged.

        Raises:
            LoadError: the file does not hold what its header says.
        """
        tensor = param.tensor
        if tensor is None:
            return None
        if rows is None or tensor.size <= self.whole_elements:
            return self._block(param, tensor)
        return _leading.leading_block(
            tensor, min(rows * prod(tensor.stored_shape[1:]), self.whole_elements)
        )

    def moments(self, param: Param) -> Moments | None:
        """Moments of the parameter as the operator uses it; None for meta tensors."""
        tensor = param.tensor
        if tensor is None:
            return None
        asked = self._asked.get(id(tensor))
        if asked is not None:
            return asked[1]
        key = self.key(tensor)
        if key not in self._moments:
            found = self._kept.moments(tensor)
            if found is None:
                array = self.read(param) if tensor.size <= self.whole_elements else None
                if array is None:
                    found = _moments.moments(tensor)
                else:
                    found = _moments.array_moments(array, tensor.dtype)
                self._kept.keep_moments(tensor, found)
            self._moments[key] = found
        self._asked[id(tensor)] = tensor, self._moments[key]
        return self._moments[key]

    def key(self, tensor: Tensor) -> Any:
        """Identity of stored elements under views: equal keys hold equal values."""
        held = self._keys.get(id(tensor))
        if held is None:
            held = self._keys[id(tensor)] = tensor, _tensor_key(tensor)
        return held[1]

    def identify(self, param: Param) -> Identification:
        """The schemes a parameter is compatible with; UNKNOWN for meta and loose parameters."""
        held = self._identifications.get(id(param))
        if held is None:
            held = self._identifications[id(param)] = param, self._identify(param)
        return held[1]

    def _identify(self, param: Param) -> Identification:
        layer, moments = self.layer(param), self.moments(param)
        if layer is None or moments is None or param.tensor is None:
            return UNKNOWN
        if not self._prepared:
            self._prepare()
        key = (*_use(layer, param), self.key(param.tensor))
        found = self._identified.get(key)
        if found is not None:
            return found
        use = "" if self._kept.idle else self._use_name(layer, param)
        found = self._kept.identification(param.tensor, use) if use else None
        if found is None:
            block = self._block(param, param.tensor)
            if param.tensor.size > self.whole_elements:
                moments = _moments.array_moments(block, param.tensor.dtype)
            found = identify(layer, param, block, moments)
            if use:
                self._kept.keep_identification(param.tensor, use, found)
        self._identified[key] = found
        return found

    def _use_name(self, layer: Layer, param: Param) -> str:
        """What an identification depends on beside the tensor, as text."""
        (op, settings, weight), (role, *rest) = _use(layer, param)
        return repr((op.value, settings, weight, role.value, *rest, self.whole_elements))

    def _prepare(self) -> None:
        """Judge the large tensors of a module, or of a very large checkpoint, together.

        Who asks about one asks about all. The threads share nothing, so that the answers are
        those of one thread.
        """
        self._prepared = True
        if self.model.kind is Kind.TORCH:
            tasks = self._large(LARGE, self.whole_elements)
            if len(tasks) > 1:
                self._judge_in_memory(tasks)
        elif self.whole_elements < _leading.WHOLE_ELEMENTS:
            self._judge_while_reading(self._large(self.whole_elements + 1, None))

    def _large(self, least: int, most: int | None) -> dict[Any, tuple[Layer, Param, Tensor]]:
        """Tensors of so many elements with the layers that read them, each use once."""
        tasks: dict[Any, tuple[Layer, Param, Tensor]] = {}
        for layer in self.model.graph:
            for param in layer.params:
                tensor = param.tensor
                if tensor is not None and least <= param.size <= (most or param.size):
                    tasks.setdefault(
                        (*_use(layer, param), self.key(tensor)), (layer, param, tensor)
                    )
        return tasks

    def _judge_in_memory(self, tasks: dict[Any, tuple[Layer, Param, Tensor]]) -> None:
        """On all processors; for tensors in memory, which are seen without a copy."""
        with ThreadPoolExecutor(min(len(tasks), os.cpu_count() or 1, MOST_THREADS)) as pool:
            for key, (found, moments) in zip(tasks, pool.map(_judge, tasks.values()), strict=True):
                self._identified[key] = found
                self._moments.setdefault(self.key(tasks[key][2]), moments)

    def _judge_while_reading(self, tasks: dict[Any, tuple[Layer, Param, Tensor]]) -> None:
        """One thread judges leading rows while others read on, in the order of the files."""
        order = sorted(tasks.items(), key=lambda task: _leading.position(task[1][2]))
        waiting: deque[tuple[Any, Future[tuple[Identification, Groups]]]] = deque()

        def take() -> None:
            key, future = waiting.popleft()
            layer, param, tensor = tasks[key]
            self._identified[key], copies = future.result()
            self._duplicates.setdefault(self.key(tensor), copies)
            use = self._use_name(layer, param)
            self._kept.keep_identification(tensor, use, self._identified[key])

        with ThreadPoolExecutor(1) as pool:
            for key, (layer, param, tensor) in order:
                known = self._kept.identification(tensor, self._use_name(layer, param))
                if known is not None:
                    self._identified[key] = known
                self.moments(param)  # first: the leading rows then come from the page cache
                if known is None:
                    task = pool.submit(_judge_leading, layer, param, tensor, self.whole_elements)
                    waiting.append((key, task))
                while len(waiting) > WAITING:
                    take()
            while waiting:
                take()

    def measure_part(self, part: int, parts: int) -> None:
        """Measure every ``parts``-th share of the large tensors, from the ``part``-th on.

        Shares are runs of neighbours on disk of about equal size; each tensor is in one share.
        """
        large = self._large(LEAST_KEPT, None).values()
        tasks = sorted(large, key=lambda task: _leading.position(task[2]))
        total = sum(param.size for _, param, _ in tasks)
        before = 0
        mine: dict[Any, tuple[Layer, Param, Tensor]] = {}
        for layer, param, tensor in tasks:
            if before * parts // max(total, 1) == part:
                mine[(*_use(layer, param), self.key(tensor))] = layer, param, tensor
            before += param.size
        self._prepared = True
        self._judge_while_reading(
            {key: task for key, task in mine.items() if task[1].size > self.whole_elements}
        )
        for _, param, _ in mine.values():
            self.identify(param)

    def stage(self, param: Param) -> Stage:
        """Stage of one tensor, in the light of its model; see `ModelStages.of`."""
        return self._stages.of(param)

    @property
    def model_stage(self) -> Stage:
        """Stage of the whole model: declared, known to the loader, or told by the weights."""
        return self._stages.whole

    def duplicates(self, param: Param) -> Groups:
        """Groups of equal output units (rows of an embedding); see `symmetry.duplicate_units`.

        Tensors above `whole_elements` are compared on their leading block.
        """
        if param.tensor is None or not param.shape:
            return ()
        key = self.key(param.tensor)
        if key not in self._duplicates:
            block, moments = self._block(param, param.tensor), self.moments(param)
            most = None if moments is None else moments.max_abs
            self._duplicates[key] = symmetry.duplicate_units(block, param.tensor.dtype, most)
        return self._duplicates[key]

    def _block(self, param: Param, tensor: Tensor) -> Array:
        """The whole of an ordinary tensor, the leading block of a huge one."""
        if tensor.size > self.whole_elements:
            return _leading.leading_block(tensor, self.whole_elements)
        array = self.read(param)
        assert array is not None
        return array

    def orthogonality(self, param: Param) -> Orthogonality | None:
        """Distance from a scaled orthogonal matrix, gate by gate; None below two axes."""
        if param.tensor is None or len(param.shape) < 2:
            return None
        key = self.key(param.tensor)
        if key not in self._orthogonality:
            array = self.read(param)
            assert array is not None
            self._orthogonality[key] = spectrum.orthogonality(array)
        return self._orthogonality[key]

    def packed_orthogonality(self, param: Param) -> Orthogonality | None:
        """Orthogonality of all gates of a recurrent weight stacked as ``(gates·hidden, hidden)``.

        Keras makes this matrix orthogonal, and then no gate's block is.
        """
        layer = self.layer(param)
        if layer is None or param.tensor is None or len(param.shape) != 2:
            return None
        siblings = [
            other
            for other in layer.params
            if other.role is param.role
            and other.stored_name == param.stored_name
            and other.direction == param.direction
            and other.shape == param.shape
        ]
        blocks = [block for block in map(self.read, siblings) if block is not None]
        return spectrum.orthogonality(np.concatenate(blocks)) if blocks else None

    def spectral_radius(self, param: Param) -> float | None:
        """Largest eigenvalue magnitude; None unless the parameter is a square matrix."""
        if param.tensor is None or len(param.shape) != 2 or param.shape[0] != param.shape[1]:
            return None
        key = self.key(param.tensor)
        if key not in self._radius:
            array = self.read(param)
            assert array is not None
            self._radius[key] = spectrum.spectral_radius(array)
        return self._radius[key]

    def spectral_norm(self, param: Param) -> float | None:
        """Largest singular value of ``(out, everything else)``; None below two axes."""
        if param.tensor is None or len(param.shape) < 2:
            return None
        key = self.key(param.tensor)
        if key not in self._norm:
            array = self.read(param)
            assert array is not None
            self._norm[key] = spectrum.spectral_norm(array)
        return self._norm[key]

    def effective_std(self, param: Param) -> float | None:
        """Root mean square of the values at the operator: what scales a signal.

        Equals the standard deviation for centred weights and counts the mean where there is one.
        """
        moments = self.moments(param)
        return None if moments is None else float(np.sqrt(moments.second_moment))


def _judge(task: tuple[Layer, Param, Tensor]) -> tuple[Identification, Moments]:
    layer, param, tensor = task
    array = tensor.read()
    moments = _moments.array_moments(array, tensor.dtype)
    return identify(layer, param, array, moments), moments


def _judge_leading(
    layer: Layer, param: Param, tensor: Tensor, elements: int
) -> tuple[Identification, Groups]:
    """What is asked about every tensor, while its leading rows are here."""
    block = _leading.leading_block(tensor, elements)
    moments = _moments.array_moments(block, tensor.dtype)
    found = identify(layer, param, block, moments)
    return found, symmetry.duplicate_units(block, tensor.dtype, moments.max_abs)


_SETTINGS = ("groups", "stride", "kernel", "hidden_size")


def _use(layer: Layer, param: Param) -> tuple[Any, ...]:
    """What identification looks at beside values: layers that use them alike are judged once."""
    weight = layer.weight
    attrs = layer.attrs
    settings = tuple([str(attrs[name]) if name in attrs else "None" for name in _SETTINGS])
    return (
        (layer.op, settings, weight.shape if weight is not None else None),
        (param.role, param.gate, param.packed, param.shape, param.module, param.quantised),
    )


def _tensor_key(tensor: Tensor) -> Any:
    """Identity of stored elements under views: equal keys hold equal values.

    The source is compared by identity, because its content is what must not be read for this.
    """
    views = tuple([(view.kind, _frozen(view.argument)) for view in tensor.views])
    return tensor.name, id(tensor.source), tensor.stored_shape, views


def _frozen(argument: Any) -> Any:
    if isinstance(argument, tuple):
        return argument
    if np.isscalar(argument):
        return repr(argument)
    return id(argument) if isinstance(argument, np.ndarray) else tuple(np.atleast_1d(argument))
