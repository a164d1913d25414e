"""A phantom film as a DICOM object: CR Image Storage or Digital X-Ray Image Storage – For Presentation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
)

from simulations.phantoms.exposure import Exposure
from simulations.phantoms.scanner import Scanner

STUDY_DATE = "20250101"
SHOWN_FROM, SHOWN_TO = 0.07, 0.86
"""Shares of the stored range between which tissue lies, where a window or a table says so."""
LUT_STEEPNESS = 1.6
SIGMOID_EDGE = 0.01
"""A sigmoid window never reaches 0 and 1; the film's range ends this far from them."""


def phantom_uid(*names: str | int) -> UID:
    """A UID that the names alone decide, under the 2.25 root for UUIDs (PS3.5 B.2)."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


@dataclass(frozen=True)
class FilmIdentity:
    """Whose film it is; every patient is invented."""

    patient_id: str
    patient_name: str
    sex: str
    age: int
    """Years."""
    view: str
    study: UID
    series: UID
    instance: UID
    number: int
    """Of the film among the patient's films, from 1."""


def digitise(exposure: Exposure, scanner: Scanner) -> tuple[npt.NDArray[np.uint16], Dataset]:
    """Stored values (H×W) and the attributes by which a viewer turns them into the exposure again.

    Modality LUT, then VOI, then photometric inversion (PS3.4 N.2).
    """
    full = 2**scanner.bits_stored - 1
    shown = 1 - exposure.image if scanner.photometric == "MONOCHROME1" else exposure.image
    shown = shown.astype(np.float64)
    attributes = Dataset()
    attributes.RescaleIntercept = f"{scanner.rescale_intercept:g}"
    attributes.RescaleSlope = f"{scanner.rescale_slope:g}"
    attributes.RescaleType = "US"
    if scanner.voi == "none":
        return np.rint(shown * full).astype(np.uint16), attributes

    low, high = round(SHOWN_FROM * full), round(SHOWN_TO * full)
    if scanner.voi == "lut":
        table = _voi_table(low, high, full)
        stored = np.interp(shown, table[low : high + 1] / full, np.arange(low, high + 1))
        item = Dataset()
        item.LUTDescriptor = [(full + 1) % 65536, 0, scanner.bits_stored]  # 0 stands for 65536 entries
        item.LUTExplanation = "PHANTOM CHEST"
        item.LUTData = table.astype("<u2").tobytes()
        item["LUTData"].VR = "OW"
        attributes.VOILUTSequence = [item]
    else:
        if scanner.voi == "SIGMOID":
            bounded = np.clip(shown, SIGMOID_EDGE, 1 - SIGMOID_EDGE)
            edge = np.log(1 / SIGMOID_EDGE - 1)
            stored = low + (high - low) * (0.5 + np.log(bounded / (1 - bounded)) / (2 * edge))
        else:
            stored = low + shown * (high - low)
        centre, width = _window(scanner, low, high)
        attributes.WindowCenter, attributes.WindowWidth = f"{centre:.8g}", f"{width:.8g}"
        attributes.VOILUTFunction = scanner.voi
    stored[exposure.border] = np.where(shown[exposure.border] > 0.5, full, 0)
    return np.rint(stored).astype(np.uint16), attributes


def _window(scanner: Scanner, low: int, high: int) -> tuple[float, float]:
    """Centre and width (after the modality LUT) of the window that shows stored values from low to high."""
    first = scanner.rescale_slope * low + scanner.rescale_intercept
    last = scanner.rescale_slope * high + scanner.rescale_intercept
    centre, span = (first + last) / 2, last - first
    if scanner.voi == "LINEAR":  # PS3.3 C.11.2.1.2.1: centre − 0.5 and width − 1
        return centre + 0.5, span + 1
    if scanner.voi == "SIGMOID":
        return centre, 2 * span / float(np.log(1 / SIGMOID_EDGE - 1))
    return centre, span


