"""A forest plot of differences as an SVG file: where things lie; lines, colours and words are the template's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from server.report.charts import Axis, axis
from server.round.results import signed
from simulations.tables.intervals import Interval
from simulations.tables.results import Difference

_WIDTH, _NAMES, _FIGURES = 780, 170, 230
_ROW, _HEADING, _TOP, _BOTTOM = 22, 38, 36, 44
_SPREAD = (
    0.2  # of the intervals, as many may reach beyond the axis: one tiny site would squeeze all the others
)


class Drawn(NamedTuple):
    """An interval: where its value and ends lie, whether an end lies beyond the axis, what stands beside it.

    Attributes:
        kind: "above", "below" or "across" zero.
    """

    y: int
    name: str
    value: float
    low: float
    high: float
    beyond_low: bool
    beyond_high: bool
    kind: str
    text: str


class Panel(NamedTuple):
    """A difference: its heading, a row a site, and the mean."""

    y: int
    title: str
    sites: tuple[Drawn, ...]
    mean: Drawn


def drawing(title: str, differences: Sequence[Difference], mean: str = "mean over sites") -> str:
    """The SVG's text: a panel for each difference, all over one axis; `mean` names the row below a panel's others."""
    x = _axis(differences)
    panels, y = [], _TOP
    for one in differences:
        y += _HEADING
        heading = y
        rows = []
        for site, interval in one.combined.sites.items():
            y += _ROW
            rows.append(_drawn(x, y, site, interval))
        y += _ROW
        panels.append(Panel(heading, one.title, tuple(rows), _drawn(x, y, mean, one.combined.mean)))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("forest.svg").render(
        title=title, width=_WIDTH, height=y + _ROW + _BOTTOM, x=x, panels=panels, bottom=y + _ROW
    )


def difference_text(interval: Interval) -> str:
    """`+0.031 (−0.010 to +0.070)`."""
    value, low, high, *_ = interval
    return f"{signed(value)} ({signed(low)} to {signed(high)})"


def _axis(differences: Sequence[Difference]) -> Axis:
    """From the lowest to the highest value and mean's end, zero within, and most of the sites' ends."""
    means = [one.combined.mean for one in differences]
    sites = [interval for one in differences for interval in one.combined.sites.values()]
    ends_low = np.quantile([one.low for one in sites], _SPREAD, method="lower")
    ends_high = np.quantile([one.high for one in sites], 1 - _SPREAD, method="higher")
    low = min([0.0, float(ends_low), *(one.low for one in means), *(one.value for one in sites)])
    high = max([0.0, float(ends_high), *(one.high for one in means), *(one.value for one in sites)])
    room = 0.04 * max(high - low, 0.01)
    return axis(low - room, high + room, _NAMES, _WIDTH - _FIGURES)


def _drawn(x: Axis, y: int, name: str, interval: Interval) -> Drawn:
    kind = "above" if interval.low > 0 else "below" if interval.high < 0 else "across"
    return Drawn(
        y,
        name,
        x.at(interval.value),
        x.at(interval.low),
        x.at(interval.high),
        interval.low < x.low,
        interval.high > x.high,
        kind,
        difference_text(interval),
    )
