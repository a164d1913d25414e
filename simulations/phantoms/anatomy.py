"""Who the patient is: the measures of a chest, constant over the patient's films."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Sex = Literal["F", "M"]


@dataclass(frozen=True)
class Anatomy:
    """Measures of one chest in cm unless said otherwise; pairs are (patient's right, patient's left)."""

    half_width: tuple[float, float]
    """Midline to the inner chest wall at the widest level."""
    apex: tuple[float, float]
    """y of the lung's top."""
    dome: tuple[float, float]
    """y of the diaphragm's highest point; the right one is usually higher."""
    dome_drop: float
    """From the dome down to the costophrenic angle."""
    wall: float
    """Chest wall outside the ribs."""
    depth: float
    """Front to back."""
    air: float
    """Share of the lung that is air."""
    haze: float
    """Path of tissue over both lower zones alike: breasts, muscle, shallow breath."""
    breast: float
    """Greatest thickness of the breasts' shadow; 0 for none."""
    shoulder: float
    """y at which the shoulder's slope starts."""
    heart_ratio: float
    """Width of the heart over the width of the chest (cardiothoracic ratio), healthy."""
    heart_offset: float
    """Share of the heart's width by which its centre lies left of the midline."""
    heart_tilt: float
    """Radians by which the heart's axis falls to the left."""
    knob: float
    """Prominence of the aortic knob."""
    spine_bow: float
    """Greatest sideways deviation of the spine."""
    rib_spacing: float
    rib_drop: float
    """How far a rib falls from back to front."""
    rib_half_height: float
    bone: float
    """Density of bone relative to the average patient."""
    clavicle_rise: float
    """From the sternal to the shoulder end."""
    gastric_bubble: float
    """Radius of the gas under the left dome; 0 for none."""
    paired_shadow: float
    """Thickness of a shadow that both lungs show alike at mirrored places; 0 for none."""
    paired_shadow_place: tuple[float, float]
    """Its place in the lung: shares across and down."""
    nipples: float
    """Thickness of the nipples' shadows; 0 for none."""
    vessels: float
    """Prominence of the lung vessels relative to the average patient."""
    vessel_seed: int
    """Names the stream that grows the vessels."""


def draw_anatomy(rng: np.random.Generator, sex: Sex) -> Anatomy:
    """A chest from the population of adults of that sex."""

    def spread(mean: float, deviation: float, limit: float = 2.0) -> float:
        return mean + deviation * float(np.clip(rng.normal(), -limit, limit))

    def sometimes(chance: float, low: float, high: float) -> float:
        present, amount = rng.random() < chance, float(rng.uniform(low, high))
        return amount if present else 0.0

    female = sex == "F"
    half_width = spread(12.7 if female else 13.8, 0.7)
    apex = spread(-11.8, 0.5)
    dome = apex + spread(19.5 if female else 21.0, 1.1)
    dome_difference = spread(1.3, 0.5)
    return Anatomy(
        half_width=(half_width * spread(1, 0.025), half_width * spread(1, 0.025)),
        apex=(apex + spread(0, 0.25), apex + spread(0, 0.25)),
        dome=(dome, dome + dome_difference),
        dome_drop=spread(3.9, 0.6),
        wall=spread(2.4, 0.6),
        depth=spread(20.5, 1.8),
        air=spread(0.70, 0.03),
        haze=abs(spread(0, 1.0)),
        breast=sometimes(0.9, 0.8, 3.0) if female else 0.0,
        shoulder=spread(-15.0, 0.6),
        heart_ratio=spread(0.435, 0.022),
        heart_offset=spread(0.16, 0.025),
        heart_tilt=spread(0.62, 0.09),
        knob=spread(1.1, 0.35),
        spine_bow=spread(0, 0.35),
        rib_spacing=spread(2.15, 0.09),
        rib_drop=spread(8.2, 1.0),
        rib_half_height=spread(0.52, 0.05),
        bone=spread(1.0, 0.15),
        clavicle_rise=spread(1.6, 0.8),
        gastric_bubble=sometimes(0.6, 1.0, 2.8),
        paired_shadow=sometimes(0.5, 0.8, 2.6),
        paired_shadow_place=(float(rng.uniform(0.35, 0.75)), float(rng.uniform(0.2, 0.8))),
        nipples=sometimes(0.35, 0.5, 1.1),
        vessels=spread(1.0, 0.15),
        vessel_seed=int(rng.integers(2**31)),
    )
