"""Interception of one eager run: every function call, where it happened, and what it was fed."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from initlint.load.torch_functions import (
    COMPOSITE,
    DEVICE_MOVES,
    FACTORIES,
    FLIPS,
    NORMALISING,
    QUERIES,
    SAME_SHAPE,
    WEIGHTED,
    changes_in_place,
    function_name,
    in_pairs,
    map_tensors,
    plain_name,
    products,
    tensors_in,
    without_device,
    without_dropout,
)
from initlint.load.torch_weights import Names, Static

MARK = "_initlint_value"
"""Attribute on intermediate tensors that says where they came from; it dies with the tensor.

Either a `Ref`, or ``(sources, stack)`` of a `Static`.
"""


@dataclass(frozen=True, slots=True)
class Ref:
    """An activation: output ``output`` of the call number ``call``."""

    call: int
    output: int = 0


Value = Ref | Static


@dataclass(slots=True)
class Call:
    """One intercepted call that computes on activations.

    Attributes:
        index: number of the call in the run.
        key: identity of the call over runs with the same control flow.
        name: plain function name.
        path: module in whose forward it happened; ``visit`` counts that module's calls from 1.
        args, kwargs: what it was called with.
        value: where a tensor among the arguments came from.
        result: what it returned (the changed tensor for ``x[i] = y``).
    """

    index: int
    key: str
    name: str
    path: str
    visit: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Callable[[Any], Value]
    result: Any
    function: Any

    def arg(self, position: int, keyword: str, default: Any = None) -> Any:
        """An argument by position or keyword."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(keyword, default)

    @property
    def outputs(self) -> list[Any]:
        """The tensors it returned."""
        return list(tensors_in(self.result))


@dataclass(slots=True)
class _Frame:
    path: str
    visit: int
    module: Any
    counts: Counter[str] = field(default_factory=Counter)


