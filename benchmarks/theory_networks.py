"""The fresh networks that `benchmarks/theory.py` predicts and measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Tensor, ...]]


class Plain(nn.Module):
    """A multilayer perceptron."""

    def __init__(self, depth: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.activation, self.head = activation, nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.head(x)


def mlp(
    activation: Callable[[], nn.Module],
    scheme: Callable[[Tensor], object] | None,
    depth: int = 20,
    width: int = 256,
) -> Built:
    net = Plain(depth, width, activation())
    for layer in net.hidden:
        if scheme is not None and isinstance(layer, nn.Linear):
            scheme(layer.weight)
            nn.init.zeros_(layer.bias)
    return net, (torch.randn(64, width),)


he = partial(nn.init.kaiming_normal_, nonlinearity="relu")


def lecun(weight: Tensor) -> object:
    return nn.init.normal_(weight, std=weight.shape[1] ** -0.5)


def conv_plain() -> Built:
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 32, 64, 64, 128, 128):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)
        if width != channels and channels != 3:
            layers.append(nn.MaxPool2d(2))
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers), (torch.randn(16, 3, 32, 32),)


def vgg_default() -> Built:
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 64, 128, 128):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    layers += [nn.Flatten(), nn.Linear(128, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 10)]
    return nn.Sequential(*layers), (torch.randn(16, 3, 32, 32),)


class PostBlock(nn.Module):
    """ResNet v1 block."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or before != width:
            self.short = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.short(x))


class PreBlock(nn.Module):
    """Pre-activation block, with or without normalisation."""

    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.conv1(torch.relu(self.norm1(x)))
        return x + self.conv2(torch.relu(self.norm2(y)))


def resnet_v1() -> Built:
    blocks: list[nn.Module] = [
        nn.Conv2d(3, 32, 7, 2, 3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 32
    for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        blocks.append(PostBlock(channels, width, stride))
        channels = width
    blocks += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*blocks), (torch.randn(16, 3, 64, 64),)


def resnet_pre(norm: bool) -> Built:
    blocks = [PreBlock(64, norm) for _ in range(8)]
    body = [nn.Conv2d(3, 64, 3, 1, 1), *blocks]
    tail = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(*body, *tail), (torch.randn(16, 3, 16, 16),)


def encoder(norm_first: bool, activation: str = "relu") -> Built:
    layer = nn.TransformerEncoderLayer(
        128, 4, 512, 0.1, activation, norm_first=norm_first, batch_first=True
    )
    norm = nn.LayerNorm(128) if norm_first else None
    net = nn.TransformerEncoder(layer, 6, norm, enable_nested_tensor=False)
    for parameter in net.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return net, (torch.randn(8, 32, 128),)


class Block(nn.Module):
    """A decoder block with attention written out, or fused."""

    def __init__(self, width: int, heads: int, length: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.fused = heads, fused
        self.register_buffer("mask", torch.tril(torch.ones(length, length)).bool())

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.attend(self.norm1(x)).split(width, dim=2)
        )
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            logits = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.shape[-1]))
            logits = logits.masked_fill(~self.mask[:length, :length], float("-inf"))
            y = logits.softmax(-1) @ v
        x = x + self.project(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Gpt(nn.Module):
    """A small language model in GPT-2's form."""

    def __init__(self, depth: int, width: int, length: int, fused: bool) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(500, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 4, length, fused) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 500, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            for layer in (block.project, block.down):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * depth))

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def gpt(fused: bool) -> Built:
    return Gpt(6, 128, 48, fused), (torch.randint(0, 500, (8, 48)),)


