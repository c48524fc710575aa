"""The road over an ONNX export: the same findings, layers and names as the eager road."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from initlint.engine import lint  # noqa: E402
from initlint.load import LoadOptions  # noqa: E402
from initlint.load.torch_module import capture_with  # noqa: E402
from initlint.model import WEIGHTED, Model, Op  # noqa: E402
from initlint.settings import Settings  # noqa: E402
from tests import architectures  # noqa: E402

MATRIX = (
    architectures.bert,
    architectures.gpt2,
    architectures.llama,
    architectures.gpt_neox,
    architectures.vit,
    architectures.torch_transformer,
    architectures.torch_encoder,
    architectures.lstm,
    architectures.gru,
    architectures.resnet,
    architectures.unet,
    architectures.dcgan_discriminator,
    architectures.mobile,
    architectures.mlp_mixer,
    architectures.siren,
    architectures.nerf,
    architectures.actor_critic,
    architectures.lora,
    architectures.pre_norm_transformer,
    architectures.tied_autoencoder,
    architectures.diffusion_block,
)
"""Left out, as their export is another network: a projected LSTM (ONNX has none, the exporter
drops its matrix), nn.RNN and cells (unrolled into linear layers), Mamba (convolutions written as
sums), Mixtral (experts chosen by data) and T5 (the exporter of torch 2.13 fails on a view)."""


def both(function, folder: Path) -> tuple[Model, Model]:
    module, args, kwargs = architectures.build(function)
    eager = capture_with(module, args, kwargs, LoadOptions())
    options = LoadOptions(via="onnx", folder=str(folder))
    return eager, capture_with(module, args, kwargs, options)


def weighted(model: Model) -> dict[str, tuple[object, ...]]:
    """Operator, layer, role, gate and shape by name of every parameter of a weighted layer."""
    found: dict[str, tuple[object, ...]] = {}
    for layer in model.graph.order:
        if layer.op in WEIGHTED:
            for param in layer.params:
                if param.trainable:
                    found.setdefault(param.name, (layer.op, layer.id, param.role, param.shape))
    return found


def constant_tables(eager: Model) -> set[str]:
    """Tables read at fixed places (positions): an export may store what was read."""
    return {
        param.name
        for layer in eager.graph
        if layer.op is Op.EMBEDDING and not eager.graph.inputs(layer.id)
        for param in layer.params
    }


def serious(model: Model) -> list[tuple[object, ...]]:
    record = lint(model, Settings())
    assert record["probe"]["status"] == "ok", record["probe"]["detail"]
    return sorted(
        (found["name"], found["layer"], found["param"], found["severity"])
        for found in record["findings"]
        if found["severity"] != "info"
    )


@pytest.mark.parametrize("function", MATRIX, ids=lambda function: function.__name__)
def test_both_roads_agree(function, tmp_path: Path) -> None:
    eager, exported = both(function, tmp_path)
    left, right = weighted(exported), weighted(eager)
    for name in constant_tables(eager):
        left.pop(name, None)
        right.pop(name)
    assert left == right
    assert serious(exported) == serious(eager)
