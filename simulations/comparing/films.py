"""Phantom films of two tasks with one contrast: between the two lungs, or within one.

How much air a lung holds is random, film by film. It stands on a scale of steps δ (0 … STEPS, after a random start
within the first step). A film shows two regions that hold as much as each other (label 0) or one step more or less
(label 1). `sides`: the regions are the two lungs. `step`: they are the upper and the lower part of one lung; the other
lung holds whatever it likes.

One region alone says nothing, exactly: a pair is a random end of a random step of the scale together with the same end
again (label 0) or with the step's other end (label 1), so that each region's air has one distribution under both
labels. A label with a direction (right darker than left) cannot be hidden so: the regions' mean air would differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from acm_core.data.shrink import square_film
from acm_core.data.site_films import FilmSet
from acm_core.randomness import stream
from simulations.phantoms import SCANNERS
from simulations.phantoms.anatomy import Anatomy, draw_anatomy
from simulations.phantoms.exposure import expose
from simulations.phantoms.film import draw_film
from simulations.phantoms.geometry import (
    RIGHT,
    BodyGrid,
    Image,
    draw_positioning,
    smoothstep,
)
from simulations.phantoms.thorax import LungSpace, lung_space

Task = Literal["sides", "step"]
GENERATOR = 1
"""Version of what is drawn; raise it when the same numbers give other films."""

TASKS: tuple[Task, ...] = ("sides", "step")

STEPS = 4
"""δ on the scale of a lung's air."""
LEAST_AIR, DELTA = 0.4, 0.2
"""Factors on the air of an average lung: the bottom of the scale, and δ (almost 2 cm in the middle of a lung)."""

_SCANNER = SCANNERS["dx_mono2_16bit_sigmoid"]
_AIR = 0.70  # share of the lung
_EDGE = 0.015  # of the lung's height, over which its parts blend
_CUT = (0.45, 0.55)  # where a lung's parts meet, of its height


@dataclass(frozen=True)
class Chest:
    """What a film shows of the lungs' air, in δ above `LEAST_AIR`.

    Attributes:
        side: of the lung that has two parts; RIGHT or LEFT.
        upper, lower: its air; of `sides` the same.
        other: the other lung's air.
        cut: where the two parts meet, share of the lung's height from its base.
    """

    side: int
    upper: float
    lower: float
    other: float
    cut: float

    def aeration(self, lungs: LungSpace) -> Image:
        """Factor on the lungs' air at each pixel."""
        share = smoothstep(lungs.level, self.cut - _EDGE, self.cut + _EDGE)
        mine = np.float32(self.lower) + np.float32(self.upper - self.lower) * share
        level = np.where(lungs.side == self.side, mine, np.float32(self.other))
        return np.asarray(LEAST_AIR + DELTA * level, np.float32)


@dataclass(frozen=True)
class Compared:
    """Films of one task.

    Attributes:
        films: labels N×1.
        pasted: the same films with another healthy lung on one side, of another patient and with one step more or less
            air. Of `sides` that turns the label into its opposite; of `step` it is the lung without the step, and the
            label stays.
        chests: N.
    """

    films: FilmSet = field(repr=False)
    pasted: FilmSet = field(repr=False)
    chests: tuple[Chest, ...] = field(repr=False)


def compared_films(task: Task, count: int, image_size: int, seed: int, split: str) -> Compared:
    """Films of `count` patients, the first n of which are those that n alone would give; half have label 1.

    Args:
        task: see the module.
        image_size: S.
        seed, split: name the patients.
    """
    images, pasted, labels, pasted_labels, chests = [], [], [], [], []
    for number in range(count):
        rng = stream(seed, "comparing", task, split, number)
        label = number % 2
        chest = _draw_chest(rng, task, differ=bool(label))
        side, other = _pasted(rng, task, chest)
        film, film_pasted = _draw(rng, chest, side, other, image_size)
        images.append(film)
        pasted.append(film_pasted)
        labels.append(label)
        pasted_labels.append(1 - label if task == "sides" else label)
        chests.append(chest)
    patients = np.arange(count)
    return Compared(
        FilmSet(np.stack(images), _column(labels), patients),
        FilmSet(np.stack(pasted), _column(pasted_labels), patients),
        tuple(chests),
    )


def _draw_chest(rng: np.random.Generator, task: Task, *, differ: bool) -> Chest:
    side, start, cut = RIGHT, float(rng.uniform()), float(rng.uniform(*_CUT))
    one, two = (start + end for end in pair(int(rng.integers(STEPS)), int(rng.integers(2)), differ=differ))
    if task == "sides":
        return Chest(side, one, one, two, cut)
    elsewhere, _ = pair(int(rng.integers(STEPS)), int(rng.integers(2)), differ=False)
    return Chest(side, one, two, float(rng.uniform()) + elsewhere, cut)


def pair(step: int, end: int, *, differ: bool) -> tuple[int, int]:
    """An end (0 or 1) of a step of the scale, and the same end again or the step's other end."""
    return step + end, step + (1 - end if differ else end)


def _pasted(rng: np.random.Generator, task: Task, chest: Chest) -> tuple[int, Chest]:
    """The side that gets another lung, and a chest with that lung there."""
    up = chest.other + 1 if int(rng.integers(2)) else chest.other - 1
    if not 0 <= up <= STEPS + 1:
        up = 2 * chest.other - up
    if task == "sides":
        up = chest.upper if chest.other != chest.upper else up
    return -chest.side, replace(chest, other=up)


def _draw(
    rng: np.random.Generator, chest: Chest, side: int, other: Chest, image_size: int
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """The film, and the same film with the lung of `side` from the film of another patient."""
    anatomy = _plain(draw_anatomy(rng, "F" if rng.random() < 0.5 else "M"))
    # A turned chest darkens one lung by itself.
    positioning = replace(draw_positioning(rng, "PA"), turn=0.0)
    canvas = _SCANNER.canvas(image_size)
    textures, shot = rng.spawn(2), rng.spawn(1)[0]
    drawn = draw_film(anatomy, positioning, (), canvas, textures[0], chest.aeration).image
    stranger = replace(anatomy, vessel_seed=int(rng.integers(2**31)))
    donor = draw_film(stranger, positioning, (), canvas, textures[1], other.aeration).image
    grid = BodyGrid.of(canvas, positioning)
    mixed = np.where(lung_space(anatomy, grid).side == side, donor, drawn)
    again = np.random.Generator(type(shot.bit_generator)())
    again.bit_generator.state = shot.bit_generator.state
    return (
        square_film(expose(drawn, _SCANNER, shot).image, image_size),
        square_film(expose(mixed, _SCANNER, again).image, image_size),
    )


def _plain(anatomy: Anatomy) -> Anatomy:
    """Of average air, which the scale multiplies, and without shadows that both lungs show alike.

    To see past such shadows is to compare the sides as well.
    """
    return replace(anatomy, air=_AIR, haze=0.0, breast=0.0, nipples=0.0, paired_shadow=0.0)


def _column(values: list[int]) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None]
