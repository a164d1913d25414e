"""Where things lie in the report's drawings: SVG coordinates; lines, colours and words are the page's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, floor, log10, sqrt
from typing import Any, NamedTuple

from server.round.results import MODELS, estimate_in, interval_text

LOSSES = {"training loss": "train_loss", "validation loss, of the model before the round": "validation_loss"}
"""Title of a drawing → the metric that sites report."""

_WIDTH, _HEIGHT = 340, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 40
_ROW, _NAMES, _FIGURES = 20, 84, 140
_DOT = (2.0, 6.0)


class Axis(NamedTuple):
    """Values from `low` to `high` lie between `start` and `end`; `ticks` are (where, what it says)."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Where a value lies; one beyond the axis at its end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


class Line(NamedTuple):
    """A curve: `kind` is how the page draws it, `points` an SVG polyline's, `dots` circles on it (x, y, radius)."""

    name: str
    kind: str
    points: str
    dots: tuple[tuple[float, float, float], ...] = ()


class Plot(NamedTuple):
    """Curves over two axes."""

    width: int
    height: int
    x: Axis
    y: Axis
    lines: tuple[Line, ...]


class Interval(NamedTuple):
    """An estimate in a forest plot: where its value and its ends lie, and what stands beside it."""

    y: float
    model: str
    value: float
    low: float
    high: float
    text: str


class Forest(NamedTuple):
    """Estimates below each other; `headings` are (where, whose the estimates below are)."""

    width: int
    height: int
    x: Axis
    headings: tuple[tuple[float, str], ...]
    rows: tuple[Interval, ...]


def axis(low: float, high: float, start: float, end: float) -> Axis:
    """An axis with about five round ticks."""
    if high <= low:
        high = low + 1.0
    step = 10.0 ** floor(log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 6)
    places = range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    blank = Axis(low, high, start, end, ())
    return blank._replace(ticks=tuple((blank.at(place * step), f"{place * step:g}") for place in places))


def shares(
    curves: Mapping[str, Sequence[Sequence[float]]],
    kinds: Mapping[str, str],
    films: Mapping[str, Sequence[int]] | None = None,
) -> Plot:
    """Curves of shares over shares, both from 0 to 1.

    Args:
        curves: name → points.
        kinds: name → how it is drawn.
        films: name → how many stand behind each point, of the curves whose points are marked: by a dot of an area that
            grows with them.
    """
    x, y = axis(0, 1, _LEFT, _WIDTH - _RIGHT), axis(0, 1, _HEIGHT - _BOTTOM, _TOP)
    return Plot(_WIDTH, _HEIGHT, x, y, _lines(curves, kinds, x, y, films or {}))


def over_rounds(curves: Mapping[str, Sequence[Sequence[float]]], kinds: Mapping[str, str]) -> Plot:
    """Curves of a loss over rounds, the axis of the loss from 0."""
    points = [point for curve in curves.values() for point in curve]
    x = axis(1, max((point[0] for point in points), default=2), _LEFT, _WIDTH - _RIGHT)
    y = axis(0, max((point[1] for point in points), default=1), _HEIGHT - _BOTTOM, _TOP)
    x = x._replace(ticks=tuple(tick for tick in x.ticks if float(tick[1]).is_integer()))
    return Plot(_WIDTH, _HEIGHT, x, y, _lines(curves, kinds, x, y, {}))


def forest(means: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Forest:
    """Mean AUROC of each model by site, from 0.5 or the lowest end of an interval.

    Args:
        means: site, or the mean's heading → model → estimate or None.
        names: model → its heading.
    """
    shown = [
        (site, model, estimates[model])
        for site, estimates in means.items()
        for model in MODELS
        if estimates.get(model) is not None
    ]
    ends = [
        estimate[name] for *_, estimate in shown for name in ("value", "low") if estimate[name] is not None
    ]
    low = floor(10 * min([0.5, *ends])) / 10
    width = 480
    x = axis(low, 1.0, _NAMES, width - _FIGURES)
    rows: list[Interval] = []
    headings: list[tuple[float, str]] = []
    y = float(_TOP)
    for site, model, estimate in shown:
        if not headings or site != headings[-1][1]:
            y += 1.2 * _ROW
            headings.append((round(y, 1), site))
        y += _ROW
        value = x.at(estimate["value"])
        low_end, high_end = (
            value if estimate[name] is None else x.at(estimate[name]) for name in ("low", "high")
        )
        rows.append(
            Interval(
                round(y, 1), names[model], value, low_end, high_end, interval_text(estimate_in(estimate))
            )
        )
    return Forest(width, int(y) + _ROW + _BOTTOM, x, tuple(headings), tuple(rows))


def kinds_of(sites: Iterable[str]) -> dict[str, str]:
    """Site → the class of its curve: a colour of its own for the first eight."""
    return {site: f"s{index}" if index < 8 else "other" for index, site in enumerate(sites)}


def _lines(
    curves: Mapping[str, Sequence[Sequence[float]]],
    kinds: Mapping[str, str],
    x: Axis,
    y: Axis,
    films: Mapping[str, Sequence[int]],
) -> tuple[Line, ...]:
    lines = []
    for name, curve in curves.items():
        places = [(x.at(point[0]), y.at(point[1])) for point in curve]
        text = " ".join(f"{across:g},{up:g}" for across, up in places)
        behind = films.get(name, ())
        least, most = _DOT
        radii = [round(least + (most - least) * sqrt(count / max(behind)), 1) for count in behind]
        if len(places) == 1 and not radii:  # a line of one point is not to be seen
            radii = [least + 1]
        dots = tuple((*place, radius) for place, radius in zip(places, radii, strict=False))
        lines.append(Line(name, kinds[name], text, dots))
    return tuple(lines)
