"""A module's passes run beside the judging of its weights; neither can take the other along."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there a module is forked")

SECONDS = 120

PRELUDE = """
import os, signal, sys, time
from initlint.probe import torch_beside
from initlint.probe.result import Activations, ProbeStatus

torch_beside.PATIENCE = 0.5
FOUND = Activations(ProbeStatus.OK, "measured", samples=3)

def say(text):
    os.write(1, text.encode() + b"\\n")

def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

me = os.getpid()
"""


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_what_the_passes_measure_reaches_the_fork_and_the_process_ends_with_it():
    done = _run(
        """
        passes = torch_beside.split(lambda: FOUND)
        assert os.getpid() != me
        busy(1.5)  # longer than one that stands still is waited for
        assert passes() == FOUND
        say("judged")
        os._exit(0)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "judged\n", "")


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(600)"])
def test_a_fork_that_dies_or_stands_still_is_replaced(end):
    done = _run(
        f"""
        passes = torch_beside.split(lambda: FOUND)
        if os.getpid() != me:
            {end}
        assert passes() == FOUND
        say("judged here")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "judged here\n", "")


def test_passes_that_nobody_needs_end_with_the_fork():
    done = _run(
        """
        torch_beside.split(lambda: time.sleep(600))
        say("judged")
        os._exit(0)
        """
    )
    assert (done.returncode, done.stdout) == (0, "judged\n")


def test_passes_that_take_their_process_down_leave_what_was_judged():
    done = _run(
        """
        passes = torch_beside.split(lambda: os.kill(me, signal.SIGSEGV))
        busy(0.5)
        say("judged")
        passes()
        say("never")
        """
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "judged\n")


def test_a_defect_in_the_passes_is_told_where_they_run():
    done = _run(
        """
        def run():
            raise ZeroDivisionError("a defect")
        try:
            passes = torch_beside.split(run)
        except ZeroDivisionError as error:
            assert os.getpid() == me
            say(f"told: {error}")
            sys.exit()
        passes()
        say("never")
        """
    )
    assert (done.returncode, done.stdout) == (0, "told: a defect\n")


def test_what_was_printed_before_is_printed_once():
    done = _run(
        """
        print("once", end="")
        passes = torch_beside.split(lambda: FOUND)
        passes()
        sys.stdout.flush()
        os._exit(0)
        """
    )
    assert done.stdout == "once"


NETWORK = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 3)
        self.first = torch.nn.Linear(16, 64)
        self.second = torch.nn.Linear(64, 64)
        self.head = torch.nn.Linear(64, 10)
        torch.nn.init.zeros_(self.second.weight)

    def forward(self, x):
        x = self.conv(x).relu().mean((2, 3))
        return self.head(self.second(self.first(x).relu()).relu())
"""

SERVE = """
import os, sys
from initlint import worker
from initlint.probe import torch_beside
from initlint.wire import encode

split, target = sys.argv[1:]
if split == "together":
    torch_beside.may_split = lambda model: False
job = {"target": target, "task": "lint", "load": {"input_shape": (4, 3, 16, 16)}}
worker.serve(job, lambda record: os.write(1, encode(record)))
os._exit(0)
"""


def _records(target: str, split: str) -> list[dict[str, object]]:
    from initlint.wire import Decoder

    done = subprocess.run(
        [sys.executable, "-c", SERVE, split, target], capture_output=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return [_timeless(record) for record in Decoder().feed(done.stdout)]


def _timeless(value):
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if name != "seconds"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def test_two_processes_say_what_one_says(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NETWORK)
    apart, together = (_records(f"{path}:Net", split) for split in ("apart", "together"))
    assert [record["type"] for record in apart] == ["stage", "stage", "static", "stage", "done"]
    assert json.dumps(apart) == json.dumps(together)
    assert apart[-1]["target"]["findings"]
    assert apart[-1]["target"]["probe"]["status"] == "ok"


CRASHES = """
calls = []

class Crashes(Net):
    def forward(self, x):
        calls.append(1)
        if len(calls) > 1:  # the first is how the graph is found
            import os, signal
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().forward(x)
"""


def test_static_findings_survive_a_module_that_crashes(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NETWORK + CRASHES)
    shape = ("--input-shape", "4,3,16,16", "--format", "json")
    done = subprocess.run(
        [sys.executable, "-m", "initlint", f"{path}:Crashes", *shape],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        cwd=Path(__file__).parents[1],
    )
    target = json.loads(done.stdout)["targets"][0]
    assert target["probe"]["status"] == "failed"
    assert target["probe"]["detail"] == "crashed: SIGSEGV"
    assert "zero-weight" in {finding["name"] for finding in target["findings"]}


def test_only_modules_on_the_processor_are_forked(monkeypatch):
    from initlint.load.torch_module import capture
    from initlint.probe.torch_beside import may_split

    here = capture(torch.nn.Linear(4, 2), torch.zeros(3, 4))
    assert may_split(here)
    assert not may_split(capture(torch.nn.Linear(4, 2, device="meta"), torch.zeros(3, 4)))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert not may_split(here)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not may_split(here)
