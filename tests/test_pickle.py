"""The pickle reader: what it reads equals torch, what it refuses it names, and it runs nothing."""

import argparse
import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initlint.load.archive import Archive
from initlint.load.files import open_file
from initlint.load.pickle_file import read_pickle, read_torch_zip
from initlint.load.state_dict import find_weights
from initlint.model import LoadError

STORAGE = b"".join(
    (b"(", b"X\x07\0\0\0storage", b"ctorch\nFloatStorage\n", b"X\x01\0\0\x000", b"X\x03\0\0\0cpu")
)


def number(value):
    return (
        b"J" + struct.pack("<i", value)
        if abs(value) < 1 << 31
        else b"\x8a\x08" + struct.pack("<q", value)
    )


def numbers(values):
    return b"(" + b"".join(number(value) for value in values) + b"t"


def tensor(
    size=(2,), stride=(1,), offset=0, count=2, function=b"ctorch._utils\n_rebuild_tensor_v2\n"
):
    """Opcodes that rebuild one tensor over storage ``0``."""
    return (
        function + b"(" + STORAGE + number(count) + b"tQ" + number(offset) + numbers(size)
        + numbers(stride) + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def state_dict(value=None, before=b""):
    return b"\x80\x02" + before + b"}X\x01\0\0\0w" + (value or tensor()) + b"s."


def archive(pickled, members=None, prefix="archive/", method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as target:
        target.writestr(prefix + "data.pkl", pickled)
        for name, data in (members if members is not None else {"data/0": bytes(8)}).items():
            target.writestr(prefix + name, data)
    return stream.getvalue()


def legacy(pickled, keys=("0",), storages=None):
    head = b"".join(
        pickle.dumps(value, protocol=2)
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    tail = struct.pack("<q", 2) + bytes(8) if storages is None else storages
    return head + pickled + pickle.dumps(list(keys), protocol=2) + tail


def read(path, content):
    path.write_bytes(content)
    file = open_file(str(path))
    pickled = read_torch_zip(Archive(file)) if content[:2] == b"PK" else read_pickle(file)
    return find_weights(pickled, str(path))


def values(contents):
    return {name: stored.tensor.read() for name, stored in contents.tensors.items()}


# what valid files hold


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_writes(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    state = collections.OrderedDict(
        plain=base,
        transposed=base.t(),
        column=base[:, 1:3],
        row=base[2],
        permuted=torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        scalar=torch.tensor(3.0),
        none=torch.zeros(0, 3),
        half=base.half(),
        brain=base.bfloat16(),
        eighth=base.to(torch.float8_e4m3fn),
        wide=base.to(torch.uint16),
        flag=base > 3,
        integers=torch.arange(5),
        twice=torch.tensor([[1.0], [2.0]]).expand(2, 1),
        parameter=torch.nn.Parameter(base.clone()),
        complex=torch.tensor([1 + 2j, 3 - 4j]),
    )
    path = tmp_path / "m.pt"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    contents = read(path, path.read_bytes())
    assert list(contents.tensors) == list(state)
    for name, array in values(contents).items():
        expected = state[name].detach()
        expected = torch.view_as_real(expected) if expected.is_complex() else expected
        np.testing.assert_array_equal(array, expected.double().numpy())
        pieces = list(contents.tensors[name].tensor.chunks(5))
        assert sum(piece.size for piece in pieces) == array.size
    assert contents.tensors["parameter"].requires_grad is True
    assert contents.tensors["plain"].requires_grad is False
    assert contents.tensors["plain"].identity != contents.tensors["transposed"].identity


def test_tied_tensors_have_one_identity(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.ones(3, 2)
    path = tmp_path / "m.pt"
    torch.save({"a": weight, "b": weight, "c": weight.clone()}, path)
    found = read(path, path.read_bytes()).tensors
    assert found["a"].identity == found["b"].identity != found["c"].identity


def test_quantised_tensors_read_as_what_they_stand_for(tmp_path):
    torch = pytest.importorskip("torch")
    original = torch.quantize_per_tensor(torch.tensor([-1.0, 0.0, 0.5]), 0.25, 10, torch.quint8)
    path = tmp_path / "m.pt"
    torch.save({"w": original}, path)
    stored = read(path, path.read_bytes()).tensors["w"]
    assert stored.quantised
    assert stored.tensor.read().tolist() == [-1.0, 0.0, 0.5]


def test_modules_of_torch_are_read_as_data(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.BatchNorm1d(3))
    path = tmp_path / "m.pt"
    torch.save(module, path)
    contents = read(path, path.read_bytes())
    assert set(contents.tensors) == set(module.state_dict())
    np.testing.assert_array_equal(
        contents.tensors["0.weight"].tensor.read(), module[0].weight.detach().numpy()
    )


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_reads_numpy_arrays_of_every_protocol(tmp_path, protocol):
    state = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "f": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "i": np.arange(3, dtype=np.int16),
        "text": np.array(["x"]),
        "big": np.arange(3, dtype=">f4"),
        "step": np.float32(3),
    }
    contents = read(tmp_path / "m.pkl", pickle.dumps(state, protocol=protocol))
    found = values(contents)
    assert set(found) == {"a", "f", "i"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name])
    assert any("could not be read" in notice for notice in contents.notices)


def test_training_state_is_left_out_and_said(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    path = tmp_path / "m.ckpt"
    torch.save(
        {
            "state_dict": model.state_dict(),
            "optimizer_states": [optimiser.state_dict()],
            "hyper_parameters": argparse.Namespace(lr=1e-3),
            "epoch": 3,
            "best": torch.tensor(0.5),
        },
        path,
    )
    contents = read(path, path.read_bytes())
    assert set(contents.tensors) == {"weight", "bias"}
    assert any("training state" in notice for notice in contents.notices)


def test_the_weights_are_taken_and_not_their_average(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "m.pt"
    torch.save({"model": {"w": torch.ones(2)}, "model_ema": {"w": torch.zeros(2)}}, path)
    contents = read(path, path.read_bytes())
    assert values(contents)["w"].tolist() == [1, 1]
    assert any("averaged" in notice for notice in contents.notices)
    torch.save({"g_ema": {"w": torch.ones(2)}}, path)
    assert set(read(path, path.read_bytes()).tensors) == {"w"}


def test_several_networks_keep_their_names(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "m.pt"
    torch.save({"generator": {"w": torch.ones(2)}, "discriminator": {"w": torch.ones(2)}}, path)
    assert set(read(path, path.read_bytes()).tensors) == {"generator.w", "discriminator.w"}


def test_storages_stay_in_the_file(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(1 << 20)}, path)
    content = path.read_bytes()
    tracemalloc.start()
    contents = find_weights(read_torch_zip(Archive(open_file(str(path)))), "m")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(content) / 4
    assert contents.tensors["w"].tensor.size == 1 << 20


def test_a_wrong_checksum_is_found_when_the_storage_is_read(tmp_path):
    content = bytearray(archive(state_dict(), {"data/0": struct.pack("<2f", 1.25, 2.5)}))
    at = content.index(struct.pack("<f", 1.25))
    content[at] ^= 1
    contents = read(tmp_path / "m.pt", bytes(content))
    with pytest.raises(LoadError, match="checksum"):
        contents.tensors["w"].tensor.read()


def test_archives_without_checksums_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "m.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert values(read(path, path.read_bytes()))["w"].tolist() == [1, 1, 1]


def test_compressed_storages_are_read(tmp_path):
    data = {"data/0": np.array([1, 2], "<f4").tobytes()}
    content = archive(state_dict(), data, method=zipfile.ZIP_DEFLATED)
    assert values(read(tmp_path / "m.pt", content))["w"].tolist() == [1, 2]


# what hostile files get


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def calling(function, *arguments):
    return pickle.dumps({"w": Call(function, *arguments)}, protocol=2)


CODE = {
    "os.system": (calling(os.system, "touch pwned"), "posix.system"),
    "eval": (calling(eval, "open('pwned', 'w')"), "eval"),
    "exec": (calling(exec, "open('pwned', 'w')"), "exec"),
    "open": (calling(open, "pwned", "w"), "open"),
    "getattr": (calling(getattr, "x", "upper"), "getattr"),
    "import": (calling(__import__, "antigravity"), "__import__"),
    "nested pickle": (calling(pickle.loads, b"N."), "pickle.loads"),
    "torch.load": (b"\x80\x02}X\x01\0\0\0wctorch\nload\nX\x01\0\0\0x\x85Rs.", "torch.load"),
    "storage loader": (
        b"\x80\x02}X\x01\0\0\0wctorch.storage\n_load_from_bytes\nC\x01x\x85Rs.",
        "_load_from_bytes",
    ),
    "stack global": (
        b"\x80\x04}\x8c\x01w\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch pwned\x85Rs.",
        "posix.system",
    ),
    "dotted name": (b"\x80\x04\x8c\x05torch\x8c\x0cSize.__new__\x93.", "torch.Size.__new__"),
    "instance": (b"(S'touch pwned'\niposix\nsystem\n.", "posix.system"),
    "object": (b"(cposix\nsystem\nS'touch pwned'\no.", "posix.system"),
    "new object": (b"\x80\x02cposix\nsystem\nX\x0b\0\0\0touch pwned\x85\x81.", "posix.system"),
    "unused global": (b"\x80\x02cposix\nsystem\n0}.", "posix.system"),
    "homoglyph": (b"\x80\x04\x8c\x03" + "оs".encode() + b"\x8c\x01x\x93.", "оs.x"),
    "escape codes": (b"cos\x1b[31m\nsystem\n.", "\\x1b"),
    "extension": (b"\x80\x02\x82\x01.", "0x82"),
    "text persistent id": (b"Pstorage\n.", "0x50"),
    "out-of-band buffer": (b"\x80\x05\x97.", "0x97"),
}  # fmt: skip


@pytest.mark.parametrize("case", CODE)
@pytest.mark.parametrize("form", ["bare", "zip", "legacy"])
def test_nothing_runs_and_the_refused_name_is_told(tmp_path, monkeypatch, case, form):
    monkeypatch.chdir(tmp_path)
    pickled, name = CODE[case]
    content = {"bare": pickled, "zip": archive(pickled), "legacy": legacy(pickled)}[form]
    with pytest.raises(LoadError) as caught:
        read(tmp_path / "m.pt", content)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert "\x1b" not in message
    assert not Path("pwned").exists()


def nested_list(depth):
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def nested_tuple(depth):
    return b"\x80\x02)" + b"\x85" * depth + b"."


def doubling(levels):
    """A list of two references to a list of two references…"""
    body = b"]" + b"q\0"
    for level in range(levels):
        body += b"](h" + bytes([level]) + b"h" + bytes([level]) + b"eq" + bytes([level + 1])
    return b"\x80\x02" + body + b"."


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
BROKEN = {
    "empty pickle": b".",
    "no stop": b"\x80\x02}",
    "only protocol": b"\x80\x02",
    "protocol 9": b"\x80\x09.",
    "unknown opcode": b"\x80\x02\xff.",
    "stack underflow": b"\x80\x020.",
    "mark underflow": b"\x80\x02t.",
    "memo never written": b"\x80\x02hZ.",
    "huge memo index": b"\x80\x02}r\xff\xff\xff\xff" + b"j\xff\xff\xff\xfe.",
    "huge text memo index": b"}p" + b"9" * 500 + b"\n.",
    "string longer than the file": b"\x80\x02X\xff\xff\xff\x7f.",
    "8-byte string length": b"\x80\x04\x8d" + b"\xff" * 8 + b".",
    "8-byte bytearray length": b"\x80\x05\x96" + b"\xff" * 8 + b".",
    "huge integer": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "negative integer length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "integer of many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "integer of letters": b"Ixyz\n.",
    "float of letters": b"Fxyz\n.",
    "bad utf-8": b"\x80\x02X\x01\0\0\0\xff.",
    "unquoted string": b"Sabc\n.",
    "list as key": b"\x80\x02}]Ns.",
    "nested tuple as key": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "set item on a list": b"\x80\x02]NNs.",
    "append to a dict": b"\x80\x02}Na.",
    "odd items": b"\x80\x02}(Nu.",
    "call of a string": b"\x80\x02X\x01\0\0\0x)R.",
    "call with a list": b"\x80\x02ccollections\nOrderedDict\n]R.",
    "keyword arguments": b"\x80\x04cargparse\nNamespace\n)}X\x01\0\0\0xNs\x92.",
    "bytearray of a size": b"\x80\x02c__builtin__\nbytearray\n" + number(1 << 30) + b"\x85R.",
    "bytes of a size": b"\x80\x02c__builtin__\nbytes\n" + number(1 << 30) + b"\x85R.",
    "list of a number": b"\x80\x02c__builtin__\nlist\n" + number(5) + b"\x85R.",
    "deep list": nested_list(100_000),
    "deep tuple": nested_tuple(100_000),
    "doubling references": doubling(60),
    "a list that holds itself": b"\x80\x02]q\0h\0a.",
    "no tensors": b"\x80\x02}X\x01\0\0\0aK\x01s.",
    "stride 0": state_dict(tensor(size=(1 << 20, 1 << 20), stride=(0, 0), count=1)),
    "stride too large": state_dict(tensor(size=(2,), stride=(1 << 40,))),
    "negative stride": state_dict(tensor(stride=(-1,))),
    "negative size": state_dict(tensor(size=(-2,))),
    "negative offset": state_dict(tensor(offset=-1)),
    "offset outside": state_dict(tensor(offset=1)),
    "more elements than the storage": state_dict(tensor(size=(3,))),
    "sizes that overflow": state_dict(tensor(size=(1 << 40, 1 << 40), stride=(1, 1))),
    "more strides than sizes": state_dict(tensor(stride=(1, 1))),
    "rank of 1000": state_dict(tensor(size=(1,) * 1000, stride=(1,) * 1000)),
    "storage larger than the file": state_dict(tensor(size=(1 << 30,), count=1 << 30)),
    "negative storage": state_dict(tensor(count=-2)),
    "tensor without storage": state_dict(REBUILD + b"(NK\0)))ccollections\nOrderedDict\n)RtR"),
    "too few arguments": state_dict(REBUILD + b")R"),
    "unknown storage": b"\x80\x02(X\x07\0\0\0storagectorch\nOddStorage\nX\x01\0\0\x000NNtQ.",
    "persistent id of another kind": b"\x80\x02(X\x04\0\0\0fileNtQ.",
    "persistent id is a number": b"\x80\x02K\1Q.",
    "two sizes of one storage": state_dict(
        tensor(), b"(" + STORAGE + number(9) + b"tQ0"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("form", ["bare", "zip", "legacy"])
def test_broken_pickles_are_one_line_errors(tmp_path, case, form):
    pickled = BROKEN[case]
    content = {"bare": pickled, "zip": archive(pickled), "legacy": legacy(pickled)}[form]
    tracemalloc.start()
    with pytest.raises(LoadError) as caught:
        read(tmp_path / "m.pt", content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert peak < 100_000_000


def test_a_key_path_cannot_leave_the_archive(tmp_path):
    pickled = state_dict().replace(b"X\x01\0\0\x000", b"X\x0c\0\0\x00../../passwd")
    with pytest.raises(LoadError, match="missing"):
        read(tmp_path / "m.pt", archive(pickled))


def duplicate():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("a/data.pkl", state_dict())
        target.writestr("a/dat4.pkl", CODE["os.system"][0])
        target.writestr("a/data/0", bytes(8))
    return stream.getvalue().replace(b"dat4", b"data")


def bomb(size=1 << 26):
    return archive(
        state_dict(tensor(size=(size // 4,), count=size // 4)),
        {"data/0": bytes(size)},
        method=zipfile.ZIP_DEFLATED,
    )


def understated():
    """A compressed member whose directory entry claims fewer bytes than it unpacks to."""
    content = bytearray(archive(state_dict(), {"data/0": bytes(5000)}, method=zipfile.ZIP_DEFLATED))
    at = content.rindex(b"PK\1\2")
    content[at + 24 : at + 28] = struct.pack("<I", 8)
    return bytes(content)


def overlapping():
    """Two directory entries over one member."""
    content = bytearray(archive(state_dict(), {"data/0": bytes(8), "data/1": bytes(8)}))
    at = content.rindex(b"PK\1\2")
    content[at + 42 : at + 46] = struct.pack("<I", 0)
    return bytes(content)


GOOD = archive(state_dict())
ARCHIVES = {
    "no data.pkl": archive(state_dict()).replace(b"data.pkl", b"data.pkX"),
    "truncated": GOOD[:-30],
    "half": GOOD[: len(GOOD) // 2],
    "only the signature": b"PK\3\4",
    "two data.pkl of one name": None,
    "two data.pkl in two folders": archive(state_dict(), {"data/0": bytes(8), "x/data.pkl": b"N."}),
    "deflate bomb": None,
    "understated size": understated(),
    "overlapping members": overlapping(),
    "storage missing": archive(state_dict(), {}),
    "storage too short": archive(state_dict(), {"data/0": bytes(4)}),
    "big-endian": archive(state_dict(), {"data/0": bytes(8), "byteorder": b"big"}),
    "TorchScript": archive(state_dict(), {"data/0": bytes(8), "constants.pkl": b"N."}),
    "members past the end": GOOD[:-22] + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, 999, 9, 0),
    "no members": b"PK\5\6" + bytes(18),
    "encrypted": GOOD.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"),
    "unknown method": GOOD.replace(b"PK\1\2\x14\3\x14\0\0\0\0\0", b"PK\1\2\x14\3\x14\0\0\0\x63\0"),
    "data.pkl with a wrong checksum": GOOD.replace(b"X\x01\0\0\0w", b"X\x01\0\0\0v"),
}  # fmt: skip


@pytest.mark.parametrize("case", ARCHIVES)
def test_broken_archives_are_one_line_errors(tmp_path, case):
    content = (
        ARCHIVES[case] or {"deflate bomb": bomb, "two data.pkl of one name": duplicate}[case]()
    )
    tracemalloc.start()
    with pytest.raises(LoadError) as caught:
        values(read(tmp_path / "m.pt", content))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 100_000_000


LEGACY = {
    "no storages": legacy(state_dict(), keys=()),
    "unknown storage": legacy(state_dict(), keys=("0", "1")),
    "storage twice": legacy(state_dict(), keys=("0", "0")),
    "truncated": legacy(state_dict())[:-4],
    "other count": legacy(state_dict(), storages=struct.pack("<q", 3) + bytes(8)),
    "negative count": legacy(state_dict(), storages=struct.pack("<q", -1) + bytes(8)),
    "big-endian": legacy(state_dict()).replace(
        b"little_endianq\x01\x88", b"little_endianq\x01\x89"
    ),
    "another version": legacy(state_dict()).replace(b"M\xe9\x03", b"M\xea\x03"),
}


@pytest.mark.parametrize("case", LEGACY)
def test_broken_legacy_files_are_one_line_errors(tmp_path, case):
    with pytest.raises(LoadError) as caught:
        read(tmp_path / "m.pt", LEGACY[case])
    assert "\n" not in str(caught.value)


def test_many_views_of_one_storage_are_refused(tmp_path):
    count = 1 << 16
    body = b"".join(
        b"X\x05\0\0\0"
        + f"w{index:04d}".encode()
        + tensor(size=(count - index,), count=count)
        + b"s"
        for index in range(40)
    )
    content = archive(b"\x80\x02}" + body + b".", {"data/0": bytes(4 * count)})
    with pytest.raises(LoadError, match="overlap"):
        read(tmp_path / "m.pt", content)


# properties


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("pickles") / "m.pt"


def attempt(path, content):
    message = ""
    try:
        for stored in read(path, content).tensors.values():
            stored.tensor.read()
    except LoadError as error:
        message = str(error)
    assert "\n" not in message


VALID = [archive(state_dict()), legacy(state_dict())]


@settings(deadline=None, max_examples=300)
@given(content=st.binary(min_size=1, max_size=120))
def test_arbitrary_bytes_never_raise_anything_else(scratch, content):
    attempt(scratch, content)
    attempt(scratch, archive(content))


@settings(deadline=None, max_examples=400)
@given(which=st.sampled_from([0, 1]), data=st.data())
def test_mutated_files_never_raise_anything_else(scratch, which, data):
    content = bytearray(VALID[which])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    attempt(scratch, bytes(content[: len(content) - data.draw(st.integers(0, 3))]))


OPCODES = st.sampled_from(
    [bytes([code]) for code in b"0(}]).RQNabetusod12\x81\x85\x86\x87\x88\x90\x91\x93\x94"]
    + [b"K\1", b"q\0", b"h\0", b"X\1\0\0\0w", b"ccollections\nOrderedDict\n", REBUILD, tensor()]
    + [b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"ctorch\nSize\n"]
    + [b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._tensor\n_rebuild_from_type_v2\n"]
    + [b"ctorch._utils\n_rebuild_qtensor\n", b"ctorch._utils\n_rebuild_tensor_v3\n", STORAGE]
    + [b"c__builtin__\nset\n", b"c_codecs\nencode\n", b"ctorch\nfloat32\n", b"C\2ab"]
)


@settings(deadline=None, max_examples=500)
@given(codes=st.lists(OPCODES, max_size=30))
def test_arbitrary_instructions_never_raise_anything_else(scratch, codes):
    attempt(scratch, archive(b"\x80\x04" + b"".join(codes) + b"."))
