"""What PyTorch's two exporters write: the canonical weights equal the module's own tensors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from initlint.load.onnx import load_onnx
from initlint.load.onnx.names import public_name
from initlint.model import Op, Role

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
nn = torch.nn

GATES = {
    Op.LSTM: ["input", "forget", "cell", "output"],
    Op.GRU: ["reset", "update", "new"],
    Op.LINEAR: ["query", "key", "value"],
}
"""Order of the blocks in PyTorch's packed tensors."""


class Block(nn.Module):
    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        parts = self.qkv(self.ln1(x)).split(width, dim=2)
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.ln2(x))))


class GPT(nn.Module):
    def __init__(self, vocabulary=50, width=16):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class First(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)[0]


class ReZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(8, 8)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + 0.5 * self.alpha * self.branch(x)


def exported(module, example, tmp_path, dynamo, train=False):
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        module.train(train)
        if dynamo:
            torch.onnx.export(
                module, (example,), path, dynamo=True, external_data=False, verbose=False
            )
        else:
            mode = torch.onnx.TrainingMode.TRAINING if train else torch.onnx.TrainingMode.EVAL
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=False,
                opset_version=17,
                training=mode,
                do_constant_folding=not train,
            )
    return load_onnx(str(path))


def check_values(model, module, *unnamed):
    """Every parameter has a state_dict name and, in its block, that tensor's values."""
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    seen = set()
    for layer, param in model.graph.params:
        if param.name in unnamed:
            continue
        expected = state[param.name]
        if param.gate is not None:
            order = GATES[layer.op]
            expected = np.split(expected, len(order))[order.index(param.gate)]
        elif layer.op is Op.CONV_TRANSPOSE and param.role is Role.WEIGHT:
            expected = expected.swapaxes(0, 1)
        np.testing.assert_array_equal(param.tensor.read(), expected, err_msg=param.name)
        seen.add(param.name)
    return seen


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
class TestExports:
    def test_mlp(self, tmp_path, dynamo):
        module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.GELU())
        model = exported(module, torch.randn(2, 8), tmp_path, dynamo)
        assert check_values(model, module) == set(module.state_dict())
        assert [layer.op for layer in model.graph][1:-1] == [
            Op.LINEAR,
            Op.RELU,
            Op.LINEAR,
            Op.GELU,
        ]
        assert [layer.id for layer in model.graph.weighted] == ["0", "2"]
        assert all(model.runnable.layer_outputs.values())

    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
    def test_recurrent(self, tmp_path, dynamo, kind):
        module = First(kind(6, 5, 2, batch_first=True, bidirectional=True))
        model = exported(module, torch.randn(2, 4, 6), tmp_path, dynamo)
        assert check_values(model, module) == set(module.state_dict())
        assert len({param.key for _, param in model.graph.params}) == len(model.graph.params)
        assert all(param.tied_to is None for _, param in model.graph.params)

    def test_gpt(self, tmp_path, dynamo):
        module = GPT()
        model = exported(module, torch.randint(0, 50, (2, 7)), tmp_path, dynamo)
        seen = check_values(model, module)
        assert set(module.state_dict()) - seen <= {"wte.weight", "head.weight"}
        packed = [layer for layer in model.graph.weighted if "packed" in layer.attrs]
        assert [layer.id for layer in packed] == ["blocks.0.qkv", "blocks.1.qkv"]
        (table,) = (layer for layer in model.graph if layer.op is Op.EMBEDDING)
        tied = [layer.id for layer in model.graph.weighted if layer.weight.tied_to]
        assert tied == ["head"]
        assert table.id == "wte"
        norms = [layer for layer in model.graph if layer.op is Op.LAYER_NORM]
        names = {param.name for layer in norms for param in layer.params}
        assert len(names) == 2 * len(norms) == 10
        assert all(param.tied_to is None for layer in norms for param in layer.params)

    def test_scalar_parameter_is_a_gain(self, tmp_path, dynamo):
        module = ReZero()
        model = exported(module, torch.randn(2, 8), tmp_path, dynamo)
        gains = [p for _, p in model.graph.params if p.role is Role.GAIN]
        assert [(p.size, float(p.tensor.read().sum())) for p in gains] == [(1, 0.0)]


def test_encoder_layer_of_the_dynamo_exporter(tmp_path):
    module = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = exported(module, torch.randn(2, 5, 16), tmp_path, True)
    seen = check_values(model, module)
    assert set(module.state_dict()) - seen <= {"self_attn.out_proj.bias"}
    (packed,) = (layer for layer in model.graph.weighted if "packed" in layer.attrs)
    assert [p.gate for p in packed.with_role(Role.WEIGHT)] == ["query", "key", "value"]


