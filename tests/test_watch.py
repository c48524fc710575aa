"""`initlint.watch`: what it sees, and that it leaves no trace."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import jsonschema
import pytest

torch = pytest.importorskip("torch")

import initlint  # noqa: E402
from initlint.integrations.history import History, ParameterHistory  # noqa: E402
from initlint.integrations.judge import judge  # noqa: E402
from initlint.integrations.texts import TEXTS  # noqa: E402

nn = torch.nn


def net(gain=1.0, activation=nn.ReLU):
    torch.manual_seed(0)
    layers = [nn.Linear(16, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 4)]
    model = nn.Sequential(*layers)
    for module in model[:-1]:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        model[-1].weight.mul_(gain)
    return model


def batches(count, size=32):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        inputs = torch.randn(size, 16, generator=generator)
        yield inputs, inputs[:, :4].argmax(1)


def train(model, optimizer, steps=40, watch=None, accumulate=1):
    for inputs, labels in batches(steps):
        for part, part_labels in zip(
            inputs.chunk(accumulate), labels.chunk(accumulate), strict=True
        ):
            loss = nn.functional.cross_entropy(model(part), part_labels)
            (loss / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if watch is not None:
            watch.loss(loss)


def names(report):
    return {found["name"] for found in report.findings if found["code"].startswith("TRN")}


def hooks(model, optimizer):
    mine = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
    for module in model.modules():
        mine += [module._forward_hooks, module._forward_pre_hooks]
    return sum(map(len, mine))


def test_a_healthy_run_has_no_finding_and_is_bit_for_bit_the_same():
    plain, watched = net(), net()
    one, two = (torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (plain, watched))
    torch.manual_seed(7)
    train(plain, one)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    with initlint.watch(watched, two, every=5) as watch:
        train(watched, two, watch=watch)
    assert torch.equal(after, torch.get_rng_state())
    for left, right in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(left, right)
        assert torch.equal(one.state[left]["exp_avg"], two.state[right]["exp_avg"])
    report = watch.report()
    assert names(report) == set(), str(report)
    assert report.stage == "fresh"
    history = watch.history()
    assert history.measured == (0, 5, 10, 15, 20, 25, 30, 35)
    assert len(history.losses) == 40
    assert history.chance == pytest.approx(1.3863, abs=1e-4)
    assert hooks(watched, two) == 0


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_numbers_are_those_of_the_loop(accumulate):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model)
    with initlint.watch(model, optimizer, every=1, lint=False) as watch:
        train(model, optimizer, 1, watch, accumulate)
    seen = watch.history().parameters[0]
    change = (model[0].weight - before[0].weight).norm() / before[0].weight.norm()
    assert seen.path == "0.weight"
    assert seen.updates[0] == pytest.approx(float(change.detach()), rel=1e-5)
    gradient = (before[0].weight - model[0].weight).norm() / 0.1 / (16 * 32) ** 0.5
    assert seen.gradients[0] == pytest.approx(float(gradient), rel=1e-3)


def test_hooks_go_after_an_exception_and_after_the_last_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyError), initlint.watch(model, optimizer):
        raise KeyError
    assert hooks(model, optimizer) == 0
    watch = initlint.watch(model, optimizer, steps=3, every=1)
    train(model, optimizer, 5, watch)
    assert hooks(model, optimizer) == 0
    assert watch.history().steps == 3
    assert len(watch.history().losses) == 3


def test_a_head_that_is_sure_of_itself():
    model = net(gain=60)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with initlint.watch(model, optimizer, lint=False) as watch:
        train(model, optimizer, 3, watch)
    assert "first-loss-above-chance" in names(watch.report())


def test_parameters_that_stay_where_they_are():
    model = net()
    model.add_module("unused", nn.Linear(4, 4))
    model.forward = lambda x: nn.Sequential.forward(model[:5], x)
    held = [p for name, p in model.named_parameters() if not name.startswith("2.")]
    optimizer = torch.optim.Adam(held, lr=1e-2)
    with initlint.watch(model, optimizer, every=5, lint=False) as watch:
        train(model, optimizer, 20, watch)
    found = {f["name"]: f["layers"] for f in watch.report().findings}
    assert found["layer-not-moving"] == ["unused"]
    assert found["not-in-optimizer"] == ["2"]


def test_dead_units_and_saturated_activations():
    model = net()
    with torch.no_grad():
        model[0].bias[:20] = -1000.0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with initlint.watch(model, optimizer, every=5, lint=False) as watch:
        train(model, optimizer, 20, watch)
    (found,) = (f for f in watch.report().findings if f["name"] == "units-without-gradient")
    assert (found["param"], found["evidence"]["units"]) == ("0.weight", 20)
    model = net(activation=nn.Tanh)
    with torch.no_grad():
        model[0].weight.mul_(50)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with initlint.watch(model, optimizer, every=5, lint=False) as watch:
        train(model, optimizer, 20, watch)
    (found,) = (f for f in watch.report().findings if f["name"] == "activation-saturated")
    assert found["layer"] == "1"


@pytest.mark.parametrize(("rate", "name"), [(3.0, "update-too-large"), (1e-9, "update-too-small")])
def test_a_rate_that_does_not_fit(rate, name):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    with initlint.watch(model, optimizer, every=4, lint=False) as watch:
        train(model, optimizer, 30, watch)
    found = names(watch.report())
    assert name in found
    assert ("loss-not-falling" in found) == (rate < 1)


def test_a_loss_that_is_not_a_number():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with initlint.watch(model, optimizer, every=1, lint=False) as watch:
        train(model, optimizer, 5, watch)
    assert "training-not-finite" in names(watch.report())


def test_mixed_precision_with_a_scaler_that_skips_a_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with initlint.watch(model, optimizer, every=1) as watch:
        for number, (inputs, labels) in enumerate(batches(4)):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(inputs), labels)
            scaler.scale(loss * (float("inf") if number == 1 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            watch.loss(loss)
    assert watch.history().steps == 3
    assert watch.report().stage == "fresh"
    assert all(0 < g < 1 for g in watch.history().parameters[0].gradients)


def test_a_step_with_a_closure():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    with initlint.watch(model, optimizer, every=1) as watch:
        for inputs, labels in batches(3):  # noqa: B007 (the closure reads them)
            watch.loss(optimizer.step(closure))
    assert all(watch.history().parameters[0].gradients)
    assert "layer-not-moving" not in names(watch.report())


def test_a_model_that_cannot_be_linted_is_still_watched():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with initlint.watch(model, optimizer, select="no-such-rule") as watch:
        train(model, optimizer, 5, watch)
    report = watch.report()
    assert "the lint at step 0 failed" in report.to_dict()["notices"][0]
    assert watch.history().steps == 5


def test_the_report_is_a_report(tmp_path, capsys):
    model = net(gain=60)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with initlint.watch(model, optimizer, every=1) as watch:
        train(model, optimizer, 5, watch)
    report = watch.report()
    report.save(tmp_path / "run.json")
    report.save(tmp_path / "run.html")
    from importlib.resources import files

    schema = json.loads(files("initlint").joinpath("report/schema.json").read_text())
    record = json.loads((tmp_path / "run.json").read_text())
    jsonschema.validate(record, schema)
    assert record["targets"][0]["training"]["steps"] == 5
    assert "first-loss-above-chance" in (tmp_path / "run.html").read_text()
    from initlint.__main__ import main

    assert main(["report", str(tmp_path / "run.json"), "--format", "concise"]) == 1
    assert "first-loss-above-chance" in capsys.readouterr().out
    assert main(["explain", "TRN002"]) == 0
    assert "last layer" in capsys.readouterr().out


def history(**changes):
    weight = ParameterHistory("a.weight", (4, 4), True, (1.0,) * 5, (1e-3,) * 5)
    values = {"steps": 40, "measured": (0, 1, 2, 3, 4), "losses": (), "chance": None}
    return History(**{**values, "parameters": (weight,), **changes})


def test_gradients_apart_need_an_optimizer_that_does_not_divide_them_out():
    tiny = ParameterHistory("b.weight", (4, 4), True, (1e-7,) * 5, (1e-3,) * 5)
    apart = history(parameters=(*history().parameters, tiny))
    assert [f.name for f in judge(apart)] == ["gradients-apart"]
    assert judge(history(parameters=apart.parameters, adaptive=True)) == []


def test_a_layer_that_lags_behind_the_others():
    slow = ParameterHistory("b.weight", (4, 4), True, (1.0,) * 5, (1e-8,) * 5)
    others = tuple(
        ParameterHistory(f"{n}.weight", (4, 4), True, (1.0,) * 5, (1e-3,) * 5) for n in range(3)
    )
    (found,) = judge(history(parameters=(*others, slow)))
    assert (found.name, found.layers) == ("update-too-small", ("b",))


def test_a_branch_that_starts_at_zero_may_move_fast():
    updates = (None, 1.0, 0.5, 0.33, 0.25)
    zero = ParameterHistory("b.weight", (4, 4), True, (1.0,) * 5, updates, (), True)
    assert judge(history(parameters=(zero,))) == []


@pytest.mark.parametrize("losses", [[2.3 - 0.01 * n for n in range(40)], [1.0] * 10])
def test_a_loss_that_falls_slowly_or_is_too_short_to_judge(losses):
    assert judge(history(losses=tuple(losses))) == []


def test_every_text_is_complete():
    codes = [text.code for text in TEXTS.values()]
    assert len(set(codes)) == len(codes)
    assert all(t.summary.endswith(".") and t.remedy.endswith(".") for t in TEXTS.values())


def test_the_pytest_plugin(tmp_path):
    (tmp_path / "test_net.py").write_text(
        "import sys\n"
        "assert not {'numpy', 'torch'} & set(sys.modules)\n"
        "def test_init(initlint):\n"
        "    from torch import nn\n"
        "    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))\n"
        "    initlint.check(net).raise_if('error')\n"
        "def test_bad(initlint):\n"
        "    from torch import nn\n"
        "    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))\n"
        "    for layer in (net[0], net[2]):\n"
        "        nn.init.constant_(layer.weight, 0.1)\n"
        "    initlint.check(net).raise_if('warning')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "InitialisationError: initlint: warning[" in done.stdout
