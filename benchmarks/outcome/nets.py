"""The architectures, initialised as their authors or a textbook would."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional, init


def he(module: nn.Module) -> None:
    """Weights for a ReLU: He normal from the fan that is summed over, zero bias."""
    init.kaiming_normal_(module.weight, nonlinearity="relu")
    no_bias(module)


def lecun(module: nn.Module) -> None:
    """Weights of gain 1 and zero bias."""
    init.kaiming_normal_(module.weight, nonlinearity="linear")
    no_bias(module)


def orthogonal(module: nn.Module, gain: float = 1.0) -> None:
    init.orthogonal_(module.weight, gain)
    no_bias(module)


def no_bias(module: nn.Module) -> None:
    if module.bias is not None:
        init.zeros_(module.bias)


def each(modules: Iterable[nn.Module], draw: Callable[[nn.Module], None]) -> None:
    for module in modules:
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            draw(module)


class Plain(nn.Module):
    """A multilayer perceptron with a head of gain 1."""

    def __init__(
        self,
        depth: int,
        width: int,
        activation: Callable[[Tensor], Tensor],
        draw: Callable[[nn.Module], None],
        inputs: int = 64,
        outputs: int = 10,
    ) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.head = nn.Linear(width, outputs)
        self.activation = activation
        each(self.layers, draw)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.head(x)


class PlainConv(nn.Module):
    """Convolutions over a picture, with or without batch normalisation, mean and head."""

    def __init__(self, depth: int, channels: int, norm: bool) -> None:
        super().__init__()
        sizes = [1] + [channels] * depth
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(sizes)
        )
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in range(depth)
        )
        self.head = nn.Linear(channels * 4, 10)
        each(self.convs, he)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = torch.relu(norm(conv(x)))
            if number in (1, 3):
                x = functional.max_pool2d(x, 2)
        return self.head(x.flatten(1))


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip path, with norms, or a scale, or neither."""

    def __init__(self, channels: int, norm: bool, scale: float | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=not norm)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=not norm)
        self.norm1 = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.scale = nn.Parameter(torch.full((1,), scale)) if scale is not None else None
        he(self.conv1)
        he(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(x + (y if self.scale is None else self.scale * y))


class ResidualConv(nn.Module):
    """A residual net over pictures."""

    def __init__(self, blocks: int, channels: int, norm: bool, scale: float | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels, norm, scale) for _ in range(blocks))
        self.head = nn.Linear(channels, 10)
        he(self.stem)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.relu(self.stem(x))
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number == 0:
                x = functional.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


