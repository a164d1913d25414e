"""One film file to pixels. Content decides what a file is, never its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acm_core.data.dicom import decode_dicom, read_identifiers
from acm_core.data.gates import check_pixels
from acm_core.data.header import FilmHeader
from acm_core.data.picture import decode_picture
from acm_core.data.quiet import without_warnings
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.data.terms import NOTHING, Accepted

MAX_FILE_BYTES = 256 * 2**20
"""Larger files are set aside unread; an uncompressed radiograph of the largest detectors takes about 35 MB."""

_PICTURES = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"))

_OTHER_KINDS = (
    (b"version https://git-lfs", "Git LFS pointer"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"\x1f\x8b", "gzip archive"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "JPEG 2000 stream"),
    (b"\0\x05\x16\x07", "AppleDouble file"),
)


@dataclass(frozen=True)
class Film:
    """A frontal chest film as a display would show it.

    Attributes:
        pixels: float32 H×W in [0, 1], dense tissue bright (the sense of MONOCHROME2), rows from top to bottom.
        header: what the file says of it; a picture says nothing but what it is.
    """

    pixels: NDArray[np.float32] = field(repr=False)
    header: FilmHeader = field(default_factory=FilmHeader)


def read_film(path: Path) -> Film:
    """Read a DICOM, PNG or JPEG film.

    Raises:
        FilmSetAside: the file cannot be used; `reason` says why. No other exception leaves this function.
    """
    return decode_film(read_content(path))


def read_content(path: Path) -> bytes:
    """The bytes of a film file.

    Raises:
        FilmSetAside: MISSING_FILE, TOO_LARGE, or CANNOT_OPEN where the file system refuses.
    """
    value = None
    try:
        # A named pipe or a device would block for ever: only regular files are opened.
        if not path.is_file():
            reason = SetAside.MISSING_FILE
        elif (size := path.stat().st_size) > MAX_FILE_BYTES:
            reason, value = SetAside.TOO_LARGE, f"{size >> 20} MiB"
        else:
            return path.read_bytes()
    except (OSError, ValueError):
        reason = SetAside.CANNOT_OPEN
    raise FilmSetAside(reason, value)


def decode_film(content: bytes, accepted: Accepted = NOTHING) -> Film:
    """Decode the content of a film file.

    Args:
        accepted: the site's own words for body part, modality and view.

    Raises:
        FilmSetAside: the content cannot be used; `reason` says why. No other exception leaves this function.
    """
    try:
        # Readers warn of every irregular header, and quote it; what matters of it comes out as a reason code.
        with without_warnings():
            return _decode(content, accepted)
    except FilmSetAside as verdict:
        reason, value = verdict.reason, verdict.value
    except Exception:  # a reader may raise anything on a damaged file
        reason, value = SetAside.UNREADABLE, None
    # Raised outside the handlers so that no reader's exception, which may quote the header, hangs on as context.
    raise FilmSetAside(reason, value)


def film_identifiers(content: bytes) -> Mapping[str, str]:
    """What tells the film of a file apart in an archive, see `IDENTIFIERS`; nothing where the file does not say."""
    if not _is_dicom(content):
        return {}
    try:
        with without_warnings():
            return read_identifiers(content)
    except Exception:  # a reader may raise anything on a damaged file
        return {}


def _decode(content: bytes, accepted: Accepted) -> Film:
    picture = next((kind for signature, kind in _PICTURES if content.startswith(signature)), None)
    if picture is not None:
        film = Film(decode_picture(content), FilmHeader(kind=picture))
    elif _is_dicom(content):
        film = Film(*decode_dicom(content, accepted))
    else:
        raise FilmSetAside(SetAside.NOT_AN_IMAGE, _kind(content))
    check_pixels(film.pixels)
    return film


def _is_dicom(content: bytes) -> bool:
    """PS3.10 7.1 asks for a preamble and "DICM"; older devices begin with the first element of group 2 or 8."""
    return content[128:132] == b"DICM" or content[:2] in (b"\x02\x00", b"\x08\x00")


def _kind(content: bytes) -> str | None:
    """What a file that is no film is, for a person who expected one."""
    begin = content[:512].lstrip().lower()
    if not content.strip(b"\0"):
        return "zeros only" if content else "empty file"
    if begin.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "web page or XML"
    return next((kind for signature, kind in _OTHER_KINDS if content.startswith(signature)), None)
