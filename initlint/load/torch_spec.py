"""What a module spec means: import it, build it under a seed, find its inputs."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from initlint.load import LoadOptions
from initlint.load.torch_construct import collect, recording, source_sites
from initlint.load.torch_inputs import Inputs, from_npz, from_shape, from_value, guess
from initlint.load.torch_run import one_line, run_capture, user_frame
from initlint.load.torch_state import random_state, seed_everything
from initlint.load.torch_weights import unwrap
from initlint.model import LoadError, Model, Where


@dataclass(frozen=True, slots=True)
class Built:
    """A module that a spec gave.

    Attributes:
        module: the module.
        sites: where each submodule was constructed, by path.
        inputs: inputs that the factory returned along with it.
        source: the Python module that holds the spec's attribute.
        fresh: True when it was constructed here and no weights were loaded into it or trained.
    """

    module: Any
    sites: dict[str, Where] = field(default_factory=dict)
    inputs: Inputs | None = None
    source: ModuleType | None = None
    fresh: bool = False


def load_module_spec(spec: str, options: LoadOptions) -> Model:
    """See `initlint.load.torch_module.load_spec`."""
    built = build(spec, options)
    module = unwrap(built.module)[0]
    inputs = _inputs(built, module, options)
    if options.via is not None:
        return _exported(
            module, inputs, options, target=spec, sites=built.sites, fresh=built.fresh or None
        )
    return run_capture(
        built.module,
        inputs.args,
        inputs.kwargs or {},
        target=spec,
        seed=options.seed,
        sites=built.sites,
        guessed=inputs.guessed,
        drawn=inputs.drawn,
        notices=(inputs.notice,) if inputs.notice else (),
        fresh_hint=True if built.fresh else None,
    )


def capture_module(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: LoadOptions
) -> Model:
    """See `initlint.load.torch_module.capture`."""
    if not isinstance(module, torch.nn.Module):
        raise LoadError(f"expected a torch.nn.Module or a path, got {type(module).__name__}")
    if options.structure_only:
        module = _without_weights(module)
    inner = unwrap(module)[0]
    given = Inputs(args, kwargs) if args or kwargs else _inputs(Built(module), inner, options)
    if options.via is not None:
        name = type(inner).__name__
        return _exported(inner, given, options, target=name, sites=source_sites(inner))
    return run_capture(
        module,
        given.args,
        given.kwargs or {},
        seed=options.seed,
        sites=source_sites(inner),
        guessed=given.guessed,
        drawn=given.drawn,
        notices=(given.notice,) if given.notice else (),
    )


def _without_weights(module: Any) -> Any:
    """A copy of the module on the meta device; its weights are not copied."""
    twins: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        twin = tensor.detach().to("meta")
        if isinstance(tensor, torch.nn.Parameter):
            twin = torch.nn.Parameter(twin, requires_grad=tensor.requires_grad)
        twins[id(tensor)] = twin
    return copy.deepcopy(module, twins)


def _exported(
    module: Any,
    inputs: Inputs,
    options: LoadOptions,
    *,
    target: str,
    sites: dict[str, Where],
    fresh: bool | None = None,
) -> Model:
    """The module by way of the file format that ``options.via`` names."""
    if options.via != "onnx" or options.folder is None:
        raise LoadError(f"--via {options.via}: modules can be exported to onnx only")
    from initlint.load.torch_onnx import load_export

    return load_export(
        module,
        inputs,
        sites,
        folder=options.folder,
        target=target,
        seed=options.seed,
        fresh_hint=fresh,
    )


def _inputs(built: Built, module: Any, options: LoadOptions) -> Inputs:
    """Example inputs, by what the user said, else what stands beside the model, else a guess."""
    if options.input_file is not None:
        return from_npz(module, options.input_file)
    if options.input_shape is not None:
        return from_shape(module, options.input_shape, options.input_dtype, options.seed)
    if built.inputs is not None:
        return built.inputs
    for holder in (module, built.source):
        function = getattr(holder, "example_inputs", None)
        if callable(function):
            with random_state(options.seed):
                try:
                    return from_value(function())
                except Exception as error:  # the user's function may raise anything
                    message = f"example_inputs() raised {one_line(error)}{user_frame(error)}"
                    raise LoadError(message) from error
    array = getattr(module, "example_input_array", None)
    if array is not None:
        return from_value(array)
    return guess(module, options.seed)


def build(spec: str, options: LoadOptions) -> Built:
    """Import a spec and construct its module under ``options.seed``.

    Raises:
        LoadError: as `initlint.load.torch_module.load_spec` says.
    """
    place, _, attribute = spec.rpartition(":")
    with random_state(options.seed), recording(*_own_roots(place)), _watching() as loaded:
        source = _import(place, spec)
        target = _attribute(source, attribute, spec)
        if isinstance(target, torch.nn.Module):
            return Built(target, collect(target) or source_sites(target), None, source)
        result = _call(target, spec, options)
    inputs = None
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], torch.nn.Module):
        result, inputs = result[0], from_value(result[1])
    if not isinstance(result, torch.nn.Module):
        raise LoadError(
            f"{spec}: expected a torch.nn.Module or something that returns one, "
            f"got {type(result).__name__}"
        )
    config = getattr(result, "config", None)
    pretrained = bool(loaded) or bool(getattr(config, "_name_or_path", ""))
    return Built(result, collect(unwrap(result)[0]), inputs, source, not pretrained)


def attribute(spec: str) -> Any:
    """What ``file.py:name`` or ``package.module:name`` stands for, imported and not called.

    Raises:
        LoadError: it cannot be imported, or holds no such name.
    """
    place, separator, name = spec.rpartition(":")
    if not separator or not place or not name:
        raise LoadError(f"{spec}: expected file.py:name or package.module:name")
    return _attribute(_import(place, spec), name, spec)


def _call(target: Any, spec: str, options: LoadOptions) -> Any:
    if not callable(target):
        raise LoadError(f"{spec}: expected a module, a class or a function, got {target!r:.60}")
    arguments = dict(options.arguments)
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise LoadError(_bad_arguments(target, spec, arguments, error)) from error
    except ValueError:  # a builtin without a signature
        pass
    seed_everything(options.seed)
    try:
        if options.structure_only:
            with torch.device("meta"):
                return target(**arguments)
        return target(**arguments)
    except LoadError:
        raise
    except (Exception, SystemExit) as error:
        message = f"{spec}: building the model raised {one_line(error)}{user_frame(error)}"
        raise LoadError(message) from error


def _bad_arguments(target: Any, spec: str, arguments: dict[str, Any], error: TypeError) -> str:
    parameters = inspect.signature(target).parameters.values()
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.name not in arguments
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if missing:
        example = ", ".join(f'"{name}": …' for name in missing)
        return f"{spec} needs {', '.join(missing)}: give them with --args '{{{example}}}'"
    return f"{spec}: --args do not fit: {error}"


def _attribute(source: ModuleType, attribute: str, spec: str) -> Any:
    target: Any = source
    for name in attribute.split("."):
        if not hasattr(target, name):
            import difflib

            close = difflib.get_close_matches(name, dir(target), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise LoadError(f"{spec}: no {name!r} in {source.__name__}{hint}")
        target = getattr(target, name)
    return target


def _own_roots(place: str) -> list[str]:
    """The folder of the target's own code, also when it is an installed package."""
    if place.endswith(".py"):
        return [os.path.dirname(os.path.abspath(place))]
    try:
        found = importlib.util.find_spec(place.partition(".")[0])
    except (ImportError, ValueError):
        return []
    if found is None or found.origin is None:
        return []
    return [os.path.dirname(os.path.abspath(found.origin))] if found.has_location else []