class ResidualMlp(nn.Module):
    """Pre-activation residual perceptron; ``scale`` multiplies every branch."""

    def __init__(self, blocks: int, width: int, scale: float) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, 10)
        each(self.first, he)
        each(self.second, he)
        for layer in self.second:
            layer.weight.data.mul_(scale)
        lecun(self.stem)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.stem(x)
        for first, second in zip(self.first, self.second, strict=True):
            x = x + second(torch.relu(first(torch.relu(x))))
        return self.head(x)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        rows, steps, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(rows, steps, self.heads, -1).transpose(1, 2)

        scores = split(self.query(x)) @ split(self.key(x)).transpose(-2, -1)
        scores = scores / math.sqrt(width // self.heads)
        if self.causal:
            later = torch.ones(steps, steps, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        y = torch.softmax(scores, -1) @ split(self.value(x))
        return self.out(y.transpose(1, 2).reshape(rows, steps, width))


class TransformerBlock(nn.Module):
    """Attention and feed-forward, with the norm before or after the branches."""

    def __init__(
        self, width: int, heads: int, causal: bool, norm_first: bool, layer_scale: float | None
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.fc1 = nn.Linear(width, 2 * width)
        self.fc2 = nn.Linear(2 * width, width)
        self.norm_first = norm_first
        self.gamma1 = self.gamma2 = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((width,), layer_scale))
            self.gamma2 = nn.Parameter(torch.full((width,), layer_scale))

    def _feed(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        if not self.norm_first:
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self._feed(x))
        y = self.attention(self.norm1(x))
        x = x + (y if self.gamma1 is None else self.gamma1 * y)
        y = self._feed(self.norm2(x))
        return x + (y if self.gamma2 is None else self.gamma2 * y)


def _transformer_weights(net: nn.Module, depth: int, width: int) -> None:
    """Gain-1 weights; branches end 1/sqrt(2L) smaller, as GPT-2's do."""
    for name, module in net.named_modules():
        if isinstance(module, nn.Linear):
            lecun(module)
            if name.endswith(("out", "fc2")):
                module.weight.data.div_(math.sqrt(2 * depth))


class Encoder(nn.Module):
    """A transformer over patches of a picture, mean and head."""

    def __init__(
        self, depth: int, width: int, norm_first: bool = True, layer_scale: float | None = None
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.position = nn.Parameter(torch.randn(16, width) * 0.5)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, 4, False, norm_first, layer_scale) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width) if norm_first else nn.Identity()
        self.head = nn.Linear(width, 10)
        _transformer_weights(self, depth, width)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Gpt(nn.Module):
    """A decoder over symbols, with the head tied to the embedding or not."""

    def __init__(self, depth: int, width: int, vocabulary: int, tied: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(64, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, 4, True, True, None) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        _transformer_weights(self, depth, width)
        init.normal_(self.tokens.weight, std=width**-0.5)
        init.normal_(self.positions.weight, std=0.5 * width**-0.5)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def unrolled(cell: nn.Module, x: Tensor) -> Tensor:
    """The last state of a recurrent layer, step by step: `torch.func.vmap` knows no cuDNN layer.

    Equations of the documentation of torch.nn.RNN, LSTM and GRU.
    """
    weight = cell.weight_hh_l0
    state = memory = x.new_zeros(x.shape[0], weight.shape[1])
    fed = functional.linear(x, cell.weight_ih_l0, cell.bias_ih_l0)
    for step in range(x.shape[1]):
        entering = fed[:, step]
        held = functional.linear(state, weight, cell.bias_hh_l0)
        if isinstance(cell, nn.LSTM):
            i, f, g, o = (entering + held).chunk(4, -1)
            memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
            state = torch.sigmoid(o) * torch.tanh(memory)
        elif isinstance(cell, nn.GRU):
            (xr, xz, xn), (hr, hz, hn) = entering.chunk(3, -1), held.chunk(3, -1)
            update = torch.sigmoid(xz + hz)
            new = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
            state = (1 - update) * new + update * state
        elif cell.nonlinearity == "relu":
            state = torch.relu(entering + held)
        else:
            state = torch.tanh(entering + held)
    return state


class Recurrent(nn.Module):
    """A recurrent layer read at its last step."""

    def __init__(
        self, kind: str, inputs: int, width: int, outputs: int, nonlinearity: str = "tanh"
    ) -> None:
        super().__init__()
        if kind == "rnn":
            self.cell: nn.Module = nn.RNN(
                inputs, width, batch_first=True, nonlinearity=nonlinearity
            )
        else:
            self.cell = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](inputs, width, batch_first=True)
        self.head = nn.Linear(width, outputs)
        gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind]
        for block in self.cell.weight_hh_l0.data.chunk(gates):
            init.orthogonal_(block)
        for block in self.cell.weight_ih_l0.data.chunk(gates):
            init.normal_(block, std=inputs**-0.5)
        init.zeros_(self.cell.bias_ih_l0)
        init.zeros_(self.cell.bias_hh_l0)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        if torch._C._functorch.is_functorch_wrapped_tensor(self.cell.weight_hh_l0):
            return self.head(unrolled(self.cell, x))
        return self.head(self.cell(x)[0][:, -1])


