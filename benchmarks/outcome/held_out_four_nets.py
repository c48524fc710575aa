"""Networks and tasks of the fourth held-out set: ordinary ones, as a tutorial would write them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional, init

from benchmarks.outcome import tasks
from benchmarks.outcome.held_out_two_nets import states
from benchmarks.outcome.nets import each, he, lecun, no_bias, orthogonal, unrolled
from benchmarks.outcome.tasks import TASKS, Batch, Task

# tasks


def _chosen(size: int, generator: torch.Generator) -> Batch:
    pixels, classes = tasks.digits()
    rows = torch.randint(0, len(pixels), (size,), generator=generator)
    return pixels[rows], classes[rows]


def _ink(size: int, generator: torch.Generator) -> Batch:
    """Where the brightest spot of a picture is on a grid of four by four, and how bright it is."""
    pixels = _chosen(size, generator)[0].reshape(size, 1, 8, 8)
    cells = functional.avg_pool2d(pixels, 2).flatten(1)
    here = functional.one_hot(cells.argmax(1), 16).float()
    noised = pixels + 0.3 * torch.randn(pixels.shape, generator=generator)
    return noised, torch.stack([here, cells], 1)


def _focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Focal loss of the objects (Lin et al. 2017), squared error of how bright they are."""
    here, bright = targets[:, 0], targets[:, 1]
    logits, values = outputs[:, 0], outputs[:, 1]
    surprise = functional.binary_cross_entropy_with_logits(logits, here, reduction="none")
    right = torch.exp(-surprise)
    share = 0.25 * here + 0.75 * (1 - here)
    focal = (share * (1 - right).square() * surprise).sum(1).mean()
    return focal + 0.5 * (here * (values - bright).square()).sum(1).mean()


def _steered(size: int, generator: torch.Generator) -> Batch:
    """The action of a saturating controller for a state."""
    state = torch.randn(size, 6, generator=generator)
    first = torch.tanh(state[:, 0] - state[:, 1] * state[:, 2])
    second = torch.tanh(state[:, 3] + 0.5 * state[:, 4].square() - 0.5)
    return state, torch.stack([first, second], 1)


def _sets(size: int, generator: torch.Generator) -> Batch:
    """Twelve points of two numbers; the variance of the one and the mean of the other."""
    points = torch.randn(size, 12, 2, generator=generator)
    spread = 0.3 + 1.5 * torch.rand(size, 1, generator=generator)
    points[..., 0] *= spread
    points[..., 1] += spread
    found = torch.stack([points[..., 0].square().mean(1), points[..., 1].mean(1)], 1)
    return points, found - torch.tensor([1.3, 1.05])


def _molecules(size: int, generator: torch.Generator) -> Batch:
    """Rings of eight nodes of four kinds: how many neighbours are of one kind."""
    kinds = torch.randint(0, 4, (size, 8), generator=generator)
    same = (kinds == kinds.roll(1, 1)).sum(1).clamp(max=4)
    return functional.one_hot(kinds, 4).float(), same


def _adding(length: int) -> Task:
    """The sum of the two numbers that are marked (Hochreiter and Schmidhuber 1997)."""

    def draw(size: int, generator: torch.Generator) -> Batch:
        numbers = torch.rand(size, length, generator=generator) * 2 - 1
        half = length // 2
        marks = torch.zeros(size, length)
        first = torch.randint(0, half, (size, 1), generator=generator)
        second = torch.randint(half, length, (size, 1), generator=generator)
        marks.scatter_(1, first, 1.0).scatter_(1, second, 1.0)
        return torch.stack([numbers, marks], 2), (numbers * marks).sum(1, keepdim=True)

    return Task(draw, functional.mse_loss, 0.0)


