"""Schemes for a whole network: one law for every layer, and laws that weigh layers together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import isfinite, prod, sqrt
from typing import Any

from initlint.fix.balance import DEEP, balanced_gain
from initlint.fix.draws import orthogonal
from initlint.fix.network import Drawn, Network
from initlint.fix.schemes import SCHEMES, default_value, find, layer_scale_value
from initlint.fix.slot import WEIGHT_ROLES
from initlint.fix.textbook import textbook
from initlint.model import RECURRENT, SATURATING, Layer, LayerGraph, Op, Param, Role
from initlint.model.residual import Residual

Recipe = Callable[[Network], Iterator[Drawn]]

RECIPES: dict[str, Recipe] = {"textbook": textbook}
"""Composite schemes by name; every tensor scheme is one too (see `impose`)."""

NEEDS_RUN = frozenset({"lsuv"})
"""Recipes that are finished by running the network (`initlint.fix.lsuv`)."""

PER_TENSOR = frozenset(
    {
        "zeros",
        "ones",
        "constant",
        "irnn",
        "siren_first",
        "embedding_scaled",
        "lora_a",
        "lora_b",
        "zero_gamma",
        "rezero",
        "forget_gate_bias",
        "chrono",
        "two_scales",
        "focal_prior",
        "class_prior",
    }
)
"""Tensor schemes that are no law for all weights of a network."""


def names() -> tuple[str, ...]:
    """Every scheme that can be imposed on a network."""
    return tuple(sorted({*RECIPES, *(name for name in SCHEMES if name not in PER_TENSOR)}))


def impose(graph: LayerGraph, name: str, seed: int, steps: int | None = None) -> list[Drawn]:
    """Every trainable parameter of a network under one scheme.

    Args:
        graph: the network.
        name: the scheme, with arguments where it takes them (see `specified`).
        seed: of the draws.
        steps: length of the sequences that recurrent layers see, where known.

    Raises:
        UnknownSchemeError: there is no such scheme.
        ValueError: the scheme is no law for a network.
    """
    key, arguments = specified(name)
    network = Network.of(graph, seed, steps)
    if key in RECIPES:
        if arguments:
            raise ValueError(f"{key} weighs layers together and takes no {next(iter(arguments))!r}")
        return list(RECIPES[key](network))
    if key in PER_TENSOR:
        raise ValueError(f"{key} is for single tensors; for a network: {', '.join(names())}")
    return list(_one_law(network, key, arguments))


def specified(text: str) -> tuple[str, dict[str, Any]]:
    """A scheme's own name and arguments: ``he:fan=fan_out:gain=1.2``.

    Raises:
        UnknownSchemeError: there is no such scheme.
        ValueError: an argument that it does not take, or that is no number.
    """
    head, *pairs = text.split(":")
    key = head.strip().replace("-", "_")
    key = key if key in RECIPES else find(key, among=names()).name
    known = SCHEMES[key].arguments if key in SCHEMES else {}
    arguments: dict[str, Any] = {}
    for pair in pairs:
        word, _, value = pair.partition("=")
        if word not in known and key not in RECIPES:
            raise ValueError(
                f"{key} takes no {word!r}; its arguments: {', '.join(known) or 'none'}"
            )
        arguments[word] = value if word == "fan" else _number(word, value)
    if arguments.get("fan", "fan_in") not in ("fan_in", "fan_out", "fan_avg"):
        raise ValueError(f"unknown fan mode {arguments['fan']!r}: fan_in, fan_out or fan_avg")
    return key, arguments


def _number(word: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise ValueError(f"{word}={value!r} is no number")
    return number


def recipe(name: str) -> Callable[[Recipe], Recipe]:
    """Register a composite scheme."""

    def register(function: Recipe) -> Recipe:
        RECIPES[name] = function
        return function

    return register


def _weight(
    network: Network, name: str, layer: Layer, param: Param, arguments: Mapping[str, Any]
) -> Drawn:
    """One weight under a law, with what the law leaves open for its kind of layer.

    Recurrent blocks are orthogonal under every law but framework defaults: the laws of feed-forward
    layers say nothing about a product of equal Jacobians. Where a law cannot fill a shape, its
    nearest relative does: a matrix for delta-orthogonal is orthogonal, a kernel for the identity
    Dirac.
    """
    asked, name = name, _fitting(name, layer, param)
    given = arguments if name == asked else {}
    if name in ("orthogonal", "delta_orthogonal") and param.role is Role.WEIGHT:
        gain = _orthogonal_gain(network, layer, param, arguments.get("gain"))
        return network.draw(name, layer, param, gain=gain)
    return network.draw(name, layer, param, **given)


def _orthogonal_gain(network: Network, layer: Layer, param: Param, asked: float | None) -> float:
    """The gain for the activation behind, larger where a stride thins out the terms of a sum."""
    slot = network.slot(layer, param)
    gain = slot.gain if asked is None else asked
    if asked is None and slot.activation in SATURATING and network.saturating >= DEEP:
        gain = balanced_gain(slot.activation, network.saturating)
    return gain * sqrt(prod(slot.shape[1:]) / slot.fan_in)


def _fitting(name: str, layer: Layer, param: Param) -> str:
    narrow = len(param.shape) < 3 or param.shape[0] < param.shape[1]
    if name == "torch_default":
        return name
    if layer.op is Op.EMBEDDING:
        return "embedding_scaled"
    if param.role is Role.RECURRENT_WEIGHT or (name == "delta_orthogonal" and narrow):
        return "orthogonal"
    if name in ("identity", "dirac"):
        return "dirac" if len(param.shape) > 2 else "identity"
    return "scale_preserving" if name == "sparse" and len(param.shape) != 2 else name


def _constant(network: Network, layer: Layer, param: Param) -> Drawn | None:
    """What is not drawn starts at its default; the forget gate's bias at 1."""
    if param.role in (Role.TABLE, Role.INITIAL_STATE, Role.OTHER, Role.PEEPHOLE):
        return None
    if layer.op is Op.LSTM and param.role is Role.BIAS and param.gate == "forget":
        return network.draw("forget_gate_bias", layer, param)
    return network.draw("constant", layer, param, value=default_value(param.role))


