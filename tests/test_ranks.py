"""Checkpoints of several ranks are brought together for the file of the first."""

from __future__ import annotations

import pytest

from initlint.load.checkpoint import load_checkpoint

torch = pytest.importorskip("torch")


def write(folder, *names):
    for index, name in enumerate(names):
        torch.save({"weight": torch.full((4, 4), float(index))}, folder / name)


@pytest.mark.parametrize(
    ("names", "tensor_parallel"),
    [
        (("mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"), True),
        (("consolidated.00.pth", "consolidated.01.pth"), True),
        (("model.tp_rank_0.pt", "model.tp_rank_1.pt"), True),
        (("rank0.pt", "rank1.pt"), False),
        (("dp_rank_0.pt", "dp_rank_1.pt"), False),
    ],
)
def test_first_rank_brings_the_others(tmp_path, names, tensor_parallel):
    write(tmp_path, *names)
    first = load_checkpoint(str(tmp_path / names[0])).metadata
    assert first["tensor_parallel"] is tensor_parallel
    assert [float(first["ranks"][rank]["weight"].read()[0, 0]) for rank in (0, 1)] == [0.0, 1.0]
    assert "ranks" not in load_checkpoint(str(tmp_path / names[1])).metadata


def test_files_without_siblings_or_ranks_stand_alone(tmp_path):
    write(tmp_path, "mp_rank_00_model_states.pt", "model.pt", "other_rank_0.pt", "frank1.pt")
    for name in ("mp_rank_00_model_states.pt", "model.pt", "other_rank_0.pt", "frank1.pt"):
        assert "ranks" not in load_checkpoint(str(tmp_path / name)).metadata


def test_broken_or_linked_sibling_is_a_notice(tmp_path):
    write(tmp_path, "rank_0.pt", "rank_1.pt")
    (tmp_path / "rank_2.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "rank_3.pt").symlink_to("rank_1.pt")
    model = load_checkpoint(str(tmp_path / "rank_0.pt"))
    assert list(model.metadata["ranks"]) == [0, 1]
    assert [notice.partition(" was")[0] for notice in model.notices] == ["rank 2", "rank 3"]
