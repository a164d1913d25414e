"""Prepared films: what is kept is what was added, for every process, and never damaged."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.data import prepared
from acm_core.data.prepared import PreparedFilms

SIZE = 16


def film(number: int) -> np.ndarray:
    return np.random.default_rng(number).random((SIZE, SIZE)).astype(np.float16)


def content(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def add(folder: Path, numbers: list[int]) -> None:
    with PreparedFilms(folder, SIZE).adder() as adder:
        for number in numbers:
            adder.add(content(number), film(number))


def test_films_come_back_in_the_order_asked_for(tmp_path: Path) -> None:
    add(tmp_path, [1, 2, 3])
    films = PreparedFilms(tmp_path, SIZE)
    assert content(2) in films
    assert content(9) not in films
    stack = films.stack([content(3), content(1), content(3)])
    np.testing.assert_array_equal(np.asarray(stack), np.stack([film(3), film(1), film(3)]))
    np.testing.assert_array_equal(stack[np.array([2, 1])], np.stack([film(3), film(1)]))
    assert stack.shape == (3, SIZE, SIZE)
    with pytest.raises(KeyError):
        films.stack([content(9)])


def test_no_films_at_all(tmp_path: Path) -> None:
    stack = PreparedFilms(tmp_path, SIZE).stack([])
    assert np.asarray(stack).shape == (0, SIZE, SIZE)
    assert stack[np.arange(0)].shape == (0, SIZE, SIZE)


def test_a_stack_travels_as_a_name(tmp_path: Path) -> None:
    add(tmp_path, list(range(40)))
    stack = PreparedFilms(tmp_path, SIZE).stack([content(number) for number in range(40)])
    travelling = pickle.dumps(stack)
    assert len(travelling) < film(0).nbytes * 4
    np.testing.assert_array_equal(np.asarray(pickle.loads(travelling)), np.asarray(stack))  # noqa: S301


def test_films_added_by_others_are_found_on_refresh(tmp_path: Path) -> None:
    films = PreparedFilms(tmp_path, SIZE)
    add(tmp_path, [1])
    assert content(1) not in films
    films.refresh()
    assert content(1) in films


@pytest.mark.parametrize("what", ["size", "code", "readers"])
def test_another_way_of_making_them_finds_none(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, [1])
    if what == "code":
        monkeypatch.setattr(prepared, "_VERSION", -1)
    elif what == "readers":
        monkeypatch.setattr(prepared, "readers_version", lambda: "another")
    assert content(1) not in PreparedFilms(tmp_path, SIZE * 2 if what == "size" else SIZE)


@settings(max_examples=60, deadline=None)
@given(
    place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), kept=st.sampled_from([1.0, 0.9, 0.5, 0.1])
)
def test_a_damaged_entry_is_not_there_and_can_be_added_again(
    tmp_path_factory: pytest.TempPathFactory, place: float, bit: int, kept: float
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    add(folder, [0, 1, 2])
    path = PreparedFilms(folder, SIZE).path
    broken = bytearray(path.read_bytes())
    hit = int(place * len(broken))
    broken[hit] ^= 1 << bit
    path.write_bytes(broken[: int(kept * len(broken))])
    films = PreparedFilms(folder, SIZE)
    there = [number for number in range(3) if content(number) in films]
    assert hit // (len(broken) // 3) not in there
    np.testing.assert_array_equal(
        np.asarray(films.stack([content(number) for number in there])),
        np.array([film(number) for number in there], np.float16).reshape(-1, SIZE, SIZE),
    )
    add(folder, [0, 1, 2])
    again = PreparedFilms(folder, SIZE).stack([content(number) for number in range(3)])
    np.testing.assert_array_equal(np.asarray(again), np.stack([film(number) for number in range(3)]))


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    PreparedFilms(tmp_path, SIZE)
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=add, args=(tmp_path, list(range(start, start + 60)))) for start in (0, 30, 100)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    numbers = [*range(90), *range(100, 160)]
    stack = PreparedFilms(tmp_path, SIZE).stack([content(number) for number in numbers])
    np.testing.assert_array_equal(np.asarray(stack), np.stack([film(number) for number in numbers]))
