"""The safetensors reader on valid, broken and hostile files."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initlint.load.files import File, open_file
from initlint.load.safetensors_file import DTYPES, read_safetensors
from initlint.model import LoadError


def pack(header, data=b""):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def read(path, content):
    path.write_bytes(content)
    return read_safetensors(open_file(str(path)))


def test_reads_names_shapes_values_and_metadata(tmp_path):
    data = np.array([1.5, -2.0], "<f4").tobytes() + np.array([[7]], "<i8").tobytes()
    header = {
        "__metadata__": {"format": "pt"},
        "w": entry(),
        "n": entry("I64", (1, 1), (8, 16)),
        "none": entry("F16", (0, 3), (16, 16)),
    }
    contents = read(tmp_path / "m.safetensors", pack(header, data))
    assert contents.tensors["w"].tensor.read().tolist() == [1.5, -2.0]
    assert contents.tensors["n"].tensor.read().tolist() == [[7]]
    assert contents.tensors["none"].tensor.read().shape == (0, 3)
    assert contents.producer == "pt"


def test_reads_what_the_library_writes(tmp_path):
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = {
        str(dtype)[6:]: torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (
            torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.uint8,
            torch.int16, torch.int32, torch.int64, torch.bool, torch.float8_e4m3fn,
            torch.float8_e5m2,
        )
    }  # fmt: skip
    save_file(tensors, tmp_path / "m.safetensors")
    contents = read_safetensors(open_file(str(tmp_path / "m.safetensors")))
    assert set(contents.tensors) == set(tensors)
    for name, stored in contents.tensors.items():
        np.testing.assert_array_equal(stored.tensor.read(), tensors[name].double().numpy())


def test_complex_tensors_read_as_pairs(tmp_path):
    data = np.array([1 + 2j], "<c8").tobytes()
    contents = read(tmp_path / "m", pack({"c": entry("C64", (1,), (0, 8))}, data))
    tensor = contents.tensors["c"].tensor
    assert tensor.dtype == "complex64"
    assert tensor.read().tolist() == [[1, 2]]


DATA = bytes(8)
HOSTILE = {
    "empty": b"",
    "short": b"\1\2\3",
    "header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "header length of 2^63": struct.pack("<Q", 1 << 63) + b"{}",
    "header over the limit": struct.pack("<Q", 100_000_001) + b"{}",
    "no json": pack(b"hello"),
    "json array": pack(b"[]"),
    "json number": pack(b"1"),
    "not utf-8": pack(b'{"\xff": 1}'),
    "nested": pack(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "nested arrays": pack(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "long integer": pack(b'{"a":{"dtype":"F32","shape":[' + b"9" * 9000 + b"]}}"),
    "repeated name": pack(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        DATA,
    ),
    "repeated key in an entry": pack(
        b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', DATA
    ),
    "entry is a list": pack({"a": []}),
    "no dtype": pack({"a": {"shape": [2], "data_offsets": [0, 8]}}, DATA),
    "unknown dtype": pack({"a": entry("Q7")}, DATA),
    "dtype is a list": pack({"a": entry(["F32"])}, DATA),
    "shape too large": pack({"a": entry(shape=(1 << 40, 1 << 40))}, DATA),
    "negative side": pack({"a": entry(shape=(-2,))}, DATA),
    "two negative sides": pack({"a": entry(shape=(-1, -2))}, DATA),
    "boolean side": pack({"a": entry(shape=(True, 2))}, DATA),
    "fraction as side": pack({"a": entry(shape=(2.0,))}, DATA),
    "rank of 1000": pack({"a": entry(shape=(1,) * 1000)}, DATA),
    "shape is a string": pack({"a": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}, DATA),
    "offsets reversed": pack({"a": entry(offsets=(8, 0))}, DATA),
    "negative offset": pack({"a": entry(offsets=(-8, 0))}, DATA),
    "three offsets": pack({"a": entry(offsets=(0, 4, 8))}, DATA),
    "offset outside": pack({"a": entry(offsets=(0, 1 << 50))}, DATA),
    "wrong size": pack({"a": entry(shape=(3,))}, DATA),
    "truncated data": pack({"a": entry()}, bytes(4)),
    "trailing bytes": pack({"a": entry()}, bytes(12)),
    "overlap": pack({"a": entry(), "b": entry()}, DATA),
    "hole": pack({"a": entry(offsets=(8, 16))}, bytes(16)),
    "metadata is a list": pack({"__metadata__": [1], "a": entry()}, DATA),
    "half a byte": pack({"a": entry("F4", (3,), (0, 1))}, bytes(1)),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_broken_and_hostile_files_are_one_line_errors(tmp_path, case):
    with pytest.raises(LoadError) as caught:
        read(tmp_path / "m.safetensors", HOSTILE[case])
    message = str(caught.value)
    assert "\n" not in message
    assert "m.safetensors" in message
    assert message.count("m.safetensors") == 1
    assert len(message) <= 400


def test_too_many_tensors_are_refused_before_the_header_is_parsed(tmp_path):
    one = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(one % index for index in range(200_001)) + b"}"
    with pytest.raises(LoadError, match="more than 200000"):
        read(tmp_path / "m", pack(header))


def test_a_shape_of_millions_of_sides_is_refused_before_it_is_parsed(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[' + b"1," * 4_000_000 + b'1],"data_offsets":[0,8]}}'
    with pytest.raises(LoadError, match="refused"):
        read(tmp_path / "m", pack(header, DATA))


def test_every_type_of_the_format_has_a_size():
    from initlint.load.decode import BITS

    assert set(DTYPES.values()) <= set(BITS)


VALID = pack({"a": entry(), "b": entry("I8", (4,), (8, 12))}, bytes(range(12)))


def attempt(path, content):
    path.write_bytes(content)
    message = ""
    try:
        contents = read_safetensors(open_file(str(path)))
        for stored in contents.tensors.values():
            stored.tensor.read()
    except LoadError as error:
        message = str(error)
    assert "\n" not in message


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("safetensors") / "m.safetensors"


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_anything_else(scratch, content):
    attempt(scratch, content)


@settings(deadline=None, max_examples=300)
@given(position=st.integers(0, len(VALID) - 1), value=st.integers(0, 255), cut=st.integers(0, 5))
def test_mutated_files_never_raise_anything_else(scratch, position, value, cut):
    content = bytearray(VALID)
    content[position] = value
    attempt(scratch, bytes(content[: len(content) - cut]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(header=st.dictionaries(st.text(max_size=5) | st.just("__metadata__"), JSON))
def test_arbitrary_headers_never_raise_anything_else(scratch, header):
    attempt(scratch, pack(header, bytes(16)))


def test_only_the_header_is_read(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(
        pack({"a": entry("F32", (1 << 18,), (0, 1 << 20))}, bytes(1 << 20))
    )
    lengths = []
    original = File.read_array

    def recorded(self, offset, length):
        lengths.append(length)
        return original(self, offset, length)

    monkeypatch.setattr(File, "read_array", recorded)
    read_safetensors(open_file(str(tmp_path / "m")))
    assert sum(lengths) < 1000
