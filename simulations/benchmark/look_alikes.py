"""How well films that are there twice are found, and persons kept apart, in the frames that exports put around them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from acm_core.data.film import read_film
from acm_core.data.intake.duplicates import look_alikes
from acm_core.data.intake.same_film import FULL_SIDE, PROVED, similarity
from acm_core.data.intake.signature import signature_of
from acm_core.data.shrink import square_film
from acm_core.randomness import stream

Floats = NDArray[np.float32]
Change = Callable[[Floats], Floats]

_FIELD = 0.15
"""Share of a side that collimation at a fixed place takes from each end."""
_SEED = 5
_COPIES = 10
"""One film in so many is copied."""


def run(folder: Path) -> dict[str, Any]:
    """Measure on `folder`/*/labels.csv (columns patient_id, image); returns a JSON-ready document, see `table`."""
    films, patients = _films(folder)
    rows = {}
    for name, frame in _FRAMES.items():
        framed = [frame(film, index) for index, film in enumerate(films)]
        rows[name] = _measured(framed, patients)
    return {"benchmark": "look_alikes", "films": len(films), "frames": rows}


def table(document: dict[str, Any]) -> str:
    """The document as Markdown."""
    lines = [
        f"{document['films']} films",
        "",
        "| frame | pairs of different patients proved | false | " + " | ".join(_CHANGES) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(_CHANGES),
    ]
    for frame, row in document["frames"].items():
        found = " | ".join(f"{found} of {copies}" for found, copies in row["found"].values())
        lines.append(f"| {frame} | {row['looked_at']} | {row['false']} | {found} |")
    return "\n".join(lines)


def _measured(films: list[Floats], patients: list[str]) -> dict[str, Any]:
    pairs = [(one, other) for one, other in _pairs(films) if patients[one] != patients[other]]
    seen = {index: _seen(films[index]) for pair in pairs for index in pair}
    false = sum(similarity(seen[one], seen[other]) >= PROVED for one, other in pairs)
    found = {}
    chosen = range(0, len(films), _COPIES)
    for name, change in _CHANGES.items():
        both = [(films[index], change(films[index])) for index in chosen]
        found[name] = (sum(_found(*pair) for pair in both), len(both))
    return {"looked_at": len(pairs), "false": int(false), "found": found}


def _found(film: Floats, copy: Floats) -> bool:
    return bool(_pairs([film, copy])) and similarity(_seen(film), _seen(copy)) >= PROVED


def _pairs(films: list[Floats]) -> list[tuple[int, int]]:
    return look_alikes(np.stack([signature_of(film) for film in films]), range(len(films)))


def _seen(film: Floats) -> NDArray[np.float16]:
    return square_film(film, FULL_SIDE)


def _films(folder: Path) -> tuple[list[Floats], list[str]]:
    films, patients = [], []
    for labels in sorted(folder.glob("*/labels.csv")):
        with labels.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                films.append(read_film(labels.parent / row["image"]).pixels)
                patients.append(f"{labels.parent.name} {row['patient_id']}")
    return films, patients


def _as_it_is(film: Floats, _: int) -> Floats:
    return film


def _letterboxed(film: Floats, _: int) -> Floats:
    return _in_black(film, len(film), max(film.shape[1], len(film) * 16 // 9))


def _squared(film: Floats, _: int) -> Floats:
    return _in_black(film, max(film.shape), max(film.shape))


def _collimated(film: Floats, _: int) -> Floats:
    top, left = (int(_FIELD * side) for side in film.shape)
    return _field(film, top, left, len(film) - top, film.shape[1] - left)


def _collimated_anywhere(film: Floats, index: int) -> Floats:
    edges = stream(_SEED, "collimation", index).uniform(0.02, 0.25, 4)
    rows, columns = film.shape
    return _field(
        film,
        int(edges[0] * rows),
        int(edges[1] * columns),
        rows - int(edges[2] * rows),
        columns - int(edges[3] * columns),
    )


def _in_black(film: Floats, rows: int, columns: int) -> Floats:
    canvas = np.zeros((rows, columns), np.float32)
    top, left = (rows - film.shape[0]) // 2, (columns - film.shape[1]) // 2
    canvas[top : top + film.shape[0], left : left + film.shape[1]] = film
    return canvas


def _field(film: Floats, top: int, left: int, bottom: int, right: int) -> Floats:
    canvas = np.zeros_like(film)
    canvas[top:bottom, left:right] = film[top:bottom, left:right]
    return canvas


def _encoded(film: Floats) -> Floats:
    buffer = io.BytesIO()
    image = Image.fromarray(np.rint(film * 255).astype(np.uint8))
    image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer).convert("L"), np.float32) / np.float32(255)


def _cropped(film: Floats) -> Floats:
    rows, columns = (max(1, round(side / 100)) for side in film.shape)
    return film[rows:-rows, columns:-columns]


def _in_another_curve(film: Floats) -> Floats:
    curve: Floats = film ** np.float32(1.4)
    return curve


def _windowed(film: Floats) -> Floats:
    shown: Floats = np.clip((film - np.float32(0.05)) / np.float32(0.85), 0, 1)
    return shown


_FRAMES: dict[str, Callable[[Floats, int], Floats]] = {
    "none": _as_it_is,
    "letterbox 16:9": _letterboxed,
    "square": _squared,
    "collimated at one place": _collimated,
    "collimated at moving places": _collimated_anywhere,
}
_CHANGES: dict[str, Change] = {
    "copy": np.copy,
    "smaller JPEG": _encoded,
    "cropped by 2 %": _cropped,
    "another curve": _in_another_curve,
    "another window": _windowed,
}
