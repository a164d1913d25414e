"""What a DICOM header must say for a film to be taken as a frontal chest radiograph of a human.

Silence is no reason to refuse: de-identification empties these fields, and the site's label file lists the film. Where
the coded fields are silent, the free text of the study speaks; it refuses only when it names something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from acm_core.data.header import header_numbers, header_text
from acm_core.data.set_aside import FilmSetAside, SetAside

MODALITIES = ("CR", "DX")
MIN_SIDE = 32
"""Pixels along the shorter side below which an image is no film, not even one made smaller for research."""
MIN_GREY = 0.02
"""Share of a film's pixels that must be neither black nor white."""
_BLACK = 1 / 255

_CHEST = re.compile(r"CHEST|THORA(?!CIC[ _-]*SPINE|CO[ _-]*LUMB)|TORAX|TÓRAX|LUNG|PULMO|POUMON|CXR")
_CHEST_CODES = {"T-D3000", "51185008", "T-28000", "39607008"}
"""Chest and lung in SNOMED RT and CT (PS3.16 CID 4, CID 4031)."""
_HUMAN = re.compile(r"HUMAN|HOMO")
_HUMAN_CODES = {"L-85B00", "337915000"}
"""Homo sapiens in SNOMED RT and CT (PS3.16 CID 7454)."""

_OTHER_PARTS = re.compile(
    r"(?<![A-Z])(TEETH|TOOTH|DENTAL|PANORAMIC|JAW|MANDIBLE|SKULL|SINUS|ORBIT|NECK|[CTL]?SPINE|CERVICAL|LUMBAR|"
    r"THORACOLUMBAR|SACRUM|PELVIS|HIPS?|FEMUR|KNEES?|PATELLA|TIBIA|FIBULA|ANKLES?|FOOT|FEET|TOES?|RIBS?|STERNUM|"
    r"CLAVICLES?|SHOULDERS?|HUMERUS|ELBOWS?|FOREARM|WRISTS?|HANDS?|FINGERS?|THUMB|EXTREMITY|ABDOMEN|ABDOMINAL|KUB|"
    r"BREAST|MAMMO[A-Z]*)(?![A-Z])"
)
_ANIMAL = re.compile(
    r"(?<![A-Z])(CANINE|FELINE|EQUINE|BOVINE|PORCINE|MURINE|AVIAN|ANIMAL|VETERINAR[A-Z]*)(?![A-Z])"
)

_NOT_FRONTAL = {
    *("L", "R", "LL", "RL", "LAT", "LLAT", "RLAT", "LATERAL"),
    *("LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBL", "OBLIQUE"),
    *("LLD", "RLD", "DECUB", "DECUBITUS"),
}
"""Terms of View Position (PS3.3 C.8.1.2, C.8.11.5) and their usual spellings. A decubitus film is projected
frontally, but lies on its side and shows fluid elsewhere than an upright one."""

_IMAGE_TEXT = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")


def check_header(header: Dataset) -> None:
    """Raise FilmSetAside with the first reason found: NO_PIXELS, MODALITY, NOT_HUMAN, BODY_PART, NOT_FRONTAL,
    MULTI_FRAME, COLOUR; in this order, from what the object is to how it is stored."""
    if not header.get("PixelData"):
        raise FilmSetAside(SetAside.NO_PIXELS, _class_name(header))
    if header_text(header, "Modality") not in MODALITIES:
        raise FilmSetAside(
            SetAside.MODALITY, _quotable(header, header_text(header, "Modality")) or "no modality"
        )
    if _names_animal(header):
        raise FilmSetAside(SetAside.NOT_HUMAN)
    if _names_other_part(header):
        raise FilmSetAside(SetAside.BODY_PART, _quotable(header, header_text(header, "BodyPartExamined")))
    if _is_not_frontal(header):
        raise FilmSetAside(SetAside.NOT_FRONTAL, _quotable(header, header_text(header, "ViewPosition")))
    frames = int(max(header_numbers(header, "NumberOfFrames"), default=1))
    if frames > 1:
        raise FilmSetAside(SetAside.MULTI_FRAME, f"{frames} frames")
    photometric = header_text(header, "PhotometricInterpretation")
    if not photometric:
        raise FilmSetAside(SetAside.INCOMPLETE_HEADER, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or (header.get("SamplesPerPixel") or 1) != 1:
        raise FilmSetAside(SetAside.COLOUR, _quotable(header, photometric))


def check_pixels(pixels: NDArray[np.float32]) -> None:
    """Raise FilmSetAside where grey levels H×W are no radiograph's: UNREADABLE, TOO_SMALL, BLANK, SATURATED."""
    if not np.isfinite(pixels).all():
        raise FilmSetAside(SetAside.UNREADABLE)
    if min(pixels.shape) < MIN_SIDE:
        raise FilmSetAside(SetAside.TOO_SMALL, "×".join(map(str, pixels.shape)))
    low, high = pixels.min(), pixels.max()
    if low == high:
        raise FilmSetAside(SetAside.BLANK)
    between = np.count_nonzero((pixels > _BLACK) & (pixels < 1 - _BLACK))
    if between < MIN_GREY * pixels.size:
        raise FilmSetAside(SetAside.SATURATED)


def _class_name(header: Dataset) -> str | None:
    uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
    return None if not isinstance(uid, UID) or uid.name == uid else uid.name


_OF_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "OtherPatientNames")


