"""From a path to a model: which reader, which message, and a checkpoint under its module."""

import gzip
import json
import struct
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initlint.load.checkpoint import bind, load_checkpoint
from initlint.model import Kind, LoadError, Op, Role
from tests.corpus import trained_files


def save_safetensors(path, arrays):
    header, data = {}, b""
    for name, array in arrays.items():
        raw = np.asarray(array, "<f4").tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(np.shape(array)), "data_offsets": offsets}
        data += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def save_index(folder, placed, name="model.safetensors.index.json"):
    path = folder / name
    path.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return path


def test_a_checkpoint_is_a_model_without_edges(tmp_path):
    save_safetensors(
        tmp_path / "m.safetensors", {"fc.weight": np.ones((3, 2)), "fc.bias": [1, 2, 3]}
    )
    model = load_checkpoint(str(tmp_path / "m.safetensors"))
    assert model.kind is Kind.CHECKPOINT
    assert not model.connected
    assert [layer.op for layer in model.graph] == [Op.LINEAR]
    assert [param.role for param in model.graph["fc"].params] == [Role.WEIGHT, Role.BIAS]
    assert model.runnable is None


def test_the_contents_decide_and_not_the_extension(tmp_path):
    save_safetensors(tmp_path / "m.bin", {"fc.weight": np.ones((3, 2))})
    assert "fc" in load_checkpoint(str(tmp_path / "m.bin")).graph


def test_shards_are_read_through_their_index(tmp_path):
    for shard in range(40):
        save_safetensors(
            tmp_path / f"s{shard}.safetensors", {f"l{shard}.weight": np.full((2, 2), shard)}
        )
    placed = {f"l{shard}.weight": f"s{shard}.safetensors" for shard in range(40)}
    model = load_checkpoint(str(save_index(tmp_path, placed)))
    assert [layer.params[0].tensor.read()[0, 0] for layer in model.graph] == list(range(40))
    assert model.metadata["shards"] == 40


@pytest.mark.parametrize(
    ("shard", "match"),
    [
        ("gone.safetensors", "gone.safetensors: no such file"),
        ("../out.safetensors", "own folder"),
        ("/etc/passwd", "own folder"),
        ("link.safetensors", "symbolic link"),
        ("s.safetensors", "lacks tensor"),
        ("", "own folder"),
    ],
)
def test_a_shard_that_is_missing_or_elsewhere_is_named(tmp_path, shard, match):
    inside = tmp_path / "inside"
    inside.mkdir()
    save_safetensors(tmp_path / "out.safetensors", {"w.weight": np.ones((2, 2))})
    save_safetensors(inside / "s.safetensors", {"other.weight": np.ones((2, 2))})
    (inside / "link.safetensors").symlink_to(tmp_path / "out.safetensors")
    with pytest.raises(LoadError, match=match):
        load_checkpoint(str(save_index(inside, {"w.weight": shard})))


@pytest.mark.parametrize(
    "text",
    ["{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": null}}', "{",
     '{"a":' * 5000, "[1", "{" + "1," * 100],
)  # fmt: skip
def test_broken_indexes_are_one_line_errors(tmp_path, text):
    (tmp_path / "m.index.json").write_text(text)
    with pytest.raises(LoadError) as caught:
        load_checkpoint(str(tmp_path / "m.index.json"))
    assert "\n" not in str(caught.value)


def tar(path):
    (path.parent / "member").write_bytes(b"x")
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "member", "storages")
    return path.read_bytes()


