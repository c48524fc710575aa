"""A captured graph computes what the module computes, over the module's own weights."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from initlint.load.torch_module import capture  # noqa: E402
from initlint.model import LayerGraph, LoadError, Model, Op, Role  # noqa: E402
from initlint.testing.forward import evaluate  # noqa: E402
from tests import architectures  # noqa: E402


def by_op(model: Model, op: Op) -> list[Any]:
    return [layer for layer in model.graph if layer.op is op]


def weights(graph: LayerGraph) -> dict[str, np.ndarray]:
    return {param.key: param.tensor.read() for _, param in graph.params if param.tensor is not None}


@pytest.mark.parametrize("function", architectures.ALL, ids=lambda function: function.__name__)
def test_every_parameter_of_an_architecture_is_found_with_its_values(function: Any) -> None:
    if "_hf" in function.__code__.co_names:
        pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, args, kwargs = architectures.build(function)
        model = capture(module, *args, **kwargs)
    read = {name for names in model.runnable.sources.values() for name in names}
    assert {name for name, _ in module.named_parameters()} <= read
    assert model.loose == ()
    stored = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    blocks: dict[str, int] = {}
    seen = set()
    for _, param in model.graph.params:
        if not param.stored_name or param.key in seen:
            continue
        seen.add(param.key)
        array = param.tensor.read()
        assert array.shape == param.shape == param.tensor.shape
        whole = stored[param.stored_name].detach()
        if any(view.kind == "exp" for view in param.tensor.views):  # stored as its logarithm
            whole = torch.from_numpy(np.asarray(np.exp(whole.numpy())))
        if param.packed == 1:
            ours, theirs = np.sort(array, axis=None), np.sort(whole.numpy(), axis=None)
            np.testing.assert_array_equal(ours, theirs)
        elif param.tied_to is None:
            blocks[param.stored_name] = blocks.get(param.stored_name, 0) + array.size
    for name, size in blocks.items():
        assert size == stored[name].numel(), name


def outputs_agree(module: Any, *inputs: Any, rtol: float = 1e-4) -> Model:
    """The captured graph, evaluated in NumPy, gives what the module gives."""
    model = capture(module, *inputs)
    fed = [layer.id for layer in by_op(model, Op.INPUT)]
    feeds = {name: tensor.numpy() for name, tensor in zip(fed, inputs, strict=True)}
    ours = evaluate(model.graph, feeds)[by_op(model, Op.OUTPUT)[0].id][0]
    with torch.no_grad():
        theirs = copy.deepcopy(module)(*inputs)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=rtol, atol=1e-5)
    return model


def test_graph_of_a_residual_convolutional_network_computes_the_same() -> None:
    module, inputs, _ = architectures.build(architectures.resnet)
    outputs_agree(module, *inputs)


def test_graph_of_a_generator_computes_the_same() -> None:
    module, inputs, _ = architectures.build(architectures.dcgan_generator)
    outputs_agree(module, *inputs)


@pytest.mark.parametrize("name", ["siren", "lora", "tied_autoencoder", "mobile"])
def test_graphs_of_hand_written_networks_compute_the_same(name: str) -> None:
    module, inputs, _ = architectures.build(getattr(architectures, name))
    outputs_agree(module, *inputs)


class Wide(nn.Module):
    """Products with parameters in every spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Parameter(torch.randn(6, 4))
        self.bias = nn.Parameter(torch.randn(4))
        self.heads = nn.Parameter(torch.randn(4, 2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = 1 - torch.relu(x @ self.right + self.bias) / 2
        return torch.einsum("bi,ihd->bhd", x, self.heads).flatten(1)


def test_products_with_parameters_are_linear_layers() -> None:
    torch.manual_seed(0)
    module = Wide()
    model = outputs_agree_up_to_reshape(module, torch.randn(5, 6))
    shapes = [layer.weight.shape for layer in by_op(model, Op.LINEAR)]
    assert shapes == [(4, 6), (6, 4)]


class Sums(nn.Module):
    """Einstein sums of three tensors: a bilinear form, and heads that are put together."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(4, 6, 5))
        self.heads = nn.Parameter(torch.randn(2, 3, 5))

    def forward(self, x: torch.Tensor, gates: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        mixed = torch.einsum("bi,eio,be->bo", x, self.experts, gates)
        return mixed + torch.einsum("bhj,bhje,hed->bd", a[..., 0], a, self.heads)


def test_sums_of_three_tensors_are_layers() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(7, 6), torch.randn(7, 4), torch.randn(7, 2, 4, 3)
    model = capture(Sums(), *inputs)
    (bilinear,), (linear,) = by_op(model, Op.BILINEAR), by_op(model, Op.LINEAR)
    assert bilinear.weight.shape == (5, 6, 4)
    assert linear.weight.shape == (5, 6)
    assert len(by_op(model, Op.MATMUL)) == 1
    assert not by_op(model, Op.OTHER)


def outputs_agree_up_to_reshape(module: Any, x: Any) -> Model:
    model = capture(module, x)
    found = weights(model.graph)
    np.testing.assert_array_equal(found["right"], module.right.detach().numpy().T)
    expected = module.heads.detach().numpy().reshape(4, 6).T
    np.testing.assert_array_equal(found["heads"], expected)
    return model


def test_constant_operands_are_attributes_and_their_order_is_kept() -> None:
    class Arithmetic(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (1 - x) / 2 + 3.0 / (x * x + 1.5) - torch.tensor(0.25)

    outputs_agree(Arithmetic(), torch.rand(4, 3) + 0.5)


def test_transposed_weights_of_gpt2_are_seen_in_canonical_orientation() -> None:
    pytest.importorskip("transformers")
    module, _, kwargs = architectures.build(architectures.gpt2)
    model = capture(module, **kwargs)
    layer = model.graph["transformer.h.0.mlp.c_fc"]
    stored = module.transformer.h[0].mlp.c_fc.weight.detach().numpy()
    assert layer.op is Op.LINEAR
    np.testing.assert_array_equal(layer.weight.tensor.read(), stored.T)
    packed = model.graph["transformer.h.0.attn.c_attn"]
    stored = module.transformer.h[0].attn.c_attn.weight.detach().numpy()
    assert [param.gate for param in packed.with_role(Role.WEIGHT)] == ["query", "key", "value"]
    for index, param in enumerate(packed.with_role(Role.WEIGHT)):
        np.testing.assert_array_equal(
            param.tensor.read(), stored[:, 32 * index : 32 * (index + 1)].T
        )


def test_interleaved_heads_are_cut_into_query_key_and_value() -> None:
    pytest.importorskip("transformers")
    module, _, kwargs = architectures.build(architectures.gpt_neox)
    model = capture(module, **kwargs)
    layer = model.graph["gpt_neox.layers.0.attention.query_key_value"]
    stored = module.gpt_neox.layers[0].attention.query_key_value.weight.detach().numpy()
    by_head = stored.reshape(4, 3, 8, 32)
    for index, param in enumerate(layer.with_role(Role.WEIGHT)):
        np.testing.assert_array_equal(param.tensor.read(), by_head[:, index].reshape(32, 32))


def test_packed_projection_of_multihead_attention_is_split() -> None:
    module = nn.TransformerDecoderLayer(8, 2, 16)
    model = capture(module, torch.randn(5, 3, 8), torch.randn(4, 3, 8))
    stored = module.multihead_attn.in_proj_weight.detach().numpy()
    found = weights(model.graph)
    for index, gate in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(
            found[f"multihead_attn.in_proj_weight/{gate}"], stored[8 * index : 8 * (index + 1)]
        )
    assert len(by_op(model, Op.ATTENTION)) == 2


def test_recurrent_gates_are_split_in_torch_order() -> None:
    module = nn.LSTM(5, 4, num_layers=2, bidirectional=True, proj_size=3)
    model = capture(module, torch.randn(6, 2, 5))
    layers = by_op(model, Op.LSTM)
    assert [layer.id for layer in layers] == ["l0", "l1"]
    assert model.graph.producers("l1") == (layers[0],)
    found = {(param.key, param.role): param for param in layers[0].params}
    stored = module.weight_hh_l0_reverse.detach().numpy()
    for index, gate in enumerate(("input", "forget", "cell", "output")):
        param = found[f"weight_hh_l0_reverse/{gate}/reverse", Role.RECURRENT_WEIGHT]
        assert param.direction == 1
        np.testing.assert_array_equal(param.tensor.read(), stored[4 * index : 4 * (index + 1)])
    assert layers[0].attrs["sequence_length"] == 6
    assert {param.shape for param in layers[0].with_role(Role.PROJECTION)} == {(3, 4)}


def test_packed_sequences_are_followed() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0]

    model = capture(Packed(), torch.randn(3, 5, 3), torch.tensor([5, 4, 2]))
    assert "rnn" in model.graph.descendants("x")
    assert any(layer.op is Op.OUTPUT for layer in model.graph.effective_consumers("rnn"))


def test_a_reused_module_keeps_its_parameter_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.relu(self.fc(x)))

    model = outputs_agree(Twice(), torch.randn(3, 4))
    assert [layer.id for layer in by_op(model, Op.LINEAR)] == ["fc", "fc#2"]
    assert {param.name for _, param in model.graph.params} == {"fc.weight", "fc.bias"}


def test_tied_parameters_name_the_first_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    model = capture(Tied(), torch.randint(0, 7, (2, 3)))
    assert model.graph["embed"].weight.tied_to is None
    assert model.graph["head"].weight.name == "head.weight"
    assert model.graph["head"].weight.tied_to == "embed.weight"


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.orthogonal,
        nn.utils.weight_norm,
        lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.5),
    ],
    ids=["weight_norm", "orthogonal", "old_weight_norm", "pruning"],
)
def test_the_effective_weight_of_a_parametrised_layer_is_what_counts(wrap: Any) -> None:
    import torch.nn.utils.prune

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = nn.Sequential(wrap(nn.Linear(6, 4)), nn.Tanh())
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1.5)
        model = capture(module, torch.randn(3, 6))
        module(torch.randn(3, 6))
    layer = model.graph["0"]
    assert layer.weight.name == "0.weight"
    np.testing.assert_allclose(
        layer.weight.tensor.read(), module[0].weight.detach().numpy(), rtol=1e-6
    )
    assert layer.weight.stored_name == ""
    assert layer.weight.trainable


def test_a_direct_parameter_is_a_gain_a_shift_or_a_table() -> None:
    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.offset = nn.Parameter(torch.zeros(4))
            self.positions = nn.Parameter(torch.zeros(1, 5, 4))
            self.token = nn.Parameter(torch.zeros(1, 1, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
            return torch.sin(x * self.scale) + self.offset

    model = capture(Direct(), torch.randn(2, 4, 4))
    roles = {param.name: param.role for _, param in model.graph.params}
    assert roles == {
        "scale": Role.GAIN,
        "offset": Role.SHIFT,
        "positions": Role.TABLE,
        "token": Role.TABLE,
    }
    token = next(param for _, param in model.graph.params if param.name == "token")
    assert token.shape == (1, 1, 4)


def test_a_module_that_never_reads_a_parameter_says_so() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = capture(Unused(), torch.randn(4, 3))
    assert [param.name for param in model.loose] == ["idle.weight", "idle.bias"]
    assert model.notices == ("the forward pass never reads idle.weight, idle.bias",)


def test_a_module_on_meta_is_captured_for_structure() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(1 << 16, 1 << 15), nn.BatchNorm1d(1 << 15), nn.ReLU())
    model = capture(module)
    layer = model.graph["0"]
    assert layer.weight.shape == (1 << 15, 1 << 16)
    assert layer.weight.tensor is None
    assert model.runnable is None


def test_wrappers_are_looked_through() -> None:
    inner = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    compiled = capture(torch.compile(inner), torch.randn(2, 4))
    parallel = capture(nn.DataParallel(inner), torch.randn(2, 4))
    assert compiled.graph["0"].weight.name == parallel.graph["0"].weight.name == "0.weight"
    assert compiled.graph["0"].weight.stored_name == "_orig_mod.0.weight"
    assert parallel.graph["0"].weight.stored_name == "module.0.weight"


def test_half_weights_are_read_as_floats() -> None:
    module = nn.Linear(4, 3).bfloat16()
    model = capture(module, torch.randn(2, 4).bfloat16())
    param = by_op(model, Op.LINEAR)[0].weight
    assert param.dtype == "bfloat16"
    assert param.tensor.read().dtype == np.float32
    np.testing.assert_array_equal(param.tensor.read(), module.weight.detach().float().numpy())


def test_weights_are_read_when_asked_not_copied() -> None:
    module = nn.Linear(4, 3)
    model = capture(module, torch.randn(2, 4))
    nn.init.zeros_(module.weight)
    assert not by_op(model, Op.LINEAR)[0].weight.tensor.read().any()


def test_lazy_layers_are_given_shapes_without_touching_the_module() -> None:
    module = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(2))
    model = capture(module, torch.randn(3, 4))
    assert model.graph["2"].weight.shape == (2, 5)
    assert torch.nn.parameter.is_lazy(module[0].weight)


def test_quantised_layers_are_seen() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        module = torch.ao.quantization.quantize_dynamic(plain)
        model = capture(module, torch.randn(2, 4))
    param = model.graph["0"].weight
    assert param.quantised
    np.testing.assert_allclose(param.tensor.read(), plain[0].weight.detach().numpy(), atol=0.01)


def test_an_autograd_function_is_seen_through() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * 2

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.relu(Double.apply(self.fc(x)))

    model = capture(Own(), torch.randn(4, 3))
    assert "relu" in model.graph.descendants("fc")


def test_scripted_parts_become_one_opaque_layer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
        model = capture(nn.Sequential(scripted, nn.Linear(3, 2)), torch.randn(2, 4))
    opaque = by_op(model, Op.OTHER)
    assert len(opaque) == 1
    assert "1" in model.graph.descendants(opaque[0].id)


def test_a_failing_forward_names_the_users_line() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x[:, :2])

    with pytest.raises(LoadError) as caught:
        capture(Wrong(), torch.randn(2, 4))
    message = str(caught.value)
    assert "\n" not in message
    line = Wrong.forward.__code__.co_firstlineno + 1
    assert message.endswith(f"test_torch_capture.py:{line}")


def test_anything_but_a_module_is_refused() -> None:
    with pytest.raises(LoadError, match=r"expected a torch\.nn\.Module or a path, got int"):
        capture(3)


def test_capture_is_deterministic() -> None:
    module, args, kwargs = architectures.build(architectures.unet)
    first, second = capture(module, *args, **kwargs), capture(module, *args, **kwargs)
    assert [layer.id for layer in first.graph] == [layer.id for layer in second.graph]
    assert [layer.attrs for layer in first.graph] == [layer.attrs for layer in second.graph]


class OnePlus(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1.0 + self.weight)


def test_one_plus_zeros_is_not_taken_for_their_exponential() -> None:
    graph = capture(OnePlus(), torch.randn(4, 8)).graph
    assert all(not param.stored_name for _, param in graph.params)
