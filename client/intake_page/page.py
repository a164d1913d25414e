"""The page that preflight leaves at the site: figures, films to look at, and for each problem what to do.

It shows films and file names, so it stays where it is.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from acm_core.config.site import SiteConfig
from acm_core.data.intake.disagreements import Disagreement
from acm_core.data.intake.intake import Intake
from acm_core.data.intake.journal import Journal
from acm_core.data.intake.readers import read_files
from acm_core.data.intake.reading import HISTOGRAM_BINS
from acm_core.data.set_aside import SetAside
from acm_core.data.source.choice import film_source
from acm_core.data.splits import load_or_create_salt
from acm_core.data.terms import Accepted
from acm_core.shortcuts import NAMES
from client.intake_page.shortcuts import interval
from client.intake_page.summary import Summary, grey_levels, unlikeness

_FILMS_SHOWN = 24
_LISTED = 50
_SIDE = 144
_CHART = (320, 120)


class ShownFilm(NamedTuple):
    """A film on the page: PNG in base64 (empty where it could not be read again) and what stands below it."""

    png: str
    text: str


class Outline(NamedTuple):
    """An SVG path over the chart's width and height."""

    band: str
    median: str
    width: int
    height: int


def render_page(
    site: SiteConfig, taken: Intake, summary: Summary, disagreements: Sequence[Disagreement], journal: Journal
) -> str:
    """The page as one HTML text that needs nothing else."""
    paths, shares = grey_levels(journal.readings())
    unlike = unlikeness(shares)
    order = np.argsort(-unlike, kind="stable")[:_FILMS_SHOWN]
    seed = int(summary.fingerprint[:16], 16)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(paths))[:_FILMS_SHOWN])
    pairs = _pairs(taken)
    shown = _films(
        site,
        {paths[index] for index in (*order, *chosen)} | {name for pair in pairs for name in pair[:2]},
    )
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["interval"] = interval
    return environment.get_template("preflight.html").render(
        site=site.site,
        summary=summary,
        act=[problem for problem in summary.problems if problem.weight == "act"],
        notes=[problem for problem in summary.problems if problem.weight == "note"],
        reasons=_by_reason(taken),
        pairs=[(shown[kept], shown[dropped], kept, dropped, reason) for kept, dropped, reason in pairs],
        disagreements=disagreements[:_LISTED],
        out_of_reach=[*taken.closed, *taken.links][:_LISTED],
        conflicts=[
            (taken.names[taken.images[conflict.row]], ", ".join(conflict.findings))
            for conflict in taken.table.conflicts[:_LISTED]
        ],
        unlike=[ShownFilm(shown[paths[i]], f"{paths[i]} · {unlike[i]:.3f}") for i in order],
        chosen=[ShownFilm(shown[paths[i]], paths[i]) for i in chosen],
        outline=_outline(shares),
        shortcut_names={
            name: text
            for name, text in NAMES.items()
            if any(name in alone for alone in summary.shortcuts.values())
        },
        listed=_LISTED,
        side=_SIDE,
    )


def _by_reason(taken: Intake) -> list[tuple[str, str, list[str], int]]:
    """Reason, its meaning, names of the first files, number of all."""
    names: defaultdict[SetAside, list[str]] = defaultdict(list)
    for row in taken.rows:
        if row.reason is not None:
            names[row.reason].append(taken.names[row.film])
    return [
        (reason.value, reason.value.replace("_", " "), sorted(files)[:_LISTED], len(files))
        for reason, files in sorted(names.items())
    ]


def _pairs(taken: Intake) -> list[tuple[str, str, str]]:
    """(kept, set aside, reason) of films that are there again: near duplicates first, they are worth a look."""
    found = [
        (taken.names[row.duplicate_of], taken.names[row.film], row.reason.value)
        for row in taken.rows
        if row.duplicate_of is not None and row.reason is not None
    ]
    return sorted(found, key=lambda pair: (pair[2] != SetAside.NEAR_DUPLICATE, pair))[: _FILMS_SHOWN // 2]


def _films(site: SiteConfig, names: Iterable[str]) -> Mapping[str, str]:
    names = sorted(names)
    shown = dict.fromkeys(names, "")
    salt = load_or_create_salt(site.state)
    source, accepted = film_source(site), Accepted.of(site.accept)
    for answer in read_files(source, names, salt, _SIDE, workers=2, accepted=accepted):
        if answer.film is not None:
            shown[names[answer.index]] = _png(answer.film)
    return shown


def _png(film: NDArray[np.float16]) -> str:
    file = io.BytesIO()
    Image.fromarray(np.rint(film.astype(np.float32) * 255).astype(np.uint8)).save(file, "PNG")
    return b64encode(file.getvalue()).decode("ascii")


def _outline(shares: NDArray[np.float32]) -> Outline | None:
    """Median film and the middle nine tenths of all films, share of pixels by grey level."""
    if len(shares) == 0:
        return None
    low, median, high = np.percentile(shares, (5, 50, 95), axis=0)
    width, height = _CHART
    scale = height / max(float(high.max()), 1e-6)
    xs = (np.arange(HISTOGRAM_BINS) + 0.5) * width / HISTOGRAM_BINS

    def points(values: NDArray[Any], which: Sequence[int]) -> str:
        return " ".join(f"{xs[i]:.1f},{height - scale * values[i]:.1f}" for i in which)

    forward = range(HISTOGRAM_BINS)
    band = f"M{points(high, forward)} {points(low, forward[::-1])} Z"
    return Outline(band, f"M{points(median, forward)}", width, height)
