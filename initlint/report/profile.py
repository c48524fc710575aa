"""The profile that the engine sends, checked and typed: nothing in a record is taken on trust."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log10
from typing import Any

from initlint.report.text import Untrusted


def real(value: Any) -> float | None:
    """The value where it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        converted = float(value)
    except OverflowError:
        return None
    return converted if isfinite(converted) else None


def _reals(values: Any) -> tuple[float, ...]:
    found = [real(value) for value in values] if isinstance(values, list) else []
    return tuple(value for value in found if value is not None)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _word(value: Any) -> Untrusted:
    return Untrusted(value if isinstance(value, str) else "")


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts in equal bins between two values."""

    counts: tuple[float, ...]
    low: float
    high: float
    outside: float = 0.0

    @classmethod
    def parse(cls, value: Any) -> Histogram | None:
        """None where there is nothing to draw."""
        record = _object(value)
        counts = tuple(max(count, 0.0) for count in _reals(record.get("counts")))[:200]
        low, high = real(record.get("low")), real(record.get("high"))
        if low is None or high is None or not low < high or not any(counts):
            return None
        return cls(counts, low, high, real(record.get("outside")) or 0.0)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values, largest first, with the edges that iid weights would have."""

    values: tuple[float, ...]
    edges: tuple[float, ...]
    rows: int
    columns: int
    sampled: bool


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight: its distribution, the one it should have, spectrum and picture."""

    name: Untrusted
    scheme: Untrusted
    shape: tuple[int, ...]
    mean: float | None
    std: float | None
    histogram: Histogram | None
    density: tuple[str, float] | None
    spectrum: Spectrum | None
    picture: tuple[str, ...]

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Weight:
        """A weight from its JSON form."""
        gate = record.get("gate")
        density = _object(record.get("density"))
        std = real(density.get("std"))
        name = f"{record.get('name')} [{gate}]" if gate else record.get("name")
        return cls(
            name=_word(name),
            scheme=_word(record.get("scheme")),
            shape=tuple(int(side) for side in _reals(record.get("shape"))),
            mean=real(record.get("mean")),
            std=real(record.get("std")),
            histogram=Histogram.parse(record.get("histogram")),
            density=(str(density.get("shape")), std) if std else None,
            spectrum=_spectrum(_object(record.get("spectrum"))),
            picture=_picture(_object(record.get("picture")).get("lines")),
        )


def _spectrum(record: Mapping[str, Any]) -> Spectrum | None:
    values = _reals(record.get("values"))[:200]
    if not values or max(values) <= 0:
        return None
    return Spectrum(
        values,
        _reals(record.get("edges"))[:2],
        int(real(record.get("rows")) or 0),
        int(real(record.get("columns")) or 0),
        bool(record.get("sampled")),
    )


def _picture(lines: Any) -> tuple[str, ...]:
    if not isinstance(lines, list) or not lines or len(lines) > 64:
        return ()
    whole = all(isinstance(line, str) and 0 < len(line) <= 64 for line in lines)
    if not whole or len({len(line) for line in lines}) != 1:
        return ()
    return tuple(lines) if set("".join(lines)) <= set("abcdefghijklmnopq") else ()


@dataclass(frozen=True, slots=True)
class Output:
    """What the probe saw behind a layer and its activation."""

    rms: float | None
    mean: float | None
    units: int
    dead_units: int
    dead_chance: float | None
    saturated_share: float | None
    zero_share: float | None
    correlation: float | None
    histogram: Histogram | None

    @classmethod
    def parse(cls, value: Any) -> Output | None:
        """None where the probe saw nothing."""
        if not isinstance(value, dict):
            return None
        return cls(
            rms=real(value.get("rms")),
            mean=real(value.get("mean")),
            units=int(real(value.get("units")) or 0),
            dead_units=int(real(value.get("dead_units")) or 0),
            dead_chance=real(value.get("dead_chance")),
            saturated_share=real(value.get("saturated_share")),
            zero_share=real(value.get("zero_share")),
            correlation=real(value.get("correlation")),
            histogram=Histogram.parse(value.get("histogram")),
        )

    @property
    def dead_share(self) -> float | None:
        """Share of units that never fired."""
        return self.dead_units / self.units if self.units else None


@dataclass(frozen=True, slots=True)
class Signal:
    """Forward rms or gradient rms at one layer: predicted, measured, intended."""

    predicted: float | None
    measured: float | None
    intended: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One drawn layer with the activation behind it.

    Attributes:
        index: its place in topological order.
        sources: indices of the rows that feed it.
        skips: those of them that a residual skip path comes from.
        trunk: False for a layer of a residual branch.
    """

    index: int
    id: Untrusted
    op: Untrusted
    activation: tuple[Untrusted, Untrusted] | None
    sources: tuple[int, ...]
    skips: frozenset[int]
    trunk: bool
    forward: Signal
    gradient: Signal
    output: Output | None
    weights: tuple[Weight, ...]

    @property
    def charted(self) -> bool:
        """True for rows whose signal is drawn by depth: weights on the trunk, residual sums."""
        return self.trunk and (bool(self.weights) or bool(self.skips))


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything that is drawn of one target; ``band`` is in decades around the intended value."""

    rows: tuple[Row, ...]
    band: tuple[float, float]


def parse(record: Any) -> Profile | None:
    """The profile of a target's record; None where it holds none."""
    rows = _objects(_object(record).get("rows"))
    if not rows:
        return None
    band = _reals(_object(record).get("band"))
    low, high = band if len(band) == 2 else (-0.7, 0.3)
    return Profile(tuple(_row(index, row) for index, row in enumerate(rows)), (low, high))


def _row(index: int, record: Mapping[str, Any]) -> Row:
    activation = record.get("activation")
    sources = {int(value) for value in _reals(record.get("from")) if 0 <= value < index}
    skips = {int(value) for value in _reals(record.get("skip"))} & sources
    return Row(
        index=index,
        id=_word(record.get("id")),
        op=_word(record.get("op")),
        activation=(_word(activation.get("id")), _word(activation.get("op")))
        if isinstance(activation, dict)
        else None,
        sources=tuple(sorted(sources)),
        skips=frozenset(skips),
        trunk=record.get("trunk") is not False,
        forward=_signal(record, "rms"),
        gradient=_signal(record, "gradient"),
        output=Output.parse(record.get("output")),
        weights=tuple(Weight.parse(weight) for weight in _objects(record.get("weights"))),
    )


def _signal(record: Mapping[str, Any], key: str) -> Signal:
    return Signal(
        real(record.get(key)),
        real(record.get(f"measured_{key}")),
        real(record.get(f"intended_{key}")),
    )


def carried(values: Sequence[float | None]) -> list[float | None]:
    """Gaps filled on the line between their neighbours in decades, and held at the ends."""
    known = [(i, log10(v)) for i, v in enumerate(values) if v is not None and v > 0]
    if not known:
        return [None] * len(values)
    places = [index for index, _ in known]
    filled: list[float | None] = []
    for index in range(len(values)):
        after = known[min(bisect_left(places, index), len(known) - 1)]
        before = known[max(bisect_right(places, index) - 1, 0)]
        span = after[0] - before[0]
        share = (index - before[0]) / span if span > 0 else 0.0
        filled.append(10 ** (before[1] + share * (after[1] - before[1])))
    return filled


def centres(signals: Sequence[Signal]) -> list[float | None]:
    """Intended magnitude of each layer, where theory follows the signal that far."""
    filled = carried([signal.intended for signal in signals])
    return [
        None if signal.predicted is None else centre
        for signal, centre in zip(signals, filled, strict=True)
    ]
