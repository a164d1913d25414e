"""Bones and airways: ribs as thin shells that hug the chest, clavicles, shoulder blades, spine, trachea."""

from __future__ import annotations

import numpy as np

from simulations.phantoms.anatomy import Anatomy
from simulations.phantoms.geometry import LEFT, RIGHT, BodyGrid, Image, blurred, smoothstep
from simulations.phantoms.thorax import outer_wall, spine_x

RIBS = 10
BONE = 2.3
"""Attenuation of bone relative to soft tissue at chest energies."""


def ribs(anatomy: Anatomy, grid: BodyGrid) -> Image:
    """Ten pairs of ribs, H×W in cm of soft tissue; each half an inclined ellipse from spine to cartilage."""
    steps = int(32 / grid.canvas.spacing)
    angle = np.linspace(0.14, 2.5, steps)[None, None, :, None]
    offset = np.linspace(-1, 1, 7)[None, None, None, :]
    number = np.arange(RIBS, dtype=float)[None, :, None, None]
    side = np.array([RIGHT, LEFT], float)[:, None, None, None]
    apex = np.array(anatomy.apex)[:, None, None, None]
    base = np.array(anatomy.dome)[:, None, None, None] + anatomy.dome_drop + 3.0
    drop = anatomy.rib_drop * np.minimum(0.35 + 0.25 * number, 1.0)
    start = apex + 0.9 + anatomy.rib_spacing * number
    level = np.clip((base - (start + drop / 2)) / (base - apex), 0, 1)
    width = outer_wall(level, np.array(anatomy.half_width)[:, None, None, None]).astype(float) + 0.25
    half_depth = 0.42 * anatomy.depth * width / max(anatomy.half_width)

    y = start + drop * (1 - np.cos(angle)) / 2 - 0.7 * np.sin(angle) + offset * anatomy.rib_half_height
    front = (1 - np.cos(angle)) / 2
    x = side * width * np.sin(angle) + spine_x(anatomy, y) * (1 - front)
    x = x + 5.0 * grid.positioning.turn * front
    step = 2.36 / steps
    length = step * np.hypot(
        np.hypot(width * np.cos(angle), half_depth * np.sin(angle)), drop / 2 * np.sin(angle)
    )
    fades = np.clip((2.5 - angle) / 0.25, 0, 1)
    cortex = 0.34 * BONE * anatomy.bone * (0.75 + 0.6 * offset**2)
    volume = cortex * length * (2 * anatomy.rib_half_height / 7) * fades
    film = grid.deposit(*np.broadcast_arrays(x, y, volume + 0 * side))
    return np.minimum(blurred(film, 0.08 / grid.canvas.spacing), np.float32(3.2))


def clavicles(anatomy: Anatomy, grid: BodyGrid) -> Image:
    """Both collar bones: an S from the sternum to the shoulder."""
    along = np.linspace(0, 1, int(20 / grid.canvas.spacing))[None, :, None]
    offset = np.linspace(-1, 1, 7)[None, None, :]
    side = np.array([RIGHT, LEFT], float)[:, None, None]
    sternal = anatomy.apex[0] + 3.4
    x = side * (1.7 + 15.0 * along) + 5.0 * grid.positioning.turn * (1 - along)
    y = (
        sternal
        - anatomy.clavicle_rise * along
        - 1.3 * np.sin(2.6 * along)
        + 0.5 * offset * (1.1 - 0.3 * along)
    )
    thickness = 0.95 * BONE * anatomy.bone * np.sqrt(1.05 - offset**2)
    volume = thickness * (15.0 / along.shape[1]) * (0.95 / 7) + 0 * x
    film = grid.deposit(*np.broadcast_arrays(x, y, volume))
    return blurred(film, 0.10 / grid.canvas.spacing)


def shoulder_blades(anatomy: Anatomy, grid: BodyGrid) -> Image:
    """Scapulae: thin plates beside the upper lungs, pulled farther outwards on PA films than on AP films."""
    inner = max(anatomy.half_width) * (0.98 if grid.positioning.view == "PA" else 0.80)
    x, y = np.abs(grid.x) - inner, grid.y - (anatomy.apex[0] + 3.2)
    plate = smoothstep(x - 0.18 * (y - 4.0) - 0.02 * (y - 4.0) ** 2, 0.0, 0.5)
    plate = plate * smoothstep(5.5 - x - 0.30 * y, 0.0, 0.6) * smoothstep(y + 0.10 * x, -0.4, 0.6) * (y < 13)
    head = np.clip(1 - ((np.abs(grid.x) - inner - 7.0) ** 2 + (y - 0.8) ** 2) / 2.6**2, 0, 1) ** 0.5
    return np.asarray(anatomy.bone * (0.9 * plate + 2.2 * head), np.float32)


def spine(anatomy: Anatomy, grid: BodyGrid) -> Image:
    """Vertebral column with its discs."""
    x = np.abs(grid.x - spine_x(anatomy, grid.y).astype(np.float32))
    body = np.clip(1 - (x / 1.9) ** 4, 0, 1)
    discs = 1 - 0.30 * np.exp(-((np.sin(np.pi * grid.y / 2.45) / 0.35) ** 2))
    return np.asarray(
        BONE * anatomy.bone * body * discs * (0.75 + 0.35 * smoothstep(grid.y, -9.0, -2.0)), np.float32
    )


def airways(anatomy: Anatomy, grid: BodyGrid) -> Image:
    """Air in the trachea and the two main bronchi."""
    carina = anatomy.apex[0] + 7.2
    course = 0.3 + 3.0 * grid.positioning.turn
    x = (grid.x - np.float32(course)) / 0.85
    trachea = np.sqrt(np.clip(1 - x * x, 0, 1)) * smoothstep(carina - grid.y, -0.4, 0.6)
    below = np.clip((grid.y - carina) / 2.6, 0, 1)
    branch = (np.abs(grid.x - np.float32(course)) - 1.7 * below) / 0.60
    bronchi = (
        np.sqrt(np.clip(1 - branch * branch, 0, 1)) * (below > 0) * (below < 1) * 0.7 * (1 - 0.5 * below)
    )
    return np.asarray(4.6 * np.maximum(trachea, bronchi), np.float32)
