from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from initlint.load.onnx import load_onnx
from initlint.model import Op
from initlint.probe.child import run_in_child
from initlint.probe.onnx_augment import with_batch_statistics, without_dropout
from initlint.probe.prechecks import MAX_INPUTS, MAX_STORED, refusal
from initlint.probe.result import Activations, OutputStats, ProbeStatus

torch = pytest.importorskip("torch")


def value(name: str, dtype: int = TensorProto.FLOAT, dims: Sequence[Any] | None = None) -> Any:
    return helper.make_tensor_value_info(name, dtype, dims)


def tensor(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    weights: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    **more: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(weights))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def probe(proto: onnx.ModelProto, folder: Path, **options: Any) -> Activations:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return run_in_child(load_onnx(str(path)), **options)


def of(op: Op, proto: onnx.ModelProto, folder: Path, **options: Any) -> list[OutputStats]:
    path = folder / "model.onnx"
    onnx.save(proto, path)
    loaded = load_onnx(str(path))
    found = run_in_child(loaded, **options)
    assert found.status is ProbeStatus.OK, found.detail
    return [found.outputs[layer.id] for layer in loaded.graph if layer.op is op]


def numbers(module: Any) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def relu_net(batch: int | str = "n") -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        [value("x", dims=[batch, 6])],
        [value("y")],
        [tensor("w", weight)],
    )


def assert_same(stats: OutputStats, expected: Any) -> None:
    array = expected.detach().double()
    assert stats.count == array.numel()
    assert stats.rms == pytest.approx(float(array.square().mean().sqrt()), rel=1e-4)
    assert stats.mean == pytest.approx(float(array.mean()), abs=1e-4 * stats.rms)
    flat = torch.nn.functional.normalize(array.flatten(1), dim=1)
    cosines = (flat @ flat.T)[~torch.eye(len(flat), dtype=torch.bool)]
    assert stats.correlation == pytest.approx(float(cosines.mean()), abs=1e-5)


