"""A phantom chest film before any scanner: anatomy, stance and findings become an image and its truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from simulations.phantoms.anatomy import Anatomy
from simulations.phantoms.findings import Finding, PlantedFinding, apply_finding
from simulations.phantoms.geometry import LEFT, RIGHT, BodyGrid, Canvas, Image, Mask, Positioning, blurred
from simulations.phantoms.skeleton import airways, clavicles, ribs, shoulder_blades, spine
from simulations.phantoms.thorax import (
    LungSpace,
    abdominal_gas,
    body_depth,
    heart_depth,
    lung_depth,
    lung_space,
    place_heart,
    superficial,
)
from simulations.phantoms.vessels import vessels

MID_GREY, SPAN = 12.6, 8.6
"""cm of tissue shown as mid-grey, and from there to near black or near white."""

SIDES = {RIGHT: "right", LEFT: "left", 0: "both"}


@dataclass(frozen=True)
class Box:
    """Pixels [top, bottom) × [left, right) of a film."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Truth:
    """Where a planted finding lies, and where the same place of the other side lies."""

    finding: Finding
    side: str
    """Of the patient: left, right, or both (heart)."""
    region: Mask
    box: Box
    mirror: Box


@dataclass(frozen=True)
class PhantomFilm:
    """A drawn film: `image` H×W float32 in [0, 1], dense tissue bright; `truth` one entry a finding."""

    image: Image
    truth: tuple[Truth, ...]


def draw_film(
    anatomy: Anatomy,
    positioning: Positioning,
    planted: Sequence[PlantedFinding],
    canvas: Canvas,
    rng: np.random.Generator,
    aeration: Callable[[LungSpace], Image] | None = None,
) -> PhantomFilm:
    """Draw one film.

    `rng` draws the fine lung texture only, so that the film with and without a finding can be compared.
    The image is a saturating function of the tissue along each ray, as a digital radiograph's log signal is.

    Args:
        aeration: factor on the lungs' air at each pixel, H×W; default: even lungs.
    """
    grid = BodyGrid.of(canvas, positioning)
    lungs = lung_space(anatomy, grid)
    enlargement = sum(p.size for p in planted if p.finding == "Cardiomegaly")
    heart = place_heart(anatomy, grid, enlargement)
    air = anatomy.air * np.maximum(lung_depth(anatomy, grid, lungs) - heart_depth(heart, grid), 0)
    if aeration is not None:
        air = air * aeration(lungs)
    vascular = vessels(anatomy, grid)
    tissue = superficial(anatomy, grid, lungs)
    truth = []
    for finding in planted:
        if finding.finding == "Cardiomegaly":
            region = heart.reach(grid) < 1
        else:
            change = apply_finding(finding, lungs, air, anatomy.air)
            air, vascular, tissue = air * change.air, vascular * change.vessels, tissue + change.tissue
            region = change.region
        truth.append(Truth(finding.finding, SIDES[finding.side], region, _box(region), _mirror(region, grid)))

    body = body_depth(anatomy, grid)
    aerated = np.clip(air / 3.0, 0, 1)
    texture = _texture(grid, rng)
    depth = body - air - abdominal_gas(anatomy, grid) + tissue * (body > 0)
    depth += aerated * (vascular + texture)
    bones = ribs(anatomy, grid) + clavicles(anatomy, grid) + shoulder_blades(anatomy, grid)
    depth += (bones + spine(anatomy, grid) - airways(anatomy, grid)) * np.clip(body / 6.0, 0, 1)
    grey = (np.maximum(depth, 0) - np.float32(MID_GREY + positioning.density)) / np.float32(
        SPAN * positioning.latitude
    )
    return PhantomFilm(np.asarray(0.5 * (1 + np.tanh(1.25 * grey)), np.float32), tuple(truth))


def _texture(grid: BodyGrid, rng: np.random.Generator) -> Image:
    """Overlapping small structures of the lung: smooth noise at three scales, H×W in cm of tissue."""
    fine = blurred(rng.standard_normal(grid.canvas.shape, np.float32), 0.16 / grid.canvas.spacing)
    film = 0.20 * fine / max(float(fine.std()), 1e-6)
    for cells, amount in ((14, 0.5), (5, 0.5)):
        down, across = (_spread(length, cells) for length in grid.canvas.shape)
        film += np.float32(amount) * (down @ rng.standard_normal((cells, cells), np.float32) @ across.T)
    return np.asarray(film, np.float32)


def _spread(length: int, cells: int) -> Image:
    """Weights (length×cells) that spread values on a coarse grid smoothly over `length` pixels."""
    from_cell = np.linspace(-0.5, cells - 0.5, length)[:, None] - np.arange(cells)
    weights = np.exp(-(from_cell**2) / 0.6)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _box(region: Mask) -> Box:
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not rows.size:
        raise ValueError(
            "expected the finding to lie on the film, got none of it there: use a larger film or image"
        )
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _mirror(region: Mask, grid: BodyGrid) -> Box:
    """Box of the region reflected about the patient's midline, cut off at the film's edges."""
    row, column = grid.pixels(-grid.x[region], grid.y[region])
    height, width = grid.canvas.shape
    row, column = np.clip(np.rint(row), 0, height - 1), np.clip(np.rint(column), 0, width - 1)
    return Box(int(row.min()), int(column.min()), int(row.max()) + 1, int(column.max()) + 1)
