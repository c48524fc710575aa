"""The second wall: what a process behind it can still do, and that readers live with it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from initlint import sandbox, worker
from initlint.load.files import reach
from initlint.sandbox import landlock, seccomp

ROOT = Path(sandbox.__file__).parents[2]

linux = pytest.mark.skipif(sys.platform != "linux", reason="the wall is Linux's")
confined = pytest.mark.skipif(
    sys.platform != "linux" or landlock.version() < 1, reason="this kernel has no Landlock"
)

PRELUDE = """
import os, resource, signal, socket, subprocess, sys, threading
from initlint.sandbox import lock_down

def attempt(action):
    try:
        action()
    except OSError:
        print("refused")
    else:
        print("allowed")
"""


def behind_the_wall(script: str, *arguments: str) -> list[str]:
    """Lines that a script prints which locks itself down."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@linux
def test_system_calls_that_reading_never_needs_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    found = behind_the_wall(
        """
        file = sys.argv[1]
        lock_down([os.path.dirname(file)])
        for action in (
            lambda: socket.socket(),
            lambda: socket.socket(socket.AF_UNIX),
            lambda: os.fork(),
            lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),
            lambda: subprocess.run([sys.executable, "-c", ""]),
            lambda: os.kill(os.getppid(), 0),
            lambda: os.open(file, os.O_WRONLY),
            lambda: os.open(file + "2", os.O_RDONLY | os.O_CREAT),
            lambda: os.unlink(file),
            lambda: os.rename(file, file + "2"),
            lambda: os.mkdir(file + "3"),
            lambda: os.symlink(file, file + "4"),
            lambda: os.chmod(file, 0),
            lambda: os.utime(file),
            lambda: os.truncate(file, 0),
            lambda: os.memfd_create("x"),
        ):
            attempt(action)
        """,
        str(tmp_path / "file"),
    )
    assert found == ["refused"] * 16
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "x"


@confined
def test_only_the_given_paths_and_libraries_can_be_read(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "file").write_text("x")
    (inside / "link").symlink_to(outside / "file")
    found = behind_the_wall(
        """
        inside, outside = sys.argv[1:]
        lock_down([inside, "/no/such/path"])
        attempt(lambda: open(f"{inside}/file").read())
        attempt(lambda: os.listdir(inside))
        attempt(lambda: __import__("xmlrpc.server"))
        attempt(lambda: open(f"{outside}/file"))
        attempt(lambda: open(f"{inside}/link"))
        attempt(lambda: os.listdir(outside))
        attempt(lambda: open("/etc/passwd"))
        attempt(lambda: open("/proc/self/mem", "rb"))
        """,
        str(inside),
        str(outside),
    )
    assert found == ["allowed"] * 3 + ["refused"] * 5


@linux
def test_threads_limits_and_the_one_child_still_work():
    found = behind_the_wall(
        """
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        lock_down([], child.pid)
        attempt(lambda: threading.Thread(target=os.getpid).start())
        attempt(lambda: resource.getrlimit(resource.RLIMIT_AS))
        attempt(lambda: child.kill() or child.wait())
        attempt(lambda: os.kill(other.pid, signal.SIGKILL))
        other.stdin.close()
        """
    )
    assert found == ["allowed"] * 3 + ["refused"]


def test_parts_that_the_system_lacks_are_named(monkeypatch):
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    assert sandbox.lock_down(()) == ("confinement (none known for darwin)",)


@linux
def test_a_kernel_without_either_is_named_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(seccomp.os, "uname", lambda: os.uname_result(("", "", "", "", "riscv64")))
    assert sandbox.lock_down(()) == ("Landlock", "seccomp")
    with open(os.devnull, "wb"):
        pass


@pytest.mark.parametrize("machine", sorted(seccomp._ARCHITECTURES))
def test_every_jump_of_the_filter_lands_inside(machine):
    program = list(seccomp._program(seccomp._ARCHITECTURES[machine], 1, None))
    assert len(program) < 4096
    for index, instruction in enumerate(program):
        code, if_true, if_false = int.from_bytes(instruction[:2], "little"), *instruction[2:4]
        if code & 7 == 5:
            assert index + 1 + max(if_true, if_false) < len(program)
    assert int.from_bytes(program[-1][:2], "little") == 6


def test_reach_of_a_target(tmp_path):
    revision = tmp_path / "models--a--b" / "snapshots" / "0"
    blobs = tmp_path / "models--a--b" / "blobs"
    for folder in (revision, blobs):
        folder.mkdir(parents=True)
    (blobs / "ab12").write_text("x")
    (revision / "model.onnx").symlink_to(blobs / "ab12")
    root = os.path.realpath(tmp_path)
    found = reach(str(revision / "model.onnx"))
    assert set(found) == {
        f"{root}/models--a--b/snapshots/0",
        f"{root}/models--a--b/blobs/ab12",
        f"{root}/models--a--b/blobs",
    }
    assert reach(str(blobs)) == (f"{root}/models--a--b/blobs",) * 2


def test_isolation_starts_the_probe_before_the_wall(monkeypatch, tmp_path):
    order = []
    from initlint.probe import child

    monkeypatch.setattr(child, "start_early", lambda path, *, fork: order.append("child") or 42)
    monkeypatch.setattr(worker, "apply_limits", lambda limits: order.append("limits"))
    monkeypatch.setattr(sandbox, "lock_down", lambda paths, pid: order.append(pid) or ("seccomp",))
    job = {"task": "lint", "target": str(tmp_path / "m.onnx"), "settings": {}, "limits": {}}
    assert worker.isolate(job) == ["seccomp"]
    assert order == ["child", "limits", 42]
    order.clear()
    worker.isolate({**job, "settings": {"probe": False}})
    worker.isolate({**job, "target": str(tmp_path / "m.pt")})
    assert order == ["limits", None] * 2


@linux
def test_limits_of_the_probe_are_set_before_the_wall():
    """The wall refuses to change limits, so a child that raised it first would have none."""
    script = """
        import os
        from initlint.probe import serve, onnxruntime, request
        def read(stream):
            with open("/proc/self/limits") as file:
                os.write(2, file.read().encode())
            raise MemoryError
        request.Request.read = staticmethod(read)
        import initlint.sandbox
        initlint.sandbox.lock_down = lambda paths: os.write(2, b"WALL\\n")
        serve.main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        input=(3 << 30).to_bytes(8, "little") + (77).to_bytes(8, "little"),
        capture_output=True,
        check=False,
    )
    wall, *limits = done.stderr.decode().splitlines()
    assert wall == "WALL"
    found = {line[:25].strip(): line[25:].split()[0] for line in limits}
    assert found["Max address space"] == str(3 << 30)
    assert found["Max cpu time"] == "77"
    assert found["Max file size"] == "0"
