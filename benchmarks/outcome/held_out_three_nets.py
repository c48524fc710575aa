"""Networks and tasks of the third held-out set, each started as its authors or a textbook would."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional, init

from benchmarks.outcome import tasks
from benchmarks.outcome.held_out_two_nets import states
from benchmarks.outcome.nets import each, he, lecun, no_bias, orthogonal
from benchmarks.outcome.tasks import TASKS, Batch, Task

# tasks


def _chosen(size: int, generator: torch.Generator) -> Batch:
    pixels, classes = tasks.digits()
    rows = torch.randint(0, len(pixels), (size,), generator=generator)
    return pixels[rows], classes[rows]


def _signal(size: int, generator: torch.Generator) -> Batch:
    """A picture read line by line as one channel over time."""
    pixels, classes = _chosen(size, generator)
    return pixels[:, None], classes


SYMBOLS = 10


def _reversed(size: int, generator: torch.Generator) -> Batch:
    """Six symbols, and what is to be said of them so far: the same, last first."""
    source = torch.randint(1, SYMBOLS, (size, 6), generator=generator)
    spoken = source.flip(1)
    before = torch.cat([torch.zeros(size, 1, dtype=torch.long), spoken[:, :-1]], 1)
    return torch.cat([source, before], 1), spoken


def _moons(size: int, generator: torch.Generator) -> Batch:
    """Points of two interleaved half circles, standardised."""
    seed = int(torch.randint(0, 2**31 - 1, (1,), generator=generator))
    points = torch.tensor(make_moons(size, noise=0.06, random_state=seed)[0], dtype=torch.float32)
    points = (points - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5])
    return points, torch.zeros(size)


def _unlikely(outputs: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of points that a flow has mapped, with the log of its volume."""
    mapped, volume = outputs[:, :2], outputs[:, 2]
    return (0.5 * mapped.square().sum(1) + math.log(2 * math.pi) - volume).mean()


def _played(size: int, generator: torch.Generator) -> Batch:
    """A state, an action taken in it and what it earned: three where it names the digit."""
    pixels, classes = _chosen(size, generator)
    random = torch.randint(0, 10, (size,), generator=generator)
    good = torch.rand(size, generator=generator) < 0.5
    actions = torch.where(good, classes, random)
    return pixels, torch.stack([actions.float(), 3.0 * (actions == classes)], 1)


