"""DICOM files written for one test each."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

HEADER: dict[str, Any] = {
    "SOPClassUID": ComputedRadiographyImageStorage,
    "SOPInstanceUID": "1.2.3.47119",
    "Modality": "CR",
    "BodyPartExamined": "CHEST",
    "ViewPosition": "PA",
    "PatientName": "Geheim^Annegret",
    "PatientID": "GEHEIM-47119",
    "PatientBirthDate": "19471103",
    "InstitutionName": "Klinikum Verschwiegen",
    "StudyDescription": "Thorax Geheimrat",
    "PhotometricInterpretation": "MONOCHROME2",
    "SamplesPerPixel": 1,
}


def write_dicom(stored: np.ndarray, *, syntax: str = ExplicitVRLittleEndian, **attributes: Any) -> bytes:
    """A single-frame grey chest film; `attributes` replace what the header says, None takes an attribute away."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = HEADER["SOPClassUID"]
    meta.MediaStorageSOPInstanceUID = HEADER["SOPInstanceUID"]
    film = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    bits = 8 * stored.dtype.itemsize
    says = {
        **HEADER,
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "PixelData": stored.tobytes(),
        **attributes,
    }
    says.setdefault("HighBit", (says["BitsStored"] or bits) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of values that hospitals write all the same
        for keyword, value in says.items():
            if value is not None:
                setattr(film, keyword, value)
    if "PixelData" in film:
        film["PixelData"].VR = "OW" if bits > 8 else "OB"
    if syntax == RLELossless:
        film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        film.compress(RLELossless, encoding_plugin="gdcm", generate_instance_uid=False)
    if syntax == JPEG2000Lossless:
        film.PixelData = encapsulate([imagecodecs.jpeg2k_encode(stored, level=0, codecformat="J2K")])
        film["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def lookup_table(values: np.ndarray, first: int, bits: int) -> Dataset:
    """An item of a Modality or VOI LUT Sequence (PS3.3 C.11.1.1, C.11.2.1.1)."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values) % 65536, first, bits])
    item.ModalityLUTType = "US"
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return item


def with_texts(content: bytes, **texts: str) -> bytes:
    """The film with Decimal or Integer Strings that pydicom would not write."""
    film = pydicom.dcmread(io.BytesIO(content))
    for keyword, text in texts.items():
        tag = tag_for_keyword(keyword) or 0
        film[tag] = pydicom.DataElement(tag, "LO", text.split("\\"))
    buffer = io.BytesIO()
    film.save_as(buffer)
    written = buffer.getvalue()
    for keyword in texts:
        tag = tag_for_keyword(keyword) or 0
        name = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        written = written.replace(name + b"LO", name + pydicom.datadict.dictionary_VR(tag).encode())
    return written
