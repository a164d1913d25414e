"""Films that are there twice, and persons under several ids."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from acm_core.data.film import decode_film
from acm_core.data.intake.duplicates import Groups, first_of_each, join_by_identity, look_alikes
from acm_core.data.intake.local_contrast import inside_frame
from acm_core.data.intake.signature import signature_of


def alike(films: list[np.ndarray]) -> list[tuple[int, int]]:
    return look_alikes(np.stack([signature_of(film) for film in films]), range(len(films)))


def as_small_jpeg(film: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.rint(film * 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(buffer, "JPEG", quality=60)
    return decode_film(buffer.getvalue()).pixels


def smooth(seed: int) -> np.ndarray:
    """No two of these look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((280, 360), Image.Resampling.BICUBIC), np.float32) / 255


def letterboxed(film: np.ndarray) -> np.ndarray:
    return np.pad(film, ((0, 0), (180, 180)))


def collimated(film: np.ndarray) -> np.ndarray:
    field = np.zeros_like(film)
    field[50:300, 40:220] = film[50:300, 40:220]
    return field


def test_another_encoding_window_curve_crop_and_frame_of_a_film_look_like_it() -> None:
    film, other = smooth(1), smooth(2)
    changed = [
        film,
        other,
        as_small_jpeg(film),
        film**1.4,
        0.2 + 0.5 * film,
        film[4:-4, 3:-3],
        letterboxed(film),
        smooth(3),
    ]
    same = [0, 2, 3, 4, 5, 6]
    assert alike(changed) == [(one, two) for one in same for two in same if one < two]
    assert look_alikes(np.zeros((1, 2, 16, 16), np.int8), []) == []


@pytest.mark.parametrize("framed", [letterboxed, collimated])
def test_films_of_one_frame_look_alike_only_where_their_insides_do(
    framed: Callable[[np.ndarray], np.ndarray],
) -> None:
    films = [framed(smooth(seed)) for seed in range(12)]
    assert alike(films) == []
    assert alike([*films, as_small_jpeg(films[2]), framed(smooth(2))[3:-3, 3:-3]]) == [
        (2, 12),
        (2, 13),
        (12, 13),
    ]


def test_where_the_frame_is_seen_to_end_does_not_matter() -> None:
    """A film that grows dark towards one side has no end there that a window leaves in place."""
    film = smooth(4) * np.linspace(1, 0, 280, dtype=np.float32) ** 3
    darker = np.clip(film * 1.1 - 0.1, 0, 1).astype(np.float32)
    ends = [inside_frame(one)[1].stop for one in (film, darker)]
    assert ends[0] - ends[1] > 15
    assert alike([film, darker, smooth(5)]) == [(0, 1)]


def test_the_mirror_image_is_another_film() -> None:
    assert alike([smooth(1), smooth(1)[:, ::-1].copy()]) == []


def test_a_film_that_shows_nothing_is_like_nothing() -> None:
    assert alike([np.full((200, 200), 0.3, np.float32), np.zeros((90, 80), np.float32)]) == []


def test_among_real_films_only_true_copies_look_alike(real: Path) -> None:
    paths = sorted((real / "sites/NIH_AP/images").glob("*.png"))[:150]
    films = [decode_film(path.read_bytes()).pixels for path in paths]
    copies = [as_small_jpeg(film) for film in films]
    assert alike([*films, *copies]) == [(index, index + 150) for index in range(150)]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), max_size=12))
def test_groups_are_the_connected_components_whatever_the_order(pairs: list[tuple[str, str]]) -> None:
    groups, backwards = Groups(), Groups()
    for one, other in pairs:
        groups.join(one, other)
    for one, other in reversed(pairs):
        backwards.join(other, one)
    reached = {name: {name} for name in "abcdefgh"}
    for _ in range(8):
        for one, other in pairs:
            both = reached[one] | reached[other]
            reached[one] = reached[other] = both
    for name in "abcdefgh":
        assert (
            groups.representative(name)
            == backwards.representative(name)
            == min(member for member in "abcdefgh" if name in reached[member] or member in reached[name])
        )


def test_an_identity_that_everybody_has_is_a_placeholder() -> None:
    groups = Groups()
    films = [("ANON", f"p{number}") for number in range(9)] + [("true", "p1"), ("true", "p2"), (None, "p3")]
    assert join_by_identity(groups, films) == 1
    assert groups.representative("p2") == "p1"
    assert groups.representative("p3") == "p3"


@pytest.mark.parametrize(("keys", "firsts"), [("", []), ("abcab", [0, 1, 2, 0, 1])])
def test_the_first_of_each(keys: str, firsts: list[int]) -> None:
    assert first_of_each(list(keys)) == firsts
