"""Faults that are put into a healthy network, and the layers they are put into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn

from benchmarks.mutants.networks import HEALTHY, Built


def weight_of(layer: nn.Module) -> Tensor:
    return layer.weight_hh_l0 if isinstance(layer, nn.RNNBase) else layer.weight


def fill(draw: Callable[[Tensor], object]) -> Callable[[nn.Module], None]:
    def apply(layer: nn.Module) -> None:
        with torch.no_grad():
            draw(weight_of(layer))

    return apply


def bias(value: float) -> Callable[[nn.Module], None]:
    def apply(layer: nn.Module) -> None:
        target = layer.bias_ih_l0 if isinstance(layer, nn.RNNBase) else layer.bias
        if target is None:
            raise LookupError("no bias")
        nn.init.constant_(target, value)

    return apply


def fans(weight: Tensor) -> tuple[int, int]:
    field = weight[0, 0].numel() if weight.dim() > 2 else 1
    return weight.shape[1] * field, weight.shape[0] * field


def copy_rows(weight: Tensor) -> None:
    kept = weight[: max(1, len(weight) // 8)]
    copies = -(-len(weight) // len(kept))
    weight.copy_(kept.repeat(copies, *[1] * (weight.dim() - 1))[: len(weight)])


def sparse(weight: Tensor) -> None:
    nn.init.sparse_(weight.view(len(weight), -1), 0.97)


def identity(weight: Tensor) -> None:
    nn.init.dirac_(weight) if weight.dim() > 2 else nn.init.eye_(weight)


def default(layer: nn.Module) -> None:
    layer.reset_parameters()


FAULTS: dict[str, Callable[[nn.Module], None]] = {
    "zeros": fill(nn.init.zeros_),
    "ones": fill(nn.init.ones_),
    "constant 0.05": fill(lambda w: nn.init.constant_(w, 0.05)),
    "U(0, 1)": fill(lambda w: nn.init.uniform_(w, 0, 1)),
    "N(0, 1)": fill(nn.init.normal_),
    "N(0, 0.001)": fill(lambda w: nn.init.normal_(w, std=0.001)),
    "Xavier": fill(nn.init.xavier_uniform_),
    "He": fill(nn.init.kaiming_normal_),
    "LeCun": fill(lambda w: nn.init.normal_(w, std=fans(w)[0] ** -0.5)),
    "framework default": default,
    "orthogonal": fill(nn.init.orthogonal_),
    "sparse": fill(sparse),
    "identity": fill(identity),
    "N(0, 0.02)": fill(lambda w: nn.init.normal_(w, std=0.02)),
    "x 1/100": fill(lambda w: w.mul_(0.01)),
    "x 1/10": fill(lambda w: w.mul_(0.1)),
    "x 1/3": fill(lambda w: w.mul_(1 / 3)),
    "x 3": fill(lambda w: w.mul_(3)),
    "x 10": fill(lambda w: w.mul_(10)),
    "x 100": fill(lambda w: w.mul_(100)),
    "fan of all axes": fill(lambda w: nn.init.normal_(w, std=math.sqrt(2 / sum(w.shape)))),
    "squared fan": fill(lambda w: nn.init.normal_(w, std=math.sqrt(2) / fans(w)[0])),
    "fan without kernel": fill(lambda w: nn.init.normal_(w, std=math.sqrt(2 / w.shape[1]))),
    "transposed fan": fill(lambda w: nn.init.normal_(w, std=math.sqrt(2 / fans(w)[1]))),
    "copied units": fill(copy_rows),
    "dead bias": bias(-30.0),
    "saturating bias": bias(30.0),
}


def candidates(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers with a matrix or kernel, in the order of the module."""
    kinds = (nn.Linear, nn.Conv2d, nn.RNNBase)
    return [(name, module) for name, module in net.named_modules() if isinstance(module, kinds)]