FOREIGN = {
    "empty": (b"", "empty file"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html><html></html>", "web page"),
    "web page with blanks": (b"\n  <HTML>", "web page"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "GGUF": (b"GGUF" + bytes(100), "GGUF"),
    "gzip": (gzip.compress(b"x"), "gzip"),
    "NumPy": (b"\x93NUMPY\1\0", "NumPy"),
    "text": (b"hello world", "not a model file"),
    "zeros": (bytes(5000), "not a model file"),
    "zip without weights": (b"PK\3\4" + bytes(100), "archive"),
    "tar": (None, "tar archive"),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("extension", ["pt", "safetensors", "bin"])
def test_what_is_no_checkpoint_is_named(tmp_path, case, extension):
    path = tmp_path / f"m.{extension}"
    content, match = FOREIGN[case]
    path.write_bytes(tar(path) if content is None else content)
    if extension == "safetensors" and match == "not a model file":
        match = "safetensors"
    with pytest.raises(LoadError, match=match) as caught:
        load_checkpoint(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(LoadError, match="no such file"):
        load_checkpoint(str(tmp_path / "gone.pt"))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints") / "m.pt"


@settings(deadline=None, max_examples=200)
@given(
    head=st.sampled_from([b"", b"PK\3\4", b"\x80\x02", b"{", b"PK\5\6", b"\x10\0\0\0\0\0\0\0{"]),
    content=st.binary(max_size=200),
)
def test_arbitrary_files_never_raise_anything_else(scratch, head, content):
    scratch.write_bytes(head + content)
    message = ""
    try:
        load_checkpoint(str(scratch))
    except LoadError as error:
        message = str(error)
    assert "\n" not in message


# a checkpoint under its module


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def network(torch):
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.Flatten(),
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8 * 36, 16)),
        torch.nn.Unflatten(1, (4, 4)),
        torch.nn.LSTM(4, 5),
    )


def bound(torch, tmp_path, change):
    from initlint.load.torch_module import capture

    trained, fresh = network(torch), network(torch)
    state = change(dict(trained.state_dict()))
    torch.save(state, tmp_path / "m.pt")
    module = capture(fresh, torch.randn(2, 3, 8, 8))
    return bind(load_checkpoint(str(tmp_path / "m.pt")), module), trained, fresh


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "net."])
def test_a_checkpoint_fills_its_module(torch, tmp_path, prefix):
    def change(state):
        return {prefix + name: tensor for name, tensor in state.items()}

    model, trained, fresh = bound(torch, tmp_path, change)
    assert model.kind is Kind.CHECKPOINT
    assert model.connected
    assert model.metadata["missing"] == model.metadata["unexpected"] == ()
    assert all(param.tensor is not None for _, param in model.graph.params)
    np.testing.assert_array_equal(
        model.graph["0"].weight.tensor.read(), trained[0].weight.detach().numpy()
    )
    np.testing.assert_allclose(
        model.graph["3"].weight.tensor.read(), trained[3].weight.detach().numpy(), rtol=1e-5
    )
    gates = [param for param in model.graph["5"].params if param.role is Role.RECURRENT_WEIGHT]
    np.testing.assert_array_equal(
        np.concatenate([gate.tensor.read() for gate in gates]),
        trained[5].weight_hh_l0.detach().numpy(),
    )
    assert model.runnable is not None
    for name, tensor in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_names_and_shapes_that_do_not_match_are_told(torch, tmp_path):
    def change(state):
        del state["0.bias"]
        state["1.weight"] = torch.ones(9)
        state["extra.weight"] = torch.ones(2, 2)
        return state

    model, _, fresh = bound(torch, tmp_path, change)
    assert model.metadata["missing"] == ("0.bias",)
    assert model.metadata["unexpected"] == ("extra.weight",)
    assert model.metadata["mis_shaped"] == {"1.weight": ((8,), (9,))}
    params = {param.name: param for _, param in model.graph.params}
    assert params["0.bias"].tensor is None
    assert params["1.weight"].tensor is None
    assert params["0.weight"].tensor is not None
    assert model.runnable is None
    assert any("not probed" in notice for notice in model.notices)
    assert (fresh[1].weight == 1).all()


def test_a_tied_parameter_is_found_under_its_other_name(torch, tmp_path):
    from initlint.load.torch_module import capture

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(7, 4)
            self.head = torch.nn.Linear(4, 7, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids):
            return self.head(self.table(ids))

    torch.save({"table.weight": torch.ones(7, 4)}, tmp_path / "m.pt")
    module = capture(Tied(), torch.zeros(1, 3, dtype=torch.long))
    model = bind(load_checkpoint(str(tmp_path / "m.pt")), module)
    assert model.metadata["missing"] == ()
    assert all((param.tensor.read() == 1).all() for _, param in model.graph.params)


