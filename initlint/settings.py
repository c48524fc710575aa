"""What a run is told: options of the command line by the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run of the engine is told; the command line's options by the same names.

    Attributes:
        select, ignore, extend_select: rule names, codes or code prefixes.
        preview: also run rules that are still in preview.
        stage: ``auto``, or the stage to assume.
        probe: run the model once to measure activations.
        probe_timeout: seconds the probe may take.
        probe_memory: megabytes it may take beyond its weights.
        input: an ``.npz`` file with inputs for the probe.
        seed: seed of synthesised inputs.
        seeds: how many builds of a module to lint, each with a seed of its own
            (`initlint.draws`; one call of `lint` is about one build).
        widths: values of one constructor argument by its name, to build a module with each of them
            (`initlint.widths`).
        sequence_length: sequence length for recurrent layers; None: the graph's, else 50.
        loss: name of the loss for a module's probe; None: guessed from the output.
        rule_options: options by rule name.
        layers: include the table of layers in the result.
        profile: include what charts show (`initlint.profile`).
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    preview: bool = False
    stage: str = "auto"
    probe: bool = True
    probe_timeout: float = 30.0
    probe_memory: int = 2048
    input: str | None = None
    seed: int = 0
    seeds: int = 1
    widths: Mapping[str, Sequence[int]] | None = None
    sequence_length: int | None = None
    loss: str | None = None
    rule_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layers: bool = False
    profile: bool = False