def _import(place: str, spec: str) -> ModuleType:
    path = Path(place)
    is_file = place.endswith(".py")
    if is_file and not path.is_file():
        raise LoadError(f"{spec}: no file {place}")
    folder = str(path.resolve().parent) if is_file else os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return _import_file(path) if is_file else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and missing and place.startswith(missing):
            raise LoadError(
                f"{spec}: no module {missing!r} on the Python path (from {os.getcwd()})"
            ) from error
        where = user_frame(error)
        if isinstance(error, SyntaxError) and error.filename:
            where = f" at {error.filename}:{error.lineno}"
        raise LoadError(f"{spec}: importing raised {one_line(error)}{where}") from error


def _import_file(path: Path) -> ModuleType:
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    if known is not None:
        name = f"_initlint_target_{name}"
    found = importlib.util.spec_from_file_location(name, path.resolve())
    if found is None or found.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _weight_sources() -> Iterator[tuple[Any, str]]:
    """Functions through which weights that were not just drawn come into a module.

    Gradients count: who runs a backward pass while building trains, or adapts to data.
    """
    yield torch.nn.Module, "load_state_dict"
    yield torch, "load"
    yield torch.autograd, "backward"
    yield np, "load"
    if importlib.util.find_spec("safetensors") is not None:
        import safetensors.torch

        yield safetensors, "safe_open"
        yield from ((safetensors.torch, name) for name in ("safe_open", "load_file", "load"))


@contextmanager
def _watching() -> Iterator[list[str]]:
    """Notes whether weights were loaded or trained while a module was built.

    Weights that come by yet another road count as drawn; ``--stage trained`` says otherwise.
    """
    used: list[str] = []
    originals = [(owner, name, getattr(owner, name)) for owner, name in _weight_sources()]

    def noting(name: str, original: Any) -> Any:
        @functools.wraps(original, updated=())
        def call(*args: Any, **kwargs: Any) -> Any:
            used.append(name)
            return original(*args, **kwargs)

        return call

    for owner, name, original in originals:
        setattr(owner, name, noting(name, original))
    try:
        yield used
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
