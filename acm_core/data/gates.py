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
from pydicom.uid import UID, DigitalXRayImageStorageForProcessing

from acm_core.data.header import header_numbers, header_text
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.data.terms import (
    NOTHING,
    VIEW_CODES,
    Accepted,
    folded,
    is_chest,
    is_radiograph,
    is_side_view,
    named_view,
    says_nothing,
)

MIN_SIDE = 32
"""Pixels along the shorter side below which an image is no film, not even one made smaller for research."""
MIN_GREY = 0.02
"""Share of a film's pixels that must be neither black nor white."""
_BLACK = 1 / 255

_HUMAN = re.compile(r"HUMAN|HOMO")
_HUMAN_CODES = {"L-85B00", "337915000", "30996001"}
"""Homo sapiens in SRT and in SNOMED CT (PS3.16 CID 7454), and the concept that pydicom translates the first to."""

_PHANTOM = re.compile(
    r"(?<![A-Z])(?:(?:PHANTOM|FANTOM)[A-Z]*|QUALITY (?:CONTROL|ASSURANCE)|QC|QA|FLAT[ _-]?FIELD|TEST[ _-]?PATTERN|"
    r"KONSTANZPRUFUNG|CALIBRATION|KALIBRIERUNG)(?![A-Z])"
)
_PHANTOM_CODES = {"706342009"}

_OTHER_PARTS = re.compile(
    r"(?<![A-Z])(TEETH|TOOTH|DENTAL|PANORAMIC|JAW|MANDIBLE|SKULL|SINUS|ORBIT|NECK|[CTL]?SPINE|CERVICAL|LUMBAR|"
    r"THORACOLUMBAR|SACRUM|PELVIS|HIPS?|FEMUR|KNEES?|PATELLA|TIBIA|FIBULA|ANKLES?|FOOT|FEET|TOES?|RIBS?|STERNUM|"
    r"CLAVICLES?|SHOULDERS?|HUMERUS|ELBOWS?|FOREARM|WRISTS?|HANDS?|FINGERS?|THUMB|EXTREMITY|ABDOMEN|ABDOMINAL|KUB|"
    r"BREAST|MAMMO[A-Z]*|BECKEN|HUFTE|KNIE|FUSS|SCHULTER|ELLBOGEN|HANDGELENK|SCHADEL|WIRBELSAULE|[BHL]WS|BASSIN|HANCHE|"
    r"GENOU|CHEVILLE|EPAULE|RACHIS|CRANE|BACINO|GINOCCHIO|SPALLA|RACHIDE|CRANIO|CADERA|RODILLA|HOMBRO|COLUMNA|CRANEO|"
    r"JOELHO|OMBRO|COLUNA|HEUP|SCHOUDER|WERVELKOLOM|MIEDNICA|KOLANO|KREGOSLUP|PANEV|KOLENO|PATER|MEDENCE|GERINC|BUIK|"
    r"BAUCH|ADDOME|BRZUCH|BRICHO)(?![A-Z])"
)
_ANIMAL = re.compile(
    r"(?<![A-Z])(CANINE|FELINE|EQUINE|BOVINE|PORCINE|MURINE|AVIAN|ANIMAL|VETERINAR[A-Z]*)(?![A-Z])"
)

_IMAGE_TEXT = ("SeriesDescription", "ProtocolName", "AcquisitionDeviceProcessingDescription")


