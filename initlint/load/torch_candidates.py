"""Shapes that a module's first layers suggest for its inputs, the likeliest first."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

ROWS = 16
"""Rows of a synthesised batch: batch statistics and dead units need several (see the probe)."""

LENGTH = 12
"""Positions of a synthesised sequence."""

_TOKENS = frozenset(
    [
        "input_ids",
        "ids",
        "idx",
        "tokens",
        "token_ids",
        "input_tokens",
        "indices",
        "src",
        "tgt",
        "decoder_input_ids",
        "words",
    ]
)
_TIMES = frozenset(
    [
        "t",
        "ts",
        "time",
        "times",
        "timestep",
        "timesteps",
        "step",
        "steps",
        "sigma",
        "noise_level",
    ]
)
_GRAPHS = frozenset(["adj", "adjacency", "adj_matrix", "adjacency_matrix", "graph", "laplacian"])
_EDGES = frozenset(["edge_index", "edges"])
_MASKS = frozenset(["mask", "attention_mask", "padding_mask", "attn_mask", "src_mask", "tgt_mask"])


@dataclass(frozen=True, slots=True)
class Shape:
    """A tensor to synthesise: N(0, 1), integers below ``high``, one ``constant``, or a graph.

    Attributes:
        sides: its shape.
        high: bound of integers.
        constant: the one value.
        batch: the axis that counts samples.
        graph: ``adjacency``: each node's mean over itself and its two neighbours on a ring;
            ``edges``: the same as pairs of node numbers.
    """

    sides: tuple[int, ...]
    high: int | None = None
    constant: float | None = None
    batch: int = 0
    graph: str = ""

    def make(self, generator: Any, dtype: Any, device: Any, rows: int | None = None) -> Any:
        """The tensor, drawn on the CPU so that every device is fed the same."""
        sides = list(self.sides)
        if rows is not None:
            sides[self.batch] = rows
        if self.graph:
            return self._ring(dtype).to(device)
        if self.constant is not None:
            return torch.full(sides, self.constant, dtype=dtype, device=device)
        if self.high is not None:
            drawn = torch.randint(0, max(self.high, 1), sides, generator=generator)
            return drawn.to(device)
        return torch.randn(sides, generator=generator).to(device=device, dtype=dtype)

    def _ring(self, dtype: Any) -> Any:
        nodes = self.sides[1] // 3 if self.graph == "edges" else self.sides[0]
        source = torch.arange(nodes).repeat(3)
        target = (source + torch.arange(-1, 2).repeat_interleave(nodes)) % nodes
        if self.graph == "edges":
            return torch.stack([source, target])
        ring = torch.zeros(nodes, nodes, dtype=dtype)
        ring[source, target] = 1 / 3
        return ring

    def __str__(self) -> str:
        sides = ", ".join(map(str, self.sides))
        if self.graph:
            return f"[{sides}] {self.graph} of a ring"
        if self.high is not None:
            return f"int64[{sides}] below {self.high}"
        return f"[{sides}] N(0, 1)" if self.constant is None else f"[{sides}] {self.constant:g}"


ADJACENCY = Shape((ROWS, ROWS), graph="adjacency")
EDGES = Shape((2, 3 * ROWS), graph="edges")

Call = tuple[tuple[Any, ...], dict[str, Any]]

Drawing = Callable[[Shape | None], Any]
"""Makes the tensor of a shape, and None of none."""


def candidates(module: Any) -> Iterator[Call]:
    """Calls to try, the likeliest first."""
    if hasattr(module, "config") and hasattr(module, "main_input_name"):
        yield from _transformers(module)
    required, keyword_only = required_parameters(module)
    if not required and not keyword_only:
        yield (), {}
        parameters = _parameters(module)
        first = [p for p in parameters if p.kind in _POSITIONAL]
        required = [parameter.name for parameter in first[:1]]
        if not first and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
            return
        required = required or ["x"]
    names = [*required, *keyword_only]
    cut = len(required)
    for head in first_shapes(module, names[0]):
        options = [other_shapes(module, name, head) for name in names[1:]]
        for rest in itertools.islice(itertools.product(*options), 64):
            shapes = (head, *rest)
            yield shapes[:cut], dict(zip(names[cut:], shapes[cut:], strict=True))


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _parameters(module: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def required_parameters(module: Any) -> tuple[list[str], list[str]]:
    """Names that forward cannot do without: by position, and by keyword only."""
    needed = [p for p in _parameters(module) if p.default is p.empty]
    positional = [p.name for p in needed if p.kind in _POSITIONAL]
    return positional, [p.name for p in needed if p.kind is p.KEYWORD_ONLY]


def first_shapes(module: Any, name: str) -> Iterator[Shape]:
    """Shapes for the first input."""
    layers = list(_first_layers(module))
    if name in _TOKENS:
        layers.sort(key=lambda layer: not isinstance(layer, (nn.Embedding, nn.EmbeddingBag)))
    sequence = any(
        isinstance(child, (nn.MultiheadAttention, nn.RNNBase)) or "attention" in _kind(child)
        for child in module.modules()
    )
    seen: set[Shape] = set()
    streams = [_shapes_for(layer, module, sequence) for layer in layers[:8]]
    for shape in itertools.chain(*streams, _vectors()):
        if shape not in seen:
            seen.add(shape)
            yield shape


def _kind(module: Any) -> str:
    return type(module).__name__.lower()


def _first_layers(module: Any) -> Iterator[Any]:
    """Layers whose settings tell the size of their input, in order of registration."""
    kinds = (
        nn.Embedding,
        nn.EmbeddingBag,
        nn.Linear,
        nn.modules.conv._ConvNd,
        nn.RNNBase,
        nn.RNNCellBase,
        nn.MultiheadAttention,
        nn.LayerNorm,
        nn.modules.batchnorm._BatchNorm,
        nn.Bilinear,
    )
    found: set[tuple[Any, ...]] = set()
    for child in module.modules():
        own = [tensor for tensor in child._parameters.values() if tensor is not None]
        if isinstance(child, kinds) or (own and not list(child.children())):
            if any(torch.nn.parameter.is_lazy(tensor) for tensor in own):
                key: tuple[Any, ...] = (type(child),)
            else:
                key = (type(child), *(tuple(tensor.shape) for tensor in own[:1]))
            if key not in found:
                found.add(key)
                yield child


def _shapes_for(layer: Any, module: Any, sequence: bool) -> Iterator[Shape]:
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        yield Shape((ROWS, LENGTH), layer.num_embeddings)
        yield Shape((ROWS,), layer.num_embeddings)
    elif isinstance(layer, nn.modules.conv._ConvNd):
        yield from _images(layer, module)
    elif isinstance(layer, nn.RNNBase):
        first = getattr(layer, "batch_first", False)
        sides = (ROWS, LENGTH) if first else (LENGTH, ROWS)
        yield Shape((*sides, layer.input_size), batch=0 if first else 1)
    elif isinstance(layer, nn.RNNCellBase):
        yield Shape((ROWS, layer.input_size))
        yield Shape((ROWS, LENGTH, layer.input_size))
    elif isinstance(layer, nn.MultiheadAttention):
        sides = (ROWS, LENGTH) if layer.batch_first else (LENGTH, ROWS)
        yield Shape((*sides, layer.embed_dim), batch=0 if layer.batch_first else 1)
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        axes = {"BatchNorm2d": 2, "BatchNorm3d": 3}.get(type(layer).__name__, 0)
        yield Shape((ROWS, layer.num_features, *(32,) * axes))
    else:
        yield from _feature_shapes(layer, sequence)


def _feature_shapes(layer: Any, sequence: bool) -> Iterator[Shape]:
    widths: list[int] = []
    if isinstance(layer, nn.LazyLinear):
        widths = [32]
    elif isinstance(layer, nn.Linear):
        widths = [layer.in_features]
    elif isinstance(layer, nn.LayerNorm):
        yield Shape((ROWS, LENGTH, *layer.normalized_shape))
        widths = [layer.normalized_shape[-1]]
    else:
        for tensor in layer._parameters.values():
            if tensor is not None and not torch.nn.parameter.is_lazy(tensor):
                widths += list(tensor.shape[-2:])
    for width in widths:
        flat, long = Shape((ROWS, width)), Shape((ROWS, LENGTH, width))
        yield from ((long, flat) if sequence else (flat, long))


def _images(layer: Any, module: Any) -> Iterator[Shape]:
    """Sizes for a convolution, starting from what the strides of the whole module call for."""
    axes = len(layer.kernel_size)
    channels = getattr(layer, "in_channels", 0) or 3
    if "Transpose" in type(layer).__name__:
        for side in (1, 4, 8, 16):
            yield Shape((ROWS, channels, *(side,) * axes))
        yield Shape((ROWS, channels))
        return
    if axes == 1:
        for side in (64, 128, 256, 16, 512, 1024, 4096, 16000):
            yield Shape((ROWS, channels, side))
        yield Shape((ROWS, LENGTH, channels))
        return
    if axes == 3:
        for side in (16, 32, 8, 64):
            yield Shape((ROWS, channels, side, side, side))
        return
    preferred = _preferred_size(module)
    for side in dict.fromkeys(
        (preferred, 224, 32, 28, 64, 96, 128, 256, 299, 84, 16, 48, 8, 384, 512, 12, 24, 36)
    ):
        yield Shape((ROWS, channels, side, side))


def _preferred_size(module: Any) -> int:
    """A picture that is still several positions wide behind all strides and pools."""
    total = 1
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and child.kernel_size != (1, 1):
            total *= max(child.stride)
        elif isinstance(child, (nn.MaxPool2d, nn.AvgPool2d)):
            stride = child.stride if child.stride is not None else child.kernel_size
            total *= max(stride) if isinstance(stride, tuple) else int(stride)
    return 224 if total > 32 else 128 if total >= 16 else 64 if total >= 8 else 32


def _vectors() -> Iterator[Shape]:
    """Small feature vectors: coordinates, observations, latents."""
    for width in (3, 2, 1, 4, 5, 6, 8, 16, 32, 64, 128):
        yield Shape((ROWS, width))
    yield Shape((ROWS, 3, 32, 32))
    yield Shape((ROWS, 1, 28, 28))
    yield Shape((ROWS, LENGTH, 32))


def other_shapes(module: Any, name: str, head: Shape) -> list[Shape | None]:
    """Shapes for the inputs after the first, by their names and the first one's shape."""
    rows = head.sides[0]
    tables = [child for child in module.modules() if isinstance(child, nn.Embedding)]
    linears = [child for child in module.modules() if isinstance(child, nn.Linear)]
    if name in _TIMES:
        found: list[Shape | None] = [Shape((rows,), None), Shape((rows, 1)), Shape((rows,), 1000)]
        return found
    if name in _MASKS:
        return [None, Shape(head.sides[:2], constant=1.0)]
    if name in ("lengths", "length", "lens"):
        return [Shape((rows,), constant=float(head.sides[1] if len(head.sides) > 1 else 1))]
    options: list[Shape | None] = []
    if name in _GRAPHS:
        options.append(ADJACENCY)
    if name in _EDGES:
        options.append(EDGES)
    if name in _TOKENS and tables:
        options.append(Shape((rows, LENGTH), tables[0].num_embeddings))
    options.append(head)
    for table in tables[:3]:
        options += [
            Shape((rows,), table.num_embeddings),
            Shape((rows, LENGTH), table.num_embeddings),
        ]
    options += [Shape((rows, layer.in_features)) for layer in linears[:4]]
    options += [Shape((rows,)), Shape((rows, 3)), None]
    return list(dict.fromkeys(options))