# real files


def corpus_files():
    return [path for path in trained_files() if path.suffix in (".safetensors", ".pt", ".pth")]


@pytest.mark.corpus
def test_real_checkpoints_read_as_their_libraries_read_them(torch):
    load_file = pytest.importorskip("safetensors.torch").load_file
    files = corpus_files()
    if not files:
        pytest.skip("no model corpus: set INITLINT_CORPUS to the folder that tests.corpus filled")
    for path in files:
        if path.suffix == ".safetensors":
            expected = load_file(path)
        else:
            expected = torch.load(path, weights_only=True, map_location="cpu")
            expected = expected.get("model_state", expected)
        tensors = load_checkpoint(str(path)).metadata["tensors"]
        assert set(tensors) == set(expected), path
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor.read(), expected[name].double().numpy())


def test_what_was_not_read_is_said(tmp_path):
    header = {
        "fc.qweight": {"dtype": "I32", "shape": [2, 2], "data_offsets": [0, 16]},
        "fc.scales": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
    }
    encoded = json.dumps(header).encode()
    content = struct.pack("<Q", len(encoded)) + encoded + bytes(24)
    (tmp_path / "m.safetensors").write_bytes(content)
    model = load_checkpoint(str(tmp_path / "m.safetensors"))
    assert model.graph["fc"].weight.tensor is None
    assert any("1 quantised" in notice for notice in model.notices)


@pytest.mark.parametrize("low", [b"\x80\x02", b"\x1f\x8b", b"BZ", b"PK", b"\xfd7"])
def test_a_header_length_that_looks_like_another_format_is_still_safetensors(tmp_path, low):
    length = int.from_bytes(low, "little")
    header = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(length)
    (tmp_path / "m.bin").write_bytes(struct.pack("<Q", length) + header + bytes(8))
    assert set(load_checkpoint(str(tmp_path / "m.bin")).metadata["tensors"]) == {"w"}


@pytest.mark.parametrize("wrapped", ["optimizer_state_dict", "optimizer_states"])
def test_the_optimisers_memory_is_read(torch, tmp_path, wrapped):
    from initlint.engine import lint
    from initlint.settings import Settings

    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16))
    extra = torch.nn.Parameter(torch.zeros(16, 16))
    net.register_parameter("stuck", extra)
    optimiser = torch.optim.Adam(net.parameters())
    for _ in range(12):
        optimiser.zero_grad()
        x = torch.randn(4, 8)
        (net(x).square().mean() + (extra * 0).sum()).backward()
        optimiser.step()
    state = optimiser.state_dict()
    content = {"state_dict": net.state_dict(), wrapped: [state] if wrapped[-1] == "s" else state}
    torch.save(content, tmp_path / "m.pt")
    model = load_checkpoint(str(tmp_path / "m.pt"))
    memories = model.metadata["optimiser"].parameters
    assert [memory.name for memory in memories] == list(net.state_dict())
    assert {memory.step for memory in memories} == {12.0}
    assert {memory.kind for memory in memories} == {"exp_avg_sq"}
    (finding,) = lint(model, Settings(select=("optimiser-state-empty",)))["findings"]
    assert finding["severity"] == "error"
    assert finding["evidence"]["parameters"] == ["stuck"]


def test_parameters_of_split_groups_are_named_by_their_shape(torch, tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
    groups = [{"params": [net[1].weight, net[0].weight]}, {"params": [net[0].bias, net[1].bias]}]
    optimiser = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    net(torch.randn(4, 8)).square().mean().backward()
    optimiser.step()
    content = {"model": net.state_dict(), "optimizer": optimiser.state_dict()}
    torch.save(content, tmp_path / "m.pt")
    memories = load_checkpoint(str(tmp_path / "m.pt")).metadata["optimiser"].parameters
    assert [memory.name for memory in memories] == ["1.weight", "0.weight", "0.bias", "1.bias"]
    assert {memory.kind for memory in memories} == {"momentum_buffer"}
