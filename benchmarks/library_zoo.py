"""What is said of whole libraries of fresh models: ``python benchmarks/library_zoo.py LIBRARY``.

``transformers``: every architecture with a head for language or images, four layers of width 128,
as the library draws it. ``timm``: the smallest model of every family (needs torchvision, too).
Models are published recipes, so every warning and error is to be read by hand; architectures that
cannot be built so small, or not run on plain inputs, are counted and left out.

Options: ``--only TEXT``, ``--without NAME`` (repeatable), ``--most-parameters MILLIONS``.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator, Sequence
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=("transformers", "timm"))
    parser.add_argument("--only", default="", help="part of the names")
    parser.add_argument("--without", action="append", default=[], help="a name to leave out")
    parser.add_argument("--most-parameters", type=float, default=45.0, help="millions")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    source = of_transformers if options.library == "transformers" else of_timm
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