def _one_law(
    network: Network, name: str, arguments: Mapping[str, Any] | None = None
) -> Iterator[Drawn]:
    for layer, param in network.params():
        if param.role in WEIGHT_ROLES:
            yield _weight(network, name, layer, param, arguments or {})
        else:
            constant = _constant(network, layer, param)
            if constant is not None and param.role in (Role.BIAS, Role.RECURRENT_BIAS):
                yield constant


@recipe("lsuv")
def _lsuv(network: Network) -> Iterator[Drawn]:
    """Orthonormal weights and zero biases: what layer-sequential scaling starts from."""
    for drawn in _one_law(network, "orthogonal"):
        if drawn.scheme == "orthogonal" and drawn.layer.op not in RECURRENT:
            values = orthogonal(
                drawn.param.shape,
                1.0,
                network.rng(drawn.param),
                network.slot(drawn.layer, drawn.param).groups,
            )
            drawn = Drawn(drawn.layer, drawn.param, values, "orthogonal", {})
        yield drawn


def _branches(network: Network) -> dict[str, tuple[Residual, int]]:
    """For each weighted layer on a residual branch: the branch, and its place from the end."""
    found: dict[str, tuple[Residual, int]] = {}
    for branch in network.residuals:
        for place, key in enumerate(reversed(branch.layers)):
            found.setdefault(key, (branch, place))
    return found


@recipe("fixup")
def _fixup(network: Network) -> Iterator[Drawn]:
    """Zero the last layer of each branch and the classifier, scale the others by L^(-1/(2m-2)).

    m layers a branch, L branches (Zhang, Dauphin, Ma 2019). The scalar biases and multipliers that
    the paper adds are part of the architecture; those present start at 0 and 1.
    """
    places, count = _branches(network), max(len(network.residuals), 1)
    writers = {key for branch in network.residuals for key in branch.writers}
    for drawn in _one_law(network, "he_normal"):
        layer, param = drawn.layer, drawn.param
        if param.role is not Role.WEIGHT or layer.op is Op.EMBEDDING:
            yield drawn
        elif layer.id in writers or layer.id in network.heads:
            yield network.draw("zeros", layer, param)
        elif layer.id in places:
            m = len(places[layer.id][0].layers)
            yield network.scaled("he_normal", count ** (-1 / max(2 * m - 2, 2)), layer, param)
        else:
            yield drawn
    for branch in network.residuals:
        yield from _gains(network, branch, "ones")


def _gains(network: Network, branch: Residual, name: str, **arguments: Any) -> Iterator[Drawn]:
    """The multiplier that closes a branch: LayerScale, ReZero, SkipInit."""
    if branch.gate is None:
        return
    layer = network.graph[branch.gate]
    for param in layer.with_role(Role.GAIN):
        if param.trainable:
            yield network.draw(name, layer, param, **arguments)


@recipe("rezero")
def _rezero(network: Network) -> Iterator[Drawn]:
    """The closing scalar of each branch 0, the weights scale-preserving."""
    yield from _one_law(network, "scale_preserving")
    for branch in network.residuals:
        yield from _gains(network, branch, "rezero")


RECIPES["skip_init"] = _rezero


