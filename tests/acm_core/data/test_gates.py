"""What a header must say, and which reason code stands for what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset

from acm_core.data.film import decode_film
from acm_core.data.gates import check_pixels
from acm_core.data.set_aside import FilmSetAside, SetAside


def coded(value: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return [item]


SILENT: dict[str, Any] = {"BodyPartExamined": None, "ViewPosition": None, "StudyDescription": None}


@pytest.mark.parametrize(
    ("says", "view"),
    [
        ({}, "PA"),
        ({"Modality": "DX", "ViewPosition": "AP"}, "AP"),
        (SILENT, None),
        ({"BodyPartExamined": "", "ViewPosition": ""}, None),
        ({"BodyPartExamined": "Thorax"}, "PA"),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": coded("51185008", "")}, "PA"),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": coded("", "Chest")}, "PA"),
        ({**SILENT, "StudyDescription": "Chest PA and lateral"}, None),
        ({**SILENT, "SeriesDescription": "CHEST_PA", "StudyDescription": "CHEST AND PELVIS"}, None),
        ({**SILENT, "PatientOrientation": ["L", "F"]}, None),
        ({"PatientSpeciesDescription": "Homo sapiens"}, "PA"),
        ({"PatientSpeciesCodeSequence": coded("337915000", "")}, "PA"),
        ({"PatientSpeciesCodeSequence": coded("30996001", "")}, "PA"),
        ({"ViewPosition": "AP SUPINE"}, "AP"),
        ({"NumberOfFrames": "1"}, "PA"),
        ({"Modality": "DX", "PresentationIntentType": "FOR PRESENTATION"}, "PA"),
        ({"PresentationIntentType": ""}, "PA"),
        ({"QualityControlImage": "NO", "SeriesDescription": "AQUARIUS CHEST"}, "PA"),
    ],
)
def test_frontal_chest_films_of_humans_are_taken(
    dicom: Callable[..., bytes], ramp: np.ndarray, says: dict[str, Any], view: str | None
) -> None:
    film = decode_film(dicom(ramp, **says))
    assert film.pixels.shape == ramp.shape
    assert film.header.view == view


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (SetAside.NO_PIXELS, {"PixelData": None}),
        (SetAside.NO_PIXELS, {"PixelData": b""}),
        (SetAside.MODALITY, {"Modality": "CT"}),
        (SetAside.MODALITY, {"Modality": "MG"}),
        (SetAside.MODALITY, {"Modality": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        (SetAside.FOR_PROCESSING, {"Modality": "DX", "PresentationIntentType": "FOR PROCESSING"}),
        (SetAside.FOR_PROCESSING, {"PresentationIntentType": "For_Processing"}),
        (SetAside.FOR_PROCESSING, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}),
        (SetAside.PHANTOM, {"QualityControlImage": "YES"}),
        (SetAside.PHANTOM, {"QualityControlSubject": "YES"}),
        (SetAside.PHANTOM, {"BodyPartExamined": "PHANTOM"}),
        (SetAside.PHANTOM, {"SeriesDescription": "Thorax Phantom 20 kV"}),
        (SetAside.PHANTOM, {"ProtocolName": "QC flat-field"}),
        (SetAside.PHANTOM, {"ProtocolName": "Konstanzprüfung"}),
        (SetAside.PHANTOM, {"BodyPartExamined": None, "AnatomicRegionSequence": coded("706342009", "")}),
        (SetAside.NOT_HUMAN, {"PatientSpeciesDescription": "Canine"}),
        (SetAside.NOT_HUMAN, {"PatientSpeciesCodeSequence": coded("448771007", "Canis lupus familiaris")}),
        (SetAside.NOT_HUMAN, {"PatientBreedDescription": "Dachshund"}),
        (SetAside.NOT_HUMAN, {"AcquisitionDeviceProcessingDescription": "CANINE LATERAL THORAX 0-15cm"}),
        (SetAside.BODY_PART, {"BodyPartExamined": "HIP"}),
        (SetAside.BODY_PART, {"BodyPartExamined": "CSPINE"}),
        (SetAside.BODY_PART, {"BodyPartExamined": "THORACIC SPINE"}),
        (SetAside.BODY_PART, {"BodyPartExamined": "TSPINE"}),
        (SetAside.BODY_PART, {"BodyPartExamined": "THORACO-LUMBAR"}),
        (SetAside.BODY_PART, {"BodyPartExamined": None, "AnatomicRegionSequence": coded("24136001", "Hip")}),
        (SetAside.BODY_PART, {**SILENT, "SeriesDescription": "PANORAMIC TEETH"}),
        (SetAside.BODY_PART, {**SILENT, "SeriesDescription": "THORACIC SPINE AP"}),
        (
            SetAside.BODY_PART,
            {**SILENT, "SeriesDescription": "PELVIS_AP", "StudyDescription": "CHEST, PELVIS"},
        ),
        (SetAside.BODY_PART, {**SILENT, "StudyDescription": "Non-ossifying fibroma of distal tibia"}),
        (SetAside.NOT_FRONTAL, {"ViewPosition": "LL"}),
        (SetAside.NOT_FRONTAL, {"ViewPosition": "LATERAL"}),
        (SetAside.NOT_FRONTAL, {"ViewPosition": "RAO"}),
        (SetAside.NOT_FRONTAL, {"ViewPosition": "LLD"}),
        (SetAside.NOT_FRONTAL, {"ViewPosition": None, "ViewCodeSequence": coded("399260004", "lateral")}),
        (SetAside.NOT_FRONTAL, {"ViewPosition": None, "PatientOrientation": ["A", "F"]}),
        (SetAside.NOT_FRONTAL, {"ViewPosition": None, "SeriesDescription": "Chest LAT"}),
        (SetAside.MULTI_FRAME, {"NumberOfFrames": "2"}),
        (SetAside.COLOUR, {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}),
        (SetAside.COLOUR, {"PhotometricInterpretation": "PALETTE COLOR"}),
        (SetAside.INCOMPLETE_HEADER, {"PhotometricInterpretation": None}),
    ],
)
def test_what_is_not_is_set_aside_with_its_reason(
    dicom: Callable[..., bytes], ramp: np.ndarray, reason: SetAside, says: dict[str, Any]
) -> None:
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(dicom(ramp, **says))
    assert verdict.value.reason is reason


@pytest.mark.parametrize(
    ("says", "contradictions"),
    [
        ({}, ()),
        ({"ViewCodeSequence": coded("272479007", "postero-anterior")}, ()),
        ({"ViewCodeSequence": coded("272479007", ""), "ViewPosition": "FRONTAL"}, ()),
        (
            {"ViewCodeSequence": coded("272479007", ""), "ViewPosition": "AP"},
            ("view PA by its code, AP by its word",),
        ),
        (
            {"ViewCodeSequence": coded("399348003", "postero-anterior"), "ViewPosition": "P.A."},
            ("view AP by its code, PA by its word",),
        ),
        (
            {"ViewCodeSequence": coded("R-10206", ""), "ViewPosition": "LATERAL"},
            ("view AP by its code, LATERAL by its word",),
        ),
        (
            {"AnatomicRegionSequence": coded("816094009", "Chest"), "BodyPartExamined": "Hand"},
            ("chest by its code, HAND by its word",),
        ),
        (
            {"AnatomicRegionSequence": coded("51185008", "Becken"), "BodyPartExamined": None},
            ("chest by its code, BECKEN by its word",),
        ),
        ({"AnatomicRegionSequence": coded("816094009", ""), "BodyPartExamined": "RAUM 7"}, ()),
        ({"AnatomicRegionSequence": coded("816094009", ""), "BodyPartExamined": "UNKNOWN"}, ()),
        (
            {"ViewCodeSequence": coded("272479007", ""), "ViewPosition": "GEHEIM LAT"},
            ("view PA by its code, another by its word",),
        ),
    ],
)
def test_words_that_say_something_else_than_the_codes_are_told(
    dicom: Callable[..., bytes], ramp: np.ndarray, says: dict[str, Any], contradictions: tuple[str, ...]
) -> None:
    assert decode_film(dicom(ramp, **says)).header.contradictions == contradictions


def test_what_an_object_is_comes_before_how_it_is_stored(
    dicom: Callable[..., bytes], ramp: np.ndarray
) -> None:
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(dicom(ramp, Modality="US", NumberOfFrames="30", PhotometricInterpretation="RGB"))
    assert verdict.value.reason is SetAside.MODALITY


@pytest.mark.parametrize(
    ("reason", "pixels"),
    [
        (SetAside.TOO_SMALL, np.linspace(0, 1, 31 * 400).reshape(31, 400)),
        (SetAside.TOO_SMALL, np.linspace(0, 1, 31 * 400).reshape(400, 31)),
        (SetAside.TOO_SMALL, np.zeros((8, 8))),  # what it is goes before what it shows
        (SetAside.BLANK, np.full((40, 40), 0.5)),
        (SetAside.SATURATED, np.arange(1600).reshape(40, 40) % 2),
        (SetAside.SATURATED, np.where(np.arange(10_000) < 190, 0.5, np.arange(10_000) % 2).reshape(100, 100)),
        (SetAside.UNREADABLE, np.full((40, 40), np.nan)),
        (None, np.where(np.arange(10_000) < 210, 0.5, np.arange(10_000) % 2).reshape(100, 100)),
        (None, np.linspace(0, 1, 32 * 32).reshape(32, 32)),
    ],
)
def test_pixels_that_are_no_radiograph(reason: SetAside | None, pixels: np.ndarray) -> None:
    if reason is None:
        check_pixels(pixels.astype(np.float32))
        return
    with pytest.raises(FilmSetAside) as verdict:
        check_pixels(pixels.astype(np.float32))
    assert verdict.value.reason is reason


def test_no_real_film_is_refused_for_its_pixels(real: Path) -> None:
    for path in sorted(real.glob("sites/*/images/*.png"))[::7]:
        check_pixels(np.asarray(Image.open(path).convert("L"), np.float32) / 255)
