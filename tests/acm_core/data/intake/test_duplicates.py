"""Films that are there twice, and persons under several ids."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from acm_core.data.film import decode_film
from acm_core.data.intake.duplicates import Groups, first_of_each, join_by_identity, look_alikes
from acm_core.data.shrink import shrink


def signature(film: np.ndarray) -> np.ndarray:
    return np.rint(shrink(shrink(film, 64, 64), 32, 32) * 255).astype(np.uint8)


def alike(signatures: list[np.ndarray]) -> list[tuple[int, int]]:
    """Of films without a frame."""
    return look_alikes(np.stack(signatures), np.stack(signatures))


def as_small_jpeg(film: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.rint(film * 255).astype(np.uint8))
    buffer = io.BytesIO()
    image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(buffer, "JPEG", quality=60)
    return decode_film(buffer.getvalue()).pixels


def smooth(seed: int) -> np.ndarray:
    """No two of these look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((140, 180), Image.Resampling.BICUBIC), np.float32) / 255


def test_another_encoding_window_and_curve_of_a_film_look_like_it() -> None:
    film, other = smooth(1), smooth(2)
    changed = [film, other, as_small_jpeg(film), film**1.4, 0.2 + 0.5 * film, smooth(3)]
    pairs = alike([signature(one) for one in changed])
    assert pairs == [(0, 2), (0, 3), (0, 4), (2, 3), (2, 4), (3, 4)]
    assert look_alikes(np.zeros((0, 32, 32), np.uint8), np.zeros((0, 32, 32), np.uint8)) == []


def test_the_mirror_image_is_another_film() -> None:
    assert alike([signature(smooth(1)), signature(smooth(1)[:, ::-1].copy())]) == []


def test_blocks_of_films_are_compared_with_each_other() -> None:
    films = np.random.default_rng(0).integers(0, 256, (1100, 32, 32)).astype(np.uint8)
    films[1050] = films[3]
    films[600] = films[599]
    assert look_alikes(films, films) == [(3, 1050), (599, 600)]


def test_among_real_films_only_true_copies_look_alike(real: Path) -> None:
    paths = sorted((real / "sites/NIH_AP/images").glob("*.png"))[:150]
    films = [decode_film(path.read_bytes()).pixels for path in paths]
    copies = [as_small_jpeg(film) for film in films]
    pairs = alike([signature(film) for film in (*films, *copies)])
    assert pairs == [(index, index + 150) for index in range(150)]


def test_films_of_one_frame_look_alike_only_where_their_insides_are_near() -> None:
    """A frame of black makes all films alike; what is inside tells them apart, in another frame too."""
    inside = [signature(smooth(seed)) for seed in (1, 1, 2)]
    framed = []
    for one in inside:
        film = np.zeros((32, 32), np.uint8)
        film[14:18, 14:18] = one[14:18, 14:18]
        framed.append(film)
    framed[2] = framed[0]
    assert look_alikes(np.stack(framed), np.stack(inside)) == [(0, 1)]
    assert look_alikes(
        np.stack([inside[0], inside[2], framed[0]]), np.stack([inside[0], inside[2], inside[0]])
    ) == [(0, 2)]


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
