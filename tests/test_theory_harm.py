import math

import pytest

from initlint.lint.finding import Severity
from initlint.theory.harm import (
    Harm,
    backward_harm,
    blocked_harm,
    correlation_harm,
    drift_harm,
    excess_loss,
    excess_loss_harm,
    recurrent_harm,
    saturation_harm,
)
from initlint.theory.result import Sink


def test_ranks_are_those_of_severities():
    assert [harm.value for harm in Harm] == [severity.rank for severity in Severity]


@pytest.mark.parametrize(
    ("drift", "expected"),
    [
        (0.0, None),
        (-0.69, None),
        (-0.7, Harm.INFO),
        (-1.5, Harm.WARNING),
        (-3.9, Harm.WARNING),
        (-4.0, Harm.ERROR),
        (0.29, None),
        (0.3, Harm.INFO),
        (0.7, Harm.WARNING),
        (1.5, Harm.ERROR),
        (math.inf, Harm.ERROR),
        (-math.inf, Harm.ERROR),
        (math.nan, None),
    ],
)
def test_drift_follows_the_table(drift, expected):
    assert drift_harm(drift) is expected
    assert backward_harm(drift) is expected


def test_only_drift_beyond_the_band_counts():
    assert drift_harm(-1.0, band=0.4) is None
    assert drift_harm(-1.6, band=0.4) is Harm.INFO
    assert drift_harm(-1.8, band=0.4) is Harm.WARNING
    assert drift_harm(1.6, band=2.0) is None
    assert backward_harm(1.55, band=0.2) is Harm.WARNING
    assert drift_harm(3.0, band=math.inf) is None


def test_a_saturating_end_forgives_growth_but_not_loss():
    assert drift_harm(2.3, sink=Sink.SATURATION) is None
    assert drift_harm(-2.3, sink=Sink.SATURATION) is Harm.WARNING
    assert drift_harm(9.0, sink=Sink.UNKNOWN) is None


def test_excess_loss_meets_both_regimes_where_they_join():
    edge = math.sqrt(2 * math.log(1000))
    assert excess_loss(1.0, 1000) == 0.5
    assert excess_loss(edge * 0.999999, 1000) == pytest.approx(excess_loss(edge, 1000), rel=1e-4)
    # measured: 107 nats above chance for s = 27.7 over 50,000 classes (tied table, width 768)
    assert excess_loss(27.7, 50_000) == pytest.approx(118, rel=0.1)
    assert excess_loss_harm(0.4) is None
    assert excess_loss_harm(0.6) is Harm.INFO
    assert excess_loss_harm(1.2) is Harm.WARNING
    assert excess_loss_harm(3.1) is Harm.ERROR
    assert excess_loss_harm(2.9, logit_std=2.3, classes=10) is Harm.ERROR


def test_correlation_grades_by_distance_and_precision():
    assert correlation_harm(0.5) is None
    assert correlation_harm(5e-3) is Harm.INFO
    assert correlation_harm(5e-4) is Harm.WARNING
    assert correlation_harm(5e-6) is Harm.WARNING
    assert correlation_harm(5e-6, "bfloat16") is Harm.ERROR
    assert correlation_harm(0.0) is Harm.ERROR


def test_other_tables():
    assert recurrent_harm(-3.9) is None
    assert recurrent_harm(-4.1) is Harm.WARNING
    assert recurrent_harm(-8) is Harm.ERROR
    assert recurrent_harm(2) is Harm.WARNING
    assert recurrent_harm(3.5) is Harm.ERROR
    assert blocked_harm(0.0, trunk=True, unlocks=False) is None
    assert blocked_harm(0.5, trunk=True, unlocks=True) is Harm.INFO
    assert blocked_harm(0.01, trunk=False, unlocks=False) is Harm.WARNING
    assert blocked_harm(0.01, trunk=True, unlocks=False) is Harm.ERROR
    assert blocked_harm(0.06, trunk=False, unlocks=False) is Harm.ERROR
    assert saturation_harm(0.2) is None
    assert saturation_harm(0.4) is Harm.WARNING
    assert saturation_harm(0.8) is Harm.ERROR