def _quotable(header: Dataset, text: str) -> str | None:
    """The text, unless a word of it names the patient: engineers write what they like into the fields of a device."""
    of_patient = {
        word for keyword in _OF_PATIENT for word in re.findall(r"\w{3,}", header_text(header, keyword))
    }
    return None if any(word in text for word in of_patient) else text


def _names_animal(header: Dataset) -> bool:
    species = header_text(header, "PatientSpeciesDescription")
    if species and not _HUMAN.search(species):
        return True
    for code, meaning in _codes(header, "PatientSpeciesCodeSequence"):
        if code not in _HUMAN_CODES and not _HUMAN.search(meaning):
            return True
    # A human has no breed; and devices of veterinary practices name the animal in the examination's menu entry.
    texts = f"{_image_text(header)} {header_text(header, 'StudyDescription')}"
    return bool(header_text(header, "PatientBreedDescription") or _ANIMAL.search(texts))


def _names_other_part(header: Dataset) -> bool:
    part = header_text(header, "BodyPartExamined")
    if part:
        return not _CHEST.search(part)
    regions = list(_codes(header, "AnatomicRegionSequence"))
    if regions:
        return not any(code in _CHEST_CODES or _CHEST.search(meaning) for code, meaning in regions)
    # What is said of the film itself goes first: a study of chest and pelvis has a film of each.
    for text in (_image_text(header), header_text(header, "StudyDescription")):
        if _CHEST.search(text):
            return False
        if _OTHER_PARTS.search(text):
            return True
    return False


def _is_not_frontal(header: Dataset) -> bool:
    view = header_text(header, "ViewPosition")
    if view:
        return not _NOT_FRONTAL.isdisjoint(re.findall(r"[A-Z]+", view))
    views = [meaning for _, meaning in _codes(header, "ViewCodeSequence")]
    if views:
        return any("LATERAL" in meaning or "OBLIQUE" in meaning for meaning in views)
    # Patient Orientation (C.7.6.1.1.1): rows of a lateral film run to anterior or posterior.
    if header_text(header, "PatientOrientation")[:1] in ("A", "P"):
        return True
    # The study's own description is left out: "chest PA and lateral" stands on both films of a pair.
    words = set(re.findall(r"[A-Z]+", _image_text(header)))
    return bool(words & {"LAT", "LATERAL"}) and words.isdisjoint(("AP", "PA"))


def _codes(header: Dataset, keyword: str) -> Iterator[tuple[str, str]]:
    """Code value and meaning of each item that has one."""
    sequence = header.get(keyword)
    for item in sequence if isinstance(sequence, Sequence) else ():
        code, meaning = header_text(item, "CodeValue"), header_text(item, "CodeMeaning")
        if code or meaning:
            yield code, meaning


def _image_text(header: Dataset) -> str:
    texts = [header_text(header, keyword) for keyword in _IMAGE_TEXT]
    texts += [meaning for _, meaning in _codes(header, "PerformedProtocolCodeSequence")]
    return " ".join(texts)