class Gated(nn.Module):
    """RMSNorm and SwiGLU blocks."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.gate, self.up = nn.Linear(width, inner, False), nn.Linear(width, inner, False)
        self.down = nn.Linear(inner, width, False)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.norm(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


def swiglu() -> Built:
    layers = [Gated(128, 256) for _ in range(8)]
    return nn.Sequential(nn.Linear(64, 128), *layers, nn.Linear(128, 10)), (torch.randn(64, 64),)


class Recurrent(nn.Module):
    """A recurrent classifier of the last step."""

    def __init__(self, kind: type[nn.RNNBase], levels: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding(200, 64)
        self.body = kind(64, 128, levels, batch_first=True)
        self.head = nn.Linear(128, 5)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        return self.head(self.body(self.embed(ids))[0][:, -1])


def recurrent(kind: type[nn.RNNBase], levels: int = 1) -> Built:
    return Recurrent(kind, levels), (torch.randint(0, 200, (16, 20)),)


class UNet(nn.Module):
    """Two levels down, two up, concatenated skips."""

    def __init__(self) -> None:
        super().__init__()

        def double(before: int, width: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(before, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )

        self.down1, self.down2, self.middle = double(3, 32), double(32, 64), double(64, 128)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.up1 = nn.ConvTranspose2d(128, 64, 2, 2), nn.ConvTranspose2d(64, 32, 2, 2)
        self.join2, self.join1 = double(128, 64), double(64, 32)
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        a = self.down1(x)
        b = self.down2(self.pool(a))
        c = self.middle(self.pool(b))
        d = self.join2(torch.cat([b, self.up2(c)], 1))
        return self.head(self.join1(torch.cat([a, self.up1(d)], 1)))


def unet() -> Built:
    return UNet(), (torch.randn(8, 3, 32, 32),)


def dcgan_generator() -> Built:
    layers: list[nn.Module] = []
    channels = 64
    for index, width in enumerate((256, 128, 64)):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        layers += [
            nn.ConvTranspose2d(channels, width, 4, stride, padding, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    layers += [nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return _dcgan(nn.Sequential(*layers)), (torch.randn(16, 64, 1, 1),)


def dcgan_discriminator() -> Built:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for before, width in ((64, 128), (128, 256)):
        layers += [
            nn.Conv2d(before, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
        ]
    layers += [nn.Conv2d(256, 1, 4, 1, 0, bias=False), nn.Flatten()]
    return _dcgan(nn.Sequential(*layers)), (torch.randn(16, 3, 32, 32),)


def _dcgan(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return net


class MixerBlock(nn.Module):
    """Token mixing and channel mixing."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Sequential(nn.Linear(tokens, 64), nn.GELU(), nn.Linear(64, tokens))
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = x + self.mix(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.feed(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer on 8x8 patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 96, 4, 4)
        self.blocks = nn.ModuleList(MixerBlock(64, 96) for _ in range(4))
        self.norm, self.head = nn.LayerNorm(96), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def mixer() -> Built:
    return Mixer(), (torch.randn(16, 3, 32, 32),)


class InvertedResidual(nn.Module):
    """MobileNet-like block: expand, depthwise, squeeze and excite, project."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 4 * width
        self.expand = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.Hardswish()
        )
        self.depth = nn.Sequential(
            nn.Conv2d(inner, inner, 3, 1, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.Hardswish(),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inner, inner // 4, 1),
            nn.ReLU(),
            nn.Conv2d(inner // 4, inner, 1),
            nn.Hardsigmoid(),
        )
        self.project = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.depth(self.expand(x))
        return x + self.project(y * self.squeeze(y))


def mobile() -> Built:
    body = [InvertedResidual(32) for _ in range(4)]
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )
    return net, (torch.randn(16, 3, 32, 32),)


class Dense(nn.Module):
    """DenseNet-like: every layer reads all before it."""

    def __init__(self, layers: int, growth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, growth, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(growth * (i + 1)) for i in range(layers))
        self.convs = nn.ModuleList(
            nn.Conv2d(growth * (i + 1), growth, 3, padding=1, bias=False) for i in range(layers)
        )
        self.head = nn.Linear(growth * (layers + 1), 10)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return self.head(x.mean((2, 3)))


def dense() -> Built:
    return Dense(8, 24), (torch.randn(16, 3, 16, 16),)


def autoencoder() -> Built:
    sides = (256, 128, 64, 16)
    layers: list[nn.Module] = []
    for before, after in (*pairwise(sides), *pairwise(sides[::-1])):
        layers += [nn.Linear(before, after), nn.ReLU()]
    layers[-1] = nn.Sigmoid()
    return nn.Sequential(*layers), (torch.randn(64, 256),)


class Siren(nn.Module):
    """Sine layers for implicit representations."""

    def __init__(self, width: int, omega: float = 30.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(2, width), *(nn.Linear(width, width) for _ in range(3))]
        )
        self.head, self.omega = nn.Linear(width, 3), omega
        for index, layer in enumerate(self.layers):
            bound = 1 / 2 if index == 0 else math.sqrt(6 / width) / omega
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.head(x)


def siren() -> Built:
    return Siren(256), (torch.randn(256, 2),)


NETWORKS: Mapping[str, Callable[[], Built]] = {
    "mlp relu he": partial(mlp, nn.ReLU, he),
    "mlp relu xavier": partial(mlp, nn.ReLU, nn.init.xavier_normal_),
    "mlp relu default": partial(mlp, nn.ReLU, None),
    "mlp tanh xavier": partial(mlp, nn.Tanh, nn.init.xavier_normal_),
    "mlp gelu he": partial(mlp, nn.GELU, he, depth=10),
    "mlp silu lecun": partial(mlp, nn.SiLU, lecun),
    "mlp selu lecun": partial(mlp, nn.SELU, lecun),
    "mlp sigmoid default": partial(mlp, nn.Sigmoid, None, depth=8),
    "conv he": conv_plain,
    "vgg default": vgg_default,
    "resnet post-act": resnet_v1,
    "resnet pre-act": partial(resnet_pre, True),
    "resnet no norm": partial(resnet_pre, False),
    "densenet": dense,
    "mobilenet-like": mobile,
    "encoder post-norm": partial(encoder, False),
    "encoder pre-norm": partial(encoder, True, "gelu"),
    "gpt fused": partial(gpt, True),
    "gpt written out": partial(gpt, False),
    "swiglu rms-norm": swiglu,
    "rnn": partial(recurrent, nn.RNN),
    "lstm": partial(recurrent, nn.LSTM),
    "lstm 2 levels": partial(recurrent, nn.LSTM, 2),
    "gru": partial(recurrent, nn.GRU),
    "u-net": unet,
    "dcgan generator": dcgan_generator,
    "dcgan discriminator": dcgan_discriminator,
    "mixer": mixer,
    "autoencoder": autoencoder,
    "siren": siren,
}
