"""Networks of other kinds than those that the risk was calibrated on: a check, never a fit.

``python -m benchmarks.outcome held-out`` trains them as the others, judges them before any step,
and prints both side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional, init

from benchmarks.outcome import faults as f
from benchmarks.outcome import tasks
from benchmarks.outcome.models import (
    KNOWN,
    Architecture,
    fault,
    unusual,
)
from benchmarks.outcome.nets import Plain, each, he, lecun
from benchmarks.outcome.tasks import TASKS, Task

# tasks


def _earlier(size: int, generator: torch.Generator) -> tasks.Batch:
    """Name the symbol that stood three places before."""
    text = torch.randint(0, 12, (size, 12), generator=generator)
    return text, torch.cat([text[:, :1].expand(-1, 3), text[:, :-3]], 1)


def _pairs(size: int, generator: torch.Generator) -> tasks.Batch:
    """Two pictures: the same digit or not."""
    pixels, classes = tasks.digits()
    first = torch.randint(0, len(pixels), (size,), generator=generator)
    other = torch.randint(0, len(pixels), (size,), generator=generator)
    for row in range(0, size, 2):
        alike = (classes == classes[first[row]]).nonzero().flatten()
        other[row] = alike[int(other[row]) % len(alike)]
    pairs = torch.stack([pixels[first], pixels[other]], 1)
    return pairs, (classes[first] == classes[other]).long()


def _rows(size: int, generator: torch.Generator) -> tasks.Batch:
    pixels = TASKS["reconstruct"].draw(size, generator)[0].reshape(size, 8, 8)
    return pixels, pixels


TASKS.update(
    {
        "earlier": Task(_earlier, tasks.cross_entropy, math.log(12)),
        "pairs": Task(_pairs, tasks.cross_entropy, math.log(2)),
        "rows": Task(_rows, functional.mse_loss, 0.0),
    }
)


# networks


class Separable(nn.Module):
    """Depthwise and pointwise convolutions over a picture."""

    def __init__(self, norm: bool, depth: int = 4, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.depthwise = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(depth)
        )
        self.pointwise = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(width) if norm else nn.Identity() for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)
        each([self.stem, *self.pointwise], he)
        each(self.depthwise, lecun)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = functional.max_pool2d(torch.relu(self.stem(x)), 2)
        for deep, point, norm in zip(self.depthwise, self.pointwise, self.norms, strict=True):
            x = torch.relu(norm(point(deep(x))))
        return self.head(x.mean((2, 3)))


class RootMeanSquare(nn.Module):
    """Normalisation by the root mean square, with a gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class GatedBlock(nn.Module):
    """Causal attention and a SwiGLU, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = RootMeanSquare(width), RootMeanSquare(width)
        self.packed = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        rows, steps, width = x.shape
        query, key, value = (
            part.view(rows, steps, self.heads, -1).transpose(1, 2)
            for part in self.packed(self.norm1(x)).chunk(3, -1)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        later = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        mixed = torch.softmax(scores.masked_fill(later, float("-inf")), -1) @ value
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, steps, width))
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """A decoder over symbols with gated blocks."""

    def __init__(self, depth: int = 2, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(12, width), nn.Embedding(12, width)
        self.blocks = nn.ModuleList(GatedBlock(width, 4) for _ in range(depth))
        self.norm = RootMeanSquare(width)
        self.head = nn.Linear(width, 12, bias=False)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                lecun(module)
                if name.endswith(("out", "down")):
                    module.weight.data.div_(math.sqrt(2 * depth))

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def _lstm(cell: nn.Module, x: Tensor) -> Tensor:
    """All states of an LSTM, step by step where `torch.func.vmap` needs it."""
    if not torch._C._functorch.is_functorch_wrapped_tensor(cell.weight_hh_l0):
        return cell(x)[0]
    state = memory = x.new_zeros(x.shape[0], cell.weight_hh_l0.shape[1])
    states = []
    for step in range(x.shape[1]):
        gates = functional.linear(x[:, step], cell.weight_ih_l0, cell.bias_ih_l0)
        gates = gates + functional.linear(state, cell.weight_hh_l0, cell.bias_hh_l0)
        i, forget, g, o = gates.chunk(4, -1)
        memory = torch.sigmoid(forget) * memory + torch.sigmoid(i) * torch.tanh(g)
        state = torch.sigmoid(o) * torch.tanh(memory)
        states.append(state)
    return torch.stack(states, 1)


class SequenceAutoencoder(nn.Module):
    """An LSTM reads the rows of a picture, another writes them."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.reader = nn.LSTM(8, width, batch_first=True)
        self.writer = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, 8)
        for cell in (self.reader, self.writer):
            for gate in cell.weight_hh_l0.data.chunk(4):
                init.orthogonal_(gate)
            init.xavier_uniform_(cell.weight_ih_l0)
            for bias in (cell.bias_ih_l0, cell.bias_hh_l0):
                init.zeros_(bias)
            cell.bias_ih_l0.data.chunk(4)[1].fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        code = _lstm(self.reader, x)[:, -1:]
        return self.head(_lstm(self.writer, code.expand(-1, x.shape[1], -1)))


