"""Soft tissue and air of a chest: body outline, lungs, mediastinum, heart, diaphragm.

Thickness of tissue along the ray is what a film shows. All images are H×W float32 in cm of soft tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulations.phantoms.anatomy import Anatomy
from simulations.phantoms.geometry import LEFT, BodyGrid, Image, Mask, smoothstep

APEX_X = 4.2
"""cm from the midline to the top of each lung."""
AP_HEART = 1.08
"""Heart magnification on AP films relative to PA: it lies some 10 cm farther from the detector."""


def outer_wall(level: npt.NDArray[np.floating], half_width: npt.NDArray[np.floating] | float) -> Image:
    """cm from the midline to the inner chest wall; `level` is 1 at the lung's apex and 0 at its base."""
    clipped = np.clip(level, 0, 1)
    bell = np.sqrt(1 - clipped * clipped * clipped)
    return np.asarray(APEX_X + (half_width - APEX_X) * bell, np.float32)


@dataclass(frozen=True)
class LungSpace:
    """The lungs' outlines at every pixel; `across` runs from 0 (mediastinum) to 1 (chest wall)."""

    side: Image
    """LEFT or RIGHT."""
    distance: Image
    """cm from the midline of the spine."""
    inner: Image
    outer: Image
    level: Image
    """1 at the apex, 0 at the base."""
    above_dome: Image
    """cm above the diaphragm (negative below)."""
    base: tuple[float, float]
    """y of the costophrenic angles (right, left)."""

    @property
    def across(self) -> Image:
        """Share of the way from the mediastinum to the chest wall."""
        width = np.maximum(self.outer - self.inner, np.float32(0.1))
        return np.asarray((self.distance - self.inner) / width, np.float32)


@dataclass(frozen=True)
class Heart:
    """An ellipse: centre and half axes in cm, tilt in radians."""

    x: float
    y: float
    long: float
    short: float
    tilt: float

    def reach(self, grid: BodyGrid) -> Image:
        """Squared elliptical distance from the centre: below 1 inside."""
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        x, y = grid.x - np.float32(self.x), grid.y - np.float32(self.y)
        along, athwart = (x * cos + y * sin) / self.long, (y * cos - x * sin) / self.short
        return np.asarray(along * along + athwart * athwart, np.float32)


