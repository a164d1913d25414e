"""How often a model's maps hit a finding, and the same place on the other side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.pointing.films import Places, PlantedFilms
from simulations.pointing.game import Hits, every_pair, hits, inside
from simulations.pointing.maps import Pointed

_SEED = 0
TOLERANCE = 1 / 24
"""Of the film's side: 8 pixels of 192. Zhang et al. permit 15 pixels of about 500."""

ON_FINDING, ON_MIRROR = "finding", "mirror side"
ALL_FINDINGS = "all findings"


@dataclass(frozen=True)
class Row:
    """One kind of map, for one finding.

    Attributes:
        map: which, in words.
        where: what it should hit.
        group: of an attend-and-compare module, where the map is one of its; chosen on other patients.
    """

    map: str
    where: str
    finding: str
    films: int
    hits: Hits
    group: str | None = None


def measure(pointed: Pointed, planted: PlantedFilms, findings: Sequence[str], image_size: int) -> list[Row]:
    """Every map of every finding.

    A model has hundreds of key and query maps, of which some hit by chance. So half of the patients choose, for each
    finding, the key map and the query map that hit it most often; all figures are of the other half.

    Args:
        findings: F, the model's outputs.
        image_size: S.
    """
    tolerance = TOLERANCE * image_size
    rows: list[Row] = []
    for column, finding in enumerate(findings):
        if finding not in planted.places:
            continue
        places = planted.places[finding]
        patients = planted.films.patients[places.rows]
        choose, figures = patients % 2 == 0, patients % 2 == 1
        if not choose.any() or not figures.any():
            continue
        chosen, shown = _of(places, choose), _of(places, figures)
        measured = _Measured(finding, shown, patients[figures], tolerance)
        rows += measured.rows("score map", pointed.scores[:, column])
        for stage, points in pointed.grad_cam.items():
            rows += measured.rows(f"Grad-CAM, {stage}", points[:, column])
        for word, points, others in (("K", pointed.key, pointed.query), ("Q", pointed.query, pointed.key)):
            if points.shape[1]:
                group = most_hits(points, chosen, tolerance)
                partner = "Q" if word == "K" else "K"
                rows += measured.rows(word, points[:, group], pointed.groups[group])
                rows.append(
                    measured.both(
                        f"{word} on the finding, {partner} on the mirror side",
                        points[:, group],
                        others[:, group],
                        pointed.groups[group],
                    )
                )
    return rows


def most_hits(points: NDArray[np.float64], places: Places, tolerance: float) -> int:
    """N×M×2 → the map (of M) that most often hits the finding; the first of several alike."""
    own = inside(points[places.rows], places.finding[:, None], tolerance)
    return int(own.mean(0).argmax())


def measure_few(
    pointed: Pointed,
    planted: PlantedFilms,
    findings: Sequence[str],
    image_size: int,
    counted: NDArray[np.bool_],
) -> list[Row]:
    """As `measure`, where boxes are too few to give half of them away.

    For each box anew the key map and the query map are those that most often hit the same finding of all other
    patients. Beside each finding there are figures of all boxes together, where another patient's box stands in only
    for one of the same finding.

    Args:
        counted: N, the films that count; the others only help to choose maps.
    """
    tolerance = TOLERANCE * image_size
    there = [(column, planted.places[name]) for column, name in enumerate(findings) if name in planted.places]
    kinds = np.concatenate([np.full(len(places.rows), column) for column, places in there])
    rows, own, mirror = (
        np.concatenate([getattr(places, part) for _, places in there])
        for part in ("rows", "finding", "mirror")
    )
    patients = planted.films.patients[rows]
    pairs: dict[tuple[str, str], NDArray[np.bool_]] = {}

    def look(name: str, points: NDArray[np.float64]) -> None:
        pairs[name, ON_FINDING] = every_pair(points, own, tolerance)
        pairs[name, ON_MIRROR] = every_pair(points, mirror, tolerance)

    look("score map", pointed.scores[rows, kinds])
    for stage, points in pointed.grad_cam.items():
        look(f"Grad-CAM, {stage}", points[rows, kinds])
    for word, partner, points, others in (
        ("K", "Q", pointed.key, pointed.query),
        ("Q", "K", pointed.query, pointed.key),
    ):
        if points.shape[1]:
            chosen = _chosen_by_others(inside(points[rows], own[:, None], tolerance), kinds, patients)
            look(word, points[rows, chosen])
            compared = every_pair(others[rows, chosen], mirror, tolerance)
            pairs[f"{word} on the finding, {partner} on the mirror side", "both"] = (
                pairs[word, ON_FINDING] & compared
            )
    shown = counted[rows]
    measured = []
    for finding, of_finding in [
        *((findings[column], shown & (kinds == column)) for column, _ in there),
        (ALL_FINDINGS, shown),
    ]:
        if of_finding.any():
            measured += [
                Row(
                    name,
                    where,
                    finding,
                    int(of_finding.sum()),
                    hits(hit[np.ix_(of_finding, of_finding)], patients[of_finding], _SEED, kinds[of_finding]),
                )
                for (name, where), hit in pairs.items()
            ]
    return measured


def _chosen_by_others(
    hit: NDArray[np.bool_], kinds: NDArray[np.int64], patients: NDArray[np.int64]
) -> NDArray[np.int64]:
    """N×M hits of M maps → N maps: each the one with most hits on the finding's boxes of other patients."""
    others = (kinds[:, None] == kinds[None]) & (patients[:, None] != patients[None])
    return np.asarray((others.astype(np.int64) @ hit.astype(np.int64)).argmax(1))


@dataclass(frozen=True)
class _Measured:
    finding: str
    places: Places
    patients: NDArray[np.int64]
    tolerance: float

    def rows(self, name: str, points: NDArray[np.float64], group: str | None = None) -> Iterator[Row]:
        """points: N×2."""
        for where, boxes in ((ON_FINDING, self.places.finding), (ON_MIRROR, self.places.mirror)):
            pairs = every_pair(points[self.places.rows], boxes, self.tolerance)
            yield self._row(name, where, pairs, group)

    def both(self, name: str, points: NDArray[np.float64], others: NDArray[np.float64], group: str) -> Row:
        """points on the finding and others on its mirror side, N×2 each."""
        looked = every_pair(points[self.places.rows], self.places.finding, self.tolerance)
        compared = every_pair(others[self.places.rows], self.places.mirror, self.tolerance)
        return self._row(name, "both", looked & compared, group)

    def _row(self, name: str, where: str, pairs: NDArray[np.bool_], group: str | None) -> Row:
        found = hits(pairs, self.patients, _SEED)
        return Row(name, where, self.finding, len(self.patients), found, group)


def _of(places: Places, chosen: NDArray[np.bool_]) -> Places:
    return Places(places.rows[chosen], places.finding[chosen], places.mirror[chosen])
