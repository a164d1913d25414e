"""Processes that read films: a bad file costs itself and nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom.uid import JPEG2000Lossless

from acm_core.data.intake.readers import Answer, read_files
from acm_core.data.intake.reading import Reading
from acm_core.data.set_aside import SetAside
from acm_core.data.source.folder import FolderSource

SALT = bytes(32)


@pytest.fixture(scope="module")
def slow(dicom: Callable[..., bytes]) -> bytes:
    """A film that takes seconds to decode."""
    noise = np.random.default_rng(0).integers(0, 2**16, (3000, 2500)).astype(np.uint16)
    return dicom(noise, syntax=JPEG2000Lossless)


@pytest.fixture
def films(tmp_path: Path, dicom: Callable[..., bytes], ramp: np.ndarray, slow: bytes) -> list[Path]:
    """A film, a text, a film that is not there, a slow film, a film."""
    paths = [tmp_path / name for name in ("a.dcm", "b.txt", "absent.dcm", "slow.dcm", "z.dcm")]
    paths[0].write_bytes(dicom(ramp))
    paths[1].write_text("no film")
    paths[3].write_bytes(slow)
    paths[4].write_bytes(dicom(ramp[::-1].copy()))
    return paths


def outcomes(paths: list[Path], **how: object) -> dict[str, SetAside | None]:
    answers = read(paths, None, **{"workers": 2, **how})
    return {paths[answer.index].name: answer.reading.reason for answer in answers}


def read(paths: list[Path], image_size: int | None, **how: object) -> Iterator[Answer]:
    source = FolderSource(paths[0].parent if paths else Path())
    return read_files(source, [path.name for path in paths], SALT, image_size, **how)  # type: ignore[arg-type]


EXPECTED = {
    "a.dcm": None,
    "b.txt": SetAside.NOT_AN_IMAGE,
    "absent.dcm": SetAside.MISSING_FILE,
    "slow.dcm": None,
    "z.dcm": None,
}


def test_every_file_is_answered(films: list[Path]) -> None:
    assert outcomes(films) == EXPECTED
    assert outcomes([]) == {}


def test_films_are_prepared_when_asked(films: list[Path]) -> None:
    answers = {answer.index: answer for answer in read(films, 24, workers=1)}
    assert answers[1].film is None
    film = answers[0].film
    assert film is not None
    assert film.shape == (24, 24)
    assert film.dtype == np.float16


def test_a_slow_file_is_set_aside_and_the_others_are_read(films: list[Path]) -> None:
    assert outcomes(films, seconds=1.0) == EXPECTED | {"slow.dcm": SetAside.TOO_SLOW}
    assert outcomes(films) == EXPECTED


def workers() -> list[psutil.Process]:
    """The readers' processes, and no other child of this one, such as multiprocessing's resource tracker."""
    found = []
    for child in psutil.Process(os.getpid()).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "acm_core.data.intake.worker" in child.cmdline():
                found.append(child)
    return found


def test_a_reader_that_dies_takes_one_file_with_it(
    films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as a fault in a decoder would kill it; the file is tried once more in case it was not the file."""
    from acm_core.data.intake import readers

    monkeypatch.setattr(readers, "_idle", [])  # not those of other tests
    assert outcomes(films[:1], workers=1) == {"a.dcm": None}
    (reader,) = readers._idle
    started = psutil.Process(reader._process.pid)
    start = started.cpu_times().user  # seconds of the processor, however busy the machine is
    done = threading.Event()

    def kill_who_works() -> None:
        """The slow film takes some five times what a worker's start takes."""
        while not done.wait(0.05):
            for worker in workers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if worker.cpu_times().user > 2.5 * start:
                        worker.send_signal(signal.SIGSEGV)

    killer = threading.Thread(target=kill_who_works)
    killer.start()
    try:
        found = outcomes(films, workers=1)
    finally:
        done.set()
        killer.join()
    assert found == EXPECTED | {"slow.dcm": SetAside.READER_CRASHED}
    readers._end_workers()


def test_a_worker_that_died_while_idle_is_no_verdict_on_a_film(films: list[Path]) -> None:
    outcomes(films[:2])
    for worker in workers():
        worker.kill()
    assert outcomes(films[:2]) == {"a.dcm": None, "b.txt": SetAside.NOT_AN_IMAGE}


def test_memory_is_bounded(films: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from acm_core.data.intake import readers

    monkeypatch.setattr(readers, "_idle", [])
    monkeypatch.setattr(readers, "MEMORY_A_FILE", 40 * 2**20)
    found = outcomes(films)
    assert found["a.dcm"] is None
    assert found["slow.dcm"] in (SetAside.UNREADABLE, SetAside.READER_CRASHED)
    readers._end_workers()


def test_a_reading_survives_its_text_and_names_nobody(films: list[Path]) -> None:
    (answer,) = read(films[:1], None, workers=1)
    reading = answer.reading
    assert Reading.from_json(reading.to_json()) == reading
    assert reading.view == "PA"
    text = reading.to_json()
    assert not any(secret in text for secret in ("Geheim", "GEHEIM", "47119", "1947", "Klinikum"))
    assert reading.patient is not None
    assert "PatientName" in reading.identifying