def test_a_convolutional_net_is_measured_as_torch_measures_it_in_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
    )
    w = numbers(net)
    nodes = [
        helper.make_node("Conv", ["x", "0.weight", "0.bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization",
            ["c", "1.weight", "1.bias", "1.running_mean", "1.running_var"],
            ["b"],
        ),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    weights = [tensor(name, array) for name, array in w.items() if array.ndim]
    proto = model(nodes, [value("x", dims=["n", 3, 8, 8])], [value("y")], weights)
    x = np.random.default_rng(1).standard_normal((16, 3, 8, 8)).astype(np.float32) * 3 + 1
    np.savez(tmp_path / "x.npz", x=x)
    inputs = str(tmp_path / "x.npz")
    for training in (True, False):
        net.train(training)
        found = []
        hidden = torch.tensor(x)
        copy = torch.nn.Sequential(*net)
        for layer in copy:
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.reset_running_stats()
            hidden = layer(hidden)
            found.append(hidden)
        for op, expected in zip((Op.CONV, Op.BATCH_NORM, Op.RELU), found, strict=True):
            (stats,) = of(op, proto, tmp_path, inputs_file=inputs, train_norm=training)
            assert_same(stats, expected)
            assert stats.units == 8
    outcome = probe(proto, tmp_path, train_norm=True)
    assert outcome.train_mode
    assert not probe(proto, tmp_path, train_norm=False).train_mode


def test_an_lstm_is_measured_as_torch_measures_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.LSTM(5, 7)
    w = numbers(net)

    def gates(array: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(array, 4)
        return np.concatenate([i, o, f, g])[None]

    bias = np.concatenate([gates(w["bias_ih_l0"])[0], gates(w["bias_hh_l0"])[0]])[None]
    weights = [
        tensor("W", gates(w["weight_ih_l0"])),
        tensor("R", gates(w["weight_hh_l0"])),
        tensor("B", bias),
    ]
    node = helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=7)
    proto = model([node], [value("x", dims=["t", "batch", 5])], [value("y")], weights)
    x = np.random.default_rng(1).standard_normal((16, 9, 5)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    (stats,) = of(Op.LSTM, proto, tmp_path, inputs_file=str(tmp_path / "x.npz"))
    expected = net(torch.tensor(x))[0].detach().double()
    assert stats.rms == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-4)
    assert stats.units == 7
    (own,) = of(Op.LSTM, proto, tmp_path)
    assert own.samples >= 16
    assert own.row_std > 0


def test_samples_on_another_axis_than_the_first_are_told_apart(tmp_path: Path) -> None:
    proto = model(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            helper.make_node("Relu", ["t"], ["y"]),
        ],
        [value("x", dims=["batch", 4, 50])],
        [value("y")],
    )
    (stats,) = of(Op.RELU, proto, tmp_path)
    assert stats.samples >= 16
    assert stats.correlation == pytest.approx(1 / np.pi, abs=0.03)


def test_a_batch_fixed_at_one_is_run_several_times(tmp_path: Path) -> None:
    found = probe(relu_net(batch=1), tmp_path)
    assert found.samples == 8
    assert "8 runs" in found.detail
    assert found.inputs["x"] == "float32[1,6] N(0,1)"
    for stats in found.outputs.values():
        assert stats.samples == 8
        assert abs(stats.correlation) < 0.9


@pytest.mark.parametrize("batch", [1, "n"])
def test_a_large_model_is_run_on_two_samples(batch: int | str, tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).standard_normal((64, 64, 3, 3)).astype(np.float32)
    proto = model(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        [value("x", dims=[batch, 64, 200, 200])],
        [value("y")],
        [tensor("w", kernel)],
    )
    found = probe(proto, tmp_path)
    assert (found.status, found.samples) == (ProbeStatus.OK, 2)


def test_a_batch_that_the_exporter_baked_in_is_run_several_times(tmp_path: Path) -> None:
    proto = model(
        [
            helper.make_node("Reshape", ["x", "shape"], ["r"]),
            helper.make_node("Relu", ["r"], ["y"]),
        ],
        [value("x", dims=["n", 6])],
        [value("y")],
        [tensor("shape", np.array([1, 2, 3]))],
    )
    found = probe(proto, tmp_path)
    assert (found.status, found.samples) == (ProbeStatus.OK, 8)


def test_sizes_grow_until_the_graph_runs(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).standard_normal((4, 1, 100)).astype(np.float32)
    proto = model(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        [value("x", dims=["batch", 1, "samples"])],
        [value("y")],
        [tensor("w", kernel)],
    )
    found = probe(proto, tmp_path)
    assert found.status is ProbeStatus.OK
    assert ",1,128]" in found.inputs["x"]


def test_the_same_seed_gives_the_same_result(tmp_path: Path) -> None:
    first, second = (probe(relu_net(), tmp_path, seed=5) for _ in range(2))
    assert repr(first.outputs) == repr(second.outputs)
    assert repr(first.outputs) != repr(probe(relu_net(), tmp_path, seed=6).outputs)


def test_dead_units_are_found(tmp_path: Path) -> None:
    proto = relu_net()
    proto.graph.node[1].input[0] = "b"
    bias = np.array([0, -100, 0, 0, -100, 0, 0, 0, 0], np.float32)
    proto.graph.initializer.append(tensor("bias", bias))
    proto.graph.node.insert(1, helper.make_node("Add", ["h", "bias"], ["b"]))
    (stats,) = of(Op.RELU, proto, tmp_path)
    assert (stats.dead_units, stats.units) == (2, 9)
    assert stats.dead_chance < 0.01


def test_layers_inside_control_flow_are_left_out(tmp_path: Path) -> None:
    branch = helper.make_graph([helper.make_node("Tanh", ["h"], ["b"])], "b", [], [value("b")])
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
    ]
    proto = model(
        nodes, [value("x", dims=["n", 4])], [value("y")], [tensor("flag", np.array(True))]
    )
    found = probe(proto, tmp_path)
    assert found.status is ProbeStatus.OK
    assert len(found.outputs) >= 2


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([helper.make_node("SequenceConstruct", ["h"], ["y"])], "sequence"),
        ([helper.make_node("Cast", ["h"], ["y"], to=TensorProto.STRING)], TensorProto.STRING),
        ([helper.make_node("Cast", ["h"], ["y"], to=TensorProto.BFLOAT16)], TensorProto.BFLOAT16),
    ],
)
def test_outputs_that_are_no_numbers_are_left_out(
    nodes: list[onnx.NodeProto], outputs: Any, tmp_path: Path
) -> None:
    declared = (
        helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
        if outputs == "sequence"
        else value("y", outputs)
    )
    proto = model(
        [helper.make_node("Relu", ["x"], ["h"]), *nodes], [value("x", dims=["n", 4])], [declared]
    )
    (stats,) = of(Op.RELU, proto, tmp_path)
    assert stats.units == 4


