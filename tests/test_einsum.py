"""Einstein sums of several tensors, as products of two."""

from __future__ import annotations

import numpy as np
import pytest

from initlint.load.einsum import is_bilinear, is_elementwise, pairwise


@pytest.mark.parametrize(
    "equation",
    ["bhij,bhje,hed->bid", "ab,bc,cd,de->ae", "ij,ij,ij->ij", "bi,io,bo->bo"],
)
def test_the_products_make_the_sum(equation):
    generator = np.random.default_rng(0)
    sizes = {label: 2 + number for number, label in enumerate("abcdehijo")}
    terms = equation.partition("->")[0].split(",")
    tensors = [generator.standard_normal([sizes[label] for label in term]) for term in terms]
    made = tensors[0]
    for step, other in zip(pairwise(equation), tensors[1:], strict=True):
        made = np.einsum(step, made, other)
    assert np.allclose(made, np.einsum(equation, *tensors))


@pytest.mark.parametrize("equation", ["ij,jk->ik", "i->i", "...i,ij,jk->...k", "ij,jk,kl"])
def test_what_is_no_plain_sum_of_several_stays(equation):
    assert pairwise(equation) == ()


def test_a_matrix_between_two_vectors_is_one_layer():
    assert is_bilinear(["bi", "oij", "bj"], "bo")
    assert is_bilinear(["bi", "eio", "be"], "bo")
    assert not is_bilinear(["bhij", "bhje", "hed"], "bid")
    assert not is_bilinear(["bi", "io", "bo"], "bo")
    assert pairwise("bi,oij,bj->bo") == ()


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("be,beh->beh", True),
        ("bi,bj->bij", True),
        ("bi, bi -> bi", True),
        ("...i,i->...i", True),
        ("be,beh->bh", False),
        ("ij,jk->ik", False),
        ("ij,ij", False),
        ("i,i,i->i", False),
    ],
)
def test_a_product_that_sums_over_nothing_is_elementwise(equation, expected):
    assert is_elementwise(equation) is expected