# transformers


def _transformers(module: Any) -> Iterator[Call]:
    """Inputs of a Hugging Face model, from its own configuration."""
    config = module.config
    text = getattr(config, "text_config", None) or config
    vision = getattr(config, "vision_config", None) or config
    forward = inspect.signature(module.forward).parameters
    makers: dict[str, Callable[[], Shape | None]] = {
        "input_ids": lambda: _ids(text),
        "decoder_input_ids": lambda: _ids(text),
        "pixel_values": lambda: _pixels(vision),
        "input_features": lambda: _features(config),
        "input_values": lambda: Shape((ROWS, 4000)),
    }
    wanted = [module.main_input_name]
    if text is not config or vision is not config:
        wanted += ["input_ids", "pixel_values"]
    if getattr(config, "is_encoder_decoder", False):
        wanted.append("decoder_input_ids")
    named = {}
    for name in dict.fromkeys(wanted):
        if name in forward and name in makers:
            named[name] = makers[name]()
    if named and all(shape is not None for shape in named.values()):
        yield (), dict(named)


def _ids(config: Any) -> Shape | None:
    vocabulary = getattr(config, "vocab_size", None)
    longest = getattr(config, "max_position_embeddings", None) or LENGTH
    return Shape((ROWS, min(LENGTH, longest)), vocabulary) if vocabulary else None


def _pixels(config: Any) -> Shape | None:
    size = getattr(config, "image_size", None)
    if size is None:
        size = 224
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    return Shape((ROWS, getattr(config, "num_channels", 3), *sides))


def _features(config: Any) -> Shape | None:
    bins = getattr(config, "num_mel_bins", None)
    frames = getattr(config, "max_source_positions", None)
    return Shape((ROWS, bins, 2 * frames)) if bins and frames else None
