"""Exported programs: weights by name from JSON and raw bytes; nothing is unpickled or evaluated."""

import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initlint.load.checkpoint import load_checkpoint
from initlint.model import Kind, LoadError, Op

META = {
    "dtype": 7,
    "sizes": [{"as_int": 2}],
    "strides": [{"as_int": 1}],
    "storage_offset": {"as_int": 0},
    "requires_grad": True,
}
ENTRY = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": META}


def export(config, data=bytes(8), extra=None):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("m/archive_format", "pt2")
        text = config if isinstance(config, (str, bytes)) else json.dumps({"config": config})
        target.writestr("m/data/weights/model_weights_config.json", text)
        target.writestr("m/data/weights/weight_0", data)
        for name, content in (extra or {}).items():
            target.writestr(name, content)
    return stream.getvalue()


def read(path, content):
    path.write_bytes(content)
    return load_checkpoint(str(path))


@pytest.mark.filterwarnings("ignore")
def test_reads_what_torch_exports(tmp_path):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 4)
            self.conv = torch.nn.Conv2d(3, 4, 3)
            self.register_buffer("offset", torch.ones(2))

        def forward(self, x, image):
            return self.fc(x).sum() + self.conv(image) * self.offset.sum()

    net = Net()
    program = torch.export.export(net, (torch.randn(2, 3), torch.randn(1, 3, 8, 8)))
    torch.export.save(program, tmp_path / "m.pt2")
    model = load_checkpoint(str(tmp_path / "m.pt2"))
    assert model.kind is Kind.TORCH_EXPORT
    assert (model.graph["fc"].op, model.graph["conv"].op) == (Op.LINEAR, Op.CONV)
    for name, tensor in model.metadata["tensors"].items():
        np.testing.assert_array_equal(tensor.read(), net.state_dict()[name].numpy())
    assert [param.name for param in model.loose] == ["offset"]


def test_pickled_members_are_never_opened(tmp_path):
    evil = b"\x80\x02cposix\nsystem\nX\x0b\0\0\0touch pwned\x85R."
    extra = {"m/data/sample_inputs/model.pt": evil, "m/data/constants/custom_obj_0": evil}
    config = {"w": ENTRY, "p": {**ENTRY, "use_pickle": True}}
    model = read(tmp_path / "m.pt2", export(config, extra=extra))
    assert set(model.metadata["tensors"]) == {"w"}
    assert any("not read" in notice for notice in model.notices)


def changed(**fields):
    return {"w": {**ENTRY, "tensor_meta": {**META, **fields}}}


HOSTILE = {
    "no config": export("{}"),
    "config is a list": export('{"config": []}'),
    "not json": export("hello"),
    "nested": export('{"a":' * 5000),
    "entry is a list": export({"w": []}),
    "no weights": export({}),
    "member missing": export({"w": {**ENTRY, "path_name": "weight_9"}}),
    "member outside": export({"w": {**ENTRY, "path_name": "../../../etc/passwd"}}),
    "symbolic size": export(changed(sizes=[{"as_expr": {"expr_str": "9**9**9**9"}}])),
    "size is a string": export(changed(sizes=["9**9"])),
    "sizes are missing": export(changed(sizes=None)),
    "boolean size": export(changed(sizes=[{"as_int": True}])),
    "negative size": export(changed(sizes=[{"as_int": -2}])),
    "too large": export(changed(sizes=[{"as_int": 1 << 40}])),
    "stride 0": export(changed(sizes=[{"as_int": 1 << 40}], strides=[{"as_int": 0}])),
    "stride outside": export(changed(strides=[{"as_int": 99}])),
    "offset outside": export(changed(storage_offset={"as_int": 1})),
    "negative offset": export(changed(storage_offset={"as_int": -1})),
    "unknown type": export(changed(dtype=999)),
    "type is a list": export(changed(dtype=[7])),
    "older layout": export({"w": ENTRY}, extra={"m/serialized_exported_program.json": b"{}"}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_broken_programs_are_one_line_errors(tmp_path, case):
    with pytest.raises(LoadError) as caught:
        read(tmp_path / "m.pt2", HOSTILE[case])
    assert "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=4) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from([*META, *ENTRY, "as_int"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("exports") / "m.pt2"


@settings(deadline=None, max_examples=200)
@given(entry=st.fixed_dictionaries({}, optional=dict.fromkeys(ENTRY, VALUES)),
       meta=st.fixed_dictionaries({}, optional=dict.fromkeys(META, VALUES)))  # fmt: skip
def test_arbitrary_entries_never_raise_anything_else(scratch, entry, meta):
    config = {"w": {**ENTRY, "tensor_meta": {**META, **meta}, **entry}}
    message = ""
    try:
        for tensor in read(scratch, export(config)).metadata["tensors"].values():
            tensor.read()
    except LoadError as error:
        message = str(error)
    assert "\n" not in message
