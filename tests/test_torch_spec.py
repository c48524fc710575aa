"""Specs: importing, building, inputs, construction sites, and errors of one line."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from initlint.load import LoadOptions  # noqa: E402
from initlint.load.torch_module import capture, load_spec  # noqa: E402
from initlint.model import LoadError, Model, Op  # noqa: E402

HEADER = "import torch\nfrom torch import nn\n"


def write(folder: Path, source: str, name: str = "net.py") -> Path:
    path = folder / name
    path.write_text(HEADER + textwrap.dedent(source))
    return path


def line_of(path: Path, text: str) -> int:
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def load(path: Path, attribute: str, **options: object) -> Model:
    return load_spec(f"{path}:{attribute}", LoadOptions(**options))  # type: ignore[arg-type]


LOOP = """
def make(depth):
    layers = []
    for _ in range(depth):
        layers.append(nn.Linear(8, 8))  # the constructor
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(width, width)  # in the block

    def forward(self, x):
        return torch.relu(self.fc(x))


class Net(nn.Module):
    def __init__(self, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList([
            Block(8) for _ in range(depth)  # the blocks
        ])
        self.body = make(depth)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2  # the prototype
        )

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.encoder(self.body(x))
"""


def test_a_layer_built_in_a_loop_in_a_helper_has_the_line_of_its_constructor(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, LOOP)
    model = load(path, "Net", input_shape=(4, 5, 8))
    for name in ("body.0", "body.2"):
        where = model.graph[name].where
        assert (where.file, where.line) == (str(path), line_of(path, "# the constructor"))
    assert model.graph["blocks.1.fc"].where.line == line_of(path, "# in the block")
    assert model.graph["encoder.layers.1.linear1"].where.line == line_of(path, "# the prototype")


def test_layers_of_a_library_model_have_the_users_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    path = write(
        tmp_path,
        """
        from transformers import BertConfig, BertModel

        def build():
            config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1,
                                num_attention_heads=2, intermediate_size=16)
            return BertModel(config)  # here
        """,
    )
    model = load(path, "build")
    sites = {layer.where.line for layer in model.graph if layer.params}
    assert sites == {line_of(path, "# here")}
    assert model.fresh_hint is True


def test_places_of_a_module_built_elsewhere_come_from_its_source(tmp_path: Path) -> None:
    path = write(tmp_path, LOOP, "elsewhere.py")
    namespace: dict[str, object] = {"__name__": "elsewhere"}
    exec(compile(path.read_text(), str(path), "exec"), namespace)

    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(4, 3)
            self.rest = torch.nn.Sequential(
                torch.nn.ReLU(),
                torch.nn.Linear(3, 2),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rest(self.first(x))

    model = capture(Holder(), torch.randn(2, 4))
    start = Holder.__init__.__code__.co_firstlineno
    assert model.graph["first"].where.line == start + 2
    assert model.graph["rest.1"].where.line == start + 5
    assert model.graph["first"].where.file == __file__


@pytest.mark.parametrize(
    ("attribute", "options"),
    [
        ("Net", {"arguments": {"width": 6}}),
        ("instance", {}),
        ("factory", {}),
        ("Holder.build", {}),
        ("with_inputs", {}),
    ],
)
def test_classes_instances_and_factories_are_targets(
    tmp_path: Path, attribute: str, options: dict[str, object]
) -> None:
    path = write(
        tmp_path,
        """
        class Net(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.fc = nn.Linear(4, width)

            def forward(self, x):
                return self.fc(x)

        instance = Net(6)

        def factory():
            return Net(6)

        def with_inputs():
            return Net(6), torch.zeros(3, 4)

        class Holder:
            build = staticmethod(factory)
        """,
    )
    model = load(path, attribute, **options)
    assert model.graph["fc"].weight.shape == (6, 4)


def test_construction_is_seeded_and_leaves_the_generators_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "def build():\n    return nn.Linear(5, 4)\n")
    state = torch.get_rng_state()
    first, again, other = (load(path, "build", seed=seed) for seed in (1, 1, 2))

    def weight(model: Model) -> np.ndarray:
        return model.graph.weighted[0].weight.tensor.read()

    np.testing.assert_array_equal(weight(first), weight(again))
    assert (weight(first) != weight(other)).any()
    assert torch.equal(state, torch.get_rng_state())


def test_loaded_weights_are_not_taken_for_fresh_ones(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        def build():
            model = nn.Linear(3, 2)
            model.load_state_dict(nn.Linear(3, 2).state_dict())
            return model
        """,
    )
    assert load(path, "build").fresh_hint is None


