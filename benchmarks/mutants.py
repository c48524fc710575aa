"""One initialisation fault put into a healthy network: is it found, and where it is?

    python benchmarks/mutants.py [--train] [--harmless] [--onnx] [--only WORD] [--faults WORD]

Every healthy network must be silent. A mutant counts as found when a warning or error names the
mutated layer, without blaming more than half of the others for a fault of one layer. Harm is
measured, never asked of the rules. With ``--train`` mutant and original are trained side by side
(Adam, 100 steps at 1e-3 and at 1e-2, the better of the two): harmful is less than half of the
original's fall of the loss. Otherwise by a forward and backward pass before and after small steps:
a fifth of the weights without gradient, equal outputs for all inputs, or a loss above 15 or not
finite. Recall is over harmful mutants; harmless ones may stay silent. A line per miss, as it comes.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.nn import functional

import initlint
from benchmarks.unseen.faulty import Decoder, Residual, Tagger, plain

STEPS = 100
RATES = (1e-3, 1e-2)
HARMED = 0.5
"""Share of the healthy network's progress below which a mutant is harmed (the larger drop of
`docs/evaluation.md` starts there; between 0.5 and 0.9 one seed does not tell)."""

Built = tuple[nn.Module, tuple[Tensor, ...]]


def scaled(net: nn.Module, gain: float) -> nn.Module:
    """Every matrix and kernel at gain / sqrt(fan_in), biases zero."""
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv1d)):
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def cnn(norm: bool, depth: int) -> Built:
    layers: list[nn.Module] = []
    channels = 3
    for _ in range(depth):
        layers.append(nn.Conv2d(channels, 24, 3, padding=1))
        layers += [nn.BatchNorm2d(24), nn.ReLU()] if norm else [nn.ReLU()]
        channels = 24
    net = scaled(nn.Sequential(*layers), math.sqrt(2))
    head = scaled(nn.Linear(24, 10), 1.0)
    return nn.Sequential(*net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head), images()


def images() -> tuple[Tensor]:
    return (torch.randn(32, 3, 8, 8) + torch.randn(32, 3, 1, 1),)


def residual(norm: bool) -> Built:
    def body() -> nn.Module:
        net = scaled(nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 48)), math.sqrt(2))
        if not norm:
            with torch.no_grad():
                net[2].weight.div_(math.sqrt(8))
        return net

    blocks = [Residual(body(), nn.LayerNorm(48) if norm else None) for _ in range(8)]
    ends = [scaled(nn.Linear(32, 48), 1.0), scaled(nn.Linear(48, 10), 1.0)]
    middle = [nn.LayerNorm(48)] if norm else []
    return nn.Sequential(ends[0], *blocks, *middle, ends[1]), (torch.randn(64, 32),)


def perceptron(depth: int, activation: type[nn.Module], gain: float) -> Built:
    net = plain(depth, width=96, activation=activation)
    scaled(net[:-1], gain)
    return net, (torch.randn(64, 32),)


def recurrent(kind: str) -> Built:
    made = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind](8, 48, batch_first=True)
    for name, param in made.named_parameters():
        if "weight_hh" in name:
            for block in param.data.chunk(len(param) // 48):
                nn.init.orthogonal_(block)
        elif "weight_ih" in name:
            nn.init.normal_(param, std=8**-0.5)
        else:
            nn.init.zeros_(param)
            if kind == "lstm" and "ih" in name:
                param.data[48:96] = 2.0
            if kind == "gru" and "ih" in name:
                param.data[48:96] = 2.0
    return Tagger(made, 48), (torch.randn(64, 24, 8),)


def autoencoder() -> Built:
    sizes = [64, 48, 32, 12, 32, 48, 64]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    net = scaled(nn.Sequential(*layers[:-1]), math.sqrt(2))
    return net, (torch.randn(64, 8) @ torch.randn(8, 64) / 3,)


def gpt() -> Built:
    net = Decoder(vocabulary=40, d=48, depth=4, std=0.1)
    for block in net.blocks:
        for layer in (block.attn.o, block.down):
            nn.init.normal_(layer.weight, std=0.1 / math.sqrt(8))
    nn.init.normal_(net.head.weight, std=0.02)
    return net, (torch.randint(0, 40, (32, 12)),)


HEALTHY: dict[str, Callable[[], Built]] = {
    "mlp of 4 layers, ReLU": lambda: perceptron(4, nn.ReLU, math.sqrt(2)),
    "mlp of 16 layers, ReLU": lambda: perceptron(16, nn.ReLU, math.sqrt(2)),
    "mlp of 10 layers, tanh": lambda: perceptron(10, nn.Tanh, 1.3),
    "mlp of 8 layers, GELU": lambda: perceptron(8, nn.GELU, 1.53),
    "cnn of 8 layers": lambda: cnn(False, 8),
    "cnn of 6 layers, BatchNorm": lambda: cnn(True, 6),
    "residual net, LayerNorm": lambda: residual(True),
    "residual net without norm": lambda: residual(False),
    "decoder": gpt,
    "autoencoder": autoencoder,
    "LSTM": lambda: recurrent("lstm"),
    "GRU": lambda: recurrent("gru"),
    "RNN": lambda: recurrent("rnn"),
}


# --- faults: what is done to one layer's weight and bias


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
    weight.copy_(
        weight[: max(1, len(weight) // 8)].repeat(9, *[1] * (weight.dim() - 1))[: len(weight)]
    )


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
    kinds = (nn.Linear, nn.Conv2d, nn.RNNBase)
    return [(name, module) for name, module in net.named_modules() if isinstance(module, kinds)]


def middle(net: nn.Module) -> list[tuple[str, nn.Module]]:
    found = candidates(net)
    return [
        next((item for item in found if isinstance(item[1], nn.RNNBase)), found[len(found) // 2])
    ]


def everywhere(net: nn.Module) -> list[tuple[str, nn.Module]]:
    return candidates(net)[:-1]


def cloned_layers(net: nn.Module) -> list[str]:
    """Every layer with the middle one's shape starts as a copy of it."""
    ((_, first),) = middle(net)
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
    ((name, _),) = middle(net)
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
    ((name, layer),) = middle(net)
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


