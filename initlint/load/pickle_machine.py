"""A pickle interpreter that can build containers and nothing else.

It looks up no name: a GLOBAL becomes a `Global` if its name is on the caller's list and an error
otherwise, and what a call of it means is the caller's `Builder`. So a pickle can run no code here,
whatever it says. Opcodes: CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from initlint.load.files import shown
from initlint.model import LoadError

MAX_OPCODES = 10_000_000
"""A checkpoint takes some 40 opcodes for each tensor, a list of a million strings 3 million. This
many take about five seconds, which bounds the time that a hostile file gets."""

MAX_INTEGER_BYTES = 64
"""The longest integers in checkpoints are seeds and the format's own magic number (10 bytes)."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle refers to; a symbol, never the thing."""

    name: str


@dataclass(slots=True, eq=False)
class Record:
    """An instance of a class that only carries data.

    Attributes:
        kind: name of the class.
        arguments: what it was called with.
        state: what its ``__setstate__`` or ``__dict__`` would get.
        items: its entries, when it is a mapping.
        elements: its elements, when it is a sequence.
    """

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


class Builder(Protocol):
    """What names and references in a pickle stand for."""

    def allows(self, name: str) -> bool:
        """True when a pickle may refer to the global ``name`` (``module.attribute``)."""
        ...

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """The value that a call of an allowed global stands for."""
        ...

    def persistent(self, reference: Any) -> Any:
        """The storage that a persistent identifier stands for."""
        ...


class Stream(Protocol):
    """Bytes read one after the other."""

    def read(self, length: int) -> bytes:
        """Exactly ``length`` bytes; raises `LoadError` where there are fewer."""
        ...

    def line(self) -> bytes:
        """The bytes up to the next newline, without it."""
        ...


