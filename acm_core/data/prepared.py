"""Films decoded and resized once, kept in one file that every process reads through the same memory."""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from acm_core.data.readers_version import readers_version

_VERSION = 2
"""Raise when the same film is resized to other pixels."""


class PreparedFilms:
    """Prepared films of one size: a file of entries, appended to and never changed.

    An entry is the SHA-256 of a film file's content, a checksum and the film, float16 S×S in [0, 1]. The file's name
    holds what it was made by: size, version of this code and of the decoders; so no stale film is ever found. An entry
    that is cut off or damaged is as if it were not there.

    Args:
        folder: of the cache; created where it is missing.
        image_size: S.
    """

    def __init__(self, folder: Path, image_size: int) -> None:
        made_by = f"{_VERSION} {image_size} {readers_version()}"
        self.path = folder / f"films-{image_size}-{hashlib.sha256(made_by.encode()).hexdigest()[:16]}.bin"
        self._entry = _entry(image_size)
        folder.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        self._places: dict[bytes, int] = {}
        self._known = 0
        self.refresh()

    def refresh(self) -> None:
        """Find what any process has added since."""
        count = self.path.stat().st_size // self._entry.itemsize
        if count == self._known:
            return
        entries = np.memmap(self.path, self._entry, "r", shape=(count,))
        for place in np.flatnonzero(_sound(entries[self._known :])) + self._known:
            self._places[entries["content"][place].tobytes()] = int(place)
        self._known = count

    def __contains__(self, content: object) -> bool:
        return isinstance(content, str) and bytes.fromhex(content) in self._places

    def stack(self, contents: Sequence[str]) -> FilmStack:
        """The films of these contents, in this order.

        Raises:
            KeyError: one is not there.
        """
        places = np.array([self._places[bytes.fromhex(content)] for content in contents], np.int64)
        return FilmStack(self.path, int(self._entry["film"].shape[0]), places)

    def adder(self) -> Adder:
        """For adding films; several processes may at once."""
        return Adder(self.path, self._entry)


class Adder:
    """Appends films to the file; what was added before a crash stays."""

    def __init__(self, path: Path, entry: np.dtype[Any]) -> None:
        self._entry = entry
        self._file = os.open(path, os.O_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file)
        os.close(self._file)

    def add(self, content: str, film: NDArray[np.float16]) -> None:
        """Append one film."""
        entry = np.zeros((), self._entry)
        entry["content"] = np.frombuffer(bytes.fromhex(content), np.uint8)
        entry["film"] = film
        entry["checksum"] = _checksum(entry)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            # Behind the last whole entry: a writer that was killed may have left a part of one.
            end = os.fstat(self._file).st_size // self._entry.itemsize * self._entry.itemsize
            data = entry.tobytes()
            try:
                _write(self._file, data, end)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._file, end)
                raise
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class FilmStack:
    """Films N×S×S, float16, read from a file when asked for; every process that has it shares one copy in memory.

    Indexing by rows gives arrays; `numpy.asarray` reads them all. It pickles as a name, not as pixels.
    """

    def __init__(self, path: Path, image_size: int, places: NDArray[np.int64]) -> None:
        self._path, self._image_size, self._places = path, image_size, places
        self.shape = (len(places), image_size, image_size)
        if len(places):
            entries = np.memmap(path, _entry(image_size), "r", shape=(int(places.max()) + 1,))
            self._films: NDArray[np.float16] = entries["film"]
        else:
            self._films = np.zeros((0, image_size, image_size), np.float16)

    def __reduce__(self) -> tuple[type[Self], tuple[Path, int, NDArray[np.int64]]]:
        return type(self), (self._path, self._image_size, self._places)

    def __len__(self) -> int:
        return len(self._places)

    def digest(self) -> str:
        """SHA-256, in hex, of which films these are, in this order, and of how they were prepared."""
        digest = hashlib.sha256(self._path.name.encode())
        if len(self._places):
            entries = np.memmap(
                self._path, _entry(self._image_size), "r", shape=(int(self._places.max()) + 1,)
            )
            digest.update(entries["content"][self._places].tobytes())
        return digest.hexdigest()

    def __getitem__(self, rows: Any) -> NDArray[np.float16]:
        return np.asarray(self._films[self._places[rows]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("expected copy=None or True: the films lie in a file, not in one array")
        return np.asarray(self[:], dtype)


def _entry(image_size: int) -> np.dtype[Any]:
    return np.dtype(
        [("content", np.uint8, (32,)), ("checksum", "<u4"), ("film", np.float16, (image_size, image_size))]
    )


def _checksum(entry: NDArray[Any]) -> int:
    return zlib.crc32(entry["film"].tobytes(), zlib.crc32(entry["content"].tobytes()))


def _sound(entries: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each entry's checksum fits; threads share the work, since reading the file is most of it."""

    def check(bounds: tuple[int, int]) -> list[bool]:
        return [_checksum(entry) == entry["checksum"] for entry in entries[slice(*bounds)]]

    return np.array([fits for part in _in_parts(check, len(entries)) for fits in part], dtype=bool)


def _in_parts(work: Any, count: int) -> Iterable[list[bool]]:
    step = 256
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(work, [(start, min(start + step, count)) for start in range(0, count, step)])


def _write(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
