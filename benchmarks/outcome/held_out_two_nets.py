"""Networks and tasks of the second held-out set, each started as its authors or a textbook would.

Written in several styles on purpose: modules of torch, raw parameters, sequences, plain functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional, init

from benchmarks.outcome import tasks
from benchmarks.outcome.nets import each, he, lecun, no_bias, orthogonal
from benchmarks.outcome.tasks import TASKS, Batch, Task

# tasks


def _chosen(size: int, generator: torch.Generator) -> Batch:
    pixels, classes = tasks.digits()
    rows = torch.randint(0, len(pixels), (size,), generator=generator)
    return pixels[rows], classes[rows]


def _points(size: int, generator: torch.Generator) -> Batch:
    """24 places of ink, drawn by how dark they are, with their grey value; name the digit."""
    pixels, classes = _chosen(size, generator)
    ink = pixels - pixels.min() + 1e-3
    places = torch.multinomial(ink, 24, replacement=True, generator=generator)
    x, y = places % 8, places // 8
    cloud = torch.stack([x / 3.5 - 1, y / 3.5 - 1, pixels.gather(1, places)], -1)
    return cloud, classes


def _mask(size: int, generator: torch.Generator) -> Batch:
    """Where is ink under the noise?"""
    pixels = _chosen(size, generator)[0].reshape(size, 1, 8, 8)
    return pixels + 0.7 * torch.randn(pixels.shape, generator=generator), (pixels > 0).float()


def _mask_chance() -> float:
    """Cross-entropy of the share of ink of every pixel."""
    share = (tasks.digits()[0] > 0).float().mean(0).clamp(1e-6, 1 - 1e-6)
    return float(-(share * share.log() + (1 - share) * (1 - share).log()).mean())


def _copied(size: int, generator: torch.Generator) -> Batch:
    """Three symbols, four blanks, then the three symbols again."""
    symbols = torch.randint(1, 9, (size, 3), generator=generator)
    blank = torch.zeros(size, 7, dtype=torch.long)
    return torch.cat([symbols, blank], 1), symbols - 1


def _last_three(outputs: Tensor, targets: Tensor) -> Tensor:
    return tasks.cross_entropy(outputs[:, -3:], targets)


def _integral(size: int, generator: torch.Generator) -> Batch:
    """16 values of a random smooth function and a place: its integral up to there."""
    waves = torch.arange(1, 4)
    weights = torch.randn(size, 3, generator=generator)
    places = torch.linspace(0, 1, 16)
    values = weights @ torch.sin(math.pi * waves[:, None] * places)
    until = torch.rand(size, 1, generator=generator)
    parts = (1 - torch.cos(math.pi * waves * until)) / (math.pi * waves)
    return torch.cat([values, 4 * until - 2], 1), 2 * (weights * parts).sum(1, keepdim=True)


FIELDS, IDS = 5, 12


def _clicks(size: int, generator: torch.Generator) -> Batch:
    """Five ids: the sign of the sum of what each is worth, and of two pairs of them."""
    own = torch.Generator().manual_seed(11)
    worth = torch.randn(FIELDS, IDS, generator=own)
    ids = torch.randint(0, IDS, (size, FIELDS), generator=generator)
    values = worth[torch.arange(FIELDS), ids]
    score = values.sum(1) + values[:, 0] * values[:, 1] + values[:, 2] * values[:, 3]
    return ids, (score > 0).long()


def _policy(size: int, generator: torch.Generator) -> Batch:
    """The digit, and its number as a value."""
    pixels, classes = _chosen(size, generator)
    return pixels, torch.stack([classes.float(), (classes - 4.5) / 2.9], 1)


def _policy_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    chosen = functional.cross_entropy(outputs[:, :-1], targets[:, 0].long())
    return chosen + 0.5 * functional.mse_loss(outputs[:, -1], targets[:, 1])


def _views(size: int, generator: torch.Generator) -> Batch:
    """Two noisy views of every picture: which of the batch belong together?"""
    pixels = _chosen(size, generator)[0][:, None].expand(-1, 2, -1)
    noise = 0.5 * torch.randn(pixels.shape, generator=generator)
    return pixels + noise, torch.arange(size)


def _noised(size: int, generator: torch.Generator) -> Batch:
    """A picture under noise of a given level: the noise."""
    pixels = _chosen(size, generator)[0]
    level = torch.rand(size, 1, generator=generator)
    noise = torch.randn(pixels.shape, generator=generator)
    angle = 0.5 * math.pi * level
    return torch.cat([torch.cos(angle) * pixels + torch.sin(angle) * noise, level], 1), noise


TASKS.update(
    {
        "points": Task(_points, tasks.cross_entropy, math.log(10)),
        "mask": Task(_mask, functional.binary_cross_entropy_with_logits, _mask_chance()),
        "copied": Task(_copied, _last_three, math.log(8)),
        "integral": Task(_integral, functional.mse_loss, 0.0),
        "clicks": Task(_clicks, tasks.cross_entropy, math.log(2)),
        "policy": Task(_policy, _policy_loss, math.log(10) + 0.5),
        "views": Task(_views, tasks.cross_entropy, math.log(32)),
        "noised": Task(_noised, functional.mse_loss, 1.0),
    }
)


# perceptrons and convolutions


class Normalised(nn.Sequential):
    """Linear, BatchNorm, ReLU, and again."""

    def __init__(self, depth: int = 6, width: int = 40) -> None:
        sizes = [64] + [width] * depth
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        head = nn.Linear(width, 10)
        each(layers, he)
        lecun(head)
        super().__init__(*layers, head)


class LeNet(nn.Module):
    """Convolutions, tanh and average pooling, three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 10)
        )
        for module in (*self.features, *self.classifier):
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                init.xavier_normal_(module.weight, 5 / 3)
                no_bias(module)
        lecun(self.classifier[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.classifier(self.features(x).flatten(1))


class Vgg(nn.Module):
    """Six convolutions with GELU, pooling, and two linear layers."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        sizes = [1] + [width] * 6
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))
        self.fc1, self.fc2 = nn.Linear(4 * width, 40), nn.Linear(40, 10)
        for module in (*self.convs, self.fc1):
            init.kaiming_normal_(module.weight)
            module.weight.data.mul_(1.06)
            no_bias(module)
        lecun(self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for number, conv in enumerate(self.convs):
            x = functional.gelu(conv(x))
            if number % 3 == 2:
                x = functional.max_pool2d(x, 2)
        return self.fc2(functional.gelu(self.fc1(x.flatten(1))))


class ChannelsLast(nn.LayerNorm):
    """LayerNorm over the channels of a picture."""

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise convolution, norm, two pointwise layers, layer scale, skip."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.enter, self.leave = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), scale))
        each([self.depthwise, self.enter, self.leave], lecun)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.leave(functional.gelu(self.enter(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Patches, blocks, a norm and a head."""

    def __init__(self, depth: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 2, stride=2)
        self.norm = ChannelsLast(width)
        self.blocks = nn.Sequential(*(ConvNextBlock(width, 0.5) for _ in range(depth)))
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)
        each([self.stem, self.head], lecun)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.blocks(self.norm(self.stem(x)))
        return self.head(self.last(x.mean((2, 3))))


class Inverted(nn.Module):
    """Inverted residual with ReLU6 (MobileNetV2)."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return x + self.conv(x)


class MobileNet(nn.Module):
    """Inverted residuals between a stem and a head, as torchvision draws them."""

    def __init__(self, depth: int = 3, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()
        )
        self.blocks = nn.Sequential(*(Inverted(width, 4 * width) for _ in range(depth)))
        self.head = nn.Linear(width * 4, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out")
        init.normal_(self.head.weight, std=0.05)
        no_bias(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.blocks(functional.max_pool2d(self.stem(x), 2))
        return self.head(functional.avg_pool2d(x, 2).flatten(1))


class Stage(nn.Sequential):
    """Convolution, GroupNorm, SiLU."""

    def __init__(self, before: int, after: int) -> None:
        conv = nn.Conv2d(before, after, 3, padding=1)
        he(conv)
        super().__init__(conv, nn.GroupNorm(4, after), nn.SiLU())


class Segmenter(nn.Module):
    """A U-Net with group norms that marks pixels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = Stage(1, width), Stage(width, 2 * width)
        self.bottom = Stage(2 * width, 2 * width)
        self.up2, self.up1 = Stage(4 * width, width), Stage(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        y = functional.interpolate(self.bottom(functional.max_pool2d(second, 2)), scale_factor=2)
        y = functional.interpolate(self.up2(torch.cat([y, second], 1)), scale_factor=2)
        return self.head(self.up1(torch.cat([y, first], 1)))


# sets, graphs, operators, tables


class PointNet(nn.Module):
    """One perceptron for all points, maximum and mean over them, another perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.ModuleList(nn.Conv1d(a, b, 1) for a, b in pairwise([3, 24, 32, 64]))
        self.hidden, self.head = nn.Linear(2 * 64, 32), nn.Linear(32, 10)
        for conv in self.shared:
            he(conv)
        he(self.hidden)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = x.transpose(1, 2)
        for conv in self.shared:
            x = torch.relu(conv(x))
        return self.head(torch.relu(self.hidden(torch.cat([x.amax(-1), x.mean(-1)], 1))))


class GraphAttention(nn.Module):
    """One layer of attention along the edges (Velickovic et al. 2018)."""

    def __init__(self, before: int, heads: int, after: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(before, heads * after))
        self.source = nn.Parameter(torch.empty(heads, after))
        self.target = nn.Parameter(torch.empty(heads, after))
        init.xavier_normal_(self.weight, 1.414)
        init.xavier_normal_(self.source, 1.414)
        init.xavier_normal_(self.target, 1.414)
        self.heads = heads

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Forward pass."""
        y = (x @ self.weight).unflatten(-1, (self.heads, -1))
        reading, read = (y * self.target).sum(-1), (y * self.source).sum(-1)
        scores = functional.leaky_relu(reading[:, :, None] + read[:, None], 0.2)
        scores = scores.masked_fill(~edges[None, :, :, None], -1e9)
        return torch.einsum("bijh,bjhd->bihd", scores.softmax(2), y).flatten(2)


class GraphNet(nn.Module):
    """Rows of a picture as nodes, each beside its neighbours."""

    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        eye = torch.eye(8, dtype=torch.bool)
        self.register_buffer("edges", eye | eye.roll(1, 0) | eye.roll(-1, 0))
        self.layers = nn.ModuleList(
            [GraphAttention(8, heads, width), GraphAttention(heads * width, heads, width)]
        )
        self.head = nn.Linear(8 * heads * width, 10)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.layers:
            x = functional.elu(layer(x, self.edges))
        return self.head(x.flatten(1))


class DeepOperator(nn.Module):
    """A function and a place, each embedded; their inner product (DeepONet)."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width))
        self.trunk = nn.Sequential(
            nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.offset = nn.Parameter(torch.zeros(1))
        he(self.branch[0])
        lecun(self.branch[2])
        for layer in (self.trunk[0], self.trunk[2]):
            init.xavier_normal_(layer.weight)
            init.uniform_(layer.bias, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        both = self.branch(x[:, :16]) * self.trunk(x[:, 16:])
        return both.sum(-1, keepdim=True) / math.sqrt(both.shape[-1]) + self.offset


class Cross(nn.Module):
    """The first input, gated by what was made of it so far (DCN-v2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        lecun(self.linear)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """Forward pass."""
        return first * self.linear(x) + x


class Tabular(nn.Module):
    """A table of embeddings per field, cross layers beside a perceptron."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(IDS, size) for _ in range(FIELDS))
        width = FIELDS * size
        self.cross = nn.ModuleList(Cross(width) for _ in range(2))
        self.deep = nn.Sequential(
            nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16)
        )
        self.head = nn.Linear(width + 16, 2)
        for table in self.tables:
            init.normal_(table.weight, std=0.3)
        each(self.deep, he)
        lecun(self.head)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        first = torch.cat([table(ids[:, n]) for n, table in enumerate(self.tables)], -1)
        x = first
        for layer in self.cross:
            x = layer(first, x)
        return self.head(torch.cat([x, self.deep(first)], -1))


class ActorCritic(nn.Module):
    """A body of tanh, a policy that starts near indifferent, and a value (PPO)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.policy, self.value = nn.Linear(width, 10), nn.Linear(width, 1)
        each(self.body, lambda layer: orthogonal(layer, math.sqrt(2)))
        orthogonal(self.policy, 0.01)
        orthogonal(self.value, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.body(x)
        return torch.cat([self.policy(x), self.value(x)], -1)


class Towers(nn.Module):
    """Two towers and a learned temperature (CLIP)."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24))
        self.right = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.2)))
        for tower in (self.left, self.right):
            he(tower[0])
            lecun(tower[2])

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        left = functional.normalize(self.left(x[:, 0]), dim=-1)
        right = functional.normalize(self.right(x[:, 1]), dim=-1)
        return self.logit_scale.exp() * left @ right.t()


class Denoiser(nn.Module):
    """Residual perceptron whose norms are shifted and scaled by the noise's level."""

    def __init__(self, depth: int = 3, width: int = 64) -> None:
        super().__init__()
        self.enter = nn.Linear(64, width)
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU())
        self.film = nn.ModuleList(nn.Linear(32, 2 * width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, 64)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                lecun(module)
        for layer in (*self.film, *self.second):
            layer.weight.data.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        angles = x[:, 64:] * torch.exp(torch.linspace(0, 4, 8))
        level = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        x = self.enter(x[:, :64])
        for film, norm, first, second in zip(
            self.film, self.norms, self.first, self.second, strict=True
        ):
            scale, shift = film(level).chunk(2, -1)
            x = x + second(functional.silu(first(norm(x) * (1 + scale) + shift)))
        return self.leave(x)


# transformers


class UnitNorm(nn.Module):
    """RMSNorm over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.gain * x / torch.sqrt(torch.mean(x * x, -1, keepdim=True) + 1e-5)


def rotated(x: Tensor) -> Tensor:
    """Rotary positions over the last axis but one."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half) / half)
    angles = torch.arange(x.shape[-2])[:, None] * rates
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1)


class RotaryBlock(nn.Module):
    """Rotary attention with normalised queries and keys, and a SwiGLU of one packed matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_norm = UnitNorm(width), UnitNorm(width)
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.q_norm, self.k_norm = UnitNorm(width // heads), UnitNorm(width // heads)
        self.w13 = nn.Linear(width, 4 * width, bias=False)
        self.w2 = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.attention_norm(x)
        query, key, value = (
            layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.wq, self.wk, self.wv)
        )
        query, key = rotated(self.q_norm(query)), rotated(self.k_norm(key))
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.wo(y.transpose(1, 2).flatten(2))
        gate, up = self.w13(self.feed_norm(x)).chunk(2, -1)
        return x + self.w2(functional.silu(gate) * up)


class Rotary(nn.Module):
    """A decoder over symbols without learned positions."""

    def __init__(self, depth: int = 3, width: int = 32, symbols: int = tasks.VOCABULARY) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.blocks = nn.ModuleList(RotaryBlock(width, 4) for _ in range(depth))
        self.norm = UnitNorm(width)
        self.unembed = nn.Linear(width, symbols, bias=False)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                lecun(module)
                if name.endswith(("wo", "w2")):
                    module.weight.data.mul_((2 * depth) ** -0.5)
        init.normal_(self.embedding.weight, std=0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.norm(x))


class TorchEncoder(nn.Module):
    """Layers of `nn.TransformerEncoderLayer` behind a class token."""

    def __init__(self, depth: int = 4, width: int = 24, norm_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.token = nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.places = nn.Parameter(0.5 * torch.randn(17, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=norm_first
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.head = nn.Linear(width, 10)
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)
        each([self.embed, self.head], lecun)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x[:, 0]))


class Reader(nn.Module):
    """Attention of some tokens to others, with norms before and a perceptron after it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_q, self.norm_kv, self.norm_f = (nn.LayerNorm(width) for _ in range(3))
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        each([self.to_q, self.to_kv, self.to_out, *self.feed], lecun)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Forward pass."""
        query = self.to_q(self.norm_q(x)).unflatten(-1, (self.heads, -1))
        key, value = self.to_kv(self.norm_kv(context)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", query, key) * query.shape[-1] ** -0.5
        mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), value).flatten(2)
        x = x + self.to_out(mixed)
        return x + self.feed(self.norm_f(x))


class Perceiver(nn.Module):
    """A few latents read the patches of a picture, then each other."""

    def __init__(self, width: int = 24, latents: int = 6) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.places = nn.Parameter(0.5 * torch.randn(16, width))
        self.latents = nn.Parameter(0.5 * torch.randn(latents, width))
        self.reader, self.mixer = Reader(width, 4), Reader(width, 4)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        each([self.embed, self.head], lecun)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        context = self.embed(x) + self.places
        latents = self.reader(self.latents.expand(len(x), -1, -1), context)
        latents = self.mixer(latents, latents)
        return self.head(self.norm(latents.mean(1)))


# sequences


class TemporalBlock(nn.Module):
    """Two causal dilated convolutions beside a skip (TCN)."""

    def __init__(self, before: int, after: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(before, after, 3, dilation=dilation)
        self.conv2 = nn.Conv1d(after, after, 3, dilation=dilation)
        self.skip = nn.Conv1d(before, after, 1) if before != after else nn.Identity()
        self.past = 2 * dilation
        he(self.conv1)
        he(self.conv2)
        self.conv2.weight.data.mul_(0.5)
        if isinstance(self.skip, nn.Conv1d):
            lecun(self.skip)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = torch.relu(self.conv1(functional.pad(x, (self.past, 0))))
        y = torch.relu(self.conv2(functional.pad(y, (self.past, 0))))
        return torch.relu(y + self.skip(x))


class Temporal(nn.Module):
    """Temporal blocks, read at the last step."""

    def __init__(self, inputs: int, outputs: int, depth: int = 4, width: int = 16) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        self.blocks = nn.Sequential(
            *(TemporalBlock(a, b, 2**n) for n, (a, b) in enumerate(pairwise(sizes)))
        )
        self.head = nn.Linear(width, outputs)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.head(self.blocks(x.transpose(1, 2))[..., -1])


def _stacked(weight: Tensor) -> bool:
    """True under `torch.func.vmap`, which knows no fused recurrent layer."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(weight))


def _lstm_states(x: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    enter, recur, bias, other = parts
    state = memory = x.new_zeros(x.shape[0], recur.shape[1])
    states = []
    for step in x.unbind(1):
        gates = functional.linear(step, enter, bias) + functional.linear(state, recur, other)
        i, keep, new, out = gates.chunk(4, -1)
        memory = torch.sigmoid(keep) * memory + torch.sigmoid(i) * torch.tanh(new)
        state = torch.sigmoid(out) * torch.tanh(memory)
        states.append(state)
    return torch.stack(states, 1)


def _gru_states(x: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    enter, recur, bias, other = parts
    state = x.new_zeros(x.shape[0], recur.shape[1])
    states = []
    for step in x.unbind(1):
        xr, xz, xn = functional.linear(step, enter, bias).chunk(3, -1)
        hr, hz, hn = functional.linear(state, recur, other).chunk(3, -1)
        update = torch.sigmoid(xz + hz)
        state = (1 - update) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + update * state
        states.append(state)
    return torch.stack(states, 1)


_Run = Callable[[Tensor, tuple[Tensor, ...]], Tensor]


def states(cell: nn.RNNBase, x: Tensor) -> Tensor:
    """All states of a recurrent module of any number of layers and directions."""
    if not _stacked(cell.weight_hh_l0):
        return cell(x)[0]
    run: _Run = _lstm_states if isinstance(cell, nn.LSTM) else _gru_states
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for layer in range(cell.num_layers):
        parts = tuple(getattr(cell, f"{name}_l{layer}") for name in names)
        found = [run(x, parts)]
        if cell.bidirectional:
            parts = tuple(getattr(cell, f"{name}_l{layer}_reverse") for name in names)
            found.append(run(x.flip(1), parts).flip(1))
        x = torch.cat(found, -1)
    return x


def _recurrent_weights(cell: nn.RNNBase, gates: int) -> None:
    for name, tensor in cell.named_parameters():
        if name.startswith("bias"):
            init.zeros_(tensor)
            continue
        for block in tensor.data.chunk(gates):
            if name.startswith("weight_hh"):
                init.orthogonal_(block)
            else:
                init.normal_(block, std=block.shape[1] ** -0.5)


class BothWays(nn.Module):
    """A bidirectional LSTM of two layers over the rows of a picture, mean over time."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 10)
        _recurrent_weights(self.lstm, 4)
        for name, tensor in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                tensor.data.chunk(4)[1].fill_(1.0)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.head(states(self.lstm, x).mean(1))


class Copier(nn.Module):
    """A GRU over symbols with a head at every step."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 16)
        self.gru = nn.GRU(16, width, batch_first=True)
        self.head = nn.Linear(width, 8)
        _recurrent_weights(self.gru, 3)
        self.gru.bias_ih_l0.data.chunk(3)[1].fill_(1.0)
        lecun(self.head)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        return self.head(states(self.gru, self.embedding(ids)))


class GatedConvolution(nn.Module):
    """Causal convolutions with gated linear units beside skips, over symbols."""

    def __init__(self, depth: int = 4, width: int = 24, symbols: int = tasks.VOCABULARY) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.convs = nn.ModuleList(nn.Conv1d(width, 2 * width, 3) for _ in range(depth))
        self.head = nn.Linear(width, symbols)
        for conv in self.convs:
            init.normal_(conv.weight, std=math.sqrt(4 / (3 * width)))
            no_bias(conv)
        lecun(self.head)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.embedding(ids).transpose(1, 2)
        for conv in self.convs:
            x = (x + functional.glu(conv(functional.pad(x, (2, 0))), 1)) * math.sqrt(0.5)
        return self.head(x.transpose(1, 2))