def _coded(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of the picture, and a small share of the code's divergence."""
    picture, code = outputs[:, :64], outputs[:, 64:]
    mean, spread = code.chunk(2, 1)
    away = 0.5 * (mean.square() + spread.exp() - 1 - spread).sum(1).mean()
    return functional.mse_loss(picture, targets) + 1e-3 * away


TASKS.update(
    {
        "ink": Task(_ink, _focal, 0.315),
        "steered": Task(_steered, functional.mse_loss, 0.0),
        "sets": Task(_sets, functional.mse_loss, 0.0),
        "molecules": Task(_molecules, tasks.cross_entropy, 1.514),
        "adding-24": _adding(24),
        "coded": Task(tasks._reconstruct(64), _coded, 0.0),
        "recall-40": Task(tasks._memory(40), tasks.cross_entropy, math.log(4)),
    }
)


# perceptrons


class TanhTower(nn.Sequential):
    """Thirty layers of tanh."""

    def __init__(self, depth: int = 30, width: int = 40) -> None:
        layers: list[nn.Module] = []
        for number in range(depth):
            layers += [nn.Linear(width if number else 64, width), nn.Tanh()]
        head = nn.Linear(width, 10)
        each(layers, lambda layer: orthogonal(layer, 1.05))
        lecun(head)
        super().__init__(*layers, head)


class MishNet(nn.Sequential):
    """Ten layers of Mish."""

    def __init__(self, depth: int = 10, width: int = 48) -> None:
        layers: list[nn.Module] = []
        for number in range(depth):
            layers += [nn.Linear(width if number else 64, width), nn.Mish()]
        head = nn.Linear(width, 10)
        each(layers, lambda layer: (lecun(layer), layer.weight.data.mul_(1.45)))
        lecun(head)
        super().__init__(*layers, head)


class NormedMlp(nn.Sequential):
    """Linear, LayerNorm, ReLU, and again, as the framework starts them."""

    def __init__(self, depth: int = 5, width: int = 48) -> None:
        layers: list[nn.Module] = []
        for number in range(depth):
            layers += [nn.Linear(width if number else 64, width), nn.LayerNorm(width), nn.ReLU()]
        super().__init__(*layers, nn.Linear(width, 10))


class Controller(nn.Module):
    """A deterministic policy with a tanh at its end (Lillicrap et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.action = nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 2)
        init.uniform_(self.action.weight, -3e-3, 3e-3)
        init.uniform_(self.action.bias, -3e-3, 3e-3)

    def forward(self, state: Tensor) -> Tensor:
        """Forward pass."""
        y = torch.relu(self.fc2(torch.relu(self.fc1(state))))
        return torch.tanh(self.action(y))


class Sine(nn.Module):
    """A linear layer and a sine of a high frequency (Sitzmann et al. 2020)."""

    def __init__(self, inputs: int, outputs: int, omega: float, first: bool = False) -> None:
        super().__init__()
        self.linear, self.omega = nn.Linear(inputs, outputs), omega
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / omega
        init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return torch.sin(self.omega * self.linear(x))


class Implicit(nn.Sequential):
    """A picture as a function of its points."""

    def __init__(self, width: int = 48, omega: float = 15.0) -> None:
        head = nn.Linear(width, 1)
        bound = math.sqrt(6 / width) / omega
        init.uniform_(head.weight, -bound, bound)
        super().__init__(
            Sine(2, width, omega, first=True),
            Sine(width, width, omega),
            Sine(width, width, omega),
            head,
        )


class Points(nn.Module):
    """A sum over a set between two perceptrons (Zaheer et al. 2017)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.rho = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, points: Tensor) -> Tensor:
        """Forward pass."""
        return self.rho(self.phi(points).mean(1))


# pictures


