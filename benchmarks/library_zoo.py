"""What is said of whole libraries of fresh models: ``python benchmarks/library_zoo.py LIBRARY``.

``transformers``: every architecture with a head for language or images, four layers of width 128,
as the library draws it. ``timm``: the smallest model of every family (needs torchvision, too).
``vit_pytorch``: every architecture of its own file; ``x_transformers``: one decoder per option;
``monai`` and ``diffusers``: a table of small networks.
Models are published recipes, so every warning and error is to be read by hand; architectures that
cannot be built so small, or not run on plain inputs, are counted and left out.

Options: ``--only TEXT``, ``--without NAME`` (repeatable), ``--most-parameters MILLIONS``.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

import initlint

SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim"), 128),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 4),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff"), 512),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 128,
    "head_dim": 32,
    "vocab_size": 1000,
    "max_position_embeddings": 128,
    "image_size": 64,
    "patch_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
"""Settings of a configuration, where it has them."""

TIED = ("hidden_size", "d_model", "n_embd", "num_attention_heads", "n_head", "intermediate_size")
PER_HEAD = ("head_dim", "num_key_value_heads")
LEFT = ((), PER_HEAD[:1], PER_HEAD, (*PER_HEAD, *TIED), ("image_size", "patch_size"))
"""Settings to leave as they are, tried in turn: some architectures derive them from others."""


@dataclass(frozen=True)
class Case:
    """One model and a batch for it."""

    name: str
    model: Any
    inputs: dict[str, Any] = field(default_factory=dict)


def _config(kind: Any) -> Any:
    base = kind()
    known = {}
    for name, value in SMALL.items():
        try:
            present = isinstance(getattr(base, name), (int, bool, type(None)))
        except Exception:  # some settings are properties that refuse to be read
            present = False
        if present:
            known[name] = value
    last: Exception | None = None
    for left in LEFT:
        try:
            return kind(**{name: value for name, value in known.items() if name not in left})
        except Exception as error:  # each library validates settings in its own way
            last = error
    raise last or ValueError("no configuration")


def of_transformers(only: str, without: Sequence[str], most: float) -> Iterator[Case | str]:
    """Models of the library, or one line of why there is none."""
    import transformers

    transformers.logging.set_verbosity_error()
    heads: Sequence[Any] = (
        transformers.AutoModelForCausalLM,
        transformers.AutoModelForSeq2SeqLM,
        transformers.AutoModelForMaskedLM,
        transformers.AutoModelForImageClassification,
    )
    for name in sorted(transformers.CONFIG_MAPPING):
        if only not in name or name in without:
            continue
        try:
            config = _config(transformers.CONFIG_MAPPING[name])
            head = next(head for head in heads if type(config) in head._model_mapping)
            with torch.device("meta"):
                size = sum(tensor.numel() for tensor in head.from_config(config).parameters())
            if size > most:
                yield f"{name}: {size / 1e6:.0f} million parameters"
                continue
            torch.manual_seed(0)
            model = head.from_config(config)
            yield Case(type(model).__name__, model, _batch(model, config))
        except StopIteration:
            continue
        except Exception as error:  # counted and told: what cannot be built is not judged
            yield f"{name}: {type(error).__name__}"


def _batch(model: Any, config: Any) -> dict[str, Any]:
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 224)
        side = size if isinstance(size, int) else size[0]
        shape = (4, getattr(config, "num_channels", 3), side, side)
        return {"pixel_values": torch.randn(shape)}
    batch = {"input_ids": torch.randint(3, 900, (8, 24))}
    if getattr(config, "is_encoder_decoder", False):
        batch["decoder_input_ids"] = torch.randint(3, 900, (8, 16))
    return batch


def of_timm(only: str, without: Sequence[str], most: float) -> Iterator[Case | str]:
    """The smallest model of every family, or one line of why there is none."""
    import timm

    for family in timm.list_modules():
        if only not in family or family in without:
            continue
        sizes = {}
        with torch.device("meta"):
            for name in timm.list_models(module=family)[:60]:
                try:
                    model = timm.create_model(name)
                    sizes[name] = sum(tensor.numel() for tensor in model.parameters())
                except Exception:  # needs packages or weights that are not here
                    continue
        name = min(sizes, key=lambda name: sizes[name], default="")
        if not name or sizes[name] > most:
            yield f"{family}: {sizes.get(name, 0) / 1e6:.0f} million parameters"
            continue
        torch.manual_seed(0)
        model = timm.create_model(name)
        yield Case(name, model, {"x": torch.randn(4, *model.default_cfg["input_size"])})


VIT = {
    "image_size": 64,
    "patch_size": 8,
    "num_classes": 10,
    "dim": 64,
    "depth": 4,
    "heads": 4,
    "mlp_dim": 128,
}


def of_vit_pytorch(only: str, without: Sequence[str], most: float) -> Iterator[Case | str]:
    """Architectures that take the settings of a plain ViT, or one line of why there is none."""
    import vit_pytorch

    for module in pkgutil.iter_modules(vit_pytorch.__path__):
        if only not in module.name or module.name in without:
            continue
        try:
            code = importlib.import_module(f"vit_pytorch.{module.name}")
            kinds = [
                kind
                for kind in vars(code).values()
                if inspect.isclass(kind) and kind.__module__ == code.__name__
            ]
            kind = kinds[-1]
            known = inspect.signature(kind.__init__).parameters
            torch.manual_seed(0)
            model = kind(**{name: value for name, value in VIT.items() if name in known})
            yield Case(module.name, model, {"x": torch.randn(4, 3, 64, 64)})
        except Exception as error:  # other settings, or packages that are not here
            yield f"{module.name}: {type(error).__name__}"


X_OPTIONS = (
    *("use_rmsnorm", "use_simple_rmsnorm", "use_scalenorm", "use_dynamic_tanh", "use_derf"),
    *("ff_glu", "ff_swish", "ff_relu_squared", "ff_post_act_ln", "ff_no_bias", "macaron"),
    *("rotary_pos_emb", "rotary_xpos", "polar_pos_emb", "alibi_pos_bias", "rel_pos_bias"),
    *("dynamic_pos_bias", "sandwich_norm", "residual_attn", "gate_residual", "use_layerscale"),
    *("unet_skips", "zero_init_branch_output", "weight_tie_layers", "integrate_layers"),
    *("attn_qk_norm", "attn_gate_values", "attn_gate_value_heads", "attn_one_kv_head"),
    *("attn_on_attn", "attn_flash", "attn_laser", "attn_selective", "attn_cog_signed"),
    *("attn_softclamp_logits", "attn_sigmoid", "attn_l2_distance", "attn_head_scale"),
    *("attn_data_dependent_alibi", "attn_orthog_projected_values"),
)
X_TABLES = ("tie_embedding", "l2norm_embed", "scaled_sinu_pos_emb", "mixture_of_softmax")


def of_x_transformers(only: str, without: Sequence[str], most: float) -> Iterator[Case | str]:
    """One small decoder per option that is on or off, or one line of why there is none."""
    from x_transformers import Decoder, TransformerWrapper

    for option in (*X_OPTIONS, *X_TABLES):
        if only not in option or option in without:
            continue
        inner = {} if option in X_TABLES else {option: True}
        outer = {option: True} if option in X_TABLES else {}
        torch.manual_seed(0)
        try:
            layers = Decoder(dim=64, depth=4, heads=4, attn_dim_head=16, **inner)
            model = TransformerWrapper(num_tokens=200, max_seq_len=64, attn_layers=layers, **outer)
        except Exception as error:  # options come and go
            yield f"{option}: {type(error).__name__}"
            continue
        yield Case(option, model, {"x": torch.randint(0, 200, (6, 32))})


PLANE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
CHANNELS: dict[str, Any] = {"channels": (8, 16, 32), "strides": (2, 2)}
HALVED: dict[str, Any] = {"channels": (8, 16, 32), "strides": (2, 2, 2)}
MONAI: dict[str, dict[str, Any]] = {
    "UNet": {**PLANE, **CHANNELS, "num_res_units": 2},
    "AttentionUnet": {**PLANE, **CHANNELS},
    "AutoEncoder": {**PLANE, **HALVED},
    "BasicUNet": {"spatial_dims": 2, "features": (16, 16, 32, 32, 64, 16)},
    "SegResNet": {"spatial_dims": 2, "init_filters": 8},
    "HighResNet": PLANE,
    "UNETR": {**PLANE, "img_size": 32, "feature_size": 8, "hidden_size": 48, "num_heads": 4},
    "Regressor": {"in_shape": (1, 32, 32), "out_shape": (3,), **HALVED},
    "Classifier": {"in_shape": (1, 32, 32), "classes": 3, **HALVED},
    "Critic": {"in_shape": (1, 32, 32), **HALVED},
    "EfficientNetBN": {
        "model_name": "efficientnet-b0",
        "spatial_dims": 2,
        "in_channels": 1,
        "num_classes": 2,
        "pretrained": False,
    },
    "PatchDiscriminator": {
        "spatial_dims": 2,
        "in_channels": 1,
        "num_layers_d": 2,
        "channels": 8,
    },
}
"""Networks for pictures of one channel and 32 by 32 pixels."""

NARROW = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
HEADS = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 3}
DIFFUSERS: dict[str, tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = {
    "UNet2DConditionModel": (
        {
            **NARROW,
            "sample_size": 16,
            "cross_attention_dim": 32,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        lambda: {
            "sample": torch.randn(4, 4, 16, 16),
            "timestep": torch.arange(4),
            "encoder_hidden_states": torch.randn(4, 8, 32),
        },
    ),
    "AutoencoderKL": (
        {
            **NARROW,
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        },
        lambda: {"sample": torch.randn(4, 3, 16, 16)},
    ),
    "AutoencoderTiny": (
        {"encoder_block_out_channels": (16,) * 4, "decoder_block_out_channels": (16,) * 4},
        lambda: {"sample": torch.rand(4, 3, 32, 32)},
    ),
    "DiTTransformer2DModel": (
        {**HEADS, "in_channels": 4, "sample_size": 8, "num_embeds_ada_norm": 10},
        lambda: {
            "hidden_states": torch.randn(4, 4, 8, 8),
            "timestep": torch.arange(4),
            "class_labels": torch.arange(4),
        },
    ),
    "SD3Transformer2DModel": (
        {
            **HEADS,
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "joint_attention_dim": 32,
            "caption_projection_dim": 64,
            "pooled_projection_dim": 32,
            "pos_embed_max_size": 16,
        },
        lambda: {
            "hidden_states": torch.randn(4, 4, 8, 8),
            "encoder_hidden_states": torch.randn(4, 6, 32),
            "pooled_projections": torch.randn(4, 32),
            "timestep": torch.arange(4),
        },
    ),
}


def of_monai(only: str, without: Sequence[str], most: float) -> Iterator[Case | str]:
    """The networks of the table."""
    from monai.networks import nets

    for name, settings in MONAI.items():
        if only in name and name not in without:
            torch.manual_seed(0)
            yield Case(name, getattr(nets, name)(**settings), {"x": torch.randn(4, 1, 32, 32)})


def of_diffusers(only: str, without: Sequence[str], most: float) -> Iterator[Case | str]:
    """The networks of the table."""
    import diffusers

    for name, (settings, inputs) in DIFFUSERS.items():
        if only in name and name not in without:
            torch.manual_seed(0)
            yield Case(name, getattr(diffusers, name)(**settings), inputs())


SOURCES: dict[str, Callable[[str, Sequence[str], float], Iterator[Case | str]]] = {
    "transformers": of_transformers,
    "timm": of_timm,
    "vit_pytorch": of_vit_pytorch,
    "x_transformers": of_x_transformers,
    "monai": of_monai,
    "diffusers": of_diffusers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=tuple(SOURCES))
    parser.add_argument("--only", default="", help="part of the names")
    parser.add_argument("--without", action="append", default=[], help="a name to leave out")
    parser.add_argument("--most-parameters", type=float, default=45.0, help="millions")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    source = SOURCES[options.library]
    counts = {"linted": 0, "left out": 0, "error": 0, "warning": 0, "risk above 0.5": 0}
    for case in source(options.only, options.without, options.most_parameters * 1e6):
        if isinstance(case, str):
            counts["left out"] += 1
            print(f"  left out  {case}", flush=True)
            continue
        try:
            inputs = dict(case.inputs)
            first = (inputs.pop("x"),) if "x" in inputs else ()
            report = initlint.check(case.model, *first, **inputs)
        except Exception as error:  # counted and told: plain inputs do not suit every model
            counts["left out"] += 1
            print(f"  left out  {case.name}: {type(error).__name__}", flush=True)
            continue
        counts["linted"] += 1
        loud = [found for found in report.findings if found["severity"] != "info"]
        for severity in ("error", "warning"):
            counts[severity] += any(found["severity"] == severity for found in loud)
        counts["risk above 0.5"] += (report.risk or 0.0) > 0.5
        risk = "unknown" if report.risk is None else f"{report.risk:.2f}"
        print(f"{case.name}: risk {risk}", flush=True)
        for found in loud:
            print(f"    {found['severity']} {found['name']}: {found['message']}")
    print(", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
