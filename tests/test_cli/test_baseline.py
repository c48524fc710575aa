"""``initlint baseline``: accept what is there, forget what is gone, never half of it."""

from __future__ import annotations

import shutil

FILE = "initlint-baseline.jsonl"


def test_write_then_check(call, here):
    assert call("baseline", "write", "broken.safetensors", "healthy.safetensors").code == 0
    assert (here / FILE).read_text().count("\n") >= 1
    assert call("broken.safetensors").code == 1
    assert call("broken.safetensors", "--baseline", FILE).code == 0


def test_prune_forgets_what_was_cured_and_what_is_gone(call, here):
    shutil.copy(here / "broken.safetensors", here / "other.safetensors")
    call("baseline", "write", "broken.safetensors", "other.safetensors")
    whole = (here / FILE).read_text()
    assert call("baseline", "prune").code == 0
    assert (here / FILE).read_text() == whole
    shutil.copy(here / "healthy.safetensors", here / "broken.safetensors")
    result = call("baseline", "prune")
    assert result.code == 0
    assert "of broken.safetensors" in result.err
    assert {"other" in line for line in (here / FILE).read_text().splitlines()} == {True}
    (here / "other.safetensors").unlink()
    assert call("baseline", "prune").code == 0
    assert (here / FILE).read_text() == ""


def test_prune_of_a_folder_forgets_what_was_deleted_in_it(call, here):
    for name in ("inside", "outside"):
        (here / name).mkdir()
        shutil.copy(here / "broken.safetensors", here / name / "gone.safetensors")
    shutil.copy(here / "healthy.safetensors", here / "inside")
    call("baseline", "write", "inside", "outside")
    for name in ("inside", "outside"):
        (here / name / "gone.safetensors").unlink()
    assert call("baseline", "prune", "inside").code == 0
    assert {"outside" in line for line in (here / FILE).read_text().splitlines()} == {True}


def test_prune_adds_nothing(call, here):
    call("baseline", "write", "healthy.safetensors")
    before = (here / FILE).read_text()
    assert call("baseline", "prune", "broken.safetensors").code == 0
    assert (here / FILE).read_text() == before


def test_nothing_is_written_when_something_was_not_checked(call, here):
    assert call("baseline", "write", "broken.safetensors", "gone.onnx").code == 2
    assert not (here / FILE).exists()
    call("baseline", "write", "broken.safetensors")
    before = (here / FILE).read_bytes()
    (here / "broken.safetensors").write_bytes(b"\0")
    assert call("baseline", "prune").code == 2
    assert (here / FILE).read_bytes() == before


def test_a_baseline_that_is_missing(call):
    result = call("baseline", "prune")
    assert result.code == 2
    assert "cannot be read" in result.err


def test_the_configured_baseline(call, here):
    (here / "initlint.toml").write_text('baseline = "accepted.jsonl"\n')
    assert call("baseline", "write", "broken.safetensors").code == 0
    assert call("broken.safetensors").code == 0


def test_help_of_every_command(call):
    for words in ((), ("write",), ("prune",)):
        result = call("baseline", *words, "--help")
        assert result.code == 0
        assert f"Usage: initlint baseline {' '.join(words)}".strip() in result.out