class SpatialGate(nn.Module):
    """Half of the channels gate the other half, mixed over positions (gMLP)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(tokens, tokens, 1)
        init.zeros_(self.mix.weight)
        init.ones_(self.mix.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        kept, gate = x.chunk(2, -1)
        return kept * self.mix(self.norm(gate))


class GatedMlp(nn.Module):
    """Blocks of projections around spatial gates, over patches of a picture."""

    def __init__(self, depth: int = 3, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.enter = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(depth))
        self.gates = nn.ModuleList(SpatialGate(16, 2 * width) for _ in range(depth))
        self.leave = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.embed(x)
        for norm, enter, gate, leave in zip(
            self.norms, self.enter, self.gates, self.leave, strict=True
        ):
            x = x + leave(gate(functional.gelu(enter(norm(x)))))
        return self.head(x.mean(1))


class Variational(nn.Module):
    """Mean and log-variance of a code, and a decoder; the noise is a function of the picture."""

    def __init__(self, code: int = 12) -> None:
        super().__init__()
        self.enter, self.middle = nn.Linear(64, 64), nn.Linear(64, 48)
        self.mean, self.spread = nn.Linear(48, code), nn.Linear(48, code)
        self.up, self.leave = nn.Linear(code, 64), nn.Linear(64, 64)
        each([self.enter, self.middle, self.up], he)
        each([self.mean, self.leave], lecun)
        lecun(self.spread)
        self.spread.weight.data.mul_(0.1)
        self.spread.bias.data.fill_(-4.0)
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = torch.relu(self.middle(torch.relu(self.enter(x))))
        noise = math.sqrt(2.0) * torch.sin(97.0 * x.sum(-1, keepdim=True) * (1.0 + self._steps()))
        y = self.mean(y) + torch.exp(0.5 * self.spread(y)) * noise
        return self.leave(torch.relu(self.up(y)))

    def _steps(self) -> Tensor:
        return torch.arange(self.code, dtype=torch.float32)


class Siamese(nn.Module):
    """One embedding for two pictures; their distance is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 32)])
        self.head = nn.Linear(32, 2)
        each(self.layers, he)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head((x[:, 0] - x[:, 1]).abs())


class Dense(nn.Module):
    """Every layer reads all layers before it."""

    def __init__(self, norm: bool, depth: int = 5, growth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, growth, 3, padding=1)
        widths = [growth * (number + 1) for number in range(depth)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) if norm else nn.Identity() for w in widths)
        self.convs = nn.ModuleList(nn.Conv2d(w, growth, 3, padding=1) for w in widths)
        self.head = nn.Linear(widths[-1] + growth, 10)
        each([self.stem, *self.convs], he)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = functional.max_pool2d(self.stem(x), 2)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return self.head(x.mean((2, 3)))


