"""What the README shows is what a user gets."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from fixtures.onnx_models import main

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_demo_is_a_real_run(tmp_path):
    shown = re.search(r"```\n\$ initlint (build/\S+)\n(.*?)```", README, re.S)
    (tmp_path / "build").mkdir()
    assert main(["bad_deep_relu_xavier", str(tmp_path / shown[1])]) == 0
    command = [sys.executable, "-m", "initlint", shown[1]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stdout == shown[2]


def test_set_up_is_two_commands_and_pip():
    blocks = re.findall(r"```\n(.*?)```", README, re.S)
    assert "make demo\nmake test\n" in blocks
    assert "pip install initlint\n" in blocks
