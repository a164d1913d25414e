"""Films are decoded once, and what is kept is never stale and never damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from acm_core.data import prepared
from acm_core.data.prepared import PreparedFilms, prepare_films, resize_film

SIZE = 32


class Calls:
    """Counts what is decoded."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.calls.append((done, total))


@pytest.fixture
def folder(tmp_path: Path, dicom: Callable[..., bytes], ramp: np.ndarray) -> Path:
    """Two films, a lateral, a report, and the name of a film that is not there."""
    films = tmp_path / "films"
    films.mkdir()
    (films / "a.dcm").write_bytes(dicom(ramp))
    (films / "lateral.dcm").write_bytes(dicom(ramp, ViewPosition="LL"))
    (films / "report.dcm").write_bytes(b"no film at all")
    Image.fromarray((ramp // 16).astype(np.uint8).T).save(films / "b.png")
    return films


def paths(folder: Path) -> list[Path]:
    return [
        folder / name for name in ("a.dcm", "lateral.dcm", "absent.dcm", "report.dcm", "lateral.dcm", "b.png")
    ]


def prepare(folder: Path, calls: Calls | None = None, size: int = SIZE) -> PreparedFilms:
    return prepare_films(paths(folder), size, folder.parent / "cache", progress=calls)


def same(one: PreparedFilms, other: PreparedFilms) -> bool:
    return (
        np.array_equal(one.images, other.images)
        and np.array_equal(one.kept, other.kept)
        and one.images.dtype == other.images.dtype == np.float16
        and (one.set_aside, one.fingerprint) == (other.set_aside, other.fingerprint)
    )


def test_usable_films_are_kept_in_order_and_others_counted_by_reason(folder: Path) -> None:
    calls = Calls()
    films = prepare(folder, calls)
    assert films.images.shape == (2, SIZE, SIZE)
    assert films.kept.tolist() == [0, 5]
    assert films.set_aside == {"missing_file": 1, "not_an_image": 1, "not_frontal": 2}
    assert calls.calls == [(done, 6) for done in range(1, 7)]


def test_a_second_call_decodes_nothing(folder: Path) -> None:
    first = prepare(folder)
    calls = Calls()
    assert same(prepare(folder, calls), first)
    assert calls.calls == []


@pytest.mark.parametrize("change", ["content", "a film more", "order", "size"])
def test_whatever_changes_the_films_is_decoded_anew(folder: Path, change: str, ramp: np.ndarray) -> None:
    first = prepare(folder)
    calls = Calls()
    asked = paths(folder)
    if change == "content":
        Image.fromarray((ramp // 20).astype(np.uint8).T).save(folder / "b.png")
    elif change == "a film more":
        shutil.copy(folder / "a.dcm", folder / "absent.dcm")
    elif change == "order":
        asked.reverse()
    size = 40 if change == "size" else SIZE
    again = prepare_films(asked, size, folder.parent / "cache", progress=calls)
    assert again.fingerprint != first.fingerprint
    assert len(calls.calls) == 6
    assert len(again.images) == (3 if change == "a film more" else 2)
    assert not same(again, first)


def test_another_version_of_a_reader_decodes_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(folder)
    monkeypatch.setattr(prepared, "version", lambda name: "99")
    calls = Calls()
    assert prepare(folder, calls).fingerprint != first.fingerprint
    assert len(calls.calls) == 6


def test_a_damaged_cache_is_made_anew(folder: Path) -> None:
    cache = folder.parent / "cache"
    first = prepare_films([folder / "b.png"], SIZE, cache)
    (store,) = cache.glob("*.npz")
    whole = store.read_bytes()

    def read_damaged(content: bytes | bytearray) -> bool:
        store.write_bytes(content)
        return same(prepare_films([folder / "b.png"], SIZE, cache), first)

    @settings(max_examples=40, deadline=None)
    @given(
        place=st.floats(0, 1, exclude_max=True),
        bit=st.integers(0, 7),
        kept=st.sampled_from([1.0, 1.0, 0.5, 0.0]),
    )
    def damage(place: float, bit: int, kept: float) -> None:
        broken = bytearray(whole)
        broken[int(place * len(broken))] ^= 1 << bit
        assert read_damaged(broken[: int(kept * len(broken))])

    damage()
    # Where the zip describes itself and its first entry: every byte.
    for place in (*range(34), *range(len(whole) - 22, len(whole))):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        assert read_damaged(broken), place
    assert read_damaged(np.lib.format.MAGIC_PREFIX + bytes(20))


def test_the_store_of_other_films_is_not_taken(folder: Path) -> None:
    cache = folder.parent / "cache"
    prepare(folder)
    (store,) = cache.glob("*.npz")
    backwards = prepare_films(paths(folder)[::-1], SIZE, cache)
    (other_store,) = set(cache.glob("*.npz")) - {store}
    shutil.copy(store, other_store)
    assert same(prepare_films(paths(folder)[::-1], SIZE, cache), backwards)


def test_no_films_at_all(tmp_path: Path) -> None:
    films = prepare_films([], SIZE, tmp_path)
    assert films.images.shape == (0, SIZE, SIZE)
    assert films.set_aside == {}
    assert same(prepare_films([], SIZE, tmp_path), films)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 90), columns=st.integers(1, 90))
def test_a_film_keeps_its_shape_amid_black(rows: int, columns: int) -> None:
    film = resize_film(np.ones((rows, columns), np.float32), SIZE)
    assert film.shape == (SIZE, SIZE)
    longest = max(rows, columns)
    high, wide = (max(1, round(side * SIZE / longest)) for side in (rows, columns))
    down, across = np.flatnonzero(film.any(axis=1)), np.flatnonzero(film.any(axis=0))
    assert (len(down), len(across)) == (high, wide)
    assert film.sum(dtype=np.float64) == high * wide
    assert abs(down[0] - (SIZE - 1 - down[-1])) <= 1
    assert abs(across[0] - (SIZE - 1 - across[-1])) <= 1


@pytest.mark.parametrize("shape", [(3000, 2), (2, 3000)])
def test_a_strip_does_not_vanish(shape: tuple[int, int]) -> None:
    assert resize_film(np.ones(shape, np.float32), SIZE).sum() == SIZE


def test_resizing_averages_and_keeps_the_orientation() -> None:
    """By blocks of 3: the exact mean of each, no ringing, top left stays top left."""
    film = np.random.default_rng(1).random((96, 72), np.float32)
    film[:10, :5] = 1
    means = film.reshape(32, 3, 24, 3).mean((1, 3))
    resized = resize_film(film, SIZE)
    assert np.abs(resized[:, 4:28] - means).max() < 1e-3
    assert not resized[:, :4].any()
    assert not resized[:, 28:].any()