class GraphConvolution(nn.Module):
    """Rows of a picture as nodes of a ring; neighbours are averaged by a matrix product."""

    def __init__(self, scale: float = 1.0, depth: int = 4, width: int = 32) -> None:
        super().__init__()
        ring = torch.eye(8) + torch.eye(8).roll(1, 0) + torch.eye(8).roll(-1, 0)
        self.register_buffer("ring", ring / 3.0 * scale)
        self.enter = nn.Linear(8, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(8 * width, 10)
        each([self.enter, *self.layers], he)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.relu(self.enter(x))
        for layer in self.layers:
            x = torch.relu(layer(self.ring @ x))
        return self.head(x.flatten(1))


class Fourier(nn.Module):
    """A picture as a function of random Fourier features of its coordinates."""

    def __init__(self, scale: float = 2.0, depth: int = 3, width: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.register_buffer("waves", scale * torch.randn(2, width // 2, generator=generator))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 1)
        each(self.layers, he)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = 2 * math.pi * x @ self.waves
        x = math.sqrt(2.0) * torch.cat([torch.sin(y), torch.cos(y)], -1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.head(x)


class Highway(nn.Module):
    """Deep, every layer beside a gated way around it."""

    def __init__(self, depth: int = 16, width: int = 40) -> None:
        super().__init__()
        self.enter = nn.Linear(64, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 10)
        each([self.enter, *self.layers, *self.gates, self.head], lecun)
        for gate in self.gates:
            gate.bias.data.fill_(-2.0)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.tanh(self.enter(x))
        for layer, gate in zip(self.layers, self.gates, strict=True):
            open_share = torch.sigmoid(gate(x))
            x = open_share * torch.tanh(layer(x)) + (1 - open_share) * x
        return self.head(x)


class Experts(nn.Module):
    """A softmax router over small perceptrons."""

    def __init__(self, experts: int = 4, width: int = 32) -> None:
        super().__init__()
        self.stem, self.router = nn.Linear(64, width), nn.Linear(width, experts)
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))
        self.down = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))
        self.head = nn.Linear(width, 10)
        each([self.stem, *self.up, *self.down], he)
        each([self.router, self.head], lecun)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.relu(self.stem(x))
        shares = torch.softmax(self.router(x), -1)
        mixed = [
            shares[..., number : number + 1] * down(torch.relu(up(x)))
            for number, (up, down) in enumerate(zip(self.up, self.down, strict=True))
        ]
        return self.head(torch.relu(torch.stack(mixed).sum(0)))


class Dilated(nn.Module):
    """Dilated causal convolutions over a sequence, read at the last step."""

    def __init__(self, depth: int = 4, width: int = 16, gain: float = 1.0) -> None:
        super().__init__()
        sizes = [4] + [width] * depth
        self.convs = nn.ModuleList(
            nn.Conv1d(sizes[n], sizes[n + 1], 2, dilation=2**n) for n in range(depth)
        )
        self.head = nn.Linear(width, 1)
        each(self.convs, he)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = x.transpose(1, 2)
        for conv in self.convs:
            x = torch.relu(conv(functional.pad(x, (conv.dilation[0], 0))))
        return self.head(x[..., -1])


class Pooled(nn.Module):
    """Rows of a picture attend to each other through two learned queries, without norms."""

    def __init__(self, width: int = 24, heads: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.places = nn.Parameter(torch.randn(8, width) * 0.5)
        self.query = nn.Parameter(torch.randn(heads, width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.hidden = nn.Linear(heads * width, 48)
        self.head = nn.Linear(48, 10)
        each([self.embed, self.key, self.value, self.head], lecun)
        he(self.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.embed(x) + self.places
        scores = self.query @ self.key(x).transpose(1, 2) / math.sqrt(x.shape[-1])
        mixed = torch.softmax(scores, -1) @ self.value(x)
        return self.head(torch.relu(self.hidden(mixed.flatten(1))))


def _plain(depth: int, activation: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return partial(Plain, depth, 40, activation, lecun)


_LIN = "layers.*"

HELD_OUT: dict[str, Architecture] = {
    "separable-norm": Architecture(
        partial(Separable, True),
        "digit-pictures",
        {
            "default": unusual(("depthwise.*", f.default), ("pointwise.*", f.default)),
            "point-0.01": unusual(("pointwise.*", f.normal(0.01))),
            "zero-head": unusual(("head", f.zeros)),
            "depth-zero": fault(("depthwise.2", f.zeros)),
            "gamma-0": fault(("norms.1", f.gamma(0.0))),
        },
    ),
    "separable": Architecture(
        partial(Separable, False, 6),
        "digit-pictures",
        {
            "default": fault(("depthwise.*", f.default), ("pointwise.*", f.default)),
            "he-everywhere": unusual(("depthwise.*", f.he)),
            "fan-of-all": fault(("depthwise.*", f.fan_from_everything)),
            "times-5": fault(("depthwise.*", f.scaled(5.0))),
        },
    ),
    "decoder": Architecture(
        Decoder,
        "earlier",
        {
            "normal-0.02": unusual(
                ("blocks.*.*", f.normal(0.02)),
                ("tokens", f.normal(0.02)),
                ("places", f.normal(0.02)),
            ),
            "zero-out": unusual(("blocks.*.out", f.zeros), ("blocks.*.down", f.zeros)),
            "tokens-0": fault(("tokens", f.zeros)),
            "packed-20": fault(("blocks.*.packed", f.scaled(20.0))),
            "head-50": fault(("head", f.scaled(50.0))),
            "out-100": fault(("blocks.*.out", f.scaled(100.0)), ("blocks.*.down", f.scaled(100))),
        },
    ),
    "sequence-autoencoder": Architecture(
        SequenceAutoencoder,
        "rows",
        {
            "default": unusual(("reader", f.default), ("writer", f.default)),
            "recurrent-zero": unusual(
                ("reader", f.recurrent(init.zeros_)), ("writer", f.recurrent(init.zeros_))
            ),
            "times-20": fault(("reader", f.scaled(20.0)), ("writer", f.scaled(20.0))),
            "input-gate-closed": fault(
                ("writer", f.own("bias_ih_l0", lambda b: b.chunk(4)[0].fill_(-12.0)))
            ),
        },
    ),
    "gated-mlp": Architecture(
        GatedMlp,
        "digit-patches",
        {
            "mix-random": unusual(("gates.*.mix", f.normal(0.05))),
            "mix-closed": fault(("gates.*.mix", f.zeros)),
            "leave-zero": unusual(("leave.*", f.zeros)),
            "enter-constant": fault(("enter.*", f.constant(0.05)), ("leave.*", f.constant(0.05))),
            "leave-200": fault(("leave.*", f.scaled(200.0))),
        },
    ),
    "variational": Architecture(
        Variational,
        "reconstruct",
        {
            "spread-0": unusual(("spread", f.zeros)),
            "default": unusual(
                ("enter", f.default), ("middle", f.default), ("up", f.default), ("leave", f.default)
            ),
            "code-tiny": fault(("mean", f.normal(1e-4)), ("up", f.normal(1e-4))),
            "spread-30": fault(("spread", f.bias(12.0))),
            "doubled": fault(("[emul]*", f.scaled(6.0))),
        },
    ),
    "siamese": Architecture(
        Siamese,
        "pairs",
        {
            "default": unusual((_LIN, f.default)),
            "dead": fault(("layers.2", f.bias(-15.0))),
            "constant": fault((_LIN, f.constant(0.03))),
            "times-30": fault((_LIN, f.scaled(30.0))),
        },
    ),
    "dense-norm": Architecture(
        partial(Dense, True),
        "digit-pictures",
        {
            "default": unusual(("convs.*", f.default)),
            "tiny": unusual(("convs.*", f.normal(1e-3))),
            "conv-zero": unusual(("convs.3", f.zeros)),
            "stem-zero": fault(("stem", f.zeros)),
        },
    ),
    "dense": Architecture(
        partial(Dense, False),
        "digit-pictures",
        {
            "default": unusual(("convs.*", f.default)),
            "times-4": fault(("convs.*", f.scaled(4.0))),
            "stem-tiny": fault(("stem", f.normal(1e-5)), ("convs.*", f.normal(1e-3))),
        },
    ),
    "graph": Architecture(
        GraphConvolution,
        "digit-rows",
        {
            "default": fault((_LIN, f.default), ("enter", f.default)),
            "orthogonal": unusual((_LIN, f.drawn(lambda w: init.orthogonal_(w, math.sqrt(2))))),
            "summed": fault((_LIN, f.scaled(3.0))),
            "equal": fault((_LIN, f.copied_rows(1))),
        },
    ),
    "fourier": Architecture(
        Fourier,
        "picture",
        {
            "default": unusual((_LIN, f.default)),
            "normal-0.005": fault((_LIN, f.normal(0.005))),
            "times-6": fault((_LIN, f.scaled(6.0))),
            "zero-head": unusual(("head", f.zeros)),
        },
    ),
    "highway": Architecture(
        Highway,
        "digits",
        {
            "bias-0": unusual(("gates.*", f.bias(0.0))),
            "closed": unusual(("gates.*", f.bias(-10.0))),
            "open": fault(("gates.*", f.bias(10.0)), (_LIN, f.normal(0.02))),
            "layers-10": fault((_LIN, f.scaled(10.0)), ("gates.*", f.scaled(10.0))),
        },
    ),
    "experts": Architecture(
        Experts,
        "digits",
        {
            "router-zero": unusual(("router", f.zeros)),
            "router-100": fault(("router", f.scaled(100.0))),
            "cloned": fault(("", f.cloned("up")), ("", f.cloned("down")), blamed=("up.*",)),
            "down-zero": unusual(("down.*", f.zeros)),
            "up-and-down-zero": fault(("up.*", f.zeros), ("down.*", f.zeros)),
        },
    ),
    "dilated": Architecture(
        Dilated,
        "sum-16",
        {
            "default": unusual(("convs.*", f.default)),
            "tiny": fault(("convs.*", f.normal(0.003))),
            "one-channel": fault(("convs.*", f.copied_rows(1))),
        },
    ),
    "pooled": Architecture(
        Pooled,
        "digit-rows",
        {
            "query-zero": unusual(("", f.filled("query", 0.0))),
            "query-300": fault(("", f.grown("query", 300.0)), blamed=("key",)),
            "value-zero": fault(("value", f.zeros)),
            "places-50": fault(("", f.grown("places", 50.0)), blamed=("embed",)),
        },
    ),
    "softplus": Architecture(
        _plain(5, lambda x: functional.softplus(x) - math.log(2.0)),
        "digits",
        {
            "default": fault((_LIN, f.default)),
            "he": unusual((_LIN, f.he)),
            "doubled": fault((_LIN, f.scaled(5.0))),
        },
    ),
}

KNOWN.update(HELD_OUT)