def _earned(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of the value of the action that was taken."""
    value = outputs.gather(1, targets[:, :1].long())
    return functional.mse_loss(value[:, 0], targets[:, 1])


COMPONENTS = 5


def _ambiguous(size: int, generator: torch.Generator) -> Batch:
    """A place on a folded line: up to three heights belong to it (Bishop 1994)."""
    height = torch.rand(size, 1, generator=generator)
    noise = 0.05 * torch.randn(size, 1, generator=generator)
    place = height + 0.3 * torch.sin(2 * math.pi * height) + noise
    return (place - 0.5) * 3.0, (height - 0.5) * 3.4


def _mixture(outputs: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood under a mixture of Gaussians."""
    shares, centres, spreads = outputs.chunk(3, -1)
    away = (targets - centres) * torch.exp(-spreads)
    logs = -0.5 * away.square() - spreads - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(torch.log_softmax(shares, -1) + logs, -1).mean()


TASKS.update(
    {
        "signal": Task(_signal, tasks.cross_entropy, math.log(10)),
        "reversed": Task(_reversed, tasks.cross_entropy, math.log(SYMBOLS - 1)),
        "moons": Task(_moons, _unlikely, 1.0 + math.log(2 * math.pi)),
        "played": Task(_played, _earned, 2.23),
        "ambiguous": Task(_ambiguous, _mixture, math.log(3.4)),
        "recall-18": Task(tasks._memory(18), tasks.cross_entropy, math.log(4)),
    }
)


# perceptrons


class Tapered(nn.Module):
    """A deep perceptron that narrows from layer to layer."""

    def __init__(self, depth: int = 22, first: int = 64, last: int = 20) -> None:
        super().__init__()
        sizes = [round(first + (last - first) * n / depth) for n in range(depth + 1)]
        self.hidden = nn.Sequential(
            *(part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU()))
        )
        self.out = nn.Linear(last, 10)
        each(self.hidden, he)
        lecun(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.out(self.hidden(x))


class DeepElu(nn.Module):
    """Twenty layers of ELU."""

    def __init__(self, depth: int = 20, width: int = 36) -> None:
        super().__init__()
        sizes = [64] + [width] * depth
        self.fc = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(width, 10)
        each(self.fc, lambda layer: orthogonal(layer, 1.2))
        lecun(self.out)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for fc in self.fc:
            x = functional.elu(fc(x))
        return self.out(x)


class Hyper(nn.Module):
    """One small net writes the weights of every hidden layer from an embedding of the layer."""

    def __init__(self, depth: int = 4, width: int = 24, code: int = 8) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(64, width), nn.Linear(width, 10)
        self.codes = nn.Parameter(torch.randn(depth, code))
        self.writer1 = nn.Linear(code, 24)
        self.writer2 = nn.Linear(24, width * width)
        self.offsets = nn.Parameter(torch.zeros(depth, width))
        self.width = width
        he(self.enter)
        lecun(self.out)
        he(self.writer1)
        init.normal_(self.writer2.weight, std=math.sqrt(2.0 / width / 24))
        no_bias(self.writer2)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.relu(self.enter(x))
        written = self.writer2(torch.relu(self.writer1(self.codes)))
        for weight, offset in zip(
            written.unflatten(-1, (self.width, self.width)), self.offsets, strict=True
        ):
            x = torch.relu(functional.linear(x, weight, offset))
        return self.out(x)


class Dueling(nn.Module):
    """Values of actions as the state's value and each action's advantage over the mean."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.torso = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.value = nn.Sequential(nn.Linear(width, 24), nn.ReLU(), nn.Linear(24, 1))
        self.advantage = nn.Sequential(nn.Linear(width, 24), nn.ReLU(), nn.Linear(24, 10))
        for part in (self.torso, self.value[:-1], self.advantage[:-1]):
            each(part, he)
        lecun(self.value[2])
        lecun(self.advantage[2])

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.torso(x)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(-1, keepdim=True)


class MixtureDensity(nn.Module):
    """Shares, centres and widths of the Gaussians that the height may come from."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.shares = nn.Linear(width, COMPONENTS)
        self.centres = nn.Linear(width, COMPONENTS)
        self.spreads = nn.Linear(width, COMPONENTS)
        for layer in (self.body[0], self.body[2]):
            init.xavier_normal_(layer.weight, 5 / 3)
            init.uniform_(layer.bias, -1.0, 1.0)
        each([self.shares, self.centres], lecun)
        lecun(self.spreads)
        self.spreads.weight.data.mul_(0.1)
        init.uniform_(self.centres.bias, -1.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.body(x)
        return torch.cat([self.shares(x), self.centres(x), self.spreads(x)], -1)


class Coupling(nn.Module):
    """One half of the point scales and shifts the other (RealNVP)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )
        each(self.net, he)
        for layer in (self.net[0], self.net[2]):
            init.uniform_(layer.bias, -0.5, 0.5)
        self.net[4].weight.data.mul_(0.1)

    def forward(self, kept: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """The moved half, and the log of how far it was stretched."""
        scale, shift = self.net(kept).chunk(2, -1)
        scale = 2.0 * torch.tanh(scale)
        return moved * torch.exp(scale) + shift, scale


class Flow(nn.Module):
    """Couplings that take turns; returns the mapped point and the log of the volume."""

    def __init__(self, depth: int = 6, width: int = 32) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        left, right = x.chunk(2, -1)
        volume = torch.zeros_like(left)
        for coupling in self.couplings:
            moved, scale = coupling(left, right)
            left, right, volume = moved, left, volume + scale
        return torch.cat([left, right, volume], -1)


class TiedAutoencoder(nn.Module):
    """The decoder reads the encoder's matrices the other way."""

    def __init__(self, code: int = 16) -> None:
        super().__init__()
        self.outer = nn.Parameter(torch.empty(48, 64))
        self.inner = nn.Parameter(torch.empty(code, 48))
        self.b1, self.b2 = nn.Parameter(torch.zeros(48)), nn.Parameter(torch.zeros(code))
        self.b3, self.b4 = nn.Parameter(torch.zeros(48)), nn.Parameter(torch.zeros(64))
        init.xavier_uniform_(self.outer)
        init.xavier_uniform_(self.inner)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.tanh(functional.linear(x, self.outer, self.b1))
        x = functional.linear(x, self.inner, self.b2)
        x = torch.tanh(functional.linear(x, self.inner.t(), self.b3))
        return functional.linear(x, self.outer.t(), self.b4)


class Flowing(nn.Module):
    """One block applied ten times in small steps (a neural differential equation)."""

    def __init__(self, width: int = 40, steps: int = 10) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(64, width), nn.Linear(width, 10)
        self.first, self.second = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.steps = steps
        each([self.enter, self.first, self.second, self.out], lecun)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.enter(x)
        for _ in range(self.steps):
            x = x + self.second(torch.tanh(self.first(x))) / self.steps
        return self.out(x)


class Radiance(nn.Module):
    """A picture as a function of sines of its coordinates, which enter again half way (NeRF)."""

    def __init__(self, depth: int = 6, width: int = 48, waves: int = 4) -> None:
        super().__init__()
        self.register_buffer("waves", math.pi * 2.0 ** torch.arange(waves))
        inputs = 2 + 4 * waves
        self.again = depth // 2
        sizes = [inputs] + [width] * depth
        self.pts = nn.ModuleList(
            nn.Linear(a + (inputs if n == self.again else 0), b)
            for n, (a, b) in enumerate(pairwise(sizes))
        )
        self.grey = nn.Linear(width, 1)
        each(self.pts, he)
        lecun(self.grey)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        angles = (x[..., None] * self.waves).flatten(-2)
        inputs = torch.cat([x, angles.sin(), angles.cos()], -1)
        y = inputs
        for number, layer in enumerate(self.pts):
            if number == self.again:
                y = torch.cat([y, inputs], -1)
            y = torch.relu(layer(y))
        return self.grey(y)


# convolutions


class Discriminator(nn.Module):
    """Convolutions with strides and leaky ReLUs, no norm."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 2),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width, 10),
        )
        for module in self.main[:-1]:
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, a=0.2)
                no_bias(module)
        lecun(self.main[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.main(x)


class SignalNet(nn.Module):
    """Convolutions over a signal with BatchNorm, and the mean over time."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(1, width, 9, 2, 4), nn.BatchNorm1d(width)
        self.conv2, self.bn2 = nn.Conv1d(width, width, 5, 2, 2), nn.BatchNorm1d(width)
        self.conv3, self.bn3 = nn.Conv1d(width, 2 * width, 3, 1, 1), nn.BatchNorm1d(2 * width)
        self.conv4, self.bn4 = nn.Conv1d(2 * width, 2 * width, 3, 2, 1), nn.BatchNorm1d(2 * width)
        self.fc = nn.Linear(8 * 2 * width, 10)
        each([self.fc], lecun)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            he(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        x = torch.relu(self.bn4(self.conv4(x)))
        return self.fc(x.flatten(1))


class Bottleneck(nn.Module):
    """Narrow, convolve, widen, each with a GroupNorm, beside a skip."""

    def __init__(self, width: int, narrow: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, narrow, 1, bias=False)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(narrow, width, 1, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(2, narrow), nn.GroupNorm(2, narrow)
        self.norm3 = nn.GroupNorm(4, width)
        each([self.conv1, self.conv2, self.conv3], he)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        return torch.relu(x + self.norm3(self.conv3(y)))


class BottleneckNet(nn.Module):
    """A stem, bottlenecks, and a head behind the mean."""

    def __init__(self, depth: int = 4, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.layers = nn.Sequential(*(Bottleneck(width, width // 2) for _ in range(depth)))
        self.fc = nn.Linear(width * 4, 10)
        he(self.stem)
        lecun(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.layers(functional.max_pool2d(torch.relu(self.stem(x)), 2))
        return self.fc(functional.avg_pool2d(x, 2).flatten(1))


class Excited(nn.Module):
    """Two convolutions whose channels are gated by what they hold on average, beside a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.squeeze, self.excite = nn.Linear(width, width // 2), nn.Linear(width // 2, width)
        each([self.conv1, self.conv2, self.squeeze], he)
        lecun(self.excite)
        self.conv2.weight.data.mul_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.conv2(torch.relu(self.conv1(x)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))
        return torch.relu(x + y * gate[:, :, None, None])


class SqueezeNet(nn.Module):
    """Squeeze-and-excitation blocks without norms."""

    def __init__(self, depth: int = 4, width: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(Excited(width) for _ in range(depth))
        self.classify = nn.Linear(width * 4, 10)
        he(self.stem)
        lecun(self.classify)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = functional.max_pool2d(torch.relu(self.stem(x)), 2)
        for block in self.blocks:
            x = block(x)
        return self.classify(functional.avg_pool2d(x, 2).flatten(1))


class MixLayer(nn.Module):
    """Depthwise convolution beside a skip, then pointwise, each with GELU and BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.bn1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = x + self.bn1(functional.gelu(self.spatial(x)))
        return self.bn2(functional.gelu(self.pointwise(x)))


class ConvMixer(nn.Module):
    """Patches and mixing layers, as torch draws them."""

    def __init__(self, depth: int = 4, width: int = 16) -> None:
        super().__init__()
        self.patch, self.bn = nn.Conv2d(1, width, 2, 2), nn.BatchNorm2d(width)
        self.mix = nn.Sequential(*(MixLayer(width) for _ in range(depth)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.bn(functional.gelu(self.patch(x)))
        return self.head(self.mix(x).mean((2, 3)))


class StyleBlock(nn.Module):
    """A convolution whose normalised channels are scaled and shifted by the style."""

    def __init__(self, before: int, after: int, style: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)
        self.style = nn.Linear(style, 2 * after)
        init.kaiming_normal_(self.conv.weight, a=0.2)
        no_bias(self.conv)
        lecun(self.style)
        self.style.bias.data[:after] = 1.0

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Forward pass."""
        scale, shift = self.style(w)[:, :, None, None].chunk(2, 1)
        x = functional.instance_norm(self.conv(x))
        return functional.leaky_relu(scale * x + shift, 0.2)


class StyleGenerator(nn.Module):
    """A code, mapped to a style, shapes what is made of a learned constant."""

    def __init__(self, width: int = 12, style: int = 24) -> None:
        super().__init__()
        sizes = [16, style, style, style]
        self.mapping = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.start = nn.Parameter(torch.randn(1, width, 4, 4))
        self.block1 = StyleBlock(width, width, style)
        self.block2 = StyleBlock(width, width, style)
        self.block3 = StyleBlock(width, width, style)
        self.grey = nn.Conv2d(width, 1, 1)
        each(self.mapping, he)
        lecun(self.grey)

    def forward(self, code: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.mapping:
            code = functional.leaky_relu(layer(code), 0.2)
        x = self.block1(self.start.expand(len(code), -1, -1, -1), code)
        x = self.block2(functional.interpolate(x, scale_factor=2), code)
        return self.grey(self.block3(x, code))


# sequences


class CrossAttention(nn.Module):
    """Multi-head attention of some tokens to others."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        self.v, self.o = nn.Linear(width, width), nn.Linear(width, width)
        self.heads = heads
        for layer in (self.q, self.k, self.v, self.o):
            init.xavier_uniform_(layer.weight)
            no_bias(layer)

    def forward(self, x: Tensor, context: Tensor, causal: bool = False) -> Tensor:
        """Forward pass."""
        query, key, value = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, y in ((self.q, x), (self.k, context), (self.v, context))
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self.o(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Wider, ReLU, back."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        for layer in (self[0], self[2]):
            init.xavier_uniform_(layer.weight)
            no_bias(layer)


class EncoderLayer(nn.Module):
    """Post-norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attend, self.feed = CrossAttention(width, 4), FeedForward(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.norm1(x + self.attend(x, x))
        return self.norm2(x + self.feed(x))


class DecoderLayer(nn.Module):
    """Post-norm, with attention to what was encoded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attend, self.read = CrossAttention(width, 4), CrossAttention(width, 4)
        self.feed = FeedForward(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Forward pass."""
        x = self.norm1(x + self.attend(x, x, causal=True))
        x = self.norm2(x + self.read(x, memory))
        return self.norm3(x + self.feed(x))


class Translator(nn.Module):
    """Encoder and decoder of the first transformer, two layers each."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.source = nn.Embedding(SYMBOLS, width)
        self.target = nn.Embedding(SYMBOLS, width)
        self.places = nn.Parameter(0.5 * torch.randn(6, width))
        self.encoder = nn.ModuleList(EncoderLayer(width) for _ in range(depth))
        self.decoder = nn.ModuleList(DecoderLayer(width) for _ in range(depth))
        self.generator = nn.Linear(width, SYMBOLS)
        lecun(self.generator)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        memory = self.source(ids[:, :6]) + self.places
        for layer in self.encoder:
            memory = layer(memory)
        x = self.target(ids[:, 6:]) + self.places
        for layer in self.decoder:
            x = layer(x, memory)
        return self.generator(x)


class ParallelBlock(nn.Module):
    """Attention with one key and value for all heads, and a perceptron, from the same norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width // heads, bias=False)
        self.enter = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)
        self.leave = nn.Linear(3 * width, width, bias=False)
        self.heads = heads
        slopes = 2.0 ** -torch.arange(1.0, heads + 1)
        ago = (torch.arange(12)[:, None] - torch.arange(12)[None]).float()
        mask = torch.where(ago < 0, -torch.inf, -slopes[:, None, None] * ago)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.norm(x)
        query = self.query(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(y)[:, None].chunk(2, -1)
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]) + self.mask
        mixed = (torch.softmax(scores, -1) @ value).transpose(1, 2).flatten(2)
        return x + self.proj(mixed) + self.leave(functional.gelu(self.enter(y)))


class ParallelDecoder(nn.Module):
    """Parallel blocks with a distance penalty in place of positions."""

    def __init__(self, depth: int = 3, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(tasks.VOCABULARY, width)
        self.blocks = nn.ModuleList(ParallelBlock(width, 4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, tasks.VOCABULARY, bias=False)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                lecun(module)
                if name.endswith(("proj", "leave")):
                    module.weight.data.mul_((2 * depth) ** -0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x))


class WrittenGru(nn.Module):
    """A gated cell written with linear layers over input and state together, step by step."""

    def __init__(self, inputs: int = 8, width: int = 28) -> None:
        super().__init__()
        self.update = nn.Linear(inputs + width, width)
        self.reset = nn.Linear(inputs + width, width)
        self.candidate = nn.Linear(inputs + width, width)
        self.classify = nn.Linear(width, 4)
        for layer in (self.update, self.reset, self.candidate):
            init.xavier_uniform_(layer.weight)
            init.orthogonal_(layer.weight.data[:, inputs:])
            no_bias(layer)
        init.constant_(self.update.bias, -2.0)
        lecun(self.classify)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        state = x.new_zeros(x.shape[0], self.width)
        for step in x.unbind(1):
            both = torch.cat([step, state], -1)
            update, reset = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
            new = torch.tanh(self.candidate(torch.cat([step, reset * state], -1)))
            state = (1 - update) * state + update * new
        return self.classify(state)


class TiedLstm(nn.Module):
    """A language model of one LSTM whose head is the embedding."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Embedding(tasks.VOCABULARY, width)
        self.rnn = nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.Linear(width, tasks.VOCABULARY)
        self.decoder.weight = self.encoder.weight
        init.uniform_(self.encoder.weight, -0.3, 0.3)
        no_bias(self.decoder)
        for name, tensor in self.rnn.named_parameters():
            if name.startswith("bias"):
                init.zeros_(tensor)
            else:
                for gate in tensor.data.chunk(4):
                    init.orthogonal_(gate, 1.0 if "hh" in name else 2.0)
        self.rnn.bias_ih_l0.data.chunk(4)[1].fill_(1.0)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        return self.decoder(states(self.rnn, self.encoder(ids)))


class WaveLayer(nn.Module):
    """Filter and gate over the past; one way on, one way out."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.filter = nn.Conv1d(width, width, 2, dilation=dilation)
        self.gate = nn.Conv1d(width, width, 2, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)
        self.past = dilation
        for conv in (self.filter, self.gate, self.residual, self.skip):
            init.xavier_uniform_(conv.weight)
            no_bias(conv)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What goes on and what goes out."""
        y = functional.pad(x, (self.past, 0))
        y = torch.tanh(self.filter(y)) * torch.sigmoid(self.gate(y))
        return x + self.residual(y), self.skip(y)


class WaveNet(nn.Module):
    """Dilated gated layers whose skips are summed, and two layers behind ReLUs."""

    def __init__(self, depth: int = 4, width: int = 20) -> None:
        super().__init__()
        self.embed = nn.Embedding(tasks.VOCABULARY, width)
        self.layers = nn.ModuleList(WaveLayer(width, 2 ** (n % 3)) for n in range(depth))
        self.end1 = nn.Conv1d(width, 32, 1)
        self.end2 = nn.Conv1d(32, tasks.VOCABULARY, 1)
        he(self.end1)
        lecun(self.end2)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.embed(ids).transpose(1, 2)
        out = torch.zeros_like(x)
        for layer in self.layers:
            x, skip = layer(x)
            out = out + skip
        return self.end2(torch.relu(self.end1(torch.relu(out)))).transpose(1, 2)


class StateSpace(nn.Module):
    """A diagonal linear recurrence with learned rates, computed as a convolution (S4D)."""

    def __init__(self, width: int, states: int, length: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.log_rate = nn.Parameter(torch.linspace(math.log(0.02), 0.0, states).repeat(width, 1))
        self.b = nn.Parameter(torch.randn(width, states))
        self.c = nn.Parameter(torch.randn(width, states) * states**-0.5)
        self.d = nn.Parameter(torch.ones(width))
        self.mix = nn.Linear(width, width)
        lecun(self.mix)
        self.register_buffer("ago", torch.arange(float(length)))

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.norm(x).transpose(1, 2)
        rate = torch.exp(self.log_rate)
        decay = torch.exp(-rate[..., None] * self.ago)
        kernel = ((self.b * self.c * (1 - torch.exp(-rate)))[..., None] * decay).sum(1)
        padded = functional.pad(y, (len(self.ago) - 1, 0)).unfold(-1, len(self.ago), 1)
        y = (padded * kernel.flip(-1)[:, None]).sum(-1) + self.d[:, None] * y
        return x + self.mix(functional.gelu(y.transpose(1, 2)))


class StateSpaceNet(nn.Module):
    """Blocks of state spaces, read at the last step."""

    def __init__(self, depth: int = 2, width: int = 16) -> None:
        super().__init__()
        self.encode = nn.Linear(4, width)
        self.blocks = nn.ModuleList(StateSpace(width, 6, 16) for _ in range(depth))
        self.decode = nn.Linear(width, 1)
        each([self.encode, self.decode], lecun)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.encode(x)
        for block in self.blocks:
            x = block(x)
        return self.decode(x[:, -1])
