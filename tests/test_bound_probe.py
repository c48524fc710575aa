"""A checkpoint that fills its module is run in it."""

from __future__ import annotations

import pytest

from initlint.engine import run_probe
from initlint.load.checkpoint import bind, load_checkpoint
from initlint.measure.result import Stage
from initlint.probe.result import ProbeStatus
from initlint.settings import Settings

torch = pytest.importorskip("torch")


def test_bound_checkpoint_is_probed_with_its_own_weights(tmp_path):
    from initlint.load.torch_module import capture

    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    state = {name: torch.full_like(value, 0.5) for name, value in net.state_dict().items()}
    path = tmp_path / "net.pt"
    torch.save(state, path)
    bound = bind(load_checkpoint(str(path)), capture(net))
    observed = run_probe(bound, Settings(), Stage.TRAINED)
    assert observed.status is ProbeStatus.OK
    assert observed.gradients["0.weight"].weight_rms == pytest.approx(0.5)
