"""The findings that a phantom can show; all but the enlarged heart are seen by comparing the two lungs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulations.phantoms.geometry import LEFT, RIGHT, Image, Mask, smoothstep
from simulations.phantoms.thorax import LungSpace, lung_field

Finding = Literal["Lung Opacity", "Pneumothorax", "Pleural Effusion", "Cardiomegaly", "Nodule"]
FINDINGS: tuple[Finding, ...] = ("Lung Opacity", "Pneumothorax", "Pleural Effusion", "Cardiomegaly", "Nodule")
NO_FINDING: Literal["No Finding"] = "No Finding"


@dataclass(frozen=True)
class PlantedFinding:
    """One finding of one patient, the same on all of the patient's films."""

    finding: Finding
    side: int
    """LEFT, RIGHT, or 0 for the heart."""
    across: float
    """Place in the lung: 0 at the mediastinum, 1 at the chest wall."""
    down: float
    """Place in the lung: 0 at the apex, 1 at the base."""
    size: float
    """cm: radius (opacity, nodule), width of the gap (pneumothorax), height of the fluid (effusion);
    for the heart the cardiothoracic ratio above the healthy one."""
    contrast: float
    """cm of tissue added (opacity); density relative to solid tissue (nodule, above 1 with calcium); from 0, as lung,
    to 1, all fluid or all air (effusion, pneumothorax)."""
    patches: tuple[tuple[float, float, float], ...] = ()
    """Opacity: its irregular shape as (right, down, weight) of rounded patches, in radii."""


def draw_finding(rng: np.random.Generator, finding: Finding, difficulty: float) -> PlantedFinding:
    """A finding of graded difficulty: 0 is plain, 1 nearly missed. Either side is equally likely."""
    ease = 1 - difficulty
    side = 0 if finding == "Cardiomegaly" else (RIGHT, LEFT)[int(rng.integers(2))]
    across, down = float(rng.uniform(0.35, 0.78)), float(rng.uniform(0.2, 0.8))
    vary, vary_again = float(rng.uniform(0.8, 1.25)), float(rng.uniform(0.8, 1.25))
    scatter = rng.normal(0, 0.55, (5, 2))
    weights = rng.uniform(0.4, 1.0, 5)
    match finding:
        case "Lung Opacity":
            size, contrast = (1.7 + 1.0 * ease) * vary, (1.4 + 4.2 * ease) * vary_again
        case "Pneumothorax":
            size, contrast = (1.1 + 2.4 * ease) * vary, min((0.4 + 0.5 * ease) * vary_again, 1.0)
        case "Pleural Effusion":
            size, contrast = (1.9 + 4.6 * ease) * vary, min((0.7 + 0.3 * ease) * vary_again, 1.0)
        case "Cardiomegaly":
            size, contrast = (0.04 + 0.07 * ease) * vary, 1.0
        case "Nodule":
            size, contrast = (0.6 + 0.8 * ease) * vary, (0.7 + 0.8 * ease) * vary_again
    patches = tuple((float(x), float(y), float(w)) for (x, y), w in zip(scatter, weights, strict=True))
    return PlantedFinding(
        finding, side, across, down, size, contrast, patches if finding == "Lung Opacity" else ()
    )


@dataclass(frozen=True)
class Change:
    """What a finding does to a chest, H×W each: `air` and `vessels` are factors, `tissue` is added in cm."""

    air: Image
    vessels: Image
    tissue: Image
    region: Mask
    """Where it is to be seen."""


def apply_finding(planted: PlantedFinding, lungs: LungSpace, air: Image, air_share: float) -> Change:
    """The change that `planted` makes to one lung, with `air` cm of air at a share of `air_share`.

    Raises:
        ValueError: for the enlarged heart, which is drawn as a larger heart.
    """
    match planted.finding:
        case "Lung Opacity":
            return _opacity(planted, lungs, air)
        case "Pneumothorax":
            return _pneumothorax(planted, lungs, air_share)
        case "Pleural Effusion":
            return _effusion(planted, lungs)
        case "Nodule":
            return _nodule(planted, lungs, air)
        case _:
            raise ValueError(f"expected a finding of one lung, got {planted.finding}: draw it with the heart")


