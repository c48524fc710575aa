"""shard-fan: shards of a matrix were drawn with the fans of the shard."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import log, log10, sqrt

import numpy as np

from initlint.api import (
    NORMALISERS,
    Context,
    Family,
    Finding,
    Fix,
    Layer,
    Op,
    Param,
    Role,
    Rule,
    Severity,
    Sink,
    Stage,
    Tensor,
    drift_severity,
    record,
)

SIGMAS = 4.0
"""Standard errors: by chance one of 16,000 weights is further off."""

TOLERANCE = 0.005
"""|ln ratio| on top, for rounding in float32 and bfloat16."""

LEAST = 1024
"""Elements a shard needs: 4 sqrt(2 / 4n) = 9 % of its standard deviation, a quarter of sqrt(2)."""

LEAST_LAYERS = 2
"""Layers that must show the same mistake: one number meets some wrong fan easily."""

FIXED = (0.02, 0.01, 0.006, 0.05, 0.1, 1.0)
"""Standard deviations that do not depend on a fan (BERT, GPT-2, DeepSeek, Keras)."""

_RANDOM = frozenset({Family.UNIFORM, Family.NORMAL, Family.TRUNCATED_NORMAL})


@record(frozen=True, slots=True)
class _Wrong:
    layer: Layer
    param: Param
    scheme: str
    ratio: float
    along: str


class ShardFan(Rule):
    """Shards on tensor-parallel ranks were drawn with the shard's fans, or add their bias each.

    What it does
    ------------
    In the checkpoints of several tensor-parallel ranks, compares the scale of each shard with what
    common schemes give for the shard's fans and for those of the whole matrix; and looks for biases
    of row-parallel layers that differ between ranks.

    Why is this bad
    ---------------
    A row-parallel layer adds up what its ranks compute, so its true fan_in is that of the whole
    matrix. Drawn by the fan of the shard it is sqrt(ranks) too loud: 2.8 times with eight ranks, in
    every block. A bias that each rank has of its own was added before that sum: it counts once per
    rank.

    How it decides
    --------------
    The standard deviation agrees with He, LeCun, Xavier or PyTorch's default under the shard's fans
    within four standard errors, and with none of them under the whole matrix's fans, nor with a
    common fixed value; in two layers or more. The model's width is that of most normalisers. The
    severity follows log10 of the factor: 0.3 decades info, 0.7 warning. Biases of a fresh
    row-parallel layer that are not constant and differ: a warning.

    What it does not flag
    ---------------------
    Fixed standard deviations, as N(0, 0.02^2); LeCun's scale with two ranks, which is He's for the
    whole matrix; matrices that are square per rank, of which the axis cannot be told; embeddings;
    equal biases, which are usually added once after the sum; trained weights.

    Example
    -------
    ::

        import numpy as np

        from initlint.testing import Network, from_array, he_normal, ones

        def model():
            net = Network()
            x = net.layer_norm(net.input(64), gain=ones(64))
            shards = [{}, {}, {}, {}]
            for index in range(3):
                name = f"blocks.{index}.down"
                draws = [he_normal(net.rng, 64, 48) for _ in shards]
                net.linear(net.input(48, name=f"in{index}"), draws[0], name=name)
                for shard, draw in zip(shards, draws):
                    shard[f"{name}.weight"] = from_array(f"{name}.weight", draw)
            net.output(x)
            return net.model(ranks=dict(enumerate(shards)), tensor_parallel=True, fresh_hint=True)

    Use instead
    -----------
    ::

        import numpy as np

        from initlint.testing import Network, from_array, normal, ones

        def model():
            net = Network()
            x = net.layer_norm(net.input(64), gain=ones(64))
            shards = [{}, {}, {}, {}]
            for index in range(3):
                name = f"blocks.{index}.down"
                std = (2 / (4 * 48)) ** 0.5
                draws = [normal(net.rng, 64, 48, std=std) for _ in shards]
                net.linear(net.input(48, name=f"in{index}"), draws[0], name=name)
                for shard, draw in zip(shards, draws):
                    shard[f"{name}.weight"] = from_array(f"{name}.weight", draw)
            net.output(x)
            return net.model(ranks=dict(enumerate(shards)), tensor_parallel=True, fresh_hint=True)

    References
    ----------
    - Megatron-LM, core/tensor_parallel/layers.py, `_initialize_affine_weight_cpu`: the whole matrix
      is drawn and then split.
    """

    code = "DST103"
    name = "shard-fan"
    formula = "row-parallel: true fan_in = ranks * (columns of the shard);  off by sqrt(ranks)"
    stages = frozenset({Stage.FRESH, Stage.MIXED, Stage.UNKNOWN})
    folds = ("wrong-fan",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Yield one finding per axis of partition, and one for biases."""
        ranks: Mapping[int, Mapping[str, Tensor]] = context.model.metadata.get("ranks", {})
        if len(ranks) < 2 or not context.model.metadata.get("tensor_parallel"):
            return
        width = _width(context)
        if width is None:
            return
        groups: dict[str, list[_Wrong]] = defaultdict(list)
        biases: list[tuple[Layer, Param]] = []
        for layer in context.model.graph.weighted:
            param = layer.weight
            along = _partition(layer, param, width)
            if param is None or along is None:
                continue
            found = _wrong(context, layer, param, along, len(ranks))
            if found is not None:
                groups[along].append(found)
            bias = layer.bias
            if along == "row" and bias is not None and _differs(ranks, bias.stored_name):
                biases.append((layer, bias))
        for items in groups.values():
            if len(items) >= LEAST_LAYERS:
                yield _finding(items, len(ranks))
        if biases and context.stage is Stage.FRESH:
            yield _bias_finding(biases, len(ranks))