def test_a_graph_without_inputs_is_run_once(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["w"], ["y"])
    found = probe(model([node], [], [value("y")], [tensor("w", np.ones(4, "f"))]), tmp_path)
    assert found.samples in (0, 1)
    assert found.status in (ProbeStatus.OK, ProbeStatus.SKIPPED)


def test_initializers_listed_as_inputs_are_not_fed(tmp_path: Path) -> None:
    proto = relu_net()
    proto.graph.input.append(value("w", dims=[6, 9]))
    found = probe(proto, tmp_path)
    assert list(found.inputs) == ["x"]


def test_positions_alone_are_not_called_collapsed(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
    proto = model(
        [
            helper.make_node("Gather", ["table", "position_ids"], ["p"]),
            helper.make_node("Add", ["x", "p"], ["y"]),
        ],
        [
            value("x", dims=["batch", "seq", 4]),
            value("position_ids", TensorProto.INT64, ["batch", "seq"]),
        ],
        [value("y")],
        [tensor("table", table)],
    )
    (stats,) = of(Op.EMBEDDING, proto, tmp_path)
    assert np.isnan(stats.correlation)


def test_external_weights_are_read_from_the_models_folder(tmp_path: Path) -> None:
    proto = relu_net()
    inside = probe(proto, tmp_path)
    path = tmp_path / "split" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    outside = run_in_child(load_onnx(str(path)))
    assert repr(outside.outputs) == repr(inside.outputs)


class TestGivenInputs:
    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"z": np.zeros((2, 6), "f")}, "no input 'z'"),
            ({}, "'x' is missing"),
            ({"x": np.zeros((2, 5), "f")}, "shape [2, 5], the model wants [n,6]"),
            ({"x": np.zeros((2, 6), "i8")}, "is int64, the model wants float32"),
        ],
    )
    def test_arrays_that_do_not_fit_are_named(
        self, arrays: dict[str, np.ndarray], words: str, tmp_path: Path
    ) -> None:
        np.savez(tmp_path / "in.npz", **arrays)
        found = probe(relu_net(), tmp_path, inputs_file=str(tmp_path / "in.npz"))
        assert found.status is ProbeStatus.FAILED
        assert words in found.detail
        assert "\n" not in found.detail

    @pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
    def test_a_broken_file_is_one_line(self, content: bytes, tmp_path: Path) -> None:
        path = tmp_path / "in.npz"
        path.write_bytes(content)
        found = probe(relu_net(), tmp_path, inputs_file=str(path))
        assert found.status is ProbeStatus.FAILED
        assert "not a readable .npz" in found.detail

    def test_a_missing_file_is_one_line(self, tmp_path: Path) -> None:
        found = probe(relu_net(), tmp_path, inputs_file=str(tmp_path / "none.npz"))
        assert found.status is ProbeStatus.FAILED


