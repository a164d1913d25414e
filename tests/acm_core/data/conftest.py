"""DICOM files written for one test each, and the real material where it is there."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

torch.set_num_threads(1)

REAL = Path(__file__).resolve().parents[3] / "../shared/data"

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
    says.setdefault("HighBit", says["BitsStored"] - 1)
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


@pytest.fixture(scope="session")
def dicom() -> Callable[..., bytes]:
    return write_dicom


@pytest.fixture(scope="session")
def lut() -> Callable[[np.ndarray, int, int], Dataset]:
    return lookup_table


@pytest.fixture(scope="session")
def ramp() -> np.ndarray:
    """Every 12-bit value at least once, 80×64; no symmetry."""
    return np.linspace(0, 4095, 80 * 64).round().astype(np.uint16).reshape(80, 64)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real films."""
    if not REAL.is_dir():
        pytest.skip("../shared/data (real films) is not here")
    return REAL