class Autoencoder(nn.Module):
    """Down to a code and up again."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        sizes = [64] + [64] * depth + [16]
        self.encoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.decoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes[::-1]))
        for layers in (self.encoder, self.decoder):
            each(layers[:-1], he)
            each(layers[-1:], lecun)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.encoder[:-1]:
            x = torch.relu(layer(x))
        x = self.encoder[-1](x)
        for layer in self.decoder[:-1]:
            x = torch.relu(layer(x))
        return self.decoder[-1](x)


class UNet(nn.Module):
    """Two levels down, two up, skip connections by concatenation."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        c = channels
        self.enter = nn.Conv2d(1, c, 3, padding=1)
        self.down1 = nn.Conv2d(c, 2 * c, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(2 * c, 2 * c, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(2 * c, 2 * c, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(2 * c, 2 * c, 2, stride=2)
        self.merge2 = nn.Conv2d(4 * c, 2 * c, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(2 * c, c, 2, stride=2)
        self.merge1 = nn.Conv2d(2 * c, c, 3, padding=1)
        self.leave = nn.Conv2d(c, 1, 1)
        for module in self.children():
            if isinstance(module, nn.ConvTranspose2d):
                init.normal_(module.weight, std=math.sqrt(2.0 / module.in_channels))
                no_bias(module)
            else:
                he(module)
        lecun(self.leave)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        first = torch.relu(self.enter(x))
        second = torch.relu(self.down1(first))
        y = torch.relu(self.middle(torch.relu(self.down2(second))))
        y = torch.relu(self.merge2(torch.cat([torch.relu(self.up2(y)), second], 1)))
        y = torch.relu(self.merge1(torch.cat([torch.relu(self.up1(y)), first], 1)))
        return self.leave(y)


class Generator(nn.Module):
    """Code to picture by transposed convolutions."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.enter = nn.Linear(16, 16 * 4)
        self.up1 = nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1)
        self.mix = nn.Conv2d(12, 12, 3, padding=1)
        self.leave = nn.Conv2d(12, 1, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(12) if norm else nn.Identity()
        for module in (self.up1, self.up2):  # every output is summed over 2 by 2 taps
            init.normal_(module.weight, std=math.sqrt(2.0 / (module.in_channels * 4)))
            no_bias(module)
        he(self.enter)
        he(self.mix)
        lecun(self.leave)

    def forward(self, z: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.relu(self.enter(z)).view(-1, 16, 2, 2)
        x = torch.relu(self.norm1(self.up1(x)))
        x = torch.relu(self.norm2(self.up2(x)))
        return self.leave(torch.relu(self.mix(x)))


class MixerBlock(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.token1, self.token2 = nn.Linear(tokens, 32), nn.Linear(32, tokens)
        self.channel1, self.channel2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.token2(functional.gelu(self.token1(self.norm1(x).transpose(1, 2))))
        x = x + y.transpose(1, 2)
        return x + self.channel2(functional.gelu(self.channel1(self.norm2(x))))


class Mixer(nn.Module):
    """MLP-Mixer over patches."""

    def __init__(self, depth: int = 3, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.blocks = nn.ModuleList(MixerBlock(16, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                lecun(module)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Siren(nn.Module):
    """A picture as a function of its coordinates, by sines."""

    OMEGA = 12.0

    def __init__(self, depth: int = 3, width: int = 64) -> None:
        super().__init__()
        sizes = [2] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(width, 1)
        for number, layer in enumerate([*self.layers, self.head]):
            bound = 0.5 if number == 0 else math.sqrt(6.0 / layer.in_features) / self.OMEGA
            init.uniform_(layer.weight, -bound, bound)
            init.uniform_(layer.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.layers:
            x = torch.sin(self.OMEGA * layer(x))
        return self.head(x)


class Lora(nn.Module):
    """A frozen linear layer and a trainable product of two thin ones."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.lora_A = nn.Linear(inputs, rank, bias=False)
        self.lora_B = nn.Linear(rank, outputs, bias=False)
        he(self.base)
        self.base.requires_grad_(False)
        init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.base(x) + 2.0 * self.lora_B(self.lora_A(x))


class Adapted(nn.Module):
    """A frozen body with low-rank adapters, and a new head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Lora(64, 48, 8), Lora(48, 48, 8), Lora(48, 10, 8)])

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


class Cosine(nn.Module):
    """Embeddings and class vectors of unit length, compared at a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 32)])
        self.classes = nn.Parameter(torch.randn(10, 32))
        self.register_buffer("temperature", torch.tensor(0.1))
        each(self.body[:-1], he)
        each(self.body[-1:], lecun)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer in self.body[:-1]:
            x = torch.relu(layer(x))
        x = functional.normalize(self.body[-1](x), dim=-1)
        return x @ functional.normalize(self.classes, dim=-1).T / self.temperature


class Modulated(nn.Module):
    """Blocks whose shift, scale and gate come from a condition (adaLN), zero at the start."""

    def __init__(self, depth: int = 4, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(48, width)
        self.condition = nn.Linear(16, width)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width, elementwise_affine=False) for _ in range(depth)
        )
        self.modulations = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.fc1 = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.fc2 = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                lecun(module)
        for layer in self.modulations:
            init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        condition = functional.silu(self.condition(x[:, 48:]))
        x = self.embed(x[:, :48])
        for norm, modulation, fc1, fc2 in zip(
            self.norms, self.modulations, self.fc1, self.fc2, strict=True
        ):
            shift, scale, gate = modulation(condition).chunk(3, -1)
            y = norm(x) * (1 + scale) + shift
            x = x + gate * fc2(functional.gelu(fc1(y)))
        return self.head(self.norm(x))
