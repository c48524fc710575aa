"""Confined file access: what may be opened, what may not, and what happens when files change."""

import os

import pytest

from initlint.load.files import Folder, open_file, shown
from initlint.model import LoadError


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "data.bin").write_bytes(bytes(range(100)))
    (inside / "sub").mkdir()
    (inside / "sub" / "more.bin").write_bytes(b"more")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    return inside


def test_reads_any_range(folder):
    with open_file(str(folder / "data.bin")) as file:
        assert file.size == 100
        assert file.read_at(10, 5) == bytes(range(10, 15))
        assert file.read_array(98, 2).tolist() == [98, 99]
        assert file.read_at(100, 0) == b""


@pytest.mark.parametrize(("offset", "length"), [(99, 2), (-1, 1), (0, -1), (0, 1 << 60)])
def test_a_range_outside_the_file_is_refused_before_it_is_allocated(folder, offset, length):
    with open_file(str(folder / "data.bin")) as file, pytest.raises(LoadError, match="100 bytes"):
        file.read_at(offset, length)


def test_the_path_the_user_typed_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder / "data.bin")
    assert open_file(str(tmp_path / "link")).size == 100


@pytest.mark.parametrize("name", ["", "missing", "sub", "sub/", "a\0b", "x" * 5000])
def test_what_is_no_file_is_a_one_line_error(folder, name):
    with pytest.raises(LoadError) as caught:
        open_file(str(folder / name) if name else "")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_fifo_neither_blocks_nor_opens(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LoadError, match="not a regular file"):
        open_file(str(tmp_path / "pipe"))
    with pytest.raises(LoadError, match="not a regular file"):
        Folder.of(str(tmp_path)).open("pipe")


@pytest.mark.parametrize("relative", ["data.bin", "sub/more.bin", "./data.bin", "sub/./more.bin"])
def test_a_folder_opens_what_is_below_it(folder, relative):
    assert Folder.of(str(folder)).open(relative).size in (100, 4)


@pytest.mark.parametrize(
    "relative",
    ["../secret.txt", "sub/../../secret.txt", "/etc/passwd", "sub\\more.bin", "a\0b", "", ".",
     "sub//more.bin", "..", "sub/.."],
)  # fmt: skip
def test_a_folder_refuses_paths_that_leave_it(folder, relative):
    opened = Folder.of(str(folder))
    assert not opened.has(relative)
    with pytest.raises(LoadError):
        opened.open(relative)


def test_a_folder_follows_no_link(folder, tmp_path):
    (folder / "out").symlink_to(tmp_path / "secret.txt")
    (folder / "in").symlink_to("data.bin")
    (folder / "up").symlink_to("..")
    opened = Folder.of(str(folder))
    for relative in ("out", "in", "up/secret.txt"):
        with pytest.raises(LoadError, match=r"symbolic link|cannot be opened"):
            opened.open(relative)


def test_hard_links_are_accepted(folder):
    os.link(folder / "data.bin", folder / "twin.bin")
    assert Folder.of(str(folder)).open("twin.bin").size == 100


def hub(tmp_path):
    repo = tmp_path / "hub" / "models--org--name"
    snapshot = repo / "snapshots" / "abc"
    (snapshot / "onnx").mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "0123abcd").write_bytes(b"weights")
    return repo, snapshot


def test_the_hub_cache_links_into_its_own_blobs(tmp_path):
    _, snapshot = hub(tmp_path)
    (snapshot / "model.bin").symlink_to("../../blobs/0123abcd")
    (snapshot / "onnx" / "deep.bin").symlink_to("../../../blobs/0123abcd")
    assert Folder.of(str(snapshot)).open("model.bin").read_at(0, 7) == b"weights"
    assert Folder.of(str(snapshot)).open("onnx/deep.bin").read_at(0, 7) == b"weights"
    assert Folder.of(str(snapshot / "onnx")).open("deep.bin").read_at(0, 7) == b"weights"


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../../../other/blobs/0123abcd", "../../refs/main", "../../blobs/../refs/main",
     "../../blobs/x/../../refs/main", "../../blobs/..", "../../blobs/link"],
)  # fmt: skip
def test_the_hub_cache_links_nowhere_else(tmp_path, target):
    repo, snapshot = hub(tmp_path)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_bytes(b"x")
    (repo / "blobs" / "link").symlink_to("/etc/passwd")
    other = tmp_path / "hub" / "other" / "blobs"
    other.mkdir(parents=True)
    (other / "0123abcd").write_bytes(b"x")
    (snapshot / "model.bin").symlink_to(target)
    with pytest.raises(LoadError):
        Folder.of(str(snapshot)).open("model.bin")


@pytest.mark.parametrize("hold", [True, False])
def test_a_file_that_shrinks_is_an_error(folder, hold):
    file = Folder.of(str(folder)).open("data.bin", hold=hold)
    os.truncate(folder / "data.bin", 50)
    with pytest.raises(LoadError, match="changed while it was read"):
        file.read_at(0, 100)
    with pytest.raises(LoadError, match="changed while it was read"):
        file.check_unchanged()


def test_a_file_that_is_swapped_between_reads_is_an_error(folder):
    file = Folder.of(str(folder)).open("data.bin", hold=False)
    assert file.read_at(0, 1) == b"\0"
    (folder / "new").write_bytes(bytes(100))
    os.replace(folder / "new", folder / "data.bin")
    with pytest.raises(LoadError, match="changed while it was read"):
        file.read_at(0, 1)


def test_files_that_are_not_held_take_no_descriptor(folder):
    opened = Folder.of(str(folder))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    files = [opened.open("data.bin", hold=False) for _ in range(50)]
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after - before < 5
    assert all(file.read_at(1, 1) == b"\1" for file in files)


def test_a_closed_file_reads_again_only_if_it_is_the_same(folder):
    file = open_file(str(folder / "data.bin"))
    file.close()
    assert file.read_at(5, 1) == b"\5"
    file.check_unchanged()


def test_names_are_shown_on_one_line():
    assert shown("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert len(shown("x" * 10_000)) < 90
    assert shown("/long" * 100 + "/model.pt").endswith("/model.pt")


def test_a_closed_folder_opens_nothing(folder):
    opened = Folder.of(str(folder))
    held, loose = opened.open("data.bin"), opened.open("data.bin", hold=False)
    opened.close()
    assert held.read_at(1, 1) == b"\1"
    with pytest.raises(LoadError, match="cannot be opened"):
        loose.read_at(1, 1)
    with pytest.raises(LoadError, match="cannot be opened"):
        opened.open("data.bin")
