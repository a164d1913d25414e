"""DICOM files to pixels: bounded parsing, header gates, decoding by pydicom's plugins (gdcm, Pillow, imagecodecs)."""

from __future__ import annotations

import zlib
from io import BytesIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import JPEGExtended12BitDecoder, get_decoder
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGTransferSyntaxes,
    RLELossless,
)

from acm_core.data.code_stream import code_stream_size
from acm_core.data.gates import check_header, words_against_codes
from acm_core.data.geometry import square_pixels, upright
from acm_core.data.grey_levels import displayed_grey
from acm_core.data.header import IDENTIFIERS, FilmHeader, identifiers
from acm_core.data.picture import MAX_PIXELS
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.data.terms import NOTHING, Accepted

MAX_INFLATED_BYTES = 256 * 2**20
_BITS_ALLOCATED = (8, 16, 32)
_OVERSHOOT = 32
"""A lossy film may come out beyond its range by one part in so many of it."""
_MIN_RANGE = 0.1
"""Of [0, 1]: a window or table that shows a film within less was made for other pixels."""
_PIXEL_DATA_TAG = b"\xe0\x7f\x10\x00"

JPEGExtended12BitDecoder.add_plugin("imagecodecs", ("acm_core.data.jpeg12", "decode_frame"))


def decode_dicom(content: bytes, accepted: Accepted = NOTHING) -> tuple[NDArray[np.float32], FilmHeader]:
    """Decode a single-frame grey CR or DX film.

    Args:
        accepted: the site's own words.

    Returns:
        Grey levels float32 H×W in [0, 1], with square pixels and the patient upright, and what else the header says.
        Where Patient Orientation is silent or the usual one, the orientation is that of pydicom's `pixel_array`.

    Raises:
        FilmSetAside: a gate refused the film. Any other exception means that the file is damaged.
    """
    _bound_inflation(content)
    header = pydicom.dcmread(BytesIO(content), force=True)
    # pydicom leaves out an element that breaks off, as if the object had no pixels. An icon has pixels of its own.
    if "PixelData" not in header and content.count(_PIXEL_DATA_TAG) > _icons(header):
        raise FilmSetAside(SetAside.UNREADABLE)
    view = check_header(header, accepted)
    _name_transfer_syntax(header)
    _complete(header)
    _bound_frame(header)
    stored = _stored(header)
    grey = displayed_grey(stored, header)
    if np.ptp(grey) < _MIN_RANGE and np.ptp(stored) > 0:
        raise FilmSetAside(SetAside.CONTRADICTION, "a window that the pixels do not fill")
    facts = FilmHeader.of(header, view, words_against_codes(header, accepted))
    return upright(square_pixels(grey, header), header), facts


def read_identifiers(content: bytes) -> dict[str, str]:
    """What tells a film apart from others in an archive, see `IDENTIFIERS`; of any file, whatever else it is.

    Raises:
        FilmSetAside: it inflates to more than a film. Any other exception means that the file is damaged.
    """
    _bound_inflation(content)
    keywords = list(IDENTIFIERS.values())
    return identifiers(
        pydicom.dcmread(BytesIO(content), force=True, stop_before_pixels=True, specific_tags=keywords)
    )


def _icons(header: Dataset) -> int:
    """Pixel Data within sequences: of a DICOMDIR's records or an Icon Image Sequence (PS3.3 C.7.6.1.1.6)."""
    return sum(element.keyword == "PixelData" for element in header.iterall())


