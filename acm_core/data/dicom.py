"""DICOM files to pixels: bounded parsing, header gates, decoding through pydicom's plugins (gdcm, openjpeg)."""

from __future__ import annotations

import zlib
from io import BytesIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from acm_core.data.code_stream import code_stream_size
from acm_core.data.gates import check_header, frontal_view
from acm_core.data.grey_levels import displayed_grey
from acm_core.data.picture import MAX_PIXELS
from acm_core.data.set_aside import FilmSetAside, SetAside

MAX_INFLATED_BYTES = 256 * 2**20
_BITS_ALLOCATED = (8, 16, 32)
_PIXEL_DATA_TAG = b"\xe0\x7f\x10\x00"


def decode_dicom(content: bytes) -> tuple[NDArray[np.float32], str | None]:
    """Decode a single-frame grey CR or DX film.

    Returns:
        Grey levels float32 H×W in [0, 1] in the orientation of pydicom's `pixel_array`, and the view, "AP" or "PA",
        where the header gives it.

    Raises:
        FilmSetAside: a gate refused the film. Any other exception means that the file is damaged.
    """
    _bound_inflation(content)
    header = pydicom.dcmread(BytesIO(content), force=True)
    # pydicom leaves out an element that breaks off, as if the object had no pixels.
    if "PixelData" not in header and _PIXEL_DATA_TAG in content:
        raise FilmSetAside(SetAside.UNREADABLE)
    check_header(header)
    _name_transfer_syntax(header)
    _bound_frame(header)
    return displayed_grey(header.pixel_array, header), frontal_view(header)


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
    if "TransferSyntaxUID" in header.file_meta:
        return
    implicit, little = header.original_encoding
    if implicit:
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    else:
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _bound_frame(header: Dataset) -> None:
    """Refuse what would decode to more than a film, or to another size than the header states."""
    rows, columns = int(header.Rows), int(header.Columns)
    if rows * columns > MAX_PIXELS:
        raise FilmSetAside(SetAside.TOO_LARGE)
    if rows < 1 or columns < 1 or header.BitsAllocated not in _BITS_ALLOCATED:
        raise FilmSetAside(SetAside.UNREADABLE)
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    frame = next(generate_frames(header.PixelData, number_of_frames=1))
    if len(frame) > 2**16 + 2 * rows * columns * header.BitsAllocated // 8:
        raise FilmSetAside(SetAside.UNREADABLE)
    # A code stream carries its own size, and a decoder allocates what that one says.
    if syntax != RLELossless and code_stream_size(frame) != (rows, columns, 1):
        raise FilmSetAside(SetAside.UNREADABLE)