def test_folded_batch_norm_keeps_the_convolution_name(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    with torch.no_grad():
        module[1].running_var.uniform_(0.5, 2)
    model = exported(module, torch.randn(2, 3, 8, 8), tmp_path, True)
    (layer,) = model.graph.weighted
    assert layer.weight.name == "0.weight"
    assert layer.id == "0"
    (norm,) = (layer for layer in model.graph if layer.op is Op.BATCH_NORM)
    assert norm.id == "1"
    assert [edge.source for edge in model.graph.inputs(norm.id)] == ["0"]


def test_convolutions_and_batch_norm_in_training_form(tmp_path):
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.ConvTranspose2d(8, 4, 2, 2),
        nn.Conv2d(4, 4, 3, groups=2),
    )
    model = exported(module, torch.randn(2, 3, 16, 16), tmp_path, False, train=True)
    seen = check_values(model, module, "1.running_mean", "1.running_var")
    norm = next(layer for layer in model.graph if layer.op is Op.BATCH_NORM)
    assert {p.role for p in norm.params} == {
        Role.GAIN,
        Role.SHIFT,
        Role.RUNNING_MEAN,
        Role.RUNNING_VAR,
    }
    assert not any(p.trainable for p in norm.with_role(Role.RUNNING_MEAN, Role.RUNNING_VAR))
    assert {"0.weight", "3.weight", "4.weight", "2.weight"} <= seen
    groups = [layer.attrs["groups"] for layer in model.graph.weighted]
    assert groups == [1, 1, 2]


def test_place_of_a_layer_is_the_users_line(tmp_path):
    model = exported(ReZero(), torch.randn(2, 8), tmp_path, True)
    (layer,) = model.graph.weighted
    assert layer.where.file == __file__
    assert layer.where.function == "forward"
    with open(__file__) as source:
        assert "self.branch(x)" in source.read().splitlines()[layer.where.line - 1]
    assert layer.where.node
    assert layer.id == "branch"


def test_unrolled_recurrence_reads_one_parameter(tmp_path):
    module = First(nn.RNN(6, 5, batch_first=True))
    model = exported(module, torch.randn(2, 4, 6), tmp_path, True)
    steps = [
        layer.weight for layer in model.graph.weighted if layer.weight.name == "rnn.weight_hh_l0"
    ]
    assert len(steps) == 3
    assert steps[0].tied_to is None
    assert all(step.tied_to == "rnn.weight_hh_l0" for step in steps[1:])


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(16, 16))

    def forward(self, x):
        h = torch.zeros(len(x), 16)
        for step in x.unbind(1):
            h = torch.tanh(step + h @ self.w.T)
        return h


def test_a_matrix_transposed_at_every_step_is_one_parameter(tmp_path):
    model = exported(Steps(), torch.randn(2, 5, 16), tmp_path, True)
    steps = [layer for layer in model.graph.order if layer.op is Op.LINEAR]
    assert [layer.weight.name for layer in steps] == ["w"] * 4
    assert [layer.weight.tied_to for layer in steps] == [None, "w", "w", "w"]
    assert steps[0].id == "w"


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(30, 16), nn.Embedding(12, 16)

    def forward(self, ids):
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))


def test_rows_looked_up_in_advance_keep_their_name(tmp_path):
    model = exported(Positions(), torch.zeros(2, 9, dtype=torch.int64), tmp_path, True)
    assert "positions.weight" in [param.name for _, param in model.graph.params]


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_group_norm_has_its_gains(tmp_path, dynamo):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 2, 3))
    nn.init.normal_(module[1].weight)
    model = exported(module, torch.randn(2, 3, 9, 9), tmp_path, dynamo)
    norm = next(layer for layer in model.graph.order if layer.op is Op.GROUP_NORM)
    assert norm.id == "1"
    assert [param.role for param in norm.params] == [Role.GAIN, Role.SHIFT]
    np.testing.assert_array_equal(norm.params[0].tensor.read(), module[1].weight.detach().numpy())


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_noise_takes_only_its_shape_from_a_tensor(tmp_path, dynamo):
    model = exported(Noisy(), torch.randn(4, 8), tmp_path, dynamo)
    noise = next(layer for layer in model.graph.order if layer.op is Op.CONSTANT)
    assert (noise.attrs["mean"], noise.attrs["std"]) == (0.0, 1.0)
    assert not model.graph.inputs(noise.id)


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize(
    "wrap",
    [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm, nn.utils.spectral_norm],
    ids=["weight_norm", "older_weight_norm", "older_spectral_norm"],
)
def test_a_computed_weight_has_the_name_that_its_module_gives_it(tmp_path, wrap, dynamo):
    module = nn.Sequential(wrap(nn.Linear(8, 16)), nn.ReLU(), wrap(nn.Linear(16, 4)))
    model = exported(module, torch.randn(2, 8), tmp_path, dynamo)
    assert [layer.id for layer in model.graph.weighted] == ["0", "2"]
    weights = [layer.weight for layer in model.graph.weighted]
    assert [weight.name for weight in weights] == ["0.weight", "2.weight"]
    module.eval()(torch.randn(2, 8))  # a spectral norm computes the weight when it is called
    for weight, made in zip(weights, module[::2], strict=True):
        np.testing.assert_allclose(weight.tensor.read(), made.weight.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("stored", "public"),
    [
        ("fc.parametrizations.weight.original1", "fc.weight"),
        ("parametrizations.weight.original", "weight"),
        ("fc.parametrizations.weight.original0", "fc.parametrizations.weight.original0"),
        ("a.weight_v", "a.weight"),
        ("a.weight_orig", "a.weight"),
        ("a.weight_g", "a.weight_g"),
        ("attention.proj_v", "attention.proj_v"),
    ],
)
def test_public_names_of_what_a_weight_is_computed_from(stored, public):
    assert public_name(stored) == public