def _bound_inflation(content: bytes) -> None:
    """pydicom inflates a deflated data set whole: try with a limit first."""
    if DeflatedExplicitVRLittleEndian.encode() not in content:
        return
    file = BytesIO(content)
    file.seek(132 if content[128:132] == b"DICM" else 0)  # PS3.10 7.1
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_meta)
    syntax = meta.get("TransferSyntaxUID")
    if syntax is None:
        raise FilmSetAside(SetAside.UNREADABLE)
    if syntax != DeflatedExplicitVRLittleEndian:
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(file.read(), MAX_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise FilmSetAside(SetAside.TOO_LARGE)


def _behind_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != 2


def _name_transfer_syntax(header: Dataset) -> None:
    """A file without meta information (PS3.10 7.1) is in the encoding that its data set could be parsed in."""
    if header.file_meta.get("TransferSyntaxUID"):
        return
    implicit, little = header.original_encoding
    if implicit:
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    else:
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _complete(header: Dataset) -> None:
    """What the header must say of its pixels (PS3.3 C.7.6.3); of two elements the pixels leave no doubt."""
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored"):
        if header.get(keyword) is None:
            raise FilmSetAside(SetAside.INCOMPLETE_HEADER, keyword)
    if header.get("SamplesPerPixel") is None:  # MONOCHROME1 and 2 have one (C.7.6.3.1.2)
        header.SamplesPerPixel = 1
    if header.get("PixelRepresentation") is None:  # no detector's signal is below zero
        header.PixelRepresentation = 0


def _stored(header: Dataset) -> NDArray[np.generic]:
    """The pixels as they are stored, H×W, or a refusal where they are not what the header says."""
    bits = int(header.BitsStored)
    if not 1 <= bits <= header.BitsAllocated:
        raise FilmSetAside(SetAside.CONTRADICTION, f"Bits Stored {bits} of {header.BitsAllocated}")
    # pydicom would clear the bits above Bits Stored, and a film that uses them would come out folded.
    header.pixel_array_options(correct_unused_bits=False)
    stored: NDArray[np.generic] = header.pixel_array
    if stored.shape != (header.Rows, header.Columns):
        raise FilmSetAside(SetAside.CONTRADICTION)
    if stored.dtype.kind not in "iu":
        return stored
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.dtype.kind == "i" else (0, 2**bits - 1)
    least, most = int(stored.min()), int(stored.max())
    if low <= least and most <= high:
        return stored
    shift = int(header.get("HighBit") or 0) + 1 - bits
    if (
        shift > 0 and not np.bitwise_and(stored, 2**shift - 1).any()
    ):  # older editions allowed it (C.7.6.3, retired)
        shifted: NDArray[np.generic] = np.right_shift(stored, shift)
        return shifted
    return _within(stored, bits, low, high)


def _within(stored: NDArray[np.generic], bits: int, low: int, high: int) -> NDArray[np.generic]:
    """Pixels of which some lie outside the stored bits, brought within; a refusal where those are the film's own greys.

    Overlays and padding lie above Bits Stored by right (PS3.5 8.1.1), as do the copies of a sign; lossy compression
    comes out a few greys beyond. The smoother film is the true one: clipped overlays and folded greys both make edges.
    """
    unused = 8 * stored.dtype.itemsize - bits
    used: NDArray[np.generic]
    if stored.dtype.kind == "i":
        used = np.right_shift(np.left_shift(stored, unused), unused)
    else:
        used = np.bitwise_and(stored, 2**bits - 1)
    beyond = (high - low + 1) // _OVERSHOOT
    if low - beyond <= int(stored.min()) and int(stored.max()) <= high + beyond:
        clipped: NDArray[np.generic] = np.clip(stored, low, high)
        if _roughness(clipped) <= _roughness(used):
            return clipped
    if stored.dtype.kind == "u" and _roughness(used) > _roughness(stored):
        raise FilmSetAside(SetAside.CONTRADICTION, f"pixels of more than {bits} bits")
    return used


def _roughness(values: NDArray[np.generic]) -> float:
    """Mean difference between neighbours in rows and columns."""
    values = values.astype(np.float32)
    return sum(float(np.abs(np.diff(values, axis=axis)).sum()) for axis in (0, 1)) / values.size


def _bound_frame(header: Dataset) -> None:
    """Refuse what no decoder reads, what would decode to more than a film, or to another one than the header states."""
    rows, columns = int(header.Rows), int(header.Columns)
    if rows * columns > MAX_PIXELS:
        raise FilmSetAside(SetAside.TOO_LARGE, f"{rows}×{columns}")
    if rows < 1 or columns < 1 or header.BitsAllocated not in _BITS_ALLOCATED:
        raise FilmSetAside(SetAside.UNREADABLE)
    syntax = header.file_meta.TransferSyntaxUID
    if not _is_readable(syntax):
        raise FilmSetAside(
            SetAside.NO_DECODER, syntax if syntax.name == syntax else f"{syntax} {syntax.name}"
        )
    if not syntax.is_encapsulated:
        return
    frame = next(generate_frames(header.PixelData, number_of_frames=1))
    if len(frame) > 2**16 + 2 * rows * columns * header.BitsAllocated // 8:
        raise FilmSetAside(SetAside.UNREADABLE)
    if syntax == RLELossless:
        return
    # A code stream carries its own size, and a decoder allocates what that one says.
    size = code_stream_size(frame)
    if size[:3] != (rows, columns, 1):
        raise FilmSetAside(SetAside.UNREADABLE)
    if size.bits == 8 < header.BitsStored or (size.bits == 8 and header.BitsAllocated == 16):
        # The header is that of the film before it was compressed. gdcm gives a byte a pixel for these two.
        header.BitsStored, header.HighBit = 8, 7
        if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
            header.BitsAllocated = 8
    # gdcm does not refuse such bits: it ends the process.
    fits = header.BitsAllocated == 16 or header.BitsAllocated == header.BitsStored == 8
    if size.bits > header.BitsAllocated or (syntax in JPEGTransferSyntaxes and not fits):
        raise FilmSetAside(SetAside.CONTRADICTION)


def _is_readable(syntax: UID) -> bool:
    """Whether a decoder is there; a vendor's private transfer syntax has none, and nobody knows its byte order."""
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:
        return False
