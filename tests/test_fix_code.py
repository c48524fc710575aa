from __future__ import annotations

import pytest

from initlint.lint.code import expression, pasteable, rolled


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


@pytest.mark.parametrize(
    ("indices", "wanted"),
    [
        (range(50), "for i in range(50): f(model.b[i].weight)"),
        (range(2, 9), "for i in range(2, 9): f(model.b[i].weight)"),
        (range(0, 24, 2), "for i in range(0, 23, 2): f(model.b[i].weight)"),
        ((0, 1, 5), "for i in (0, 1, 5): f(model.b[i].weight)"),
        ((7,), "f(model.b[7].weight)"),
    ],
)
def test_lines_that_differ_by_one_index_are_one_loop(indices, wanted):
    lines = [f"f(model.b[{index}].weight)" for index in indices]
    assert rolled([*lines, "g(model.head.weight)"]) == [wanted, "g(model.head.weight)"]


def test_the_index_that_most_lines_differ_by_is_the_loop():
    lines = [f"f(model.b[{block}].c[{part}].weight)" for part in (0, 2) for block in range(4)]
    assert rolled(lines) == [
        "for i in range(4): f(model.b[i].c[0].weight)",
        "for i in range(4): f(model.b[i].c[2].weight)",
    ]
    whole = [
        f"for gate in model.r[{i}].weight.data.chunk(4): torch.nn.init.eye_(gate)" for i in (0, 1)
    ]
    assert rolled(whole) == whole
