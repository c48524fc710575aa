"""The seeds of `fuzz.command`, each run once; ``make fuzz`` goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import command
from initlint import supervisor

SEEDS = sorted((Path(command.__file__).parent / "corpus" / "command").iterdir())


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(supervisor, "run", supervisor.run)  # put back afterwards
    command.without_processes()


@pytest.mark.parametrize("number", range(len(command.COMMANDS)))
def test_every_command_bears_its_seeds(number, tmp_path):
    chosen = [data for seed in SEEDS if (data := seed.read_bytes())[0] == number]
    assert chosen
    for data in chosen:
        command.check(data, tmp_path)


def test_a_defect_is_seen(tmp_path, monkeypatch):
    def broken(job, enter, emit):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(command.worker._TASKS, "lint", broken)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        command.check(SEEDS[0].read_bytes(), tmp_path)
    assert SEEDS[0].read_bytes()[0] == 0