class TestTheChildPaysAlone:
    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("import os; os.kill(os.getpid(), 11)", "onnxruntime crashed (SIGSEGV)"),
            ("import os; os._exit(3)", "without an answer (exit status 3)"),
            ("import os; os.write(1, b'x' * 4096)", "without an answer"),
            ("import os; os.write(1, bytes([2]) + bytes(7) + b'{x')", "damaged"),
        ],
    )
    def test_a_child_that_dies_is_a_sentence(
        self, code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("initlint.probe.child._BOOTSTRAP", code)
        found = probe(relu_net(), tmp_path)
        assert found.status is ProbeStatus.FAILED
        assert words in found.detail

    def test_an_endless_loop_is_stopped(self, tmp_path: Path) -> None:
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["c"], ["d"]),
                helper.make_node("Identity", ["a"], ["b"]),
            ],
            "body",
            [
                value("i", TensorProto.INT64, []),
                value("c", TensorProto.BOOL, []),
                value("a", dims=[1]),
            ],
            [value("d", TensorProto.BOOL, []), value("b", dims=[1])],
        )
        proto = model(
            [
                helper.make_node("Relu", ["x"], ["h"]),
                helper.make_node("Loop", ["", "go", "h"], ["y"], body=body),
            ],
            [value("x", dims=[1])],
            [value("y")],
            [tensor("go", np.array(True))],
        )
        found = probe(proto, tmp_path, timeout=1.0)
        assert found.status is ProbeStatus.TIMEOUT
        assert found.detail == "stopped after 1 s"

    def test_memory_is_limited(self, tmp_path: Path) -> None:
        proto = model(
            [
                helper.make_node("Expand", ["x", "shape"], ["e"]),
                helper.make_node("Relu", ["e"], ["y"]),
            ],
            [value("x", dims=[1])],
            [value("y")],
            [tensor("shape", np.array([1 << 36]))],
        )
        found = probe(proto, tmp_path)
        assert found.status is ProbeStatus.FAILED
        assert "memory" in found.detail

    def test_nothing_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = tmp_path / "home"
        home.mkdir()
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(name, str(home))
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
        assert probe(relu_net(), tmp_path).status is ProbeStatus.OK
        assert list(home.rglob("*")) == []

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
    def test_no_descriptor_and_no_process_is_left(self, tmp_path: Path) -> None:
        probe(relu_net(), tmp_path)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            probe(relu_net(), tmp_path)
        assert len(os.listdir("/proc/self/fd")) == before


class TestPrechecks:
    def test_an_ordinary_graph_passes(self) -> None:
        assert refusal(relu_net()) is None

    def test_unknown_domain(self) -> None:
        node = helper.make_node("Magic", ["x"], ["y"], domain="acme")
        assert "Magic of domain acme" in str(refusal(model([node], [value("x")], [value("y")])))

    def test_fan_out(self) -> None:
        nodes = [helper.make_node("Relu", ["x"], [f"y{k}"]) for k in range(10_001)]
        assert "10001 consumers" in str(refusal(model(nodes, [value("x")], [value("y0")])))

    @pytest.mark.parametrize(("nodes", "fine"), [(50_000, True), (50_001, False)])
    def test_nodes(self, nodes: int, fine: bool) -> None:
        chain = [helper.make_node("Relu", [f"v{k}"], [f"v{k + 1}"]) for k in range(nodes)]
        found = refusal(model(chain, [value("v0")], [value(f"v{nodes}")]))
        assert found == (None if fine else "the graph has more than 50000 nodes")

    def test_stored_values_are_counted_first(self) -> None:
        weights = [helper.make_tensor(f"w{k}", 1, [1], [0.0]) for k in range(50_001)]
        magic = helper.make_node("Magic", ["x"], ["y"], domain="acme")
        found = refusal(model([magic], [value("x")], [value("y")], weights))
        assert found == "the graph stores 50001 values, more than 50000"

    def test_functions_are_counted_and_not_expanded(self) -> None:
        def twice(name: str, inner: str) -> Any:
            nodes = [
                helper.make_node(inner, ["a"], ["t"], domain="local"),
                helper.make_node(inner, ["t"], ["b"], domain="local"),
            ]
            return helper.make_function("local", name, ["a"], ["b"], nodes, opsets)

        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        last = helper.make_function(
            "local", "f40", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets
        )
        chain = [twice(f"f{k}", f"f{k + 1}") for k in range(40)] + [last]
        for first, fine in (("f0", False), ("f35", True)):
            node = helper.make_node(first, ["x"], ["y"], domain="local")
            found = refusal(model([node], [value("x")], [value("y")], functions=chain))
            assert (found is None) is fine, found

    def test_a_circle_of_functions(self) -> None:
        opsets = [helper.make_opsetid("local", 1)]
        nodes = [helper.make_node("f", ["a"], ["b"], domain="local")]
        function = helper.make_function("local", "f", ["a"], ["b"], nodes, opsets)
        node = helper.make_node("f", ["x"], ["y"], domain="local")
        found = refusal(model([node], [value("x")], [value("y")], functions=[function]))
        assert "circle" in str(found)

    def test_deep_subgraphs(self) -> None:
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [value("y")])
        for _ in range(31):
            node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
            graph = helper.make_graph([node], "g", [], [value("y")])
            if graph.ByteSize() > 1 << 20:
                break
            graph.node[0].attribute.pop()
        found = refusal(helper.make_model(graph))
        assert "nested" in str(found)


