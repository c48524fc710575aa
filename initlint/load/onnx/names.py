"""What exporters say about where a node comes from: module paths, parameter names, source lines.

PyTorch's dynamo exporter leaves the traced call, the module path and the stack in the node's
metadata; its TorchScript exporter writes the module path into the node name. Both rename, merge
and transpose parameters, so an initializer's own name is only one witness among several.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from initlint.load.onnx.call import Call
from initlint.load.onnx.metadata import MAX_METADATA, QUOTED, properties
from initlint.load.onnx.values import Fixed
from initlint.model import Where

_FRAME = re.compile(r'File "([^"\n]{1,4096})", line (\d{1,9})(?:, in ([^\s]+))?')
_MADE = r"""(?:const|constant|cst|fold|lifted_tensor|initializer|tensor|param)
          (?:[_\W]?(?:fold)?(?:_opt)?[_\W]*\w*)?[\d:_]*"""
_GENERIC = re.compile(
    rf"""(?ix) ^(?:
        _*val_\d+ | onnx::\w* | \d+(?::\d+)? | _+\d+ | [/].* | v?_?\d+ | {_MADE}
        | (?:mul|add|sub|div|t|transpose|permute|view|reshape|linear|embedding|cat|expand|
          unsqueeze|squeeze|select|slice|split|arange|clone|to|pow|sqrt|rsqrt|mean|cos|sin)_?\d*
    )$"""
)
_GENERIC_AFTER = re.compile(rf"(?ix) ^(?: .*_output_\d+ | [\w/.]*[/_]{_MADE} )$")
"""Generic after anything else: asked for what has a separator, as it tries every place."""

_TURNED = re.compile(r"(?:permute|transpose|(?:numpy_)?t|mt)(?:_\d+)?")
"""How the traced graph calls a transposition; other names may be of slices of a parameter."""

_CONVERTED = re.compile(r"(?:_quantized|_quant|_Q[248](?:G\d+)?|_fp16|_float16|_bf16)$")
"""What quantisers and converters append to the name of a tensor they rewrite."""

_COMPUTED_FROM = re.compile(r"\.?parametrizations\.(\w+)\.original[1-9]?$|(?<=weight)_(?:orig|v)$")
"""Where PyTorch keeps what it computes a weight from: the matrix of a spectral norm, and of a
weight norm the direction, which has the weight's shape."""

_OWN = str(Path(__file__).parents[2])
"""This package, whose own frame is around what it exports."""

_PATH = re.compile(r"[A-Za-z_0-9][\w-]*(?:\.[\w-]+)+")
_GAIN_NAME = re.compile(
    r"(?i)^(?:.*[._/])?(?:alpha|beta|gamma|gain|gate|gates|rezero|res_?weight|res_?scale|"
    r"re_?zero|skip_?(?:gain|init|weight)|layer_?scale|logit_?scale|temperature|bias|weight|"
    r"scalar|lambda_?\w*|tau)(?:_?\d+)?$"
)


def computed_parameters(protos: Iterable[Any]) -> dict[str, str]:
    """Initializers that an exporter computed from one parameter, and the parameter.

    The dynamo exporter looks up the first rows of a table of positions, and transposes once per
    use, so that a loop over ``x @ w.T`` stores one matrix many times. It says in the metadata of
    values what it computed them from.
    """
    found = {}
    for proto in protos:
        for entry in proto.metadata_props:
            if entry.key == "pkg.onnxscript.optimizer.folded_from":
                sources = QUOTED.findall(entry.value[:MAX_METADATA])
                paths = [source for source in sources if is_path(source)]
                if len(paths) == 1:
                    found[proto.name] = paths[0]
                elif len(sources) == 1 and _TURNED.fullmatch(proto.name):
                    found[proto.name] = sources[0]
    return found


def where(proto: Any, name: str) -> Where:
    """Source position of a node: the innermost frame that is the user's, else none."""
    stack = properties(proto).get("pkg.torch.onnx.stack_trace", "")[:MAX_METADATA]
    frames = [match.groups() for match in _FRAME.finditer(stack)]
    frames = [frame for frame in frames if not frame[0].startswith(_OWN)]
    user = [frame for frame in frames if not _is_library(frame[0])]
    outside = user or [frame for frame in frames if not _is_torch(frame[0])]
    if not outside:
        return Where(node=name)
    file, line, function = outside[-1]
    return Where(file, int(line), name, function)


def _is_torch(path: str) -> bool:
    return bool(re.search(r"[/\\]site-packages[/\\]torch[/\\]|[/\\]torch[/\\]nn[/\\]", path))


