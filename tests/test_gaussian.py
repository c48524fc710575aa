import numpy as np
import pytest

from initlint.theory.gaussian import _legendre, nodes


def test_written_out_rule_is_gauss_legendre():
    expected = np.polynomial.legendre.leggauss(12)
    for ours, theirs in zip(_legendre(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("power", "moment"), [(0, 1), (1, 0), (2, 1), (3, 0), (4, 3), (6, 15)])
def test_nodes_integrate_gaussian_moments(power, moment):
    z, weight = nodes()
    assert float((weight * z**power).sum()) == pytest.approx(moment, abs=1e-9)
