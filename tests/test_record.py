"""Records that are made by the hundred thousand."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from initlint.model import Layer, Op, Param, Role, Where
from initlint.model.record import maker


def test_a_maker_makes_what_the_class_makes() -> None:
    made = maker(Param)(Role.WEIGHT, "fc.weight", (2, 3), dtype="float32", packed=3)
    assert type(made) is Param
    assert made == Param(Role.WEIGHT, "fc.weight", (2, 3), "float32", packed=3)
    assert hash(maker(Where)(node="a")) == hash(Where(node="a"))
    assert maker(Layer)("fc", Op.LINEAR) == Layer("fc", Op.LINEAR)


def test_what_a_maker_made_is_frozen() -> None:
    made = maker(Where)(node="a")
    with pytest.raises(FrozenInstanceError):
        made.node = "b"  # type: ignore[misc]
    assert replace(made, line=3) == Where(line=3, node="a")
    assert pickle.loads(pickle.dumps(made)) == made
