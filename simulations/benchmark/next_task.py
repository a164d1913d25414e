"""From a task to its first batch: with films that a site's worker has open, and with films that are read anew."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acm_core.config.loading import load_config
from acm_core.config.site import SiteConfig
from acm_core.data.batches import training_batches
from acm_core.data.site_films import SiteFilms, load_site
from client.round.open_films import OpenFilms
from simulations.benchmark.intake import write_many
from simulations.benchmark.measurement import Timing

FILMS = (2_000, 20_000)
_IMAGE_SIZE, _BATCH, _FINDINGS = 64, 32, ("Lung Opacity",)


def run(rounds: int, films: Sequence[int] = FILMS) -> list[dict[str, Any]]:
    """Rows, see `table`."""
    rows = []
    for count in films:
        print(f"task: {count} films", file=sys.stderr, flush=True)  # noqa: T201  # progress
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"part": "task", **measure(Path(folder), count, rounds)})
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines: seconds to the first batch (least–most), and their ratio with quartiles."""
    lines = [f"{'first batch after':>20}{'films':>8}{'open':>22}{'read anew':>22}   open over anew"]
    for row in rows:
        kept, anew = Timing(tuple(row["open"])), Timing(tuple(row["anew"]))
        middle, lower, upper = kept.ratio_to(anew)
        shown = [f"{t.median:.2f} s ({min(t.seconds):.2f}–{max(t.seconds):.2f})" for t in (kept, anew)]
        lines.append(
            f"{'':20}{row['films']:8}{shown[0]:>22}{shown[1]:>22}   {middle:.3f} ({lower:.3f}–{upper:.3f})"
        )
    return lines


def measure(folder: Path, films: int, rounds: int) -> dict[str, Any]:
    """A site whose films are all prepared: each task after the first, as a worker has it and as without one."""
    site = load_config(write_many(folder, films) / "A.yaml", SiteConfig)
    load_site(site, _FINDINGS, _IMAGE_SIZE)  # takes them in and prepares them
    opened = OpenFilms()

    def anew() -> SiteFilms:
        return load_site(site, _FINDINGS, _IMAGE_SIZE)

    def kept() -> SiteFilms:
        return opened.load(site, _FINDINGS, _IMAGE_SIZE, apart=False)

    return {
        "films": films,
        "anew": [_seconds(anew) for _ in range(rounds)],
        "open": [_seconds(kept) for _ in range(rounds + 1)][1:],
    }


def _seconds(load: Callable[[], SiteFilms]) -> float:
    begun = time.perf_counter()
    next(iter(training_batches(load().train, _BATCH, 0, augment=True)))
    return time.perf_counter() - begun
