"""What can be done to a module's initialisation, well-meant or by mistake."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import init

Change = Callable[[nn.Module], None]


def weights(module: nn.Module) -> list[Tensor]:
    """A module's own weight matrices: of every layer and direction for a recurrent one."""
    own = module.named_parameters(recurse=False)
    return [tensor for _, tensor in own if tensor.ndim > 1]


def drawn(draw: Callable[[Tensor], object]) -> Change:
    """Every weight matrix drawn anew, biases zero."""

    def change(module: nn.Module) -> None:
        for weight in weights(module):
            draw(weight)
        for tensor in module.parameters(recurse=False):
            if tensor.ndim == 1:
                init.zeros_(tensor)

    return change


def scaled(factor: float) -> Change:
    """Weight matrices multiplied."""

    def change(module: nn.Module) -> None:
        for weight in weights(module):
            weight.data.mul_(factor)

    return change


def default(module: nn.Module) -> None:
    """What the framework leaves when nobody asks for anything else."""
    module.reset_parameters()  # type: ignore[operator]


def normal(std: float, mean: float = 0.0) -> Change:
    return drawn(lambda weight: init.normal_(weight, mean, std))


def uniform(low: float, high: float) -> Change:
    return drawn(lambda weight: init.uniform_(weight, low, high))


def constant(value: float) -> Change:
    return drawn(lambda weight: init.constant_(weight, value))


xavier = drawn(init.xavier_normal_)
he = drawn(lambda weight: init.kaiming_normal_(weight, nonlinearity="relu"))
lecun = drawn(lambda weight: init.kaiming_normal_(weight, nonlinearity="linear"))
orthogonal = drawn(init.orthogonal_)
zeros = drawn(init.zeros_)
sparse = drawn(lambda weight: init.sparse_(weight, 0.7, 1.0))


def fan_out_zero_bias(module: nn.Module) -> None:
    """He with ``mode="fan_out"``."""
    init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if module.bias is not None:
        init.zeros_(module.bias)


def fan_from_all_sides(module: nn.Module) -> None:
    """Glorot limits from the sum of all sides of the shape."""
    init.normal_(module.weight, std=(2.0 / sum(module.weight.shape)) ** 0.5)


def fan_from_everything(module: nn.Module) -> None:
    """He with the number of all weights for a fan."""
    init.normal_(module.weight, std=(2.0 / module.weight.numel()) ** 0.5)


def bias(value: float) -> Change:
    """Biases set to a value, weights kept."""

    def change(module: nn.Module) -> None:
        for tensor in module.parameters(recurse=False):
            if tensor.ndim == 1:
                init.constant_(tensor, value)

    return change


def gamma(value: float) -> Change:
    """A norm's or a scale's gain."""

    def change(module: nn.Module) -> None:
        init.constant_(module.weight, value)

    return change


def copied_rows(distinct: int) -> Change:
    """Units that are copies of the first few, going in and coming out of them."""

    def change(module: nn.Module) -> None:
        for weight in weights(module):
            rows = torch.arange(weight.shape[0]) % distinct
            weight.data = weight.data[rows].clone()

    return change


def own(name: str, draw: Callable[[Tensor], object]) -> Change:
    """One tensor of the module by name."""

    def change(module: nn.Module) -> None:
        with torch.no_grad():
            draw(getattr(module, name))

    return change


def filled(name: str, value: float) -> Change:
    """One tensor of one value."""
    return own(name, lambda tensor: tensor.fill_(value))


def redrawn(name: str, std: float) -> Change:
    """One tensor drawn from N(0, std²)."""
    return own(name, lambda tensor: tensor.normal_(0.0, std))


def grown(name: str, factor: float) -> Change:
    """One tensor multiplied."""
    return own(name, lambda tensor: tensor.mul_(factor))


def gate_filled(name: str, gates: int, gate: int, value: float) -> Change:
    """One gate's part of a packed tensor, or one half of it, of one value."""
    return own(name, lambda tensor: tensor.chunk(gates)[gate].fill_(value))


def recurrent(draw: Callable[[Tensor], object]) -> Change:
    """The recurrent matrices, gate by gate."""

    def change(module: nn.Module) -> None:
        gates = {"LSTM": 4, "GRU": 3}.get(type(module).__name__, 1)
        for block in module.weight_hh_l0.data.chunk(gates):
            draw(block)

    return change


def gate_bias(gate: int, value: float | str) -> Change:
    """The bias of one gate; ``chrono:T`` draws log U(1, T-1) (Tallec and Ollivier 2018)."""

    def change(module: nn.Module) -> None:
        gates = {"LSTM": 4, "GRU": 3}[type(module).__name__]
        block = module.bias_ih_l0.data.chunk(gates)[gate]
        if isinstance(value, str):
            block.uniform_(1, float(value.split(":")[1]) - 1).log_()
        else:
            block.fill_(value)

    return change


def swapped(module: nn.Module) -> None:
    """Input and recurrent scheme exchanged: an orthogonal input matrix, recurrence by fan-out."""
    init.orthogonal_(module.weight_ih_l0)
    init.xavier_normal_(module.weight_hh_l0)
    module.weight_hh_l0.data.mul_(0.5)


def cloned(attribute: str) -> Change:
    """Every layer of a list starts as a copy of the first (of the same shape)."""

    def change(model: nn.Module) -> None:
        layers = getattr(model, attribute)
        for number in range(1, len(layers)):
            same = [tuple(t.shape) for t in layers[number].parameters()]
            first = next(
                layer for layer in layers if [tuple(t.shape) for t in layer.parameters()] == same
            )
            layers[number].load_state_dict(copy.deepcopy(first.state_dict()))

    return change