def _voi_table(low: int, high: int, full: int) -> npt.NDArray[np.uint16]:
    """An S-shaped curve from low (black) to high (white), one entry a stored value."""
    ramp = np.clip((np.arange(full + 1) - low) / (high - low), 0, 1)
    curve = 0.5 + np.tanh(LUT_STEEPNESS * (2 * ramp - 1)) / (2 * np.tanh(LUT_STEEPNESS))
    return np.asarray(np.rint(curve * full), np.uint16)


def build_dicom(exposure: Exposure, scanner: Scanner, identity: FilmIdentity) -> FileDataset:
    """The DICOM object of one film, ready for `save_as(..., enforce_file_format=True)`."""
    stored, shown_by = digitise(exposure, scanner)
    meta = FileMetaDataset()
    storage = (
        DigitalXRayImageStorageForPresentation
        if scanner.modality == "DX"
        else ComputedRadiographyImageStorage
    )
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = identity.instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = phantom_uid("ACM-Fed", "phantoms")
    meta.ImplementationVersionName = "ACMFED_PHANTOM"
    film = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    film.update(shown_by)

    film.SpecificCharacterSet = "ISO_IR 192"
    film.SOPClassUID, film.SOPInstanceUID = storage, identity.instance
    film.PatientName, film.PatientID = identity.patient_name, identity.patient_id
    film.PatientBirthDate, film.PatientSex, film.PatientAge = "", identity.sex, f"{identity.age:03d}Y"
    film.StudyInstanceUID, film.SeriesInstanceUID = identity.study, identity.series
    film.StudyDate = film.SeriesDate = film.AcquisitionDate = film.ContentDate = STUDY_DATE
    film.StudyTime = film.SeriesTime = film.AcquisitionTime = film.ContentTime = (
        f"12{identity.number % 60:02d}00"
    )
    film.StudyID, film.SeriesNumber, film.InstanceNumber = "1", 1, identity.number
    film.AccessionNumber = film.ReferringPhysicianName = ""
    film.StudyDescription = "Synthetic chest phantom"
    film.Modality, film.Manufacturer, film.ManufacturerModelName = (
        scanner.modality,
        "ACM-Fed",
        scanner.model_name,
    )
    film.BodyPartExamined, film.ViewPosition, film.PatientOrientation = "CHEST", identity.view, ["L", "F"]
    film.ImageType = ["DERIVED", "PRIMARY"]
    spacing = 10 * scanner.canvas(max(stored.shape)).spacing
    film.ImagerPixelSpacing = [f"{spacing:.6g}"] * 2
    film.BurnedInAnnotation, film.LossyImageCompression = "NO", "00"

    film.SamplesPerPixel, film.PhotometricInterpretation = 1, scanner.photometric
    film.Rows, film.Columns = stored.shape
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, scanner.bits_stored, scanner.bits_stored - 1
    film.PixelRepresentation = 0
    if scanner.modality == "DX":
        _add_dx(film, scanner)
    film.PixelData = stored.astype("<u2").tobytes()
    film["PixelData"].VR = "OW"
    if scanner.encoding == "rle":
        # pydicom would name the object's UID anew by chance.
        film.compress(RLELossless, encoding_plugin="gdcm", generate_instance_uid=False)
    return film


def _add_dx(film: Dataset, scanner: Scanner) -> None:
    """What Digital X-Ray prescribes beyond CR (PS3.3 A.26, C.8.11)."""
    film.PresentationIntentType = "FOR PRESENTATION"
    film.PresentationLUTShape = "INVERSE" if scanner.photometric == "MONOCHROME1" else "IDENTITY"
    film.PixelIntensityRelationship = "LOG"
    # Sign of stored value against X-ray intensity (PS3.3 C.8.11.3.1.2): few quanta, high value in
    # MONOCHROME2.
    film.PixelIntensityRelationshipSign = 1 if scanner.photometric == "MONOCHROME1" else -1
    film.DetectorType = "SCINTILLATOR"
    film.ImageLaterality = "U"
    film.AcquisitionContextSequence = []
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "51185008", "SCT", "Chest"
    film.AnatomicRegionSequence = [region]
