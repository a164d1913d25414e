"""Lung vessels: branches that leave the hila, divide and thin towards the chest wall."""

from __future__ import annotations

import numpy as np

from acm_core.randomness import stream
from simulations.phantoms.anatomy import Anatomy
from simulations.phantoms.geometry import LEFT, RIGHT, BodyGrid, Image, blurred

TRUNKS, TWIGS = 15, 4


def vessels(anatomy: Anatomy, grid: BodyGrid) -> Image:
    """Path through the vessels, H×W in cm; the same tree on every film of the patient."""
    rng = stream(anatomy.vessel_seed, "vessels")
    points = np.linspace(0, 1, 80)[None, None, :]
    side = np.array([RIGHT, LEFT], float)[:, None, None]
    hilum_y = np.array([-2.2, -3.2])[:, None, None]  # the left hilum lies higher

    # Angles from straight up (0) over lateral (π/2) to straight down (π), evenly spread with jitter.
    heading = (np.linspace(0.25, 2.85, TRUNKS) + rng.normal(0, 0.09, (2, TRUNKS)))[:, :, None]
    reach = (8.0 + 4.0 * np.abs(np.cos(heading)) + rng.normal(0, 1.0, (2, TRUNKS, 1))).clip(4)
    bend = rng.normal(0, 0.35, (2, TRUNKS, 1))
    course = heading + bend * points
    x = side * (3.2 + np.cumsum(np.sin(course), -1) * reach / 80)
    y = hilum_y - 1.8 * np.cos(heading) - np.cumsum(np.cos(course), -1) * reach / 80
    radius = 0.30 * (1 - points) ** 1.1 + 0.06
    trunks = grid.deposit(*np.broadcast_arrays(x, y, 3.6 * radius**2 * reach / 80))

    parent = rng.integers(8, 55, (2, TRUNKS, TWIGS))
    start_x = np.take_along_axis(x, parent, -1)[..., None]
    start_y = np.take_along_axis(y, parent, -1)[..., None]
    turn = rng.choice([-1.0, 1.0], (2, TRUNKS, TWIGS)) * rng.uniform(0.3, 0.9, (2, TRUNKS, TWIGS))
    angle = (np.take_along_axis(np.broadcast_to(course, x.shape), parent, -1) + turn)[..., None]
    length = rng.uniform(2.0, 6.0, (2, TRUNKS, TWIGS, 1))
    along = np.linspace(0, 1, 30)
    twig_x = start_x + side[..., None] * np.sin(angle) * length * along
    twig_y = start_y - np.cos(angle) * length * along
    thin = 0.13 * (1 - along) + 0.04
    twigs = grid.deposit(*np.broadcast_arrays(twig_x, twig_y, 4.5 * thin**2 * length / 30))

    spacing = grid.canvas.spacing
    film = blurred(trunks, 0.16 / spacing) + blurred(twigs, 0.07 / spacing)
    hila_x, hila_y = np.abs(grid.x) - 3.9, grid.y - np.where(grid.x > 0, np.float32(-3.2), np.float32(-2.2))
    film += 1.1 * np.exp(-(hila_x**2 / (2 * 0.9**2) + hila_y**2 / (2 * 1.7**2)))
    return np.asarray(anatomy.vessels * film, np.float32)
