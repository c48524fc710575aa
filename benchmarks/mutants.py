"""One initialisation fault put into a healthy network: is it found, and where it is?

    python benchmarks/mutants.py [--train] [--onnx] [--only MODEL ...]

Every healthy network must be silent. A mutant counts as found when a warning or error names the
mutated layer, without blaming more than half of the others for a fault of one layer. Harm is
measured, never asked of the rules: with ``--train`` by training mutant and original side by side
(SGD and Adam, three step sizes each), otherwise by a forward and backward pass before and after two
small steps. Recall is over harmful mutants; harmless ones may stay silent.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.nn import functional

import initlint
from benchmarks.unseen.faulty import Decoder, Residual, Tagger, plain

STEPS = 80
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


def best_loss(build: Callable[[], Built]) -> tuple[float, float]:
    """First loss, and the lowest last loss over optimisers and step sizes."""
    results, first = [], math.nan
    for adam, rate in ((True, 1e-3), (True, 1e-2), (False, 0.01), (False, 0.1)):
        net, (inputs,) = build()
        step = torch.optim.Adam(net.parameters(), rate) if adam else None
        step = step or torch.optim.SGD(net.parameters(), rate, momentum=0.9)
        for index in range(STEPS):
            loss = loss_of(net, inputs)
            first = float(loss) if index == 0 else first
            step.zero_grad()
            loss.backward()
            step.step()
        last = float(loss_of(net, inputs).detach())
        results.append(last if math.isfinite(last) else math.inf)
    return first, min(results)


def trained_harm(healthy: Callable[[], Built], mutant: Callable[[], Built]) -> bool:
    """True when the mutant makes less than half the progress of its original."""
    start, end = best_loss(healthy)
    _, reached = best_loss(mutant)
    return (start - reached) < HARMED * (start - end)


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
        hit = {name for name in names if any(key.startswith(name) for key in layers)}
        if len(names) == 1:
            if hit and (item["layer"].startswith(names[0]) or len(layers) <= max(3, total // 2)):
                return True
        elif len(hit) >= 0.5 * len(names) or item["layer"] in names:
            return True
    return False


def mutant(build: Callable[[], Built], fault: str, all_layers: bool) -> Callable[[], Built]:
    def make() -> Built:
        torch.manual_seed(1)
        net, inputs = build()
        for _, layer in everywhere(net) if all_layers else middle(net):
            FAULTS[fault](layer)
        return net, inputs

    return make


def seeded(build: Callable[[], Built]) -> Callable[[], Built]:
    def make() -> Built:
        torch.manual_seed(1)
        return build()

    return make


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", action="store_true", help="harm by training (minutes)")
    parser.add_argument("--onnx", action="store_true", help="lint the exports")
    parser.add_argument("--only", nargs="*", help="words of the networks' names")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    tally: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    alarms: list[str] = []
    chosen = {
        name: build
        for name, build in HEALTHY.items()
        if not options.only or any(word in name for word in options.only)
    }
    for name, build in chosen.items():
        said = loud(seeded(build), options.onnx)
        if said:
            alarms.append(name)
            print(f"blamed: {name}: {', '.join(str(item['name']) for item in said)}")
        for fault in FAULTS:
            for all_layers in (False, True):
                make = mutant(build, fault, all_layers)
                try:
                    net, _ = make()
                except (LookupError, ValueError):
                    continue
                at = everywhere(net) if all_layers else middle(net)
                harmful = (
                    trained_harm(seeded(build), make) if options.train else measured_harm(make)
                )
                found = loud(make, options.onnx)
                right = is_right(found, [key for key, _ in at], len(candidates(net)))
                row = tally[fault]
                row[0] += harmful
                row[1] += harmful and right
                row[2] += not harmful
                row[3] += not harmful and bool(found)
                if harmful and not right:
                    where = "all layers" if all_layers else at[0][0]
                    print(f"missed: {name}, {fault} in {where}: said "
                          f"{[(str(i['name']), i['layers'][:3]) for i in found[:3]]}")  # fmt: skip
        sys.stdout.flush()
    print(f"\n{'fault':20} harmful  found  harmless  spoken of")
    for fault, row in tally.items():
        print(f"{fault:20} {row[0]:7} {row[1]:6} {row[2]:9} {row[3]:10}")
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