@recipe("layer_scale")
def _layer_scale(network: Network) -> Iterator[Drawn]:
    """The closing gain of each branch at CaiT's value for the depth; N(0, 0.02²) cut elsewhere."""
    value = layer_scale_value(max(len(network.residuals) // 2, 1))
    yield from _one_law(network, "truncated_normal")
    for branch in network.residuals:
        yield from _gains(network, branch, "layer_scale", value=value)


@recipe("zero_gamma")
def _zero_gamma(network: Network) -> Iterator[Drawn]:
    """The gain of each branch's closing norm 0 (Goyal et al. 2017), He elsewhere."""
    yield from _one_law(network, "he_normal")
    for branch in network.residuals:
        if branch.closing_norm is not None:
            layer = network.graph[branch.closing_norm]
            for param in layer.with_role(Role.GAIN):
                yield network.draw("zero_gamma", layer, param)


@recipe("depth_scaled")
def _depth_scaled(network: Network) -> Iterator[Drawn]:
    """N(0, 0.02²), the last layer of each of L branches divided by √L (GPT-2: √(2 n_layer))."""
    writers = {key for branch in network.residuals for key in branch.writers}
    factor = 1 / sqrt(max(len(network.residuals), 1))
    for drawn in _one_law(network, "normal"):
        if drawn.layer.id in writers and drawn.param.role is Role.WEIGHT:
            yield network.scaled("normal", factor, drawn.layer, drawn.param)
        elif drawn.layer.op is Op.EMBEDDING and drawn.scheme == "embedding_scaled":
            yield network.draw("normal", drawn.layer, drawn.param, std=0.02)
        else:
            yield drawn


def _query_or_key(param: Param) -> bool:
    last = [part for part in param.name.lower().split(".") if part != "weight"][-1:]
    words = {"q", "k", "q_proj", "k_proj", "query", "key", "wq", "wk", "to_q", "to_k"}
    return param.gate in ("query", "key") or bool(words & set(last))


def _transformer(network: Network, factor: float, embeddings: float) -> Iterator[Drawn]:
    """Xavier, times a factor on every branch weight but queries and keys."""
    places = _branches(network)
    for drawn in _one_law(network, "xavier_normal"):
        layer, param = drawn.layer, drawn.param
        if layer.op is Op.EMBEDDING and param.role is Role.WEIGHT:
            yield network.scaled("embedding_scaled", embeddings, layer, param)
        elif layer.id in places and param.role is Role.WEIGHT and not _query_or_key(param):
            yield network.scaled("xavier_normal", factor, layer, param)
        else:
            yield drawn


@recipe("t_fixup")
def _t_fixup(network: Network) -> Iterator[Drawn]:
    """Xavier; values, outputs and feed-forward × 0.67 N^(-1/4); embeddings × (9N)^(-1/4).

    N blocks of two branches (Huang et al. 2020, encoder). Made for networks without LayerNorm.
    """
    blocks = max(len(network.residuals) // 2, 1)
    return _transformer(network, 0.67 * blocks**-0.25, (9 * blocks) ** -0.25)


@recipe("deepnorm")
def _deepnorm(network: Network) -> Iterator[Drawn]:
    """Xavier; values, outputs and feed-forward × (8N)^(-1/4) (Wang et al. 2022).

    The skip path's α = (2N)^(1/4) is part of the architecture.
    """
    blocks = max(len(network.residuals) // 2, 1)
    return _transformer(network, (8 * blocks) ** -0.25, 1.0)


@recipe("siren")
def _siren(network: Network) -> Iterator[Drawn]:
    """U(±1/n) for the first layer, U(±√(6/n)/ω₀) behind it, ω₀ = 30 where the graph has none."""
    first = network.graph.weighted[0].id if network.graph.weighted else ""
    for drawn in _one_law(network, "scale_preserving"):
        layer, param = drawn.layer, drawn.param
        if param.role is not Role.WEIGHT:
            yield drawn
        elif layer.id == first:
            yield network.draw("siren_first", layer, param)
        else:
            yield network.draw("siren", layer, param)


@recipe("irnn")
def _irnn(network: Network) -> Iterator[Drawn]:
    """Identity recurrence, zero biases, N(0, 0.001²) into it (Le, Jaitly, Hinton 2015)."""
    for drawn in _one_law(network, "scale_preserving"):
        if drawn.layer.op in RECURRENT and drawn.param.role in WEIGHT_ROLES:
            yield network.draw("irnn", drawn.layer, drawn.param)
        else:
            yield drawn


@recipe("lora")
def _lora(network: Network) -> Iterator[Drawn]:
    """Adapters alone: the factor that reads U(±1/√fan_in), the factor that writes 0."""
    for layer, param in network.params():
        name = param.name.lower()
        if "lora_a" in name or "lora_embedding_b" in name:
            yield network.draw("lora_a", layer, param)
        elif "lora_b" in name or "lora_embedding_a" in name:
            yield network.draw("lora_b", layer, param)
