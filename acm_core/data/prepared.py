"""Films decoded and resized once, then kept at the site and read at memory speed."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.data.film import decode_film, read_content
from acm_core.data.set_aside import FilmSetAside
from acm_core.files import write_atomically

_VERSION = 1
"""Raise when the same files give other pixels, so that no stale film is ever read."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PreparedFilms:
    """Films of equal size.

    Attributes:
        images: float16 N×S×S in [0, 1].
        kept: N, the index of each film among the files asked for.
        set_aside: reason code → number of files.
        fingerprint: SHA-256 over what was read and how.
    """

    images: NDArray[np.float16]
    kept: NDArray[np.int64]
    set_aside: dict[str, int]
    fingerprint: str


def prepare_films(
    paths: Sequence[Path], image_size: int, cache: Path, *, progress: Progress | None = None
) -> PreparedFilms:
    """Decode and resize `paths`, or read what an earlier call kept for the same contents and settings.

    A file that cannot be used is set aside and counted. A damaged cache is made anew.

    Args:
        image_size: S; a film's longer side becomes S and the shorter is padded evenly with black.
        cache: folder of the kept films.
        progress: called with (films done, films in all) while decoding.
    """
    fingerprint = _fingerprint(paths, image_size)
    store = cache / f"{fingerprint[:32]}.npz"
    films = _load(store, fingerprint)
    if films is None:
        films = _decode(paths, image_size, fingerprint, progress)
        write_atomically(store, partial(_save, films=films))
    return films


def resize_film(pixels: NDArray[np.float32], image_size: int) -> NDArray[np.float16]:
    """H×W in [0, 1] → S×S: longer side to S by area averaging, the shorter padded evenly with black."""
    from monai.transforms.compose import Compose
    from monai.transforms.croppad.array import ResizeWithPadOrCrop
    from monai.transforms.spatial.array import Resize

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transform = Compose(
            [
                Resize(image_size, size_mode="longest", mode="area"),
                ResizeWithPadOrCrop((image_size, image_size), mode="constant"),
            ]
        )
        resized = np.asarray(transform(pixels[None]))[0]
    film: NDArray[np.float16] = np.clip(resized, 0, 1).astype(np.float16)
    return film


def _decode(
    paths: Sequence[Path], image_size: int, fingerprint: str, progress: Progress | None
) -> PreparedFilms:
    films, kept = [], []
    reasons: Counter[str] = Counter()
    for index, outcome in enumerate(_outcomes(paths, image_size)):
        if isinstance(outcome, FilmSetAside):
            reasons[outcome.reason.value] += 1
        else:
            films.append(outcome)
            kept.append(index)
        if progress is not None:
            progress(index + 1, len(paths))
    images = np.stack(films) if films else np.zeros((0, image_size, image_size), np.float16)
    return PreparedFilms(images, np.array(kept, np.int64), dict(sorted(reasons.items())), fingerprint)


def _outcomes(paths: Sequence[Path], image_size: int) -> Iterator[NDArray[np.float16] | FilmSetAside]:
    """In the order of `paths`; decoders and resizing release the interpreter, so threads share the work."""

    def prepare(path: Path) -> NDArray[np.float16] | FilmSetAside:
        try:
            return resize_film(decode_film(read_content(path)).pixels, image_size)
        except FilmSetAside as verdict:
            return verdict

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(prepare, paths)


def _fingerprint(paths: Sequence[Path], image_size: int) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, image_size, len(paths), torch.__version__]).encode())
    for path in paths:
        try:
            digest.update(hashlib.sha256(read_content(path)).digest())
        except FilmSetAside as verdict:
            digest.update(verdict.reason.value.encode())
    return digest.hexdigest()


def _save(path: Path, films: PreparedFilms) -> None:
    about = json.dumps({"fingerprint": films.fingerprint, "set_aside": films.set_aside})
    with path.open("wb") as file:
        np.savez(file, about=np.array(about), images=films.images, kept=films.kept)


def _load(path: Path, fingerprint: str) -> PreparedFilms | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            films = PreparedFilms(stored["images"], stored["kept"], about["set_aside"], about["fingerprint"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return films if films.fingerprint == fingerprint and len(films.images) == len(films.kept) else None