def middle(net: nn.Module) -> tuple[str, nn.Module]:
    """The recurrent layer, else the layer in the middle."""
    found = candidates(net)
    return next((item for item in found if isinstance(item[1], nn.RNNBase)), found[len(found) // 2])


def cloned_layers(net: nn.Module) -> list[str]:
    """Every layer with the middle one's shape starts as a copy of it."""
    _, first = middle(net)
    shape = weight_of(first).shape
    alike = [
        item
        for item in candidates(net)
        if type(item[1]) is type(first) and weight_of(item[1]).shape == shape
    ]
    if len(alike) < 2:
        raise LookupError("no second layer of that shape")
    for _, layer in alike:
        layer.load_state_dict(first.state_dict())
    return [name for name, _ in alike]


def zeroed_pair(net: nn.Module) -> list[str]:
    """The middle layer and the one after it are zero: neither ever gets a gradient."""
    found = candidates(net)
    name, _ = middle(net)
    at = min([key for key, _ in found].index(name), len(found) - 2)
    pair = found[at : at + 2]
    for _, layer in pair:
        for param in layer.parameters(recurse=False):
            nn.init.zeros_(param)
    return [key for key, _ in pair]


def missing_residual_scale(net: nn.Module) -> list[str]:
    """The last layer of every branch without its 1 / sqrt(2 * depth)."""
    found = candidates(net)
    ends = [(key, layer) for key, layer in found if key.endswith(("attn.o", ".down", ".body.2"))]
    if not ends:
        raise LookupError("no branches")
    for _, layer in ends:
        with torch.no_grad():
            layer.weight.mul_(math.sqrt(8))
    return [key for key, _ in ends]


def recurrent_swap(net: nn.Module) -> list[str]:
    """The recurrent matrix drawn with the scale of the input's, and the other way round."""
    name, layer = middle(net)
    if not isinstance(layer, nn.RNNBase):
        raise LookupError("not recurrent")
    nn.init.normal_(layer.weight_hh_l0, std=layer.input_size**-0.5)
    nn.init.orthogonal_(layer.weight_ih_l0)
    return [name]


WHOLE: dict[str, Callable[[nn.Module], list[str]]] = {
    "cloned layers": cloned_layers,
    "zeroed pair": zeroed_pair,
    "missing residual scale": missing_residual_scale,
    "recurrent swap": recurrent_swap,
}
"""Faults of several layers together; each returns the layers it changed."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault in one network: in a sampled layer, in all, or where the fault belongs.

    Attributes:
        network: a key of `HEALTHY`.
        fault: a key of `FAULTS` or `WHOLE`; empty for the healthy original.
        everywhere: in all layers but the last.
        draw: seed of weights and data, from 1; the layer is the same in every draw.
    """

    network: str
    fault: str = ""
    everywhere: bool = False
    draw: int = 1

    @property
    def name(self) -> str:
        """What is told of it."""
        where = (
            ""
            if not self.fault or self.fault in WHOLE
            else (" in all" if self.everywhere else " in one")
        )
        return f"{self.network}: {self.fault or 'healthy'}{where}"

    @property
    def key(self) -> str:
        """Key of the records."""
        return f"{self.name}, draw {self.draw}"

    def build(self) -> tuple[Built, list[str]]:
        """The network with its inputs, and the names of the layers that hold the fault.

        Raises:
            LookupError, ValueError: the fault does not exist in this network.
        """
        torch.manual_seed(self.draw)
        net, inputs = HEALTHY[self.network]()
        return (net, inputs), self._place(net) if self.fault else []

    def _place(self, net: nn.Module) -> list[str]:
        if self.fault in WHOLE:
            return WHOLE[self.fault](net)
        found = candidates(net)
        sampled = Random(f"{self.network}/{self.fault}").choice(found)
        chosen = found[:-1] if self.everywhere else [sampled]
        for _, layer in chosen:
            FAULTS[self.fault](layer)
        return [name for name, _ in chosen]


def mutants(network: str, draw: int = 1) -> Iterator[Mutant]:
    """Every mutant of a network that exists."""
    for fault in (*FAULTS, *WHOLE):
        for everywhere in (False, True)[: 1 if fault in WHOLE else 2]:
            made = Mutant(network, fault, everywhere, draw)
            try:
                made.build()
            except (LookupError, ValueError):
                continue
            yield made
