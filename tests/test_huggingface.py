"""Hugging Face folders: what is read, what never is."""

import json

import numpy as np
import pytest

from initlint.load.checkpoint import load_checkpoint
from initlint.model import Kind, LoadError
from tests.test_checkpoint import save_index, save_safetensors

WEIGHTS = {"fc.weight": np.ones((3, 2)), "fc.bias": [0, 0, 0]}


def configured(folder, **config):
    (folder / "config.json").write_text(json.dumps({"model_type": "x", **config}))


def test_config_and_weights_make_a_model(tmp_path):
    configured(tmp_path, num_attention_heads=4)
    save_safetensors(tmp_path / "model.safetensors", WEIGHTS)
    model = load_checkpoint(str(tmp_path))
    assert model.kind is Kind.HUGGINGFACE
    assert model.metadata["config"]["model_type"] == "x"
    assert set(model.metadata["tensors"]) == set(WEIGHTS)


def test_a_folder_without_a_config_is_a_checkpoint(tmp_path):
    save_safetensors(tmp_path / "weights.safetensors", WEIGHTS)
    assert load_checkpoint(str(tmp_path)).kind is Kind.CHECKPOINT


def test_safetensors_win_over_pickles_and_other_files_are_never_opened(tmp_path):
    configured(tmp_path)
    save_safetensors(tmp_path / "model.safetensors", WEIGHTS)
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "modeling_x.py"):
        (tmp_path / name).write_bytes(b"\x80\x02cposix\nsystem\n.")
    assert set(load_checkpoint(str(tmp_path)).metadata["tensors"]) == set(WEIGHTS)


def test_the_bin_file_is_read_where_it_is_alone(tmp_path):
    torch = pytest.importorskip("torch")
    configured(tmp_path)
    torch.save({"fc.weight": torch.ones(3, 2)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "optimizer.bin").write_bytes(b"junk")
    assert set(load_checkpoint(str(tmp_path)).metadata["tensors"]) == {"fc.weight"}


def test_the_index_lists_the_shards(tmp_path):
    configured(tmp_path)
    save_safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a.weight": np.ones((2, 2))})
    save_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"b.weight": np.ones((2, 2))})
    assert set(load_checkpoint(str(tmp_path)).metadata["tensors"]) == {"a.weight", "b.weight"}
    save_index(tmp_path, {"a.weight": "model-00001-of-00002.safetensors"})
    assert set(load_checkpoint(str(tmp_path)).metadata["tensors"]) == {"a.weight"}
    save_index(tmp_path, {"a.weight": "model-00003-of-00003.safetensors"})
    with pytest.raises(LoadError, match=r"model-00003-of-00003\.safetensors: no such file"):
        load_checkpoint(str(tmp_path))


def test_a_lost_shard_without_an_index_is_named(tmp_path):
    save_safetensors(tmp_path / "model-00002-of-00003.safetensors", WEIGHTS)
    with pytest.raises(LoadError, match="shard 1 of 3 is missing"):
        load_checkpoint(str(tmp_path))


def test_several_weight_files_need_a_choice(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", WEIGHTS)
    save_safetensors(tmp_path / "b.safetensors", WEIGHTS)
    with pytest.raises(LoadError, match="name one of them"):
        load_checkpoint(str(tmp_path))


def test_a_folder_without_weights_says_what_was_looked_for(tmp_path):
    configured(tmp_path)
    with pytest.raises(LoadError, match="no weights found"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["[]", "3", "{", "\0", '{"a":' * 3000, '{"a": "%s"}' % ("x" * 1_000_001)]
)
def test_a_broken_config_is_a_one_line_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    save_safetensors(tmp_path / "model.safetensors", WEIGHTS)
    with pytest.raises(LoadError) as caught:
        load_checkpoint(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_hub_cache_is_read_through_its_links(tmp_path):
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    save_safetensors(repo / "blobs" / "abcd", WEIGHTS)
    configured(repo / "blobs")
    (repo / "blobs" / "config.json").rename(repo / "blobs" / "ef01")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abcd")
    (snapshot / "config.json").symlink_to("../../blobs/ef01")
    model = load_checkpoint(str(snapshot))
    assert model.kind is Kind.HUGGINGFACE
    assert set(model.metadata["tensors"]) == set(WEIGHTS)
    assert model.graph["fc"].weight.tensor.read().sum() == 6


def test_links_out_of_a_folder_are_refused(tmp_path):
    outside = tmp_path / "outside.safetensors"
    save_safetensors(outside, WEIGHTS)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(LoadError, match="symbolic link"):
        load_checkpoint(str(folder))


def test_query_key_and_value_packed_by_head_are_split_with_the_head_count(tmp_path):
    heads, width = 2, 4
    rows = [[index * 100 + head * 10 + row for row in range(width // heads)]
            for head in range(heads) for index in range(3)]  # fmt: skip
    weight = np.repeat(np.array(rows).reshape(-1, 1), width, axis=1)
    save_safetensors(tmp_path / "model.safetensors", {"attention.query_key_value.weight": weight})
    configured(tmp_path, num_attention_heads=heads)
    params = load_checkpoint(str(tmp_path)).graph["attention.query_key_value"].params
    assert [param.gate for param in params] == ["query", "key", "value"]
    for index, param in enumerate(params):
        assert (param.tensor.read() // 100 == index).all()