def test_a_factory_that_trains_does_not_give_a_fresh_model(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        def build():
            model = nn.Linear(3, 2)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()
            return model
        """,
    )
    backward = torch.autograd.backward
    assert load(path, "build").fresh_hint is None
    assert torch.autograd.backward is backward


def test_weights_from_a_file_of_another_kind_are_not_taken_for_fresh_ones(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"w": torch.zeros(2, 3)}, tmp_path / "w.safetensors")
    path = write(
        tmp_path,
        f"""
        from safetensors.torch import load_file

        def build():
            model = nn.Linear(3, 2)
            model.weight.data.copy_(load_file({str(tmp_path / "w.safetensors")!r})["w"])
            return model
        """,
    )
    assert load(path, "build").fresh_hint is None


@pytest.mark.parametrize(
    ("source", "attribute", "options", "expected"),
    [
        ("import nothing_of_that_name\n", "Net", {}, "ModuleNotFoundError"),
        ("def broken(:\n", "Net", {}, "SyntaxError"),
        ("class Model(nn.Module): pass\n", "Modle", {}, "did you mean 'Model'?"),
        (
            "def build(depth, width): ...\n",
            "build",
            {},
            "needs depth, width: give them with --args",
        ),
        ("def build(): ...\n", "build", {"arguments": {"size": 3}}, "--args do not fit"),
        ("def build(): return 3\n", "build", {}, "got int"),
        ("value = 3\n", "value", {}, "expected a module, a class or a function"),
        ("def build(): raise ValueError('no data')\n", "build", {}, "ValueError: no data at"),
        ("raise SystemExit(3)\n", "build", {}, "SystemExit"),
        (
            "def build(): return nn.Linear(3, 2)\n",
            "build",
            {"input_shape": (2, 3), "input_dtype": "float99"},
            "no such dtype",
        ),
        (
            "def build(): return nn.Linear(3, 2)\n",
            "build",
            {"input_shape": (2, 5)},
            "forward raised RuntimeError",
        ),
        (
            "def build(): return nn.Linear(3, 2)\ndef example_inputs(): return 1 / 0\n",
            "build",
            {},
            "example_inputs() raised ZeroDivisionError",
        ),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_line(
    tmp_path: Path, source: str, attribute: str, options: dict[str, object], expected: str
) -> None:
    path = write(tmp_path, source)
    with pytest.raises(LoadError) as caught:
        load(path, attribute, **options)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


def test_an_error_while_building_names_the_users_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        def build():
            return nn.Linear("three", 2)  # wrong
        """,
    )
    with pytest.raises(LoadError) as caught:
        load(path, "build")
    assert str(caught.value).endswith(f"net.py:{line_of(path, '# wrong')}")


def test_a_missing_file_and_a_missing_package_are_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no file"):
        load_spec(f"{tmp_path}/absent.py:Net")
    with pytest.raises(LoadError, match="no module 'absent_package'"):
        load_spec("absent_package.models:Net")


def test_inputs_from_an_archive_go_by_name_or_by_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(4, 2)

            def forward(self, left, right):
                return self.fc(left) - self.fc(right).sum()

        def build():
            return Net()
        """,
    )
    for names in (("right", "left"), ("a", "b")):
        file = tmp_path / "inputs.npz"
        arrays = {name: np.zeros((3, 4), np.float32) for name in names}
        np.savez(file, **arrays)
        model = load(path, "build", input_file=str(file))
        assert [layer.id for layer in model.graph if layer.op is Op.INPUT]
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"nothing")
    with pytest.raises(LoadError, match=r"not an \.npz"):
        load(path, "build", input_file=str(bad))


def test_structure_only_builds_on_meta(tmp_path: Path) -> None:
    path = write(tmp_path, "def build():\n    return nn.Linear(1 << 18, 1 << 18)\n")
    model = load(path, "build", structure_only=True)
    assert model.graph.weighted[0].weight.size == 1 << 36
    assert model.graph.weighted[0].weight.tensor is None


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))", (16, 12)),
        ("nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten())", (16, 3, 32, 32)),
        (
            "nn.Sequential(nn.Conv2d(1, 4, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(576, 2))",
            (16, 1, 28, 28),
        ),
        ("nn.LSTM(6, 4)", (12, 16, 6)),
        ("nn.GRU(6, 4, batch_first=True)", (16, 12, 6)),
        ("nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)", (16, 12, 8)),
        ("nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4))", (16, 7)),
        ("nn.ConvTranspose2d(5, 3, 4)", (16, 5, 1, 1)),
        ("nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU())", (16, 2, 64)),
    ],
)
def test_inputs_are_worked_out_from_the_first_layers(
    expression: str, expected: tuple[int, ...]
) -> None:
    module = eval(expression, {"nn": torch.nn})
    model = capture(module)
    assert tuple(model.runnable.args[0].shape) == expected
    assert model.notices[0].startswith("inputs worked out from the first layers: ")


def test_a_module_without_fitting_inputs_says_what_to_give() -> None:
    class Picky(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("never")

    with pytest.raises(LoadError, match=r"give --input-shape, --input FILE\.npz"):
        capture(Picky())


def test_values_for_a_given_shape_are_no_data_of_the_user(tmp_path: Path) -> None:
    assert load(write(tmp_path, LOOP), "Net", input_shape=(4, 5, 8)).runnable.drawn