def _width(context: Context) -> int | None:
    """The width of the stream: that of most normalisers, which every rank holds whole."""
    count = Counter(
        param.shape[0]
        for layer, param in context.model.graph.params
        if layer.op in NORMALISERS and param.role is Role.GAIN and len(param.shape) == 1
    )
    return count.most_common(1)[0][0] if count else None


def _partition(layer: Layer, param: Param | None, width: int) -> str | None:
    """``row`` where a shard writes to the stream, ``column`` where it reads it; None: unknown."""
    if param is None or layer.op is not Op.LINEAR or len(param.shape) != 2 or param.packed > 1:
        return None
    rows, columns = param.shape
    if (rows == width) == (columns == width):
        return None
    return "row" if rows == width else "column"


def _variances(fan_in: float, fan_out: float) -> dict[str, float]:
    return {
        "he": 2.0 / fan_in,
        "lecun": 1.0 / fan_in,
        "xavier": 2.0 / (fan_in + fan_out),
        "torch_default": 1.0 / (3.0 * fan_in),
        "he, fan_out": 2.0 / fan_out,
    }


def _wrong(context: Context, layer: Layer, param: Param, along: str, ranks: int) -> _Wrong | None:
    if param.size < LEAST or context.measures.stage(param) is not Stage.FRESH:
        return None
    found = context.measures.identify(param)
    if found.family not in _RANDOM or found.std <= 0:
        return None
    margin = SIGMAS * found.std_error + TOLERANCE

    def fits(variance: float) -> bool:
        return abs(log(found.std / sqrt(variance))) <= margin

    rows, columns = param.shape
    whole = (ranks * columns, rows) if along == "row" else (columns, ranks * rows)
    right, shard = _variances(*map(float, whole)), _variances(float(columns), float(rows))
    if any(map(fits, right.values())) or any(fits(std * std) for std in FIXED):
        return None
    for scheme, variance in shard.items():
        if fits(variance) and abs(log(variance / right[scheme])) > 2 * margin:
            return _Wrong(layer, param, scheme, sqrt(variance / right[scheme]), along)
    return None


def _differs(ranks: Mapping[int, Mapping[str, Tensor]], name: str) -> bool:
    tensors = [rank[name] for rank in ranks.values() if name in rank]
    if len(tensors) < len(ranks) or len({tensor.shape for tensor in tensors}) > 1:
        return False
    values = [tensor.read() for tensor in tensors]
    random = all(np.isfinite(value).all() and np.ptp(value) > 0 for value in values)
    return random and not any(np.array_equal(values[0], other) for other in values[1:])


def _finding(items: Sequence[_Wrong], ranks: int) -> Finding:
    first = items[0]
    decades = log10(first.ratio)
    severity = drift_severity(abs(decades), 0.0, Sink.OUTPUT) or Severity.INFO
    return Finding(
        severity=severity,
        layer=first.layer.id,
        param=first.param.name,
        layers=tuple(dict.fromkeys(item.layer.id for item in items)),
        message=f"{len(items)} {first.along}-parallel weights were drawn with the fans of one of "
        f"{ranks} shards: {first.ratio:.2g} times too wide",
        evidence={
            "scheme": first.scheme,
            "ranks": ranks,
            "ratio": first.ratio,
            "decades": decades,
            "params": [item.param.name for item in items][:20],
        },
        why="the ranks' parts are summed: the fan is that of the whole matrix"
        if first.along == "row"
        else "the ranks' outputs are one layer: its fan_out is that of the whole matrix",
        measured=f"{first.scheme} under the fans {first.param.shape[1]}, {first.param.shape[0]}",
        expected=f"{first.scheme} under the fans of the whole matrix",
        fix=Fix(
            "rescale",
            params=tuple(item.param.key for item in items),
            arguments={"factor": 1.0 / first.ratio},
            code="draw the whole matrix with one seed and split it, or divide each shard by "
            f"{first.ratio:.3g}",
        ),
    )


def _bias_finding(found: Sequence[tuple[Layer, Param]], ranks: int) -> Finding:
    layer, bias = found[0]
    return Finding(
        severity=Severity.WARNING,
        layer=layer.id,
        param=bias.name,
        layers=tuple(dict.fromkeys(item.id for item, _ in found)),
        message=f"{len(found)} row-parallel biases differ between {ranks} ranks: each rank adds "
        "its own before the sum",
        evidence={"ranks": ranks, "params": [param.name for _, param in found][:20]},
        why="the sum over ranks holds one bias per rank; a bias that is added after it is the same "
        "on all ranks",
        measured=f"{bias.name} is another draw on every rank",
        expected="one bias, added after the sum, the same on every rank",
        fix=Fix("zeros", code=f"add {bias.name} on rank 0 alone, or after the all-reduce"),
    )