class TestAugmentation:
    @pytest.mark.parametrize("opset", [9, 13, 15, 18, 21])
    @pytest.mark.parametrize("rank", [2, 3, 4])
    def test_batch_statistics_match_torch(self, opset: int, rank: int) -> None:
        onnxruntime = pytest.importorskip("onnxruntime")
        generator = np.random.default_rng(0)
        x = generator.standard_normal((6, 3, 5, 5)[:rank]).astype(np.float32) * 4 + 2
        gain, shift = generator.standard_normal((2, 3)).astype(np.float32)
        proto = model(
            [
                helper.make_node(
                    "BatchNormalization", ["x", "g", "s", "m", "v"], ["y"], epsilon=1e-3
                )
            ],
            [value("x", dims=["n", 3, *["?"] * (rank - 2)])],
            [value("y")],
            [
                tensor("g", gain),
                tensor("s", shift),
                tensor("m", np.zeros(3, "f")),
                tensor("v", np.ones(3, "f")),
            ],
            opset=opset,
        )
        changed, count = with_batch_statistics(proto, opset)
        assert count == 1
        assert proto.graph.node[0].op_type == "BatchNormalization"
        session = onnxruntime.InferenceSession(changed.SerializeToString())
        expected = torch.nn.functional.batch_norm(
            torch.tensor(x), None, None, torch.tensor(gain), torch.tensor(shift), True, eps=1e-3
        )
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-4, atol=1e-5)

    def test_running_statistics_that_moved_are_kept(self) -> None:
        proto = model(
            [helper.make_node("BatchNormalization", ["x", "g", "s", "m", "v"], ["y"])],
            [value("x", dims=["n", 3])],
            [value("y")],
            [
                tensor("g", np.ones(3, "f")),
                tensor("s", np.zeros(3, "f")),
                tensor("m", np.full(3, 0.1, "f")),
                tensor("v", np.ones(3, "f")),
            ],
        )
        changed, count = with_batch_statistics(proto, 17)
        assert changed is proto
        assert count == 0

    def test_dropout_stays_off(self, tmp_path: Path) -> None:
        proto = model(
            [
                helper.make_node("Dropout", ["x", "p", "on"], ["d"]),
                helper.make_node("Relu", ["d"], ["y"]),
            ],
            [value("x", dims=["n", 50])],
            [value("y")],
            [tensor("p", np.float32(0.9)), tensor("on", np.array(True))],
        )
        assert list(without_dropout(proto).graph.node[0].input) == ["x", "p"]
        (stats,) = of(Op.RELU, proto, tmp_path)
        assert stats.zero_share == pytest.approx(0.5, abs=0.05)


def test_more_values_than_a_session_can_hold_in_time_are_not_run():
    def refused(initializers: int, inputs: int) -> str | None:
        graph = onnx.GraphProto()
        for number in range(initializers):
            graph.initializer.add(name=f"w{number}")
            graph.input.add(name=f"w{number}")  # as IR version 3 lists them
        for number in range(inputs):
            graph.input.add(name=f"x{number}")
        return refusal(onnx.ModelProto(graph=graph))

    assert refused(2000, MAX_INPUTS) is None
    assert refused(2000, MAX_INPUTS + 1) == "the graph has more than 1000 inputs"
    assert "stores" in str(refused(MAX_STORED + 1, 1))


def test_only_given_inputs_are_judged(tmp_path: Path) -> None:
    from fixtures.onnx_models import MODELS
    from initlint.engine import lint
    from initlint.load import load
    from initlint.settings import Settings

    path = tmp_path / "net.onnx"
    onnx.save(MODELS["good_deep_relu_he"](0), path)
    width = load(str(path)).graph.order[0].output_shape[-1]
    pixels = np.random.default_rng(0).uniform(0, 255, (32, width)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=pixels)
    only = {"select": ("input-statistics",)}
    assert lint(load(str(path)), Settings(**only))["findings"] == []
    given = Settings(**only, input=str(tmp_path / "x.npz"))
    (finding,) = lint(load(str(path)), given)["findings"]
    assert finding["severity"] == "error"
    assert finding["evidence"]["rows"] == 32
