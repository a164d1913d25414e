"""From a drawn film to what the scanner's detector and technician make of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.phantoms.geometry import Image, Mask, blurred
from simulations.phantoms.scanner import Scanner

MARKER_HEIGHT = 1.9
"""cm of a lead letter."""
LETTERS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


@dataclass(frozen=True)
class Exposure:
    """A film as a viewer shows it: `image` H×W float32 in [0, 1], dense tissue bright."""

    image: Image
    border: Mask
    """Outside the X-ray beam: stored beyond the shown range."""


def expose(image: Image, scanner: Scanner, rng: np.random.Generator) -> Exposure:
    """Blur, tone curve, noise, side marker and collimation of the scanner; `rng` draws the last three."""
    spacing = scanner.canvas(max(image.shape)).spacing
    film = blurred(image, scanner.blur / 10 / spacing) if scanner.blur else image
    film = np.clip(film, 0, 1) ** np.float32(scanner.contrast)
    # Quanta behind dense tissue are few, so that white areas are the noisiest.
    film = film + scanner.noise * (0.3 + 0.7 * film) * rng.standard_normal(film.shape, np.float32)
    margins = rng.uniform(0, scanner.collimation_margin, 4) / spacing
    place = rng.uniform(0, 1, 2)
    rows, columns = film.shape
    border = np.zeros(film.shape, bool)
    if scanner.collimation != "none":
        top, bottom, left, right = (round(m) for m in margins)
        border[:] = True
        border[top : rows - bottom, left : columns - right] = False
    if scanner.marker != "none":
        _burn_marker(film, scanner.marker, spacing, place)
    film[border] = 1.0 if scanner.collimation == "bright" else 0.0
    return Exposure(np.clip(film, 0, 1).astype(np.float32), border)


def _burn_marker(
    film: Image, marker: str, spacing: float, place: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> None:
    """Lead letter in the upper corner of its side: R on the viewer's left, L on the viewer's right."""
    letter = np.array([[cell == "1" for cell in row] for row in LETTERS[marker[-1]]])
    if marker.startswith("boxed"):
        letter = np.pad(np.pad(letter, 1), 1, constant_values=True)
    height = max(round(MARKER_HEIGHT / spacing), 7)
    width = max(round(height * letter.shape[1] / letter.shape[0]), 5)
    rows = np.arange(height) * letter.shape[0] // height
    columns = np.arange(width) * letter.shape[1] // width
    glyph = letter[np.ix_(rows, columns)]
    top = round((3.2 + 1.5 * place[0]) / spacing)
    inset = round((3.2 + 0.8 * place[1]) / spacing)
    left = inset if marker[-1] == "R" else film.shape[1] - inset - width
    film[top : top + height, left : left + width][glyph] = 1.0