def _is_library(path: str) -> bool:
    return bool(re.search(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python\d", path))


def is_generic(name: str) -> bool:
    """True for names that an exporter made up, which say nothing about the parameter."""
    if _GENERIC.match(name) is not None:
        return True
    return ("_" in name or "/" in name) and _GENERIC_AFTER.match(name) is not None


def is_path(name: str) -> bool:
    """True for a dotted module path."""
    return "." in name and _PATH.fullmatch(name) is not None


def mangled(name: str) -> str:
    """How torch.export spells a parameter path in a placeholder name.

    Source: torch/_export/utils.py, placeholder_naming_pass (a leading ``self_`` is cut, even that
    of ``self_attn``).
    """
    return re.sub(r"[^a-zA-Z0-9]", "_", name.removeprefix("self_")).lower()


class Modules:
    """Module paths of the whole model, to undo the spelling of placeholder names."""

    def __init__(
        self,
        parameters: Iterable[str],
        scopes: Iterable[str],
        shared: Iterable[tuple[str, ...]] = (),
    ) -> None:
        self._shared = {name: group for group in shared for name in group}
        self._named = parameters
        self._paths = scopes

    @cached_property
    def _parameters(self) -> dict[str, str]:
        """Stored names by their spelling in placeholders; made for the first placeholder."""
        return {mangled(name): name for name in self._named if not is_generic(name)}

    @cached_property
    def _scopes(self) -> dict[str, str]:
        """Module paths by their spelling in placeholders."""
        found: dict[str, str] = {}
        for scope in self._paths:
            for path in _prefixes(scope):
                found.setdefault(mangled(path), path)
        return found

    def first(self, name: str) -> str:
        """The first name of a parameter that several modules share."""
        return self._shared[name][0] if name in self._shared else name

    def parameter(self, reference: str, module: str) -> str:
        """The module path that a placeholder (``p_blocks_0_fc1_weight``) stands for.

        Of a parameter that several modules share, the name that it has in this one.
        """
        name = self._parameter(reference, module)
        group = self._shared.get(name, ())
        return next((other for other in group if other.rpartition(".")[0] == module), name)

    def _parameter(self, reference: str, module: str) -> str:
        body = reference[2:]
        known = self._parameters.get(body)
        if known is not None:
            return known
        inner = f"{mangled(module)}_" if module else ""
        if inner and body.startswith(inner):
            return f"{module}.{body[len(inner) :]}"
        cut = body.rfind("_")
        while cut > 0:
            path = self._scopes.get(body[:cut])
            if path is not None:
                return f"{path}.{body[cut + 1 :]}"
            cut = body.rfind("_", 0, cut)
        return body


def _prefixes(path: str) -> Iterable[str]:
    parts = path.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def script_module(name: str) -> str | None:
    """Module path in a TorchScript node name: ``/layer1/0/conv1/Conv`` gives layer1.0.conv1.

    A container that is called itself appears twice, as ``layer1`` and in ``layer1.0``.
    """
    if not name.startswith("/"):
        return None
    parts = name[1:].split("/")
    last = parts.pop()
    if last.lower().endswith("fusion") and parts:
        last = parts.pop()
    if not re.fullmatch(r"[A-Z]\w*", last):
        return None
    return ".".join(
        part
        for part, following in zip(parts, [*parts, ""][1:], strict=True)
        if not following.startswith(f"{part}.")
    )


def script_index(name: str) -> int:
    """The running number at the end of a TorchScript node name, 0 for the first."""
    match = re.search(r"_(\d{1,6})(?:_quant)?$", name)
    return int(match[1]) if match else 0


def from_torch(producer: str, stored: Iterable[str], nodes: Iterable[Any]) -> bool:
    """True when PyTorch exported the model, whatever tool wrote it again later."""
    if producer.lower().startswith("pytorch"):
        return True
    if any(name.startswith("onnx::") for name in stored):
        return True
    paths = [name for node in nodes if (name := node.name).startswith("/")]
    return any(script_module(path) for path in paths)


def names_a_parameter(call: Call, fixed: Fixed, torch: bool) -> bool:
    """True when a one-element constant is a parameter (ReZero's alpha), not a number.

    The traced call decides where there is one; else the constant must be an initializer with a
    name that is a module path, or the customary name of a learned scalar.
    """
    if not fixed.stored or not fixed.names:
        return False
    found = call.origin.metadata
    if found.target:
        return any(reference.startswith("p_") for reference in found.references)
    name = fixed.names[-1] if is_path(fixed.names[-1]) else fixed.names[0]
    if is_generic(name):
        return False
    return _GAIN_NAME.match(name) is not None or (torch and is_path(name))


@lru_cache(maxsize=4096)
def best_stored_name(names: tuple[str, ...]) -> str | None:
    """The most telling of the names a constant went by: the last module path, else the stored."""
    plain = [_CONVERTED.sub("", name) or name for name in names]
    for name in reversed(plain):
        if is_path(name) and not is_generic(name):
            return name
    if plain and not is_generic(plain[0]):
        return plain[0]
    return None


def public_name(stored: str) -> str:
    """The parameter that a user knows: ``fc.weight`` for what a parametrisation stores for it."""
    if "parametrizations" in stored or "weight_" in stored:
        stored = _COMPUTED_FROM.sub(lambda found: f".{found[1]}" * bool(found[1]), stored)
    return stored.lstrip(".")


def scopes_of(protos: Iterable[Any]) -> Iterable[str]:
    """Module paths that the metadata of nodes names."""
    for proto in protos:
        for entry in proto.metadata_props:
            if entry.key == "pkg.torch.onnx.name_scopes":
                yield from QUOTED.findall(entry.value[:MAX_METADATA])[:-1]
