"""The textbook's re-initialisation of a whole network, layer by layer of its own kind.

Each weight gets what the literature prescribes for the place where it stands: the scale that keeps
the second moment through the activation behind it, over true fans; orthogonal matrices in deep
saturating stacks and in recurrences; SIREN's ranges before sines; memory gates open over the length
of the sequence; the last layer of each residual branch zero, so that every block starts as the
identity (before a ReLU: scaled by 1/sqrt(L)). A linter's findings name single faults; this is for
networks whose faults add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initlint.fix.balance import balanced_gain
from initlint.fix.network import Drawn, Network
from initlint.fix.schemes import default_value, fill
from initlint.fix.slot import WEIGHT_ROLES
from initlint.model import NORMALISERS, RECURRENT, WEIGHTED, Layer, Op, Param, Role
from initlint.model.written_cells import KeepingGate

Array = NDArray[Any]

SIGMOID_SLOPE = 0.25
"""Derivative of the sigmoid at 0. σ(z) = 1/2 + tanh(z/2)/2, so weights W behind sigmoids with
biases -½ΣW before the next act as W/4 between tanh units: the sigmoid is treated as that tanh."""

SHORT = 10
"""Steps below which a cell needs no open gate: σ(0)¹⁰ still keeps 10⁻³ of the gradient."""

NOISE = 5.0
"""Steps over which an LSTM's cell sums independent inputs to unit variance at an input gate of 1:
σ(i)² τ/2 E[tanh²] is 1 at σ(i) = √(5/τ), for E[tanh(z)²] = 0.4 at unit z."""

WRITING = frozenset({Op.LINEAR, Op.CONV, Op.CONV_TRANSPOSE})
"""Layers that may start at zero: a recurrent layer or a table may not."""

STUCK_AT_ZERO = frozenset({Op.RELU, Op.RELU6, Op.THRESHOLDED_RELU})
"""Activations without a slope at zero: a layer of zeros before one never gets a gradient."""

CONSTANT_ROLES = (Role.BIAS, Role.RECURRENT_BIAS, Role.GAIN, Role.SHIFT)
"""Parameters that start at a constant; PReLU slopes, tables and states stay as they are."""


def textbook(network: Network) -> Iterator[Drawn]:
    """Every trainable weight, bias, gain and shift of a network as the textbook starts it."""
    silent = silent_writers(network)
    plain = [item for item in network.residuals if item.closing_norm is None and item.gate is None]
    quiet = {key for branch in plain for key in branch.writers if _is_stuck(network, key)}
    gates = {branch.gate for branch in network.residuals if branch.gate is not None}
    opening = 1 / sqrt(max(len(network.residuals), 1))
    sines = sine_frequencies(network)
    for layer, param in network.params():
        if "lora_" in param.name.lower() and param.role is Role.WEIGHT:
            writes = "lora_b" in param.name.lower() or "embedding_a" in param.name.lower()
            yield network.draw("lora_b" if writes else "lora_a", layer, param)
        elif layer.id in silent and param.role in (*WEIGHT_ROLES, Role.BIAS):
            yield network.draw("zeros", layer, param)
        elif layer.id in sines and param.role is Role.WEIGHT:
            yield _sine(network, layer, param, sines[layer.id])
        elif layer.id in gates and param.role is Role.GAIN:
            yield network.draw("layer_scale", layer, param, value=opening)
        elif layer.id in quiet and param.role is Role.WEIGHT:
            yield network.scaled("scale_preserving", opening, layer, param)
        elif param.role in WEIGHT_ROLES:
            yield weight(network, layer, param)
        elif param.role in CONSTANT_ROLES:
            yield from constant(network, layer, param)


def weight(network: Network, layer: Layer, param: Param) -> Drawn:
    """One weight, for the activation behind it and the depth it stands in."""
    slot = network.slot(layer, param)
    if layer.op is Op.EMBEDDING:
        if _is_read_by_weights(network, layer, param):
            return network.draw("normal", layer, param, std=1.0)
        return network.draw("embedding_scaled", layer, param)
    if param.role is Role.RECURRENT_WEIGHT:
        return recurrent(network, layer, param)
    if layer.op in RECURRENT:
        return network.draw("normal", layer, param, std=input_std(network, layer, param))
    if param.gate in ("query", "key", "value"):
        return network.draw("xavier_normal", layer, param)
    if slot.activation is Op.SIGMOID and not is_gate(network, layer):
        gain = balanced_gain(Op.TANH, max(network.saturating, 2))
        before = SIGMOID_SLOPE if _behind_sigmoids(network, layer) else 2 * SIGMOID_SLOPE
        return network.draw("orthogonal", layer, param, gain=gain / before)
    deep = network.deep_gain(layer, param)
    if deep is not None:
        return network.draw("orthogonal", layer, param, gain=deep)
    return network.draw("scale_preserving", layer, param)


def _is_read_by_weights(network: Network, layer: Layer, param: Param) -> bool:
    """True for a table of its own whose vectors go into weights as they are: unit scale.

    Weights are drawn for inputs of that scale. A table that is the head as well, or joins a
    stream of sums, has to fit what it meets there.
    """
    if network.graph.is_shared(param):
        return False
    readers = network.graph.effective_consumers(layer.id)
    return bool(readers) and all(item.op in WEIGHTED for item in readers)


def recurrent(network: Network, layer: Layer, param: Param) -> Drawn:
    """A recurrent block: orthogonal, or the identity behind ReLUs (Le, Jaitly, Hinton 2015).

    A ReLU lets an orthogonal matrix forget half of the state at every step; the identity sums.
    """
    if layer.op is Op.RNN and not keeps_all(layer):
        return network.draw("identity", layer, param)
    return network.draw("orthogonal", layer, param, gain=1.0)


def keeps_all(layer: Layer) -> bool:
    """True for a plain tanh cell: behind an orthogonal block it forgets as much as it saturates."""
    return layer.op is Op.RNN and str(layer.attrs.get("nonlinearity", "")).lower() != "relu"


def input_std(network: Network, layer: Layer, param: Param) -> float:
    """Standard deviation of what brings inputs of unit scale into a recurrent layer.

    1/sqrt(fan_in): Xavier's mean of the fans starves a wide cell of few inputs. A plain tanh behind
    an orthogonal block forgets nothing, so that T steps add up to T fan_in σ², and it passes on
    what it holds as long as that is at most 1.
    """
    steps = (network.steps or 1) if keeps_all(layer) else 1
    return 1 / sqrt(network.slot(layer, param).fan_in * steps)


def constant(network: Network, layer: Layer, param: Param) -> Iterator[Drawn]:
    """One parameter that is not drawn; the gate that keeps the state opens over the sequence."""
    keeps = {Op.LSTM: "forget", Op.GRU: "update"}.get(layer.op)
    if keeps and param.role is Role.BIAS:
        yield memory(network, layer, param)
        return
    kept = network.keeping.get(param.key)
    if kept is not None:
        yield written_memory(network, layer, param, kept)
        return
    if param.role is Role.BIAS and layer.op in (Op.LINEAR, Op.CONV):
        own = layer.weight
        if own is not None and own.trainable and _behind_sigmoids(network, layer):
            drawn = weight(network, layer, own).values
            values = -0.5 * drawn.reshape(len(drawn), -1).sum(1)
            if values.shape == param.shape:
                yield Drawn(layer, param, values, "centred", {})
                return
    yield network.draw("constant", layer, param, value=default_value(param.role))


def memory(network: Network, layer: Layer, param: Param) -> Drawn:
    """The biases of a gated cell: open over the sequence (Tallec, Ollivier 2018), at 1 if short.

    A GRU's update gate keeps the old state as an LSTM's forget gate does.
    """
    steps = network.steps or 0
    keeps = param.gate in ("forget", "update")
    if steps <= SHORT:
        return network.draw("constant", layer, param, value=1.0 if keeps else 0.0)
    return long_memory(network, layer, param, steps)


def long_memory(network: Network, layer: Layer, param: Param, steps: int) -> Drawn:
    """One bias of a cell that remembers so many steps.

    All units of an LSTM remember over once to twice the sequence, its input gate stays as far open
    as noise allows. Spread from one step on, as the paper has it for time scales that are not
    known, few units reach back: a cell that has to recall one symbol of 25 then made 0.5 to 0.8 of
    its twin's progress. Shut by the forget gate's bias, its input gate writes a T-th of what is
    shown once. A GRU's update gate shuts the input as it keeps the state: half of the units do, the
    others see every step.
    """
    if param.role is Role.BIAS and param.gate == "update":
        return network.draw("two_scales", layer, param, steps=steps)
    if param.role is Role.BIAS and param.gate == "forget":
        return network.draw("chrono", layer, param, steps=2 * steps + 1, shortest=steps)
    if param.role is Role.BIAS and param.gate == "input":
        share = min(0.5, sqrt(NOISE / steps))
        return network.draw("constant", layer, param, value=log(share / (1 - share)))
    return network.draw("zeros", layer, param)


def written_memory(
    network: Network, layer: Layer, param: Param, kept: KeepingGate, held: Array | None = None
) -> Drawn:
    """The same for a bias of a gate of a cell that is written out step by step.

    Args:
        network: what the parameter is part of.
        layer: the layer that adds the bias.
        param: the bias, or one of several that are added: the first alone opens the gate.
        kept: the gate.
        held: values of units that belong to other gates; None for zeros.
    """
    first, end = kept.rows or (0, param.shape[0])
    scheme, arguments = _opened(kept) if kept.bias.key == param.key else ("zeros", {})
    slot = replace(network.slot(layer, param), shape=(end - first,))
    values = np.zeros(param.shape) if held is None else np.array(held, dtype=np.float64)
    values[first:end] = fill(scheme, slot, network.rng(param), **arguments)
    if kept.rows is not None:
        arguments = {**arguments, "rows": [first, end]}
    return Drawn(layer, param, values, scheme, arguments)


def _opened(kept: KeepingGate) -> tuple[str, dict[str, Any]]:
    """The scheme of the bias that opens a gate over its sequence."""
    if kept.steps <= SHORT:
        return "constant", {"value": float(kept.opening)}
    if kept.coupled:
        return "two_scales", {"steps": kept.steps, "opening": kept.opening}
    return "chrono", {
        "steps": 2 * kept.steps + 1,
        "shortest": kept.steps,
        "opening": kept.opening,
    }


def silent_writers(network: Network) -> frozenset[str]:
    """The weighted layers that close a residual branch and may start at zero.

    Not where a normaliser stands between them and the sum (it would divide zero by zero), where a
    gate is at zero already (zero times zero has no gradient), where a ReLU reads them (it has no
    slope at zero), or where the layer also writes elsewhere.
    """
    found: set[str] = set()
    for branch in network.residuals:
        if branch.closing_norm is None and branch.gate is None:
            found.update(
                key
                for key in branch.writers
                if network.graph[key].op in WRITING
                and not _is_stuck(network, key)
                and not _is_normalised(network, key)
            )
    kept = {key for branch in network.residuals for key in (branch.projection,) if key}
    return frozenset(found - kept - network.heads)


def _is_normalised(network: Network, key: str) -> bool:
    """True where a normaliser reads a layer, whatever stands behind it before the sum."""
    readers = network.graph.effective_consumers(key)
    return any(reader.op in NORMALISERS for reader in readers)


def _is_stuck(network: Network, key: str) -> bool:
    bend = network.graph.activation(key)
    return bend is not None and bend.op in STUCK_AT_ZERO


def sine_frequencies(network: Network) -> dict[str, tuple[float, bool]]:
    """For each layer that feeds a sine: the frequency between them, and whether it is the first."""
    graph = network.graph
    found: dict[str, tuple[float, bool]] = {}
    for sine in graph:
        if sine.op is not Op.SIN:
            continue
        frequency = 1.0
        above = graph.effective_producers(sine.id)
        while len(above) == 1 and above[0].op is Op.MUL and "constant" in above[0].attrs:
            value = np.asarray(above[0].attrs["constant"], dtype=np.float64)
            frequency *= float(np.abs(value).mean()) if value.size else 1.0
            above = graph.effective_producers(above[0].id)
        for layer in above:
            if layer.op is Op.LINEAR:
                behind = graph.effective_producers(layer.id)
                hidden = any(producer.op is Op.SIN for producer in behind)
                found[layer.id] = (frequency, not hidden)
    return found


def _sine(network: Network, layer: Layer, param: Param, place: tuple[float, bool]) -> Drawn:
    frequency, first = place
    if first:
        return network.draw("siren_first", layer, param)
    return network.draw("siren", layer, param, omega=max(frequency, 1.0))


def _behind_sigmoids(network: Network, layer: Layer) -> bool:
    producers = network.graph.effective_producers(layer.id)
    return bool(producers) and all(item.op is Op.SIGMOID for item in producers)


def is_gate(network: Network, layer: Layer) -> bool:
    """True when what the activation behind a layer gives is a factor, not a layer's input."""
    graph = network.graph
    bend = graph.activation(layer.id)
    if bend is None:
        return False
    readers = graph.effective_consumers(bend.id)
    return not readers or any(item.op not in WEIGHTED | NORMALISERS for item in readers)