class Tracer(TorchFunctionMode):  # type: ignore[misc]
    """Follows tensors through one forward pass.

    Args:
        names: the module's tensors and submodules.
        on_call: told of every call that computes on activations.
        before_write: told of parameters about to be changed in place.
        meta: run on meta tensors: shapes without arithmetic. What depends on parameters and
            constants alone is still computed for real.
        keep_dropout: False: dropout passes values on.
        device: the device that meta tensors pretend to live on.
    """

    def __init__(
        self,
        names: Names,
        on_call: Callable[[Call], None],
        *,
        before_write: Callable[[Any], None] | None = None,
        meta: bool = False,
        keep_dropout: bool = True,
        device: Any = "cpu",
    ) -> None:
        super().__init__()
        self.names = names
        self._on_call = on_call
        self._before_write = before_write
        self._meta = meta
        self._keep_dropout = keep_dropout
        self._device = torch.device(device)
        self._calls = 0
        self._statics: dict[int, Static] = {}
        for name, tensor in names.unique():
            sources = (name,) if name in names.parameters else ()
            self._statics[id(tensor)] = Static(tensor, sources)
        self._meta_twins: dict[int, Any] = {}
        self._visits: Counter[str] = Counter()
        self._stack: list[_Frame] = [_Frame("", 1, names.modules[""])]
        self._composites: dict[Any, Any] = {}

    # modules

    def enter(self, module: Any, args: Any) -> None:
        """A module's forward begins."""
        path = self.names.paths.get(id(module))
        if path is None or (path and path == self._stack[-1].path):
            self._stack.append(self._stack[-1])
            return
        self._visits[path] += 1
        self._stack.append(_Frame(path, self._visits[path], module))

    def leave(self, module: Any, args: Any, result: Any) -> None:
        """A module's forward ends; code hidden inside it becomes one opaque call."""
        frame = self._stack.pop()
        if frame.module is not module:
            return
        fed = [tensor for tensor in tensors_in(args) if isinstance(self.value(tensor), Ref)]
        hidden = [
            tensor
            for tensor in tensors_in(result)
            if isinstance(self.value(tensor), Static) and not self._known(tensor)
        ]
        if fed and hidden and len(hidden) == len(list(tensors_in(result))):
            self._stack.append(frame)
            self._record("module", tuple(fed), {"module": module}, tuple(hidden), module)
            self._stack.pop()

    def _known(self, tensor: Any) -> bool:
        return hasattr(tensor, MARK) or id(tensor) in self._statics

    # provenance

    def mark_fed(self, tensor: Any) -> Ref:
        """Say that a tensor is the next input of the network."""
        ref = Ref(self.next_index())
        setattr(tensor, MARK, ref)
        return ref

    def value(self, tensor: Any) -> Value:
        """Where a tensor came from; tensors never seen before are constants."""
        known = self._statics.get(id(tensor))
        if known is not None and known.tensor is tensor:
            return known
        mark = getattr(tensor, MARK, None)
        if isinstance(mark, Ref):
            return mark
        sources, stack = mark or ((), None)
        return Static(tensor, sources, stack)

    def next_index(self) -> int:
        """Number of the next call."""
        self._calls += 1
        return self._calls - 1

    # functions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one function and note what it did."""
        kwargs = kwargs or {}
        name = function_name(func)
        if name in QUERIES:
            if self._meta and name == "device":
                return self._device
            return func(*args, **kwargs)
        if name in COMPOSITE:
            with self:
                return self._traceable(func)(*args, **kwargs)
        plain = plain_name(name)
        if steps := products(plain, args):
            with self:
                return in_pairs(func, steps, args)
        if not self._keep_dropout:
            args, kwargs = without_dropout(plain, args, kwargs)
        if self._before_write is not None:
            self._guard(name, plain, args, kwargs)
        fed = [*tensors_in(args, 3), *tensors_in(kwargs, 3)]
        values = [self.value(tensor) for tensor in fed]
        result = self._run(func, name, args, kwargs, fed)
        if result is NotImplemented:
            return result
        target = args[0] if name == "__setitem__" else result
        if not isinstance(target, (torch.Tensor, tuple, list)):
            return result
        if name in FACTORIES:
            self._derive(plain, [], target)
        elif any(isinstance(value, Ref) for value in values) or self._is_layer(plain, args, kwargs):
            self._record(plain, args, kwargs, target, func)
        else:
            self._derive(plain, values, target)
        return result

    def _traceable(self, func: Any) -> Any:
        """A copy of a `torch.nn.functional` function whose body runs under this mode."""
        if func not in self._composites:
            scope = {**func.__globals__, "has_torch_function": lambda *_: False}
            copy = types.FunctionType(
                func.__code__, scope, func.__name__, func.__defaults__, func.__closure__
            )
            copy.__kwdefaults__ = func.__kwdefaults__
            self._composites[func] = copy
        return self._composites[func]

    def _guard(self, name: str, plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        renorm = plain.startswith("embedding") and kwargs.get("max_norm") is not None
        if not changes_in_place(name) and not renorm:
            return
        for tensor in args[1:2] if renorm else args[:1]:
            if self._before_write is not None and id(tensor) in self._statics:
                self._before_write(tensor)

    def _run(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], fed: list[Any]
    ) -> Any:
        if not self._meta or not any(tensor.device.type == "meta" for tensor in fed):
            return func(*args, **kwargs)
        if name in DEVICE_MOVES:
            args, kwargs = without_device(name, args, kwargs)
            if name != "to" or (len(args) == 1 and not kwargs):
                return args[0].view_as(args[0])
        plain = plain_name(name)
        if plain in SAME_SHAPE and args and args[0].device.type == "meta":
            if changes_in_place(name) or kwargs.get("inplace"):
                return args[0]
            return torch.empty_like(args[0])
        return func(*map_tensors(args, self._twin), **map_tensors(kwargs, self._twin))

    def _twin(self, tensor: Any) -> Any:
        """A meta tensor with the shape of a real one."""
        if tensor.device.type == "meta":
            return tensor
        if id(tensor) not in self._statics:
            return tensor.to("meta")
        if id(tensor) not in self._meta_twins:
            self._meta_twins[id(tensor)] = tensor.detach().to("meta")
        return self._meta_twins[id(tensor)]

    def _is_layer(self, plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """True for functions that make a layer even when their data is a learned constant.

        A normaliser applied by a module to its own parameter standardises a weight, which is part
        of computing that weight; applied to anything else it is a layer.
        """
        data = args[0] if args else kwargs.get("input")
        if not isinstance(data, torch.Tensor):
            return False
        if plain in WEIGHTED:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            weight_value = self.value(weight) if isinstance(weight, torch.Tensor) else None
            return isinstance(weight_value, Static) and bool(weight_value.sources)
        if plain not in NORMALISING:
            return False
        value = self.value(data)
        own = set(self._stack[-1].module._parameters)
        sources = value.sources if isinstance(value, Static) else ()
        here = self._stack[-1].path
        return bool(sources) and not any(
            source.rpartition(".")[0] == here and source.rpartition(".")[2] in own
            for source in sources
        )

    def _derive(self, plain: str, values: list[Value], result: Any) -> None:
        """Mark what was computed from parameters and constants alone."""
        statics = [value for value in values if isinstance(value, Static)]
        sources = tuple(dict.fromkeys(name for value in statics for name in value.sources))
        stack = next((value.stack for value in statics if value.stack is not None), None)
        if stack is not None and plain in FLIPS:
            stack = stack.transpose(-1, -2)
        for tensor in tensors_in(result):
            if id(tensor) not in self._statics:
                setattr(tensor, MARK, (sources, stack))

    def _record(
        self, plain: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, func: Any
    ) -> None:
        if plain in ("getitem", "index_select") and self._chooses(args, result):
            return
        frame = self._stack[-1]
        frame.counts[plain] += 1
        call = Call(
            index=self.next_index(),
            key=f"{frame.path}@{frame.visit}/{plain}:{frame.counts[plain]}",
            name=plain,
            path=frame.path,
            visit=frame.visit,
            args=args,
            kwargs=kwargs,
            value=self.value,
            result=result,
            function=func,
        )
        self._on_call(call)
        for number, tensor in enumerate(tensors_in(result)):
            self._statics.pop(id(tensor), None)
            setattr(tensor, MARK, Ref(call.index, number))

    def _chooses(self, args: tuple[Any, ...], result: Any) -> bool:
        """True, and noted, when data picks blocks of a stack of matrices (experts)."""
        value = self.value(args[0]) if isinstance(args[0], torch.Tensor) else None
        if not isinstance(value, Static) or not value.sources or args[0].ndim < 3:
            return False
        setattr(result, MARK, (value.sources, args[0]))
        return True


@contextmanager
def tracing(tracer: Tracer) -> Iterator[None]:
    """Run code under a tracer, its module hooks installed and the fused fast paths off."""
    from torch.nn.modules import module as hooks

    handles = (
        hooks.register_module_forward_pre_hook(tracer.enter),
        hooks.register_module_forward_hook(tracer.leave),
    )
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with tracer:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()
        for tensor in tracer.names.tensors.values():
            getattr(tensor, "__dict__", {}).pop(MARK, None)


LARGE = 1 << 28
"""Parameters above which a forward pass costs more than the seconds that torch takes to import
what its meta kernels need."""


def on_meta(names: Names) -> bool:
    """True for modules whose structure is found on meta tensors: there already, or too large."""
    tensors = names.tensors.values()
    if any(tensor.device.type == "meta" for tensor in tensors):
        return True
    return bool(sum(tensor.numel() for tensor in tensors) > LARGE)
