"""What hospitals call the chest, a radiograph and a view; each word once in the header and once in the label file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping as snomed

from acm_core.config.site import Accept, LabelMap
from acm_core.data.film import decode_film
from acm_core.data.labels import read_labels
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.data.terms import CHEST_CODES, VIEW_CODES, Accepted, folded, is_chest, is_radiograph, named_view

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


CHESTS = """
CHEST| Thorax| THORAX AP| CHEST_1V| PORTABLECHEST| CXR| Lunge| LUNGEN| Brustkorb| BRUST| THX| POITRINE| POUMONS|
CAGE THORACIQUE| TORACE| POLMONI| GABBIA TORACICA| TÓRAX| TORAX| PECHO| PULMÓN| PEITO| PULMÃO| PULMOES| BORST|
BORSTKAS| LONGEN| KLATKA PIERSIOWA| RTG KLATKI PIERSIOWEJ| PŁUCA| HRUDNÍK| HRUDNIK| HRUĎ| PLÍCE| MELLKAS| TÜDŐ|
BRÖSTKORG| LUNGOR| BRYSTKASSE| BRYST| TORAKS| LUNGER| RINTAKEHÄ| KEUHKOT| BRJÓSTKASSI| GÖĞÜS| ГРУДНАЯ КЛЕТКА|
胸部| 흉부| 816094009| 51185008| T-D3000| 39607008
"""
OTHERS = """
HIP| KNEE| ABDOMEN| CSPINE| THORACIC SPINE| T-SPINE| THORACO-LUMBAR| BRUSTWIRBEL| BRUSTBEIN| BWS|
RACHIS THORACIQUE| RACHIDE TORACICO| COLUMNA TORACICA| COLUNA TORÁCICA| BORSTWERVELS| KRĘGOSŁUP PIERSIOWY|
HRUDNÍ PÁTEŘ| MELLKASI GERINC| BREAST| MAMMA| MELL| SKULL| LONG BONES| 24136001
"""
BLANKS = """
| | UNKNOWN| unbekannt| N/A| n.a.| ---| ?| 0| Not specified| INCONNU| Neznámý| XX| ANONYMIZED
"""


def test_folded() -> None:
    assert folded(" Tórax  a.p. ") == "TORAX A.P."
    assert folded("Płuca Søvn Ångström ﬁ") == "PLUCA SOVN ANGSTROM FI"
    assert folded("To\u0301rax") == folded("Tórax")


@pytest.mark.parametrize("text", [text.strip() for text in CHESTS.split("|")])
def test_words_and_codes_for_the_chest(text: str) -> None:
    assert is_chest(text) is True


@pytest.mark.parametrize("text", [text.strip() for text in OTHERS.split("|")])
def test_other_parts(text: str) -> None:
    assert is_chest(text) is False


@pytest.mark.parametrize("text", [text.strip() for text in BLANKS.split("|")])
def test_a_placeholder_is_no_statement(text: str) -> None:
    assert is_chest(text) is None
    assert named_view(text) is None


@pytest.mark.parametrize(
    ("modality", "sop_class", "taken"),
    [
        ("CR", CAPTURE, True),
        ("DX", "", True),
        ("RG", CAPTURE, True),
        ("DR", "", True),
        ("X-RAY", "", True),
        ("CR DX", "", True),
        ("", CR, True),
        ("UNKNOWN", DX, True),
        ("OT", DX, True),
        ("Röntgen", "", True),
        ("THORAX", CR, True),
        ("", CAPTURE, False),
        ("", "", False),
        ("OT", CAPTURE, False),
        ("CT", DX, False),
        ("MG", CR, False),
        ("US", "", False),
        ("RF", CR, False),
        ("DX MR", DX, False),
    ],
)
def test_the_class_counts_where_the_modality_is_odd(modality: str, sop_class: str, taken: bool) -> None:
    assert is_radiograph(modality, sop_class) is taken


VIEWS = [
    *(("pa", "PA"), ("P.A.", "PA"), ("p-a", "PA"), ("AP", "AP"), ("A.P. liegend", "AP"), ("AP SUPINE", "AP")),
    *(("Postero-anterior", "PA"), ("POSTERO ANTERIOR", "PA"), ("Anteroposterior", "AP"), ("PosteroAnteriore", "PA")),
    *(("antéro-postérieur", "AP"), ("tylno-przednie", "PA"), ("Zadopřední", "PA"), ("předozadní", "AP")),
    *(("dorsoventral", "PA"), ("ventro-dorsal", "AP"), ("AP AXIAL", "AP"), ("AP DECÚBITO SUPINO", "AP")),
    *(("AP_horizontal", "AP"), ("Thorax p.a.", "PA"), ("CHEST PA", "PA"), ("399348003", "AP"), ("R-10214", "PA")),
    *(("frontal", None), ("FACE", None), ("PA/AP", None), ("STANDING", None), ("Chest 1 view", None)),
    *(("AP LLD", "AP LLD"), ("PA RLD", "PA RLD"), ("SWIMMERS", "SWIMMERS"), ("LATERAL", "LATERAL"), ("LL", "LL")),
    *(("seitlich", "SEITLICH"), ("PROFIL", "PROFIL"), ("Perfil", "PERFIL"), ("LATERALE", "LATERALE")),
    *(("boczne", "BOCZNE"), ("boční", "BOCNI"), ("oldalirányú", "OLDALIRANYU"), ("dwars", "DWARS")),
    *(("LAO", "LAO"), ("schräg", "SCHRAG"), ("OBLÍQUA", "OBLIQUA"), ("DECÚBITO LATERAL", "DECUBITO LATERAL")),
    *(("XTABLE LATERAL", "XTABLE LATERAL"), ("PA AND LATERAL", "PA AND LATERAL"), ("LAPO", "LAPO")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "view"), VIEWS)
def test_a_view_is_the_same_in_the_header_and_in_the_label_file(
    tmp_path: Path, dicom: Callable[..., bytes], ramp: np.ndarray, text: str, view: str | None
) -> None:
    (tmp_path / "labels.csv").write_text(f"patient_id,image,v\np,1.png,{text}\n")
    assert read_labels(tmp_path / "labels.csv", None, LabelMap(view="v")).views == (view,)
    content = dicom(ramp, ViewPosition=text.encode("ascii", "ignore").decode() if text.isascii() else None)
    if not text.isascii():
        assert named_view(text) == view
    elif view in ("AP", "PA", None):
        assert decode_film(content).header.view == view
    else:
        with pytest.raises(FilmSetAside) as verdict:
            decode_film(content)
        assert (verdict.value.reason, verdict.value.value) == (SetAside.NOT_FRONTAL, view)


def coded(value: str, meaning: str, scheme: str = "SCT") -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


@pytest.mark.parametrize(
    ("says", "view"),
    [
        ({"BodyPartExamined": None, "AnatomicRegionSequence": coded("816094009", "Torace")}, "PA"),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": coded("T-D3000", "", "SRT")}, "PA"),
        ({"BodyPartExamined": "HAND", "AnatomicRegionSequence": coded("816094009", "")}, "PA"),
        ({"BodyPartExamined": "CHEST", "AnatomicRegionSequence": coded("LOCAL17", "Raum 3", "99KH")}, "PA"),
        ({"BodyPartExamined": "UNKNOWN", "SeriesDescription": "CHEST PA"}, "PA"),
        ({"BodyPartExamined": "UNKNOWN", "StudyDescription": None}, "PA"),
        ({"BodyPartExamined": "816094009"}, "PA"),
        ({"Modality": None}, "PA"),
        ({"ViewPosition": None, "ViewCodeSequence": coded("272479007", "postero-anterior")}, "PA"),
        ({"ViewPosition": None, "ViewCodeSequence": coded("R-10206", "", "SRT")}, "AP"),
        ({"ViewPosition": None, "ViewCodeSequence": coded("X1", "Thorax a.p.", "99KH")}, "AP"),
        ({"ViewPosition": "LL", "ViewCodeSequence": coded("399348003", "antero-posterior")}, "AP"),
    ],
)
def test_codes_go_before_words(
    dicom: Callable[..., bytes], ramp: np.ndarray, says: dict[str, Any], view: str
) -> None:
    assert decode_film(dicom(ramp, **says)).header.view == view


@pytest.mark.parametrize(
    ("says", "reason", "value"),
    [
        ({"BodyPartExamined": "XYLOPHON"}, SetAside.BODY_PART, "XYLOPHON"),
        (
            {"AnatomicRegionSequence": coded("29836001", "Hip"), "BodyPartExamined": None},
            SetAside.BODY_PART,
            "HIP",
        ),
        (
            {"AnatomicRegionSequence": coded("29836001", "Hip")},
            SetAside.BODY_PART,
            "HIP by its code, CHEST by its word",
        ),
        (
            {"BodyPartExamined": "", "AnatomicRegionSequence": coded("72696002", "")},
            SetAside.BODY_PART,
            "72696002",
        ),
        ({"BodyPartExamined": "", "SeriesDescription": "Becken a.p."}, SetAside.BODY_PART, "BECKEN"),
        ({"Modality": None, "SOPClassUID": CAPTURE}, SetAside.MODALITY, "no modality"),
        ({"ViewPosition": None, "ViewCodeSequence": coded("399173006", "")}, SetAside.NOT_FRONTAL, "LATERAL"),
        (
            {"ViewPosition": "LL", "ViewCodeSequence": coded("X1", "Thorax a.p.", "99KH")},
            SetAside.NOT_FRONTAL,
            "LL",
        ),
        (
            {"ViewPosition": "PA", "ViewCodeSequence": coded("399173006", "")},
            SetAside.NOT_FRONTAL,
            "LATERAL by its code, PA by its word",
        ),
    ],
)
def test_what_refuses_a_film_is_told(
    dicom: Callable[..., bytes], ramp: np.ndarray, says: dict[str, Any], reason: SetAside, value: str
) -> None:
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(dicom(ramp, **says))
    assert (verdict.value.reason, verdict.value.value) == (reason, value)
    assert value not in str(verdict.value)


def test_every_code_stands_in_what_pydicom_ships_or_is_named_in_the_docstring() -> None:
    meanings: defaultdict[str, list[str]] = defaultdict(list)
    for names in concepts["SCT"].values():
        for code, (meaning, _) in names.items():
            meanings[code].append(meaning)
    current = {code: " ".join(of_code) for code, of_code in meanings.items()}
    retired = snomed["SRT"]  # type: ignore[index]
    elsewhere = {"302551006", "181216001", "3341006", "44029006"}
    elsewhere |= {"RID1243", "RID1301", "RID1302", "RID1326", "R-10214"}
    said = CHEST_CODES | set(VIEW_CODES)
    assert {code for code in said if retired.get(code, code) not in current} == elsewhere
    for code in CHEST_CODES - elsewhere:
        meaning = current[retired.get(code, code)].casefold()
        assert re.search("chest|thora|lung", meaning), (code, meaning)
    expected = {
        "AP": "ant.*post",
        "PA": "post.*ant",
        "LATERAL": "lateral|medial|sagittal",
        "OBLIQUE": "oblique",
    }
    for code, view in VIEW_CODES.items():
        if code not in elsewhere:
            meaning = current[retired.get(code, code)].casefold()
            assert re.search(expected.get(view, "crani"), meaning), (code, meaning)
            assert (view == "OBLIQUE") == ("oblique" in meaning), (code, meaning)


def test_a_sites_own_words_are_accepted(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    accept = Accept(body_part=("Raum 7",), modality=("XY",), view={"Proj. Ä": "PA", "steh": "frontal"})
    accepted = Accepted.of(accept)
    content = dicom(ramp, BodyPartExamined="RAUM 7", Modality="XY", ViewPosition="STEH")
    assert decode_film(content, accepted).header.view is None
    assert named_view("proj. ä", accepted) == "PA"
    with pytest.raises(FilmSetAside):
        decode_film(content)
