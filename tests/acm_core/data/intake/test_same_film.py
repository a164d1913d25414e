"""A pair is proved by what is in the films: by ribs and vessels, not by their frame or the chest as a whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hospitals import site
from PIL import Image
from scipy.ndimage import gaussian_filter

from acm_core.data.film import decode_film
from acm_core.data.intake.intake import take_in
from acm_core.data.intake.local_contrast import inside_frame
from acm_core.data.intake.same_film import PROVED, similarity
from acm_core.data.set_aside import SetAside
from acm_core.data.shrink import square_film

Change = Callable[[np.ndarray], np.ndarray]


def chest(seed: int, side: int = 320) -> np.ndarray:
    """Alike in the large, different in the small, as chests are."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    large = 0.75 - 0.5 * sum(
        np.exp(-(((columns - 0.5 - 0.2 * one) / 0.15) ** 2) - ((rows - 0.45) / 0.3) ** 2) for one in (-1, 1)
    )
    small = sum(gaussian_filter(rng.normal(0, 1, (side, side)), sigma) * sigma for sigma in (2, 5, 9))
    return np.clip(large + 0.12 * small, 0, 1).astype(np.float32)


def as_jpeg(film: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    image = Image.fromarray(np.rint(film * 255).astype(np.uint8))
    image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(buffer, "JPEG", quality=60)
    return decode_film(buffer.getvalue()).pixels


def letterboxed(film: np.ndarray) -> np.ndarray:
    wide = np.zeros((len(film), len(film) * 16 // 9), np.float32)
    left = (wide.shape[1] - film.shape[1]) // 2
    wide[:, left : left + film.shape[1]] = film
    return wide


def collimated(film: np.ndarray) -> np.ndarray:
    field = np.zeros_like(film)
    field[60:250, 70:260] = film[60:250, 70:260]
    return field


CHANGES: dict[str, Change] = {
    "the same": lambda film: film,
    "jpeg": as_jpeg,
    "cropped by 2 %": lambda film: film[6:-6, 6:-6],
    "tone curve": lambda film: film**1.4,
    "window": lambda film: np.clip((film - 0.05) / 0.85, 0, 1),
    "letterbox": letterboxed,
}
FRAMES: dict[str, Change] = {
    "no frame": lambda film: film,
    "letterbox": letterboxed,
    "collimated": collimated,
}


def seen(film: np.ndarray) -> np.ndarray:
    return square_film(film, 512)


@pytest.mark.parametrize("change", CHANGES)
def test_a_film_is_itself_however_it_was_exported(change: str) -> None:
    for seed in range(3):
        film = chest(seed)
        assert similarity(seen(film), seen(CHANGES[change](film))) > PROVED


@pytest.mark.parametrize("frame", FRAMES)
def test_another_persons_film_is_not(frame: str) -> None:
    films = [seen(FRAMES[frame](chest(seed))) for seed in range(8)]
    assert max(similarity(one, other) for one in films for other in films if one is not other) < 0.7


def test_what_shows_nothing_is_like_nothing() -> None:
    even = np.full((512, 512), 0.5, np.float16)
    assert similarity(even, even) == 0
    film = seen(chest(1))
    assert similarity(even, film) == 0


def test_pieces_that_lie_now_here_now_there_are_no_proof() -> None:
    """Each piece is in both films, but no crop takes all to where they are."""
    film = chest(1, 192)
    moved, shifted = film.copy(), np.roll(film, (3, -4), (0, 1))
    shifts = np.random.default_rng(0).integers(-6, 7, (36, 2))
    for number, shift in enumerate(shifts):
        top, left = 32 * (number // 6), 32 * (number % 6)
        piece = np.s_[top : top + 32, left : left + 32]
        moved[piece] = np.roll(film, shift, (0, 1))[piece]
    assert similarity(film, shifted) > 0.9
    assert similarity(film, moved) < 0.5


def test_the_frame_is_what_is_one_grey_at_the_sides() -> None:
    film = chest(3)
    assert np.array_equal(letterboxed(film)[inside_frame(letterboxed(film))], film)
    assert inside_frame(collimated(film)) == (slice(60, 250), slice(70, 260))
    white = np.pad(film, ((5, 20), (0, 7)), constant_values=1)
    assert np.array_equal(white[inside_frame(white)], film)
    assert inside_frame(np.zeros((40, 40), np.float32)) == (slice(0, 40), slice(0, 40))


@pytest.mark.parametrize("frame", FRAMES)
def test_a_site_keeps_its_persons_apart_and_finds_its_copies(tmp_path: Path, frame: str) -> None:
    (tmp_path / "films").mkdir()
    rows = ["patient_id,image,Pneumonia"]
    for seed in range(12):
        film = Image.fromarray(np.rint(FRAMES[frame](chest(seed)) * 255).astype(np.uint8))
        film.save(tmp_path / f"films/{seed:02}.png")
        rows.append(f"p{seed},{seed:02}.png,{seed % 2}")
        if seed < 3:
            film.save(tmp_path / f"films/copy{seed}.jpg", quality=75)
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    taken = take_in(
        site(
            tmp_path, "A", films=tmp_path / "films", labels=tmp_path / "labels.csv", state=tmp_path / "state"
        ),
        workers=1,
    )
    reasons = {taken.names[row.film]: row.reason for row in taken.rows}
    assert {name for name, reason in reasons.items() if reason is SetAside.NEAR_DUPLICATE} == {
        f"copy{seed}.jpg" for seed in range(3)
    }
    assert len({row.patient for row in taken.rows if row.listed}) == 12
    assert taken.shared == taken.linked == 0