class BytesStream:
    """A stream over bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read(self, length: int) -> bytes:
        """Exactly ``length`` bytes."""
        end = self._at + length
        if end > len(self._data):
            raise LoadError("truncated pickle: the file ends too early; download it again")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def line(self) -> bytes:
        """The bytes up to the next newline."""
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise LoadError("truncated pickle: the file ends too early; download it again")
        piece = self._data[self._at : end]
        self._at = end + 1
        return piece

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._at


def run(stream: Stream, builder: Builder) -> Any:
    """The value that one pickle in ``stream`` describes; leaves the stream behind its end.

    Raises:
        LoadError: truncated, malformed, over budget, or naming a global that is not allowed.
    """
    machine = _Machine(stream, builder)
    try:
        return machine.run()
    except LoadError:
        raise
    except (IndexError, KeyError, TypeError, AttributeError):
        raise LoadError("malformed pickle: its instructions do not fit together") from None
    except (ValueError, struct.error, OverflowError) as error:
        raise LoadError(f"malformed pickle: {shown(error)}") from None


_LENGTHS = {1: "<B", 2: "<H", 4: "<I", 8: "<Q"}


class _Machine:
    """Stack, marks and memo of one run. Method names are those of the opcodes."""

    def __init__(self, stream: Stream, builder: Builder) -> None:
        self.stream = stream
        self.builder = builder
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        read, table = self.stream.read, _TABLE
        for _ in range(MAX_OPCODES):
            code = read(1)[0]
            if code == _STOP:
                return self.stack.pop()
            action = table.get(code)
            if action is None:
                raise LoadError(f"malformed pickle: unknown or refused instruction {code:#04x}")
            action(self)
        raise LoadError(f"refused: a pickle of more than {MAX_OPCODES} instructions")

    # reading arguments

    def number(self, width: int) -> int:
        value: int = struct.unpack(_LENGTHS[width], self.stream.read(width))[0]
        return value

    def counted(self, width: int) -> bytes:
        return self.stream.read(self.number(width))

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self.marks.pop()
        return values

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    # numbers and strings

    def int_line(self) -> None:
        text = self.stream.line()
        if text in (b"00", b"01"):
            self.push(text == b"01")
        else:
            self.push(_integer_text(text))

    def long_line(self) -> None:
        self.push(_integer_text(self.stream.line().removesuffix(b"L")))

    def long_binary(self, width: int) -> None:
        length = self.number(width)
        if length > MAX_INTEGER_BYTES:
            raise LoadError(f"malformed pickle: an integer of {length} bytes")
        self.push(int.from_bytes(self.stream.read(length), "little", signed=True))

    def float_line(self) -> None:
        self.push(float(self.stream.line()))

    def float_binary(self) -> None:
        self.push(struct.unpack(">d", self.stream.read(8))[0])

    def string_line(self) -> None:
        text = self.stream.line().strip()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
            raise LoadError("malformed pickle: a string without quotes")
        self.push(codecs.escape_decode(text[1:-1])[0].decode("latin-1"))

    def string_binary(self, width: int) -> None:
        # Python 2 wrote both text and the raw bytes of arrays so; latin-1 keeps every byte.
        self.push(self.counted(width).decode("latin-1"))

    def unicode_line(self) -> None:
        self.push(self.stream.line().decode("raw-unicode-escape"))

    def unicode_binary(self, width: int) -> None:
        self.push(self.counted(width).decode("utf-8", "surrogatepass"))

    def bytes_binary(self, width: int) -> None:
        self.push(self.counted(width))

    # containers

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        values = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.push(values)

    def tuple_marked(self) -> None:
        self.push(tuple(self.since_mark()))

    def list_marked(self) -> None:
        self.push(self.since_mark())

    def dict_marked(self) -> None:
        values = self.since_mark()
        target: dict[Any, Any] = {}
        _set_items(target, values)
        self.push(target)

    def set_marked(self) -> None:
        values = self.since_mark()
        self.push(frozenset(checked_key(value) for value in values))

    def append(self) -> None:
        value = self.stack.pop()
        _elements(self.stack[-1]).append(value)

    def appends(self) -> None:
        values = self.since_mark()
        _elements(self.stack[-1]).extend(values)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _set_items(self.stack[-1], [key, value])

    def set_items(self) -> None:
        values = self.since_mark()
        _set_items(self.stack[-1], values)

    def add_items(self) -> None:
        values = self.since_mark()
        target = self.stack[-1]
        if not isinstance(target, set):
            raise TypeError
        target.update(checked_key(value) for value in values)

    # stack and memo

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def duplicate(self) -> None:
        self.push(self.stack[-1])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    # names, calls, state

    def global_named(self, module: bytes, attribute: bytes) -> None:
        self.push(self.allowed(f"{module.decode('utf-8')}.{attribute.decode('utf-8')}"))

    def allowed(self, name: str) -> Global:
        if not self.builder.allows(name):
            raise LoadError(
                f"refused: global {shown(name)} is not weights, and nothing was run; save "
                "model.state_dict() alone, or export the weights as safetensors"
            )
        return Global(name)

    def global_line(self) -> None:
        module = self.stream.line()
        self.global_named(module, self.stream.line())

    def stack_global(self) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not isinstance(attribute, str) or not isinstance(module, str):
            raise TypeError
        self.push(self.allowed(f"{module}.{attribute}"))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.push(self.called(function, arguments))

    def new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.push(self.called(kind, arguments))

    def new_object_keywords(self) -> None:
        keywords, arguments, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if keywords:
            raise LoadError("malformed pickle: an object with keyword arguments is not weights")
        self.push(self.called(kind, arguments))

    def object_marked(self) -> None:
        values = self.since_mark()
        self.push(self.called(values[0], tuple(values[1:])))

    def instance_line(self) -> None:
        module = self.stream.line()
        self.global_named(module, self.stream.line())
        kind = self.stack.pop()
        self.push(self.called(kind, tuple(self.since_mark())))

    def called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise LoadError("refused: the pickle calls something that is not a known constructor")
        return self.builder.call(function.name, arguments)

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state

    def persistent_id(self) -> None:
        self.push(self.builder.persistent(self.stack.pop()))


def _integer_text(text: bytes) -> int:
    if len(text) > 3 * MAX_INTEGER_BYTES:
        raise LoadError(f"malformed pickle: an integer of {len(text)} digits")
    return int(text)


def _elements(target: Any) -> list[Any]:
    if isinstance(target, Record):
        return target.elements
    if not isinstance(target, list):
        raise TypeError
    return target


def _set_items(target: Any, values: list[Any]) -> None:
    if len(values) % 2:
        raise IndexError
    items = target.items if isinstance(target, Record) else target
    if not isinstance(items, dict):
        raise TypeError
    for key, value in zip(values[::2], values[1::2], strict=True):
        items[checked_key(key)] = value


def checked_key(value: Any, depth: int = 0) -> Any:
    """A value that may be hashed.

    Hashing a deeply nested tuple overflows the C stack. Numbers, unlike strings, have hashes that
    a file can choose: thousands of keys of one hash take quadratic time. Integers of 64 bits share
    a hash eight at a time; inside tuples, where hashes mix, 32 bits leave nothing to choose.
    """
    if isinstance(value, int) and abs(value) >> (63 if depth == 0 else 31):
        raise LoadError("malformed pickle: a huge number as a key")
    if isinstance(value, (float, complex)) and depth:
        raise LoadError("malformed pickle: a fraction in a key")
    if isinstance(value, tuple):
        if depth > 8 or len(value) > 1000:
            raise LoadError("malformed pickle: a nested tuple as a key")
        for item in value:
            checked_key(item, depth + 1)
    return value


def _opcodes() -> Iterator[tuple[bytes, Callable[[_Machine], None]]]:
    m = _Machine
    yield b"\x80", lambda s: _check_protocol(s.number(1))
    yield b"\x95", lambda s: _ignore(s.stream.read(8))
    yield b"N", lambda s: s.push(None)
    yield b"\x88", lambda s: s.push(True)
    yield b"\x89", lambda s: s.push(False)
    yield b"I", m.int_line
    yield b"L", m.long_line
    yield b"K", lambda s: s.push(s.number(1))
    yield b"M", lambda s: s.push(s.number(2))
    yield b"J", lambda s: s.push(struct.unpack("<i", s.stream.read(4))[0])
    yield b"\x8a", lambda s: s.long_binary(1)
    yield b"\x8b", lambda s: s.long_binary(4)
    yield b"F", m.float_line
    yield b"G", m.float_binary
    yield b"S", m.string_line
    yield b"U", lambda s: s.string_binary(1)
    yield b"T", lambda s: s.string_binary(4)
    yield b"V", m.unicode_line
    yield b"\x8c", lambda s: s.unicode_binary(1)
    yield b"X", lambda s: s.unicode_binary(4)
    yield b"\x8d", lambda s: s.unicode_binary(8)
    yield b"C", lambda s: s.bytes_binary(1)
    yield b"B", lambda s: s.bytes_binary(4)
    yield b"\x8e", lambda s: s.bytes_binary(8)
    yield b"\x96", lambda s: s.bytes_binary(8)
    yield b"(", m.mark
    yield b")", lambda s: s.push(())
    yield b"\x85", lambda s: s.tuple_of(1)
    yield b"\x86", lambda s: s.tuple_of(2)
    yield b"\x87", lambda s: s.tuple_of(3)
    yield b"t", m.tuple_marked
    yield b"]", lambda s: s.push([])
    yield b"l", m.list_marked
    yield b"}", lambda s: s.push({})
    yield b"d", m.dict_marked
    yield b"\x8f", lambda s: s.push(set())
    yield b"\x91", m.set_marked
    yield b"a", m.append
    yield b"e", m.appends
    yield b"s", m.set_item
    yield b"u", m.set_items
    yield b"\x90", m.add_items
    yield b"0", m.pop
    yield b"1", lambda s: _ignore(s.since_mark())
    yield b"2", m.duplicate
    yield b"p", lambda s: s.put(_integer_text(s.stream.line()))
    yield b"q", lambda s: s.put(s.number(1))
    yield b"r", lambda s: s.put(s.number(4))
    yield b"\x94", lambda s: s.put(len(s.memo))
    yield b"g", lambda s: s.get(_integer_text(s.stream.line()))
    yield b"h", lambda s: s.get(s.number(1))
    yield b"j", lambda s: s.get(s.number(4))
    yield b"c", m.global_line
    yield b"\x93", m.stack_global
    yield b"R", m.reduce
    yield b"\x81", m.new_object
    yield b"\x92", m.new_object_keywords
    yield b"o", m.object_marked
    yield b"i", m.instance_line
    yield b"b", m.build
    yield b"Q", m.persistent_id


def _check_protocol(version: int) -> None:
    if version > 5:
        raise LoadError(f"malformed pickle: protocol {version}")


def _ignore(_: object) -> None:
    """Leave a value that the interpreter has no use for."""


_STOP = ord(".")
_TABLE = {code[0]: action for code, action in _opcodes()}