# --- harm


def targets(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Something to learn: the input itself, the next token, or classes by a random projection."""
    if not inputs.is_floating_point():
        return (inputs * 7 + 3) % 40
    flat = inputs.flatten(1)
    if outputs.shape == inputs.shape:
        return inputs
    generator = torch.Generator().manual_seed(5)
    return (flat @ torch.randn(flat.shape[1], 4, generator=generator)).argmax(1)


def loss_of(net: nn.Module, inputs: Tensor) -> Tensor:
    out = net(inputs)
    wanted = targets(inputs, out)
    if wanted.is_floating_point():
        return functional.mse_loss(out, wanted)
    return functional.cross_entropy(out.flatten(0, -2), wanted.flatten())


def trained(build: Callable[[], Built], rate: float) -> tuple[float, float]:
    """First and last loss of a short training with Adam; infinity where it is not finite."""
    net, (inputs,) = build()
    step = torch.optim.Adam(net.parameters(), rate)
    first = float(loss_of(net, inputs).detach())
    for _ in range(STEPS):
        step.zero_grad()
        loss_of(net, inputs).backward()
        step.step()
    last = float(loss_of(net, inputs).detach())
    return first, last if math.isfinite(last) else math.inf


def bar_of(healthy: Callable[[], Built]) -> float:
    """The loss that a mutant must reach to count as unharmed."""
    runs = [trained(healthy, rate) for rate in RATES]
    start, end = runs[0][0], min(last for _, last in runs)
    return start - HARMED * (start - end)


def trained_harm(mutant: Callable[[], Built], bar: float) -> bool:
    """True when no step size brings the mutant to the bar."""
    return not any(trained(mutant, rate)[1] <= bar for rate in RATES)


def measured_harm(build: Callable[[], Built]) -> bool:
    """A pass before and after two small sign steps: gradient gone, loss or spread out of range."""
    net, (inputs,) = build()
    for _ in range(3):
        loss = loss_of(net, inputs)
        net.zero_grad()
        loss.backward()
        grads = [p.grad for p in net.parameters() if p.dim() > 1 and p.grad is not None]
        with torch.no_grad():
            for param in net.parameters():
                if param.grad is not None:
                    param.sub_(1e-3 * param.grad.sign() * max(float(param.std()), 1e-2))
    norms = [float(grad.norm()) for grad in grads]
    out = net(inputs).detach().flatten(1)
    alike = float(out.std(0).mean()) < 1e-3 * float(out.abs().mean())
    dead = sum(norm < 1e-7 * max(norms) for norm in norms) >= 0.2 * len(norms)
    return alike or dead or not math.isfinite(float(loss)) or float(loss) > 15.0


# --- judgement


def loud(build: Callable[[], Built], onnx: bool) -> list[dict[str, object]]:
    torch.manual_seed(0)
    net, inputs = build()
    via = {"via": "onnx"} if onnx else {}
    report = initlint.check(net, *inputs, **via)
    if report.record["failures"]:
        raise RuntimeError(report.record["failures"][0])
    return [item for item in report.findings if item["severity"] != "info"]


def is_right(found: list[dict[str, object]], names: list[str], total: int) -> bool:
    for item in found:
        layers = set(item["layers"])
        hit = {
            name
            for name in names
            if any(key == name or key.startswith(f"{name}.") for key in layers)
        }
        if len(names) == 1:
            if hit and (item["layer"].startswith(names[0]) or len(layers) <= max(3, total // 2)):
                return True
        elif len(hit) >= 0.5 * len(names) or item["layer"] in names:
            return True
    return False


def place(net: nn.Module, fault: str, all_layers: bool) -> list[str]:
    """Put the fault into the network; the names of the layers it is in."""
    if fault in WHOLE:
        return WHOLE[fault](net)
    chosen = everywhere(net) if all_layers else middle(net)
    for _, layer in chosen:
        FAULTS[fault](layer)
    return [name for name, _ in chosen]


def mutant(build: Callable[[], Built], fault: str, all_layers: bool) -> Callable[[], Built]:
    def make() -> Built:
        torch.manual_seed(1)
        net, inputs = build()
        place(net, fault, all_layers)
        return net, inputs

    return make


def seeded(build: Callable[[], Built]) -> Callable[[], Built]:
    def make() -> Built:
        torch.manual_seed(1)
        return build()

    return make


def named(names: Iterable[str], words: list[str] | None) -> list[str]:
    return [name for name in names if not words or any(word in name for word in words)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="harm by training (minutes)")
    parser.add_argument("--onnx", action="store_true", help="lint the exports")
    parser.add_argument("--harmless", action="store_true", help="lint the harmless ones too")
    parser.add_argument("--only", nargs="*", help="words of the networks' names")
    parser.add_argument("--faults", nargs="*", help="words of the faults' names")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    tally: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    alarms: list[str] = []
    chosen = {key: HEALTHY[key] for key in named(HEALTHY, options.only)}
    faults = named([*FAULTS, *WHOLE], options.faults)
    for name, build in chosen.items():
        said = loud(seeded(build), options.onnx)
        if said:
            alarms.append(name)
            print(f"blamed: {name}: {', '.join(str(item['name']) for item in said)}", flush=True)
        bar = bar_of(seeded(build)) if options.train else math.nan
        sums = [0, 0, 0, 0]
        for fault in faults:
            for all_layers in (False, True)[: 1 if fault in WHOLE else 2]:
                make = mutant(build, fault, all_layers)
                try:
                    net, _ = seeded(build)()
                    names = place(net, fault, all_layers)
                except (LookupError, ValueError):
                    continue
                harmful = trained_harm(make, bar) if options.train else measured_harm(make)
                found = loud(make, options.onnx) if harmful or options.harmless else []
                right = is_right(found, names, len(candidates(net)))
                counts = (harmful, harmful and right, not harmful, not harmful and bool(found))
                sums = [total + count for total, count in zip(sums, counts, strict=True)]
                tally[fault] = [a + b for a, b in zip(tally[fault], counts, strict=True)]
                if harmful and not right:
                    where = names[0] if len(names) == 1 else f"{len(names)} layers"
                    print(f"missed: {name}, {fault} in {where}: said "
                          f"{[(str(i['name']), i['layers'][:3]) for i in found[:3]]}",
                          flush=True)  # fmt: skip
        spoken = f", {sums[3]} spoken of" if options.harmless else ""
        print(f"{name}: {sums[1]} of {sums[0]} harmful found; {sums[2]} harmless{spoken}",
              flush=True)  # fmt: skip
    print(f"\n{'fault':24} harmful  found  harmless  spoken of")
    for fault, row in tally.items():
        print(f"{fault:24} {row[0]:7} {row[1]:6} {row[2]:9} {row[3]:10}")
    total = [sum(row[i] for row in tally.values()) for i in range(4)]
    recall = total[1] / max(total[0], 1)
    print(
        f"{total[0] + total[2]} mutants of {len(chosen)} networks: {total[1]} of {total[0]} "
        f"harmful ones found in the right layer ({recall:.1%}); {total[3]} of {total[2]} "
        f"harmless ones spoken of; {len(alarms)} healthy originals blamed"
    )
    return 0 if recall >= 0.95 and not alarms else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