def spine_x(anatomy: Anatomy, y: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """x of the spine's midline at height y."""
    return np.asarray(anatomy.spine_bow * np.cos(y / 7.0))


def lung_space(anatomy: Anatomy, grid: BodyGrid) -> LungSpace:
    """Outlines of both lungs; the two meet at the spine's midline."""
    from_spine = grid.x - spine_x(anatomy, grid.y).astype(np.float32)
    left = from_spine > 0
    breath = grid.positioning.breath

    def pick(pair: tuple[float, float]) -> Image:
        return np.where(left, np.float32(pair[1]), np.float32(pair[0]))

    dome = (anatomy.dome[0] + breath, anatomy.dome[1] + breath)
    base = (dome[0] + anatomy.dome_drop, dome[1] + anatomy.dome_drop)
    distance = np.abs(from_spine)
    top, bottom, half_width = pick(anatomy.apex), pick(base), pick(anatomy.half_width)
    level = (bottom - grid.y) / (bottom - top)
    clipped = np.clip(level, 0, 1)
    square = clipped * clipped
    outer = outer_wall(clipped, half_width)
    # The aortic knob bulges to the left below the apex, the ascending aorta and cava faintly to the right;
    # below it the pulmonary trunk leads over to the heart.
    bulge = pick((0.35, anatomy.knob)) * np.exp(-(((grid.y - np.float32(anatomy.apex[1] + 5.6)) / 1.4) ** 2))
    trunk = pick((0.3, 0.9)) * np.exp(-(((grid.y - np.float32(anatomy.apex[1] + 9.0)) / 1.8) ** 2))
    inner = 2.2 + (APEX_X - 2.2) * np.square(square * square) * square + bulge + trunk
    crest = 0.47 * half_width
    fall = (distance - crest) / (half_width - crest)
    sag = np.where(fall > 0, anatomy.dome_drop * fall**2, 0.9 * fall**2)
    return LungSpace(
        np.where(left, np.float32(LEFT), np.float32(-LEFT)),
        distance,
        inner.astype(np.float32),
        outer,
        level.astype(np.float32),
        (pick(dome) + sag - grid.y).astype(np.float32),
        base,
    )


def lung_depth(anatomy: Anatomy, grid: BodyGrid, lungs: LungSpace) -> Image:
    """Front-to-back path through lung before heart and findings displace it."""
    across = lungs.across
    profile = np.clip(4 * across * (1 - across), 0, 1) ** np.float32(0.38)
    level = np.clip(lungs.level, 0, 1)
    profile *= 1 - 0.45 * level * level * level
    # Turning the patient lengthens the path through one lung and shortens it through the other.
    turned = 1 + 0.9 * grid.positioning.turn * lungs.side
    inside = smoothstep(lungs.above_dome, -0.15, 0.15) * (lungs.level < 1)
    return np.asarray(0.74 * anatomy.depth * profile * turned * inside, np.float32)


def lung_field(lungs: LungSpace) -> Mask:
    """Pixels whose ray passes through lung."""
    across = lungs.across
    return (across > 0) & (across < 1) & (lungs.level < 1) & (lungs.level > 0) & (lungs.above_dome > 0)


def place_heart(anatomy: Anatomy, grid: BodyGrid, enlargement: float) -> Heart:
    """The heart for a cardiothoracic ratio `enlargement` above the patient's healthy one."""
    magnified = AP_HEART if grid.positioning.view == "AP" else 1.0
    width = (anatomy.heart_ratio + enlargement) * magnified * sum(anatomy.half_width)
    flatness = 0.74
    half_extent = np.hypot(np.cos(anatomy.heart_tilt), flatness * np.sin(anatomy.heart_tilt))
    long = width / 2 / float(half_extent)
    short = flatness * long
    half_height = float(np.hypot(long * np.sin(anatomy.heart_tilt), short * np.cos(anatomy.heart_tilt)))
    front = 5.0 * grid.positioning.turn
    return Heart(
        anatomy.heart_offset * width + front,
        anatomy.dome[1] + grid.positioning.breath + 0.4 - 0.66 * half_height,
        long,
        short,
        anatomy.heart_tilt,
    )


def heart_depth(heart: Heart, grid: BodyGrid) -> Image:
    """Path through the heart."""
    return np.asarray(1.6 * heart.short * np.sqrt(np.clip(1 - heart.reach(grid), 0, 1)), np.float32)


def body_depth(anatomy: Anatomy, grid: BodyGrid) -> Image:
    """Path through the whole body as if it were solid: trunk, shoulders, arms, neck."""
    distance = np.abs(grid.x)
    trunk = max(anatomy.half_width) + anatomy.wall
    arms = smoothstep(-grid.y, 1.0, 9.0)
    half = trunk + 9.0 * arms
    thick = anatomy.depth * np.cbrt(np.clip(1 - (distance / half) ** 2, 0, 1))
    thick *= 1 - 0.42 * smoothstep(-grid.y, 6.0, 15.0)
    # From the shoulder the skin rises in a curve (trapezius) into the neck.
    beside = np.maximum(distance - 5.6, 0.01)
    skin = anatomy.shoulder + 0.012 * beside**2 + 0.20 * beside - 2.6 * np.exp(-beside / 1.6)
    thick *= smoothstep(grid.y - skin, 0.0, 4.5)
    neck = 0.58 * anatomy.depth * np.sqrt(np.clip(1 - (distance / 6.2) ** 2, 0, 1))
    return np.asarray(np.hypot(thick**2, (neck * (grid.y < 0)) ** 2) ** 0.5, np.float32)


def superficial(anatomy: Anatomy, grid: BodyGrid, lungs: LungSpace) -> Image:
    """Shadows that both sides show alike: breasts, nipples, haze of the lower zones and the paired shadow."""
    half_width = sum(anatomy.half_width) / 2
    tissue = anatomy.haze * smoothstep(1 - lungs.level, 0.25, 0.95)
    x, y = np.abs(grid.x) / half_width, grid.y
    if anatomy.breast:
        reach = ((x - 0.60) / 0.48) ** 2 + ((y - 5.5) / 6.0) ** 2
        lower = np.where(y > 5.5, 1.0, 0.8).astype(np.float32)
        tissue = tissue + anatomy.breast * lower * np.clip(1 - reach, 0, 1) ** 0.6
    if anatomy.nipples:
        reach = ((x - 0.64) * half_width) ** 2 + (y - 6.2) ** 2
        tissue = tissue + anatomy.nipples * np.exp(-reach / (2 * 0.38**2))
    if anatomy.paired_shadow:
        across, down = anatomy.paired_shadow_place
        reach = ((lungs.across - across) / 0.28) ** 2 + ((1 - lungs.level - down) / 0.13) ** 2
        tissue = tissue + anatomy.paired_shadow * np.exp(-reach / 2)
    return np.asarray(tissue, np.float32)


def abdominal_gas(anatomy: Anatomy, grid: BodyGrid) -> Image:
    """Path through the gas in the stomach, under the left dome."""
    radius = anatomy.gastric_bubble
    if not radius:
        return np.zeros(grid.canvas.shape, np.float32)
    x, y = grid.x - 6.5, grid.y - (anatomy.dome[1] + grid.positioning.breath + 0.8 + 0.8 * radius)
    return np.asarray(5 * np.clip(1 - (x / (1.5 * radius)) ** 2 - (y / radius) ** 2, 0, 1) ** 0.5, np.float32)
