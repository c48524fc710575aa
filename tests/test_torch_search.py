"""Inputs of modules whose first layers alone do not tell them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from initlint.load.torch_inputs import guess  # noqa: E402
from initlint.load.torch_module import capture  # noqa: E402
from initlint.model import LoadError  # noqa: E402


class Net(nn.Module):
    """Layers by name, and a forward written as a function of the module and its inputs."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


def net(forward: Callable[..., Any], **layers: nn.Module) -> nn.Module:
    return type("Written", (Net,), {"forward": forward})(**layers)


def graph_convolution() -> nn.Module:
    def forward(self: Any, x: Any, adj: Any) -> Any:
        return self.out(adj @ functional.relu(self.hidden(adj @ x)))

    return net(forward, hidden=nn.Linear(10, 32), out=nn.Linear(32, 4))


def messages() -> nn.Module:
    def forward(self: Any, x: Any, edge_index: Any) -> Any:
        source, target = edge_index
        hidden = functional.relu(self.hidden(x))
        return self.out(torch.zeros_like(hidden).index_add(0, target, hidden[source]))

    return net(forward, hidden=nn.Linear(10, 32), out=nn.Linear(32, 4))


def dictionary() -> nn.Module:
    def forward(self: Any, batch: Any) -> Any:
        joined = torch.cat([self.one(batch["one"]), self.two(batch["two"])], -1)
        return self.out(joined.relu()) + (batch.get("offset") or 0.0)

    return net(forward, one=nn.Linear(7, 16), two=nn.Linear(5, 16), out=nn.Linear(32, 4))


def pair() -> nn.Module:
    def forward(self: Any, inputs: Any) -> Any:
        first, second = inputs
        return self.out(torch.relu(self.one(first) + self.two(second)))

    return net(forward, one=nn.Linear(4, 8), two=nn.Linear(6, 8), out=nn.Linear(8, 1))


def critic() -> nn.Module:
    def forward(self: Any, observation: Any, action: Any) -> Any:
        return self.value(torch.cat([observation, action], -1)), self.policy(observation)

    return net(forward, policy=nn.Linear(8, 2), value=nn.Linear(10, 1))


def characters() -> nn.Module:
    def forward(self: Any, chosen: Any) -> Any:
        return self.out(functional.one_hot(chosen, 27).float())

    return net(forward, out=nn.Linear(27, 27))


def two_tables() -> nn.Module:
    def forward(self: Any, c: Any, t: Any) -> Any:
        return (self.word(c) * self.context(t)).sum(-1)

    return net(forward, word=nn.Embedding(50, 8), context=nn.Embedding(50, 8))


def cross_attention() -> nn.Module:
    def forward(self: Any, q: Any, k: Any, v: Any) -> Any:
        return self.attention(q, k, v)[0]

    return net(forward, attention=nn.MultiheadAttention(32, 4, kdim=20, vdim=24, batch_first=True))


def positions() -> nn.Module:
    def forward(self: Any, ids: Any) -> Any:
        return self.out(self.table(ids) + self.positions)

    module = net(forward, table=nn.Embedding(40, 8), out=nn.Linear(8, 2))
    module.positions = nn.Parameter(torch.randn(1, 25, 8))
    return module


def by_keyword() -> nn.Module:
    def forward(self: Any, *, features: Any) -> Any:
        return self.out(features)

    return net(forward, out=nn.Linear(13, 3))


def picture_of_a_given_size() -> nn.Module:
    def forward(self: Any, image: Any) -> Any:
        return self.out(functional.relu(self.convolution(image)).flatten(1))

    return net(forward, convolution=nn.Conv2d(1, 4, 3, stride=2), out=nn.Linear(4 * 27 * 27, 3))


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (graph_convolution, [(16, 10), (16, 16)]),
        (messages, [(16, 10), (2, 48)]),
        (dictionary, {"one": (16, 7), "two": (16, 5)}),
        (pair, [[(16, 4), (16, 6)]]),
        (critic, [(16, 8), (16, 2)]),
        (characters, [(16,)]),
        (two_tables, [(16, 12), (16, 12)]),
        (cross_attention, [(16, 12, 32), (16, 12, 20), (16, 12, 24)]),
        (positions, [(16, 25)]),
        (by_keyword, {"features": (16, 13)}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_inputs_are_found_and_every_parameter_is_reached(build: Any, shapes: Any) -> None:
    torch.manual_seed(0)
    module = build()
    inputs = guess(module, 0)
    args, kwargs = inputs.args, dict(inputs.kwargs or {})
    found: Any = kwargs or list(args)
    if build is dictionary:
        (found,) = args
    assert _sides(found) == shapes
    model = capture(module, *args, **kwargs)
    read = {name for names in model.runnable.sources.values() for name in names}
    assert read == {name for name, _ in module.named_parameters()}


def _sides(value: Any) -> Any:
    if isinstance(value, dict):
        assert type(value) is dict
        return {key: _sides(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sides(item) for item in value]
    return tuple(value.shape)


def test_the_size_of_a_picture_is_what_its_flattened_form_needs() -> None:
    (image,) = guess(picture_of_a_given_size(), 0).args
    assert image.shape[2:] in {(55, 55), (56, 56)}


def test_a_graph_keeps_the_mean() -> None:
    _, adjacency = guess(graph_convolution(), 0).args
    assert torch.allclose(adjacency.sum(1), torch.ones(16))


def test_integers_stay_below_the_table() -> None:
    (chosen,) = guess(characters(), 0).args
    assert chosen.dtype is torch.int64
    assert int(chosen.max()) < 27


def test_what_is_found_is_said_and_repeatable() -> None:
    module = dictionary()
    first, second = guess(module, 3), guess(module, 3)
    assert "batch['one'] [16, 7] N(0, 1)" in first.notice
    assert torch.equal(first.args[0]["two"], second.args[0]["two"])


def test_forward_that_accepts_nothing_is_one_clear_line() -> None:
    def forward(self: Any, x: Any) -> Any:
        raise RuntimeError("never")

    with pytest.raises(LoadError, match=r"could not work out inputs .*never.*--input-shape"):
        guess(net(forward, out=nn.Linear(3, 3)), 0)