class Classic(nn.Sequential):
    """Two pairs of convolutions with pooling, two linear layers, as the framework starts them."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


class LeakyTower(nn.Module):
    """Twelve convolutions with leaky ReLUs, no norm."""

    def __init__(self, depth: int = 12, width: int = 16) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(width if number else 1, width, 3, padding=1) for number in range(depth)
        )
        self.fc = nn.Linear(width, 10)
        for conv in self.convs:
            init.kaiming_normal_(conv.weight, a=0.2)
            no_bias(conv)
        lecun(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for number, conv in enumerate(self.convs):
            x = functional.leaky_relu(conv(x), 0.2)
            if number in (3, 7):
                x = functional.max_pool2d(x, 2)
        return self.fc(x.mean((2, 3)))


class BasicBlock(nn.Module):
    """Two convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        sizes = [(8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 24, 2), (24, 24, 1)]
        self.blocks = nn.Sequential(*(BasicBlock(*size) for size in sizes))
        self.fc = nn.Linear(24, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.blocks(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


class SkipBlock(nn.Module):
    """A residual branch without a norm, closed by a scalar (De and Smith 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.alpha = nn.Parameter(torch.zeros(()))
        each([self.conv1, self.conv2], he)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return x + self.alpha * self.conv2(torch.relu(self.conv1(torch.relu(x))))


class SkipNet(nn.Module):
    """Ten such blocks."""

    def __init__(self, depth: int = 10, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(*(SkipBlock(width) for _ in range(depth)))
        self.fc = nn.Linear(width, 10)
        he(self.stem)
        lecun(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.blocks(functional.avg_pool2d(self.stem(x), 2))
        return self.fc(torch.relu(x).mean((2, 3)))


class ConvAutoencoder(nn.Module):
    """Strided convolutions to a code, transposed ones back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()
        )
        self.code = nn.Linear(96, 16)
        self.expand = nn.Linear(16, 96)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(24, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.code(self.encoder(x.view(-1, 1, 8, 8)).flatten(1))
        y = torch.relu(self.expand(y)).view(-1, 24, 2, 2)
        return self.decoder(y).flatten(1)


class Vae(nn.Module):
    """A variational autoencoder; the noise of the code is a function of the picture."""

    def __init__(self, code: int = 8) -> None:
        super().__init__()
        self.enc, self.mu, self.logvar = nn.Linear(64, 64), nn.Linear(64, code), nn.Linear(64, code)
        self.dec1, self.dec2 = nn.Linear(code, 64), nn.Linear(64, 64)
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        h = torch.relu(self.enc(x))
        mu, logvar = self.mu(h), self.logvar(h)
        steps = torch.arange(self.code, dtype=torch.float32)
        noise = math.sqrt(2.0) * torch.sin(91.0 * x.sum(-1, keepdim=True) * (1.0 + steps))
        z = mu + torch.exp(0.5 * logvar) * noise
        return torch.cat([self.dec2(torch.relu(self.dec1(z))), mu, logvar], -1)


class Upsampler(nn.Module):
    """A generator: a linear layer to a small picture, enlarged and convolved, tanh at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 24 * 4)
        self.conv1, self.bn1 = nn.Conv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.conv2, self.bn2 = nn.Conv2d(24, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        """Forward pass."""
        y = self.project(code).view(-1, 24, 2, 2)
        y = functional.interpolate(y, scale_factor=2.0)
        y = functional.leaky_relu(self.bn1(self.conv1(y)), 0.2)
        y = functional.interpolate(y, scale_factor=2.0)
        y = functional.leaky_relu(self.bn2(self.conv2(y)), 0.2)
        return 2.0 * torch.tanh(self.conv3(y))


def _normed(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class LinkNet(nn.Module):
    """Encoder and decoder with sums between them."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.low = _normed(1, 12), _normed(12, 24), _normed(24, 24)
        self.up2, self.up1 = _normed(24, 12), _normed(12, 12)
        self.out = nn.Conv2d(12, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        a = self.down1(x)
        b = self.down2(functional.max_pool2d(a, 2))
        c = self.low(functional.max_pool2d(b, 2))
        c = self.up2(b + functional.interpolate(c, scale_factor=2.0))
        c = self.up1(a + functional.interpolate(c, scale_factor=2.0))
        return self.out(c)


class Detector(nn.Module):
    """A small backbone and two towers; objects start rare (Lin et al. 2017)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.ReLU())
        self.classes = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1)
        )
        self.values = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1)
        )
        each([self.stem[0], self.classes[0], self.values[0]], he)
        each([self.classes[2], self.values[2]], lecun)
        init.constant_(self.classes[2].bias, -math.log((1 - 0.06) / 0.06))

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = self.stem(x)
        return torch.stack([self.classes(y).flatten(1), self.values(y).flatten(1)], 1)


# attention


class PackedAttention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        rows, steps, width = x.shape
        packed = self.qkv(x).reshape(rows, steps, 3, self.heads, width // self.heads)
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if self.causal:
            later = torch.ones(steps, steps, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        y = torch.softmax(scores, -1) @ v
        return self.proj(y.transpose(1, 2).reshape(rows, steps, width))


class VitBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = PackedAttention(width, 4, causal=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches, a class token, learned positions."""

    def __init__(self, depth: int = 4, width: int = 32) -> None:
        super().__init__()
        self.patch = nn.Linear(4, width)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(VitBlock(width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init.xavier_uniform_(module.weight)
                no_bias(module)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), self.patch(x)], 1) + self.pos
        return self.head(self.norm(self.blocks(x))[:, 0])


class Rms(nn.Module):
    """Root mean square normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class LlamaBlock(nn.Module):
    """Pre-norm attention and a gated feed-forward, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Rms(width), Rms(width)
        self.attn = PackedAttention(width, 4, causal=True)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = x + self.attn(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """A decoder whose head is its table."""

    def __init__(self, depth: int = 4, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(tasks.VOCABULARY, width)
        self.pos = nn.Parameter(0.1 * torch.randn(12, width))
        self.blocks = nn.Sequential(*(LlamaBlock(width) for _ in range(depth)))
        self.norm = Rms(width)
        self.head = nn.Linear(width, tasks.VOCABULARY, bias=False)
        self.head.weight = self.embed.weight
        init.normal_(self.embed.weight, std=width**-0.5)
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                lecun(module)
                if name.endswith(("proj", "down")):
                    module.weight.data.div_(math.sqrt(2 * depth))

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        return self.head(self.norm(self.blocks(self.embed(ids) + self.pos)))


class Window(nn.Module):
    """A mean of the last four symbols' vectors, a layer, and the table again as the head."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.table = nn.Embedding(tasks.VOCABULARY, width)
        self.mix = nn.Linear(4 * width, width)
        init.normal_(self.table.weight, std=width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = functional.pad(self.table(ids), (0, 0, 3, 0))
        steps = ids.shape[1]
        near = torch.cat([x[:, number : number + steps] for number in range(4)], -1)
        return torch.tanh(self.mix(near)) @ self.table.weight.T


# sequences


class Memory(nn.Module):
    """A gated recurrent layer read at its last step, open over the sequence."""

    def __init__(self, kind: str, inputs: int, outputs: int, steps: int, width: int = 32) -> None:
        super().__init__()
        self.rnn = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](inputs, width, batch_first=True)
        self.fc = nn.Linear(width, outputs)
        gates = {"lstm": 4, "gru": 3}[kind]
        for block in self.rnn.weight_hh_l0.data.chunk(gates):
            init.orthogonal_(block)
        init.xavier_uniform_(self.rnn.weight_ih_l0)
        init.zeros_(self.rnn.bias_ih_l0)
        init.zeros_(self.rnn.bias_hh_l0)
        biases = self.rnn.bias_ih_l0.data.chunk(gates)
        biases[1].uniform_(1, steps - 1).log_()
        if kind == "lstm":
            biases[0].copy_(-biases[1])
        lecun(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.fc(states(self.rnn, x)[:, -1])


class Stacked(nn.Module):
    """A language model of two LSTM layers, as the framework starts them."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tasks.VOCABULARY, width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)
        self.decoder = nn.Linear(width, tasks.VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        return self.decoder(states(self.lstm, self.embedding(ids)))


class Looped(nn.Module):
    """A plain recurrent net as a loop over two linear layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.i2h, self.h2h = nn.Linear(4, width), nn.Linear(width, width, bias=False)
        self.h2o = nn.Linear(width, 1)
        lecun(self.i2h)
        self.i2h.weight.data.mul_(0.5)
        orthogonal(self.h2h)
        lecun(self.h2o)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        h = x.new_zeros(x.shape[0], self.h2h.in_features)
        for step in range(x.shape[1]):
            h = torch.tanh(self.i2h(x[:, step]) + self.h2h(h))
        return self.h2o(h)


class Rows(nn.Module):
    """A recurrent net of tanh units over the rows of a picture."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.rnn = nn.RNN(8, width, batch_first=True)
        self.fc = nn.Linear(width, 10)
        init.orthogonal_(self.rnn.weight_hh_l0)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        if torch._C._functorch.is_functorch_wrapped_tensor(self.rnn.weight_hh_l0):
            return self.fc(unrolled(self.rnn, x))
        return self.fc(self.rnn(x)[0][:, -1])


# graphs, experts, adapters


class Isomorphism(nn.Module):
    """Sums over neighbours and perceptrons (Xu et al. 2019)."""

    def __init__(self, depth: int = 4, width: int = 32) -> None:
        super().__init__()
        ring = torch.eye(8).roll(1, 0) + torch.eye(8).roll(-1, 0)
        self.register_buffer("adjacency", ring)
        self.first = nn.ModuleList(nn.Linear(width if n else 4, width) for n in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.read = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for first, second, norm in zip(self.first, self.second, self.norms, strict=True):
            x = x + self.adjacency @ x
            x = torch.relu(norm(second(torch.relu(first(x)))))
        return self.read(x.mean(1))


class Mixture(nn.Module):
    """A residual layer of experts behind a softmax router, twice."""

    def __init__(self, experts: int = 4, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.routers = nn.ModuleList(nn.Linear(width, experts) for _ in range(2))
        self.experts = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
                for _ in range(experts)
            )
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.stem(x)
        for router, experts in zip(self.routers, self.experts, strict=True):
            shares = torch.softmax(router(x), -1)
            x = x + sum(shares[:, n : n + 1] * expert(x) for n, expert in enumerate(experts))
        return self.head(self.norm(x))


class Bottleneck(nn.Module):
    """A small residual adapter (Houlsby et al. 2019)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank), nn.Linear(rank, width)
        init.zeros_(self.up.weight)
        init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return x + self.up(functional.gelu(self.down(x)))


class AdaptedBody(nn.Module):
    """A frozen body with such adapters behind its layers, and a new head."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(64, width), nn.Linear(width, width)])
        each(self.body, he)
        self.body.requires_grad_(False)
        self.adapters = nn.ModuleList(Bottleneck(width, 12) for _ in self.body)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        for layer, adapter in zip(self.body, self.adapters, strict=True):
            x = torch.relu(adapter(layer(x)))
        return self.head(x)
