"""Initializers of an ONNX file replaced byte for byte, nothing else touched.

The file is not parsed and written again, which would lose unknown fields and change orders and
encodings: the spans of the elements are located in the wire format (field 7 of ModelProto is the
graph, field 5 of GraphProto an initializer, field 5 of a Constant node its attribute;
onnx/onnx.proto) and overwritten. Elements that fields of another width hold (half precision in
``int32_data``) become ``raw_data``, and only the lengths around them change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from initlint.load.onnx.wire import GRAPH, INITIALIZER, NAME, RAW_DATA, Field, fields, to_varint
from initlint.model import LoadError

_NODE = 1
_OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN, _ATTRIBUTE_TENSOR = 2, 4, 5, 7, 5
_EXTERNAL = 13
_ELEMENTS = {4: "float_data", 5: "int32_data", 10: "double_data"}
_KEY, _VALUE = 1, 2


@dataclass(frozen=True, slots=True)
class Stored:
    """One initializer in the file, or the tensor of a Constant node.

    Attributes:
        message: the field that holds it.
        around: the messages around that one, from the graph inwards.
        elements: the fields that hold its elements (``raw_data`` or one of the typed ones).
        external: where its elements lie when in another file: ``location``, ``offset``.
    """

    message: Field
    around: tuple[Field, ...]
    elements: tuple[Field, ...]
    external: Mapping[str, str]


def locate(data: bytes) -> dict[str, Stored]:
    """The initializers of the main graph, and what its Constant nodes hold, by name."""
    view = memoryview(data)
    found: dict[str, Stored] = {}
    for graph in _graphs(view):
        for message in fields(view, graph.value, graph.stop):
            if message.number == INITIALIZER and message.wire == 2:
                name, stored = _tensor(view, message, (graph,))
                found[name] = stored
            elif message.number == _NODE and message.wire == 2:
                found.update(_constant(view, graph, message))
    return found


def _constant(view: memoryview, graph: Field, node: Field) -> dict[str, Stored]:
    """The tensor of a Constant node by the name of its output; empty for other nodes."""
    parts = [part for part in fields(view, node.value, node.stop) if part.wire == 2]
    texts = {
        part.number: bytes(view[part.value : part.stop]).decode("utf-8", "surrogateescape")
        for part in parts
        if part.number in (_OUTPUT, _OP_TYPE, _DOMAIN)
    }
    if texts.get(_OP_TYPE) != "Constant" or texts.get(_DOMAIN):
        return {}
    return {
        texts.get(_OUTPUT, ""): _tensor(view, held, (graph, node, attribute))[1]
        for attribute in parts
        if attribute.number == _ATTRIBUTE
        for held in fields(view, attribute.value, attribute.stop)
        if held.number == _ATTRIBUTE_TENSOR and held.wire == 2
    }


def _graphs(view: memoryview) -> list[Field]:
    return [item for item in fields(view, 0, len(view)) if item.number == GRAPH and item.wire == 2]


def _tensor(view: memoryview, message: Field, around: tuple[Field, ...]) -> tuple[str, Stored]:
    name = ""
    elements: list[Field] = []
    external: dict[str, str] = {}
    for item in fields(view, message.value, message.stop):
        if item.number == NAME:
            name = bytes(view[item.value : item.stop]).decode("utf-8", "surrogateescape")
        elif item.number == RAW_DATA or item.number in _ELEMENTS:
            elements.append(item)
        elif item.number == _EXTERNAL:
            external.update([_entry(view, item)])
    return name, Stored(message, around, tuple(elements), external)


def _entry(view: memoryview, item: Field) -> tuple[str, str]:
    texts = {
        part.number: bytes(view[part.value : part.stop]).decode("utf-8", "surrogateescape")
        for part in fields(view, item.value, item.stop)
        if part.wire == 2
    }
    return texts.get(_KEY, ""), texts.get(_VALUE, "")


def replaced(data: bytes, values: Mapping[str, bytes]) -> bytes:
    """The file with the elements of these initializers replaced.

    Args:
        data: the file.
        values: little-endian elements by initializer name, in the stored type.

    Raises:
        LoadError: an initializer is not in the main graph, or lies in another file.
    """
    view = memoryview(data)
    stored = locate(data)
    out = bytearray(data)
    resized: dict[str, bytes] = {}
    for name, elements in values.items():
        if name not in stored or stored[name].external:
            raise LoadError(f"initializer {name!r} is not stored in the model file itself")
        held = stored[name].elements
        if len(held) == 1 and held[0].stop - held[0].value == len(elements):
            out[held[0].value : held[0].stop] = elements
        elif elements:
            resized[name] = elements
    return _resized(view, out, stored, resized) if resized else bytes(out)


def relocated(data: bytes, places: Mapping[str, str]) -> bytes:
    """The file with external elements looked for in other files; nothing else changes.

    Args:
        data: the file.
        places: new names of files by the old ones.

    Raises:
        LoadError: the file holds its graph in pieces.
    """
    view, stored = memoryview(data), locate(data)

    def moved(tensor: Field) -> bytes:
        body = b""
        for part in fields(view, tensor.value, tensor.stop):
            key, value = _entry(view, part) if part.number == _EXTERNAL else ("", "")
            if key == "location" and value in places:
                texts = ((_KEY, key), (_VALUE, places[value]))
                entry = b"".join(_message(number, text.encode()) for number, text in texts)
                body += _message(_EXTERNAL, entry)
            else:
                body += view[part.start : part.stop]
        return body

    names = [name for name, item in stored.items() if item.external.get("location") in places]
    return _rebuilt(view, data, stored, dict.fromkeys(names, moved)) if names else data


def _resized(
    view: memoryview, out: bytearray, stored: Mapping[str, Stored], values: Mapping[str, bytes]
) -> bytes:
    """Replace whole tensors by ones with ``raw_data``, and the lengths of what is around them."""

    def with_raw(name: str) -> Callable[[Field], bytes]:
        dropped = {element.start for element in stored[name].elements}

        def rewritten(tensor: Field) -> bytes:
            kept = [
                bytes(out[part.start : part.stop])
                for part in fields(view, tensor.value, tensor.stop)
                if part.start not in dropped
            ]
            return b"".join(kept) + _message(RAW_DATA, values[name])

        return rewritten

    return _rebuilt(view, out, stored, {name: with_raw(name) for name in values})


def _rebuilt(
    view: memoryview,
    out: bytes | bytearray,
    stored: Mapping[str, Stored],
    bodies: Mapping[str, Callable[[Field], bytes]],
) -> bytes:
    """The file with the bodies of some tensors made anew, and the lengths of what is around them.

    Args:
        view: the file as it was located.
        out: what is copied, of the same layout.
        stored: its tensors.
        bodies: what makes the body of each tensor to be replaced.
    """
    if len(_graphs(view)) != 1:
        raise LoadError(f"the protobuf holds {len(_graphs(view))} graphs in pieces")
    tensors = {stored[name].message.start: make for name, make in bodies.items()}
    around = {message.start for name in bodies for message in stored[name].around}

    def copied(start: int, stop: int) -> bytes:
        body = bytearray()
        for item in fields(view, start, stop):
            if item.start in tensors:
                body += _message(item.number, tensors[item.start](item))
            elif item.start in around:
                body += _message(item.number, copied(item.value, item.stop))
            else:
                body += out[item.start : item.stop]
        return bytes(body)

    return copied(0, len(view))


def _message(number: int, body: bytes) -> bytes:
    return to_varint(number << 3 | 2) + to_varint(len(body)) + body
