"""Decoding of every element type against independent arithmetic and, where present, torch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from initlint.load.decode import BITS, BytesSource, FileSource, byte_count, decode
from initlint.load.files import open_file
from initlint.model import LoadError

DECODABLE = sorted(set(BITS) - {"float6_e2m3", "float6_e3m2"})


@pytest.mark.parametrize(
    ("dtype", "torch_name"),
    [("float8_e4m3fn", "float8_e4m3fn"), ("float8_e4m3fnuz", "float8_e4m3fnuz"),
     ("float8_e5m2", "float8_e5m2"), ("float8_e5m2fnuz", "float8_e5m2fnuz"),
     ("float8_e8m0", "float8_e8m0fnu"), ("int8", "int8"), ("uint8", "uint8")],
)  # fmt: skip
def test_every_byte_decodes_as_torch_does(dtype, torch_name):
    torch = pytest.importorskip("torch")
    data = bytearray(range(256))
    expected = torch.frombuffer(data, dtype=getattr(torch, torch_name)).float().numpy()
    np.testing.assert_array_equal(decode(dtype, bytes(data), 256), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int16"])
def test_every_pair_of_bytes_decodes_as_torch_does(dtype):
    torch = pytest.importorskip("torch")
    data = bytearray(np.arange(1 << 16, dtype="<u2").tobytes())
    expected = torch.frombuffer(data, dtype=getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(decode(dtype, bytes(data), 1 << 16), expected)


@pytest.mark.parametrize(
    ("dtype", "numpy_name"),
    [("float32", "<f4"), ("float64", "<f8"), ("int32", "<i4"), ("uint32", "<u4"),
     ("int64", "<i8"), ("uint64", "<u8"), ("uint16", "<u2")],
)  # fmt: skip
def test_wide_types(dtype, numpy_name):
    values = np.array([0, 1, 2, 100], dtype=numpy_name)
    decoded = decode(dtype, values.tobytes(), 4)
    assert decoded.tolist() == [0, 1, 2, 100]
    assert decoded.dtype == (np.float64 if BITS[dtype] == 64 else np.float32)


def test_packed_types_put_the_first_element_in_the_low_bits():
    assert decode("int4", b"\x8f", 2).tolist() == [-1, -8]
    assert decode("uint4", b"\x8f", 2).tolist() == [15, 8]
    assert decode("int2", b"\xe4", 4).tolist() == [0, 1, -2, -1]
    assert decode("uint2", b"\xe4", 4).tolist() == [0, 1, 2, 3]
    assert decode("float4_e2m1", b"\x10\x32\x54\x76\xf8", 10).tolist() == [
        0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -6,
    ]  # fmt: skip


def test_complex_gives_pairs():
    data = np.array([1 + 2j, 3 - 4j], dtype="<c8").tobytes()
    assert decode("complex64", data, 2).tolist() == [1, 2, 3, -4]


@pytest.mark.parametrize("dtype", ["string", "float128", "", "int3", "float6_e2m3"])
def test_types_without_numbers_are_named(dtype):
    with pytest.raises(LoadError, match="element type"):
        decode(dtype, bytes(64), 4)


@given(st.sampled_from(DECODABLE), st.integers(0, 40), st.data())
def test_any_part_of_a_source_equals_the_part_of_the_whole(dtype, count, data):
    raw = data.draw(st.binary(min_size=byte_count(dtype, count), max_size=byte_count(dtype, count)))
    if dtype.startswith("complex"):
        return
    whole = decode(dtype, raw, count)
    stop = data.draw(st.integers(0, count))
    start = data.draw(st.integers(0, stop))
    np.testing.assert_array_equal(
        BytesSource(raw, dtype, count).read(start, stop), whole[start:stop]
    )


@given(st.sampled_from(DECODABLE), st.binary(max_size=20), st.integers(-5, 1 << 62))
def test_more_elements_than_bytes_are_refused(dtype, raw, count):
    if count >= 0 and byte_count(dtype, count) <= len(raw):
        assert BytesSource(raw, dtype, count).count == count
        return
    with pytest.raises(LoadError):
        BytesSource(raw, dtype, count)


def test_a_file_source_reads_at_its_offset_and_no_further(tmp_path):
    values = np.arange(10, dtype="<f4")
    (tmp_path / "x").write_bytes(b"junk" + values.tobytes())
    file = open_file(str(tmp_path / "x"))
    source = FileSource(file, 4, "float32", 10)
    assert source.read(2, 5).tolist() == [2, 3, 4]
    for start, stop in ((5, 11), (-1, 3), (4, 2)):
        with pytest.raises(LoadError, match="do not exist"):
            source.read(start, stop)
    for offset, count in ((8, 10), (-4, 1), (0, 1 << 61), (4, -1)):
        with pytest.raises(LoadError):
            FileSource(file, offset, "float32", count)


@given(st.lists(st.integers(0, (1 << 16) - 1), max_size=40))
def test_half_precision_equals_numpy_with_and_without_infinities(codes):
    data = np.array(codes, "<u2").tobytes()
    expected = np.frombuffer(data, "<f2").astype(np.float32)
    np.testing.assert_array_equal(decode("float16", data, len(codes)), expected)
    finite = np.array([code & 0xBFFF for code in codes], "<u2").tobytes()
    expected = np.frombuffer(finite, "<f2").astype(np.float32)
    np.testing.assert_array_equal(decode("float16", finite, len(codes)), expected)
