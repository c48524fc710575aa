from __future__ import annotations

import pytest

from initlint.lint.code import expression, pasteable


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("fc.weight", "fc.weight"),
        ("layers.0.weight", "layers[0].weight"),
        ("blocks.3.1.conv.weight", "blocks[3][1].conv.weight"),
        ("0.weight", "model[0].weight"),
        ("net/dense/MatMul/ReadVariableOp:0", None),
        ("lambda.weight", None),
        ("a-b.weight", None),
        ("", None),
    ],
)
def test_expression(name, wanted):
    assert expression(name) == wanted


@pytest.mark.parametrize(
    ("code", "names", "wanted"),
    [
        (
            "nn.init.kaiming_normal_(layers.0.weight, nonlinearity='relu')",
            ["layers.0.weight"],
            "nn.init.kaiming_normal_(layers[0].weight, nonlinearity='relu')",
        ),
        ("zeros_(net/dense/b:0)", ["net/dense/b:0"], "zeros_(weight)"),
        ("f(a.1.weight); g(a.1.weight_v)", ["a.1.weight"], "f(a[1].weight); g(a.1.weight_v)"),
        ("f(block.a.1.weight)", ["a.1.weight"], "f(block.a.1.weight)"),
        ("zeros_(1.weight.T).", ["1.weight", "1.bias"], "zeros_(model[1].weight.T)."),
        ("scale it by 2", ["x"], "scale it by 2"),
    ],
)
def test_pasteable(code, names, wanted):
    assert pasteable(code, names) == wanted