def _offsets(planted: PlantedFinding, lungs: LungSpace) -> tuple[Image, Image]:
    """cm outwards and down from the finding's centre at every pixel."""
    right, left = lungs.base
    height = 21.0 if planted.side == RIGHT else 21.0 + left - right
    outwards = (lungs.across - np.float32(planted.across)) * (lungs.outer - lungs.inner)
    return outwards, (np.float32(1 - planted.down) - lungs.level) * np.float32(height)


def _local(planted: PlantedFinding, lungs: LungSpace, shape: Image, air: Image) -> Change:
    """Tissue of the given shape inside the finding's lung, never more than the air it displaces."""
    tissue = np.minimum(shape, 0.95 * air) * (lungs.side == planted.side)
    ones = np.ones_like(air)
    return Change(ones, ones, tissue.astype(np.float32), tissue > 0.3 * tissue.max())


def _opacity(planted: PlantedFinding, lungs: LungSpace, air: Image) -> Change:
    outwards, down = _offsets(planted, lungs)
    outwards, down = outwards / np.float32(planted.size), down / np.float32(planted.size)
    shape = np.zeros_like(air)
    for x, y, weight in planted.patches:
        shape += np.float32(weight) * np.exp(-((outwards - np.float32(x)) ** 2 + (down - np.float32(y)) ** 2))
    return _local(planted, lungs, planted.contrast * shape / max(float(shape.max()), 1e-6), air)


def _nodule(planted: PlantedFinding, lungs: LungSpace, air: Image) -> Change:
    outwards, down = _offsets(planted, lungs)
    ball = np.sqrt(np.clip(1 - (outwards**2 + down**2) / np.float32(planted.size**2), 0, 1))
    return _local(planted, lungs, 2 * planted.size * planted.contrast * ball, air)


def _pneumothorax(planted: PlantedFinding, lungs: LungSpace, air_share: float) -> Change:
    """Air between chest wall and collapsed lung, widest at the apex, with the thin line of the pleura."""
    level = np.clip(lungs.level, 0, 1)
    gap = planted.size * smoothstep(level, 0.15, 0.95)
    # At the apex the wall curves over the lung: distance to the wall shrinks upwards too.
    beside = np.maximum(lungs.outer - lungs.distance, 0.05)
    above = np.maximum(21.0 * (1 - lungs.level), 0.05)
    to_wall = (beside**-2 + above**-2) ** -0.5 - gap
    mine = (lungs.side == planted.side) & lung_field(lungs) & (gap > 0.15)
    outside = (1 - smoothstep(to_wall, -0.08, 0.08)) * mine
    pleura = 0.8 * planted.contrast * np.exp(-((to_wall / 0.10) ** 2) / 2) * mine
    lighter = 1 + planted.contrast * (1 / air_share - 1) * outside
    collapsed = 1 - 0.05 * planted.contrast * (mine & (to_wall > 0))
    return Change(
        (lighter * collapsed).astype(np.float32),
        (1 - outside).astype(np.float32),
        pleura.astype(np.float32),
        np.asarray((outside > 0.5) | (mine & (np.abs(to_wall) < 0.15))),
    )


def _effusion(planted: PlantedFinding, lungs: LungSpace) -> Change:
    """Fluid in the costophrenic angle whose surface climbs along the chest wall (meniscus)."""
    above_base = lungs.level * 21.0
    surface = planted.size * (0.55 + 0.45 * np.clip(lungs.across, 0, 1) ** 3)
    mine = (lungs.side == planted.side) & lung_field(lungs)
    fluid = smoothstep(surface - above_base, -0.35, 0.35) * mine
    # Beneath the dome's crest the lung is shallow: the fluid shows above the diaphragm as well as beside it.
    return Change(
        (1 - planted.contrast * fluid).astype(np.float32),
        (1 - fluid).astype(np.float32),
        np.zeros_like(fluid),
        np.asarray(fluid > 0.5),
    )
