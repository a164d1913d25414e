"""Films decoded and resized once, then kept at the site and read at memory speed."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.data.film import read_content, read_film
from acm_core.data.quiet import without_warnings
from acm_core.data.set_aside import FilmSetAside
from acm_core.files import write_atomically

with without_warnings():  # MONAI's optional dependencies announce themselves
    from monai.transforms.croppad.array import ResizeWithPadOrCrop
    from monai.transforms.spatial.array import Resize

_VERSION = 1
"""Raise when the same files give other pixels, so that no stale film is ever read."""

_READERS = ("monai", "numpy", "pillow", "pydicom", "pylibjpeg-openjpeg", "python-gdcm", "torch")
"""Packages whose next version may give other pixels."""

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
    films = _load(store, fingerprint, image_size)
    if films is None:
        films = _decode(paths, image_size, fingerprint, progress)
        write_atomically(store, partial(_save, films=films))
    return films


def resize_film(pixels: NDArray[np.float32], image_size: int) -> NDArray[np.float16]:
    """H×W in [0, 1] → S×S: longer side to S by area averaging, the shorter padded evenly with black."""
    # MONAI's own size_mode="longest" lets the short side of a narrow strip vanish.
    rows, columns = (max(1, round(side * image_size / max(pixels.shape))) for side in pixels.shape)
    resized = Resize((rows, columns), mode="area")(torch.from_numpy(pixels)[None])
    padded = ResizeWithPadOrCrop((image_size, image_size), mode="constant")(resized)
    film: NDArray[np.float16] = np.clip(np.asarray(padded)[0], 0, 1).astype(np.float16)
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
            return resize_film(read_film(path).pixels, image_size)
        except FilmSetAside as verdict:
            return verdict

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(prepare, paths)


def _fingerprint(paths: Sequence[Path], image_size: int) -> str:
    made_by = [_VERSION, image_size, len(paths), *map(version, _READERS)]
    digest = hashlib.sha256(json.dumps(made_by).encode())
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


def _load(path: Path, fingerprint: str, image_size: int) -> PreparedFilms | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            films = PreparedFilms(stored["images"], stored["kept"], about["set_aside"], about["fingerprint"])
        whole = films.images.shape == (len(films.kept), image_size, image_size)
    except Exception:  # absent, or damaged, when the readers of zip and npy may raise anything
        return None
    return films if whole and films.fingerprint == fingerprint else None
