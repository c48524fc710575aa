"""Networks of the fifth held-out set: the ordinary ones of textbooks and tutorials."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional, init

from benchmarks.outcome import tasks
from benchmarks.outcome.held_out_two_nets import states
from benchmarks.outcome.nets import each, he, lecun, no_bias, orthogonal
from benchmarks.outcome.tasks import TASKS, Batch, Task

# tasks


SYMBOLS = 8


def _first_said(size: int, generator: torch.Generator) -> Batch:
    """Twenty symbols: name the first."""
    symbols = torch.randint(0, SYMBOLS, (size, 20), generator=generator)
    return symbols, symbols[:, 0]


def _commonest(size: int, generator: torch.Generator) -> Batch:
    """Sixteen symbols, half of them one: name it."""
    common = torch.randint(0, SYMBOLS, (size,), generator=generator)
    symbols = torch.randint(0, SYMBOLS, (size, 16), generator=generator)
    said = torch.rand(size, 16, generator=generator) < 0.4
    return torch.where(said, common[:, None], symbols), common


def _ordered(size: int, generator: torch.Generator) -> Batch:
    """Twelve symbols: does the first that is 0 stand before the first that is 1?"""
    symbols = torch.randint(2, SYMBOLS, (size, 12), generator=generator)
    places = torch.rand(size, 12, generator=generator).argsort(1)[:, :2]
    symbols.scatter_(1, places, torch.tensor([0, 1]).expand(size, 2))
    return symbols, (places[:, 0] < places[:, 1]).long()


def _surface(size: int, generator: torch.Generator) -> Batch:
    """Eight features, and a smooth function of four of them (Friedman 1991), standardised."""
    x = torch.rand(size, 8, generator=generator)
    y = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3]
    return (x - 0.5) * math.sqrt(12.0), ((y - 12.4) / 4.5)[:, None]


def _waves(size: int, generator: torch.Generator) -> Batch:
    """A noisy wave of 32 samples: sine, square, saw or pulse."""
    kinds = torch.randint(0, 4, (size,), generator=generator)
    speed = 1.5 + 1.5 * torch.rand(size, 1, generator=generator)
    turn = (torch.arange(32) / 32 * speed + torch.rand(size, 1, generator=generator)) % 1.0
    sine = math.sqrt(2.0) * torch.sin(2 * math.pi * turn)
    forms = torch.stack(
        [sine, sine.sign(), (turn - 0.5) * 3.46, torch.where(turn < 0.2, 2.0, -0.5)], 1
    )
    wave = forms[torch.arange(size), kinds]
    return wave + 0.3 * torch.randn(size, 32, generator=generator), kinds


TASKS.update(
    {
        "pictures-longer": TASKS["digit-pictures"],
        "first-said": Task(_first_said, tasks.cross_entropy, math.log(SYMBOLS)),
        "commonest": Task(_commonest, tasks.cross_entropy, math.log(SYMBOLS)),
        "ordered": Task(_ordered, tasks.cross_entropy, math.log(2)),
        "surface": Task(_surface, nn.functional.mse_loss, 0.0),
        "waves": Task(
            lambda size, generator: (lambda x, y: (x[:, None], y))(*_waves(size, generator)),
            tasks.cross_entropy,
            math.log(4),
        ),
        "wave-steps": Task(
            lambda size, generator: (lambda x, y: (x[:, :, None], y))(*_waves(size, generator)),
            tasks.cross_entropy,
            math.log(4),
        ),
    }
)


# perceptrons


def perceptron(
    sizes: tuple[int, ...],
    activation: Callable[[], nn.Module],
    draw: Callable[[nn.Module], None],
    norm: Callable[[int], nn.Module] | None = None,
) -> Callable[[], nn.Module]:
    """Layers in a row as a tutorial writes them; the last has gain 1."""

    def make() -> nn.Module:
        net = nn.Sequential()
        for number, (before, after) in enumerate(pairwise(sizes), 1):
            layer = nn.Linear(before, after)
            net.add_module(f"fc{number}", layer)
            if number == len(sizes) - 1:
                lecun(layer)
                break
            draw(layer)
            if norm is not None:
                net.add_module(f"norm{number}", norm(after))
            net.add_module(f"act{number}", activation())
        return net

    return make


def glorot(layer: nn.Module, gain: float = 1.0) -> None:
    init.xavier_normal_(layer.weight, gain)
    no_bias(layer)


# convolutions


class Tutorial(nn.Module):
    """Two convolutions, two poolings, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(96, 48), nn.Linear(48, 10)
        each([self.conv1, self.conv2, self.fc1], he)
        lecun(self.fc2)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class AllConvolutions(nn.Module):
    """Convolutions alone, strided where the picture shrinks, and a mean."""

    def __init__(self, depth: int, norm: bool, width: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential()
        before = 1
        for number in range(depth):
            stride = 2 if number in (depth // 3, 2 * depth // 3) else 1
            conv = nn.Conv2d(before, width, 3, stride, 1, bias=not norm)
            he(conv)
            self.features.add_module(f"conv{number}", conv)
            if norm:
                self.features.add_module(f"bn{number}", nn.BatchNorm2d(width))
            self.features.add_module(f"relu{number}", nn.ReLU())
            before = width
        self.classifier = nn.Conv2d(width, 10, 1)
        lecun(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.classifier(self.features(x)).mean((2, 3))


class PreActivation(nn.Module):
    """Norm and ReLU before each of two convolutions; a projection where the width changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = None
        if before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
            lecun(self.shortcut)
        each([self.conv1, self.conv2], he)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        y = torch.relu(self.bn1(x))
        around = x if self.shortcut is None else self.shortcut(y)
        return around + self.conv2(torch.relu(self.bn2(self.conv1(y))))


class PreActivationNet(nn.Module):
    """Three stages of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        he(self.stem)
        sizes = [(8, 8, 1), (8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 16, 2), (16, 16, 1)]
        self.blocks = nn.Sequential(*(PreActivation(*size) for size in sizes))
        self.bn, self.fc = nn.BatchNorm2d(16), nn.Linear(16, 10)
        lecun(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.fc(torch.relu(self.bn(self.blocks(self.stem(x)))).mean((2, 3)))


class WaveConvolutions(nn.Module):
    """Convolutions over time with wide kernels, the largest of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, 12, 7, padding=3)
        self.conv2 = nn.Conv1d(12, 16, 5, padding=2)
        self.conv3 = nn.Conv1d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)
        for conv in (self.conv1, self.conv2, self.conv3):
            he(conv)
        lecun(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = functional.max_pool1d(torch.relu(self.conv1(x)), 2)
        x = torch.relu(self.conv3(torch.relu(self.conv2(x))))
        return self.fc(x.amax(2))


class PhraseConvolutions(nn.Module):
    """Convolutions of several lengths over words, the largest of each (Kim 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(SYMBOLS, 12)
        self.convs = nn.ModuleList(nn.Conv1d(12, 16, size, padding=1) for size in (2, 3, 4))
        self.fc = nn.Linear(48, 2)
        for conv in self.convs:
            he(conv)
        lecun(self.fc)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.words(ids).transpose(1, 2)
        return self.fc(torch.cat([torch.relu(conv(x)).amax(2) for conv in self.convs], 1))


# residual perceptron


class ResidualLayer(nn.Module):
    """x + W2 ReLU(W1 x), ReLU of the sum, without norms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)
        he(self.fc1)
        lecun(self.fc2)
        self.fc2.weight.data.mul_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return torch.relu(x + self.fc2(torch.relu(self.fc1(x))))


class ResidualNet(nn.Module):
    """Six such layers."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, width), nn.Linear(width, 10)
        self.blocks = nn.Sequential(*(ResidualLayer(width) for _ in range(6)))
        he(self.enter)
        lecun(self.leave)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.leave(self.blocks(torch.relu(self.enter(x))))


# transformers


class PackedAttention(nn.Module):
    """Queries, keys and values from one matrix."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        rows, steps, width = x.shape
        packed = self.qkv(x).view(rows, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = packed[0], packed[1], packed[2]
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.proj(mixed.transpose(1, 2).reshape(rows, steps, width))


class Block(nn.Module):
    """Attention and a feed-forward of ReLU or GELU."""

    def __init__(
        self, width: int, heads: int, causal: bool, first: bool, activation: nn.Module
    ) -> None:
        super().__init__()
        self.first = first
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = PackedAttention(width, heads, causal)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), activation, nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        if self.first:
            x = x + self.attn(self.ln1(x))
            return x + self.mlp(self.ln2(x))
        x = self.ln1(x + self.attn(x))
        return self.ln2(x + self.mlp(x))


def _blocks(blocks: nn.Module) -> None:
    """Glorot in every matrix, as torch's own transformer has."""
    for module in blocks.modules():
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            no_bias(module)


class ClassToken(nn.Module):
    """A small vision transformer that is read at its class token."""

    def __init__(self, depth: int = 3, width: int = 24) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.cls = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(Block(width, 4, False, True, nn.GELU()) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        _blocks(self.blocks)
        lecun(self.patch)
        lecun(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def _sinusoids(steps: int, width: int) -> Tensor:
    place = torch.arange(steps)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([place.sin(), place.cos()], -1).flatten(1)


class Sinusoidal(nn.Module):
    """A post-norm encoder over words with fixed positions; mean and head."""

    def __init__(self, depth: int = 2, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, width)
        self.register_buffer("pos", _sinusoids(16, width))
        self.layers = nn.ModuleList(Block(width, 4, False, False, nn.ReLU()) for _ in range(depth))
        self.head = nn.Linear(width, 2)
        _blocks(self.layers)
        lecun(self.head)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.embed(ids) + self.pos[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class SmallGpt(nn.Module):
    """A causal pre-norm decoder with learned positions, N(0, 1) tables and Glorot weights."""

    def __init__(self, depth: int = 3, width: int = 24) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(tasks.VOCABULARY, width), nn.Embedding(12, width)
        self.h = nn.ModuleList(Block(width, 4, True, True, nn.GELU()) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, tasks.VOCABULARY, bias=False)
        _blocks(self.h)
        lecun(self.lm_head)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


# recurrent


def _recur(cell: nn.RNNBase, forget: float = 0.0) -> None:
    """Orthogonal recurrence, Glorot inputs; the gate that keeps starts at `forget`."""
    gates = {"LSTM": 4, "GRU": 3}.get(type(cell).__name__, 1)
    for name, tensor in cell.named_parameters():
        for block in tensor.data.chunk(gates):
            if name.startswith("bias"):
                init.zeros_(block)
            elif name.startswith("weight_hh"):
                init.orthogonal_(block)
            else:
                init.xavier_uniform_(block)
        if name.startswith("bias_ih") and gates > 1:
            tensor.data.chunk(gates)[1].fill_(forget)


def _tanh_states(cell: nn.RNN, x: Tensor) -> Tensor:
    """All states of a plain recurrent layer, step by step where `torch.func.vmap` needs it."""
    if not torch._C._functorch.is_functorch_wrapped_tensor(cell.weight_hh_l0):
        return cell(x)[0]
    state = x.new_zeros(x.shape[0], cell.weight_hh_l0.shape[1])
    found = []
    for step in x.unbind(1):
        entering = functional.linear(step, cell.weight_ih_l0, cell.bias_ih_l0)
        state = torch.tanh(entering + functional.linear(state, cell.weight_hh_l0, cell.bias_hh_l0))
        found.append(state)
    return torch.stack(found, 1)


class LastState(nn.Module):
    """A recurrent layer over numbers, read at its last step."""

    def __init__(self, kind: str, inputs: int, width: int, outputs: int, forget: float) -> None:
        super().__init__()
        kinds: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
        self.rnn = kinds[kind](inputs, width, batch_first=True)
        self.fc = nn.Linear(width, outputs)
        _recur(self.rnn, forget)
        lecun(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        run = _tanh_states if isinstance(self.rnn, nn.RNN) else states
        return self.fc(run(self.rnn, x)[:, -1])


class WordLstm(nn.Module):
    """A language model of two LSTM layers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(tasks.VOCABULARY, 16)
        self.lstm = nn.LSTM(16, width, 2, batch_first=True)
        self.out = nn.Linear(width, tasks.VOCABULARY)
        _recur(self.lstm, 1.0)
        lecun(self.out)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        return self.out(states(self.lstm, self.embed(ids)))


class WordGru(nn.Module):
    """A GRU over words, read at its last step."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, 12)
        self.gru = nn.GRU(12, width, batch_first=True)
        self.out = nn.Linear(width, SYMBOLS)
        _recur(self.gru, 2.0)
        lecun(self.out)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        return self.out(states(self.gru, self.embed(ids))[:, -1])


class WordRnn(nn.Module):
    """A language model of one plain recurrent layer."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.embed = nn.Embedding(tasks.VOCABULARY, 16)
        self.rnn = nn.RNN(16, width, batch_first=True)
        self.out = nn.Linear(width, tasks.VOCABULARY)
        _recur(self.rnn)
        lecun(self.out)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        return self.out(_tanh_states(self.rnn, self.embed(ids)))


class Attended(nn.Module):
    """A GRU in both directions, whose states are weighed by how much they matter."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, 12)
        self.gru = nn.GRU(12, width, batch_first=True, bidirectional=True)
        self.score1, self.score2 = nn.Linear(2 * width, 16), nn.Linear(16, 1, bias=False)
        self.out = nn.Linear(2 * width, SYMBOLS)
        _recur(self.gru)
        for layer in (self.score1, self.score2):
            glorot(layer)
        lecun(self.out)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        found = states(self.gru, self.embed(ids))
        share = torch.softmax(self.score2(torch.tanh(self.score1(found))), 1)
        return self.out((share * found).sum(1))


# others


class Bag(nn.Module):
    """The mean of word vectors, and two layers (Joulin et al. 2016, with one more)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(SYMBOLS, 16)
        self.hidden, self.out = nn.Linear(16, 32), nn.Linear(32, SYMBOLS)
        he(self.hidden)
        lecun(self.out)

    def forward(self, ids: Tensor) -> Tensor:
        """Forward pass."""
        return self.out(torch.relu(self.hidden(self.words(ids).mean(1))))


class ConvAutoencoder(nn.Module):
    """Strided convolutions down to four by four by two, transposed ones up."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(width, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 6, 3, 2, 1),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(6, 16, 2, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(16, width, 2, 2),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, 1, 1),
        )
        each(self.encoder, he)
        for number in (0, 2):  # each output is one tap of every channel
            layer = self.decoder[number]
            init.normal_(layer.weight, std=math.sqrt(2.0 / layer.in_channels))
            no_bias(layer)
        lecun(self.encoder[4])
        lecun(self.decoder[4])

    def forward(self, x: Tensor) -> Tensor:
        """Forward pass."""
        return self.decoder(self.encoder(x))


def tanh_autoencoder() -> nn.Module:
    """Eight layers of tanh down to twelve numbers and up again."""
    sizes = (64, 56, 48, 32, 12, 32, 48, 56, 64)
    return perceptron(sizes, nn.Tanh, glorot)()


def orthogonal_tanh(layer: nn.Module) -> None:
    orthogonal(layer)