def check_header(header: Dataset, accepted: Accepted = NOTHING) -> str | None:
    """The view that the header states, "AP" or "PA", if it does.

    Raises:
        FilmSetAside: with the first reason found: NO_PIXELS, MODALITY, FOR_PROCESSING, PHANTOM, NOT_HUMAN, BODY_PART,
            NOT_FRONTAL, MULTI_FRAME, INCOMPLETE_HEADER, COLOUR; in this order, from what the object is to how it is
            stored.
    """
    if not header.get("PixelData"):
        raise FilmSetAside(SetAside.NO_PIXELS, _class_name(header))
    modality = header_text(header, "Modality")
    if not is_radiograph(modality, header_text(header, "SOPClassUID"), accepted):
        raise FilmSetAside(SetAside.MODALITY, _quotable(header, modality) or "no modality")
    if (intent := _raw_signal(header)) is not None:
        raise FilmSetAside(SetAside.FOR_PROCESSING, intent)
    if (mark := _phantom(header)) is not None:
        raise FilmSetAside(SetAside.PHANTOM, mark)
    if _names_animal(header):
        raise FilmSetAside(SetAside.NOT_HUMAN)
    if (part := _other_part(header, accepted)) is not None:
        raise FilmSetAside(SetAside.BODY_PART, _against_its_word(header, part, _chest_word(header, accepted)))
    view = _view(header, accepted)
    if view is not None and view not in ("AP", "PA"):
        words = _view_words(header, accepted) if _coded_view(header) is not None else ()
        word = next((word for word in words if word in ("AP", "PA")), None)
        raise FilmSetAside(SetAside.NOT_FRONTAL, _against_its_word(header, view, word))
    frames = int(max(header_numbers(header, "NumberOfFrames"), default=1))
    if frames > 1:
        raise FilmSetAside(SetAside.MULTI_FRAME, f"{frames} frames")
    photometric = header_text(header, "PhotometricInterpretation")
    if not photometric:
        raise FilmSetAside(SetAside.INCOMPLETE_HEADER, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or (header.get("SamplesPerPixel") or 1) != 1:
        raise FilmSetAside(SetAside.COLOUR, _quotable(header, photometric))
    return view


def words_against_codes(header: Dataset, accepted: Accepted = NOTHING) -> tuple[str, ...]:
    """What words of an accepted film's header say against its codes, a text each; the codes count."""
    found = []
    coded = _coded_view(header)
    if coded is not None:
        words = (word for word in _view_words(header, accepted) if word != coded)
        found += [
            f"view {coded} by its code, {_quotable(header, word) or 'another'} by its word" for word in words
        ]
    if any(is_chest(code, accepted) for code, _ in _codes(header, "AnatomicRegionSequence")):
        meanings = (meaning for _, meaning in _codes(header, "AnatomicRegionSequence"))
        for text in (header_text(header, "BodyPartExamined"), *meanings):
            if is_chest(text, accepted) is False and (other := _OTHER_PARTS.search(folded(text))) is not None:
                found.append(f"chest by its code, {other[0]} by its word")
    return tuple(dict.fromkeys(found))


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


def _raw_signal(header: Dataset) -> str | None:
    """Presentation Intent Type FOR PROCESSING (C.8.11.1), or the SOP class of such images."""
    intent = " ".join(re.findall("[A-Z]+", header_text(header, "PresentationIntentType")))
    if intent.replace(" ", "") in ("FORPROCESSING", "PROCESSING"):
        return intent
    if header_text(header, "SOPClassUID") == DigitalXRayImageStorageForProcessing:
        return DigitalXRayImageStorageForProcessing.name
    return None


def _phantom(header: Dataset) -> str | None:
    """What marks an image of a phantom or of quality control (C.7.1.1, C.7.6.1, CID 4).

    The free text of the study is left out, and so are names: a phantom in a simulation has a name as well.
    """
    for keyword in ("QualityControlImage", "QualityControlSubject"):
        if header_text(header, keyword) == "YES":
            return keyword
    if any(code in _PHANTOM_CODES for code, _ in _codes(header, "AnatomicRegionSequence")):
        return "AnatomicRegionSequence"
    for text in (header_text(header, "BodyPartExamined"), folded(_image_text(header))):
        if (found := _PHANTOM.search(text)) is not None:
            return found[0]
    return None


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


def _other_part(header: Dataset, accepted: Accepted) -> str | None:
    """What the header names in the place of the chest; None where it names the chest, or nothing.

    Codes go before words, known ones before unknown ones.
    """
    regions = list(_codes(header, "AnatomicRegionSequence"))
    if any(is_chest(code, accepted) or is_chest(meaning, accepted) for code, meaning in regions):
        return None
    for _, meaning in regions:
        if _OTHER_PARTS.search(folded(meaning)):
            return meaning
    part = header_text(header, "BodyPartExamined")
    if (chest := is_chest(part, accepted)) is not None:
        return None if chest else part
    for code, meaning in regions:
        if not says_nothing(meaning) or not says_nothing(code):
            return meaning or code
    # What is said of the film itself goes first: a study of chest and pelvis has a film of each.
    for text in (_image_text(header), header_text(header, "StudyDescription")):
        if is_chest(text):
            return None
        if (other := _OTHER_PARTS.search(folded(text))) is not None:
            return other[0]
    return None


def _view(header: Dataset, accepted: Accepted) -> str | None:
    """ "AP", "PA", another view, or None where the header does not say."""
    if (coded := _coded_view(header)) is not None:
        return coded
    if (word := next(_view_words(header, accepted), None)) is not None:
        return word
    # Patient Orientation (C.7.6.1.1.1): rows of a lateral film run to anterior or posterior.
    if header_text(header, "PatientOrientation")[:1] in ("A", "P"):
        return "LATERAL"
    # The study's own description is left out: "chest PA and lateral" stands on both films of a pair.
    words = re.findall("[A-Z]+", folded(_image_text(header)))
    return "LATERAL" if is_side_view(words, "lateral") and {"AP", "PA"}.isdisjoint(words) else None


def _coded_view(header: Dataset) -> str | None:
    return next(
        (VIEW_CODES[code] for code, _ in _codes(header, "ViewCodeSequence") if code in VIEW_CODES), None
    )


def _view_words(header: Dataset, accepted: Accepted) -> Iterator[str]:
    """The views that View Position and the meanings of the view's codes name."""
    meanings = (meaning for _, meaning in _codes(header, "ViewCodeSequence"))
    for text in (header_text(header, "ViewPosition"), *meanings):
        if (view := named_view(text, accepted)) is not None:
            yield view


def _chest_word(header: Dataset, accepted: Accepted) -> str | None:
    """Body Part Examined, where it names the chest."""
    part = header_text(header, "BodyPartExamined")
    return part if is_chest(part, accepted) else None


def _against_its_word(header: Dataset, told: str, word: str | None) -> str | None:
    """What refuses a film, with the word that would have taken it."""
    told_safely = _quotable(header, told)
    if told_safely is None or word is None or (word_safely := _quotable(header, word)) is None:
        return told_safely
    return f"{told_safely} by its code, {word_safely} by its word"


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
