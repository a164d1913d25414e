"""The label file: what it means, and errors that help without quoting a patient."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from acm_core.config.site import LabelMap
from acm_core.data.label_file import LabelError
from acm_core.data.label_table import LabelTable
from acm_core.data.labels import read_labels
from acm_core.vocabulary import FINDINGS as FINDING_NAMES
from acm_core.vocabulary import stated

FINDINGS = ["Pneumonia", "Effusion"]
NAN = float("nan")


def read(
    folder: Path, text: str | bytes, findings: list[str] | None = FINDINGS, **label_map: object
) -> LabelTable:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(path, findings, LabelMap.model_validate(label_map))


def test_present_absent_and_not_labelled(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "patient_id,image,view,Effusion,Pneumonia\n"
        "p1,a/1.png,PA,1,0\n"
        "p1,a/2.png,PA,,1.0\n"
        " p2 , 3.png ,AP, 0.0 , \n",
    )
    assert table.patients == ("p1", "p1", "p2")
    assert table.images == ("a/1.png", "a/2.png", "3.png")
    assert table.labels.dtype == np.float32
    np.testing.assert_array_equal(table.labels, [[0, 1], [1, NAN], [NAN, 0]])


def test_a_finding_without_a_column_is_not_labelled(tmp_path: Path) -> None:
    table = read(tmp_path, "patient_id,image,Pneumonia\np,1.png,0\n")
    np.testing.assert_array_equal(table.labels, [[0, NAN]])


def test_a_column_of_another_name(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "patient_id,image,Erguss,Pneumonia\np,1.png,1,0\n",
        columns={"Effusion": "Erguss"},
    )
    np.testing.assert_array_equal(table.labels, [[0, 1]])


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_spreadsheets_write(tmp_path: Path, mark: str, ending: str) -> None:
    rows = ["patient_id, image,Pneumonia,,", '"Müller, A","a ""b"".png",1,,', ",,,,", ""]
    table = read(tmp_path, mark + ending.join(rows))
    assert table.patients == ("Müller, A",)
    assert table.images == ('a "b".png',)


def test_a_header_alone_is_a_site_without_films(tmp_path: Path) -> None:
    assert read(tmp_path, "patient_id,image,Pneumonia\n").labels.shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the label file to begin with a line of column names"),
        ("p1,secret.png,1\n", "expected the label file to begin with a line of column names"),
        ("patient_id/image/Pneumonia\np/1.png/1\n", "separated by commas, semicolons or tabs"),
        (
            "patient,image,Pneumonia\n",
            "expected a column 'patient_id' in the label file; the nearest there is 'patient'",
        ),
        ("patient_id,Images\n", "expected a column 'image' in the label file; the nearest there is 'Images'"),
        ("patient_id,quite other\n", "expected a column 'image' in the label file$"),
        ("patient_id,image,Pneumonia,Pneumonia\n", "got twice: Pneumonia"),
        (
            "patient_id,image,Pleural_Effusion,Effusion\n",
            "expected one column for Pleural Effusion, got 'Pleural_Effusion', 'Effusion': name the right one",
        ),
        (
            "patient_id,image,TB,Tuberculosis\n",  # a finding that the run does not train
            "expected one column for Tuberculosis, got 'TB', 'Tuberculosis'",
        ),
        ("patient_id,image,Pneumonia\np,1.png\n", "line 2: expected 3 values, one a column"),
        ("patient_id,image,Pneumonia\np,1.png,1,1\n", "line 2: expected 3 values, one a column"),
        (
            "patient_id,image,Pneumonia\np,1.png,1\n,2.png,1\n",
            "line 3: expected a patient_id and an image, got a blank",
        ),
        ("patient_id,image,Pneumonia\np, ,1\n", "line 2: expected a patient_id and an image, got a blank"),
        (
            "patient_id,image,Pneumonia\np,1.png,yes\n",
            r"line 2, column 'Pneumonia': expected one of '1', '1.0' \(present\)",
        ),
        ("patient_id,image,Pneumonia\np,1.png,-2\n", "line 2, column 'Pneumonia'"),
        (
            "patient_id,image,mass\np,1.png,82\n",
            "'Mass: null' to its columns if this column is something else",
        ),
        ("patient00001,a.png,Pneumonia\n", "expected the label file to begin with a line of column names"),
        ("patient_id,image\np,../1.png\n", "line 2, column 'image': expected a path inside the films folder"),
        ("patient_id,image\np,a/../../1.png\n", "line 2, column 'image'"),
        ("patient_id,image\np,a\\..\\1.png\n", "line 2, column 'image'"),
        ("patient_id,image\np,/1.png\n", "line 2, column 'image'"),
        ("patient_id,image\np,C:\\1.png\n", "line 2, column 'image'"),
        ("patient_id,image\np,1.png\nq,2.png\nq,1.png\n", "line 4: the film of line 2 stands here again"),
        ("patient_id,image\np,1.png\nq,./1.png\n", "line 3: the film of line 2 stands here again"),
        ('patient_id,image\n"p,1.png\n', "balanced quotes"),
        ("patient_id,image\np,1.png\n".encode("utf-16")[:-1], "UTF-8"),
    ],
)
def test_every_error_says_what_was_expected(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(LabelError, match=message) as error:
        read(tmp_path, text)
    assert error.value.__context__ is None


@pytest.mark.parametrize(
    ("header", "label_map", "message"),
    [
        (
            "patient_id,image,Erguss",
            {"columns": {"Effusion": "Ergus"}},
            "expected a column 'Ergus' in the label file; the nearest there is 'Erguss'",
        ),
        ("patient_id,image", {"age": "Age"}, "expected a column 'Age' in the label file$"),
        (
            "patient_id,image,a,b",
            {"columns": {"Effusion": "a", "Pleural Effusion": "b"}},
            "expected Pleural Effusion once under label_map: columns, got it under two names",
        ),
        (
            "patient_id,image,mass,Findings",
            {"list_column": "Findings", "list_findings": ["Mass"]},
            "expected Mass in a column or in the list, got column 'mass' and list_findings: take it out of there, or "
            "write 'Mass: null'",
        ),
    ],
)
def test_a_map_that_the_header_does_not_fit(
    tmp_path: Path, header: str, label_map: dict[str, object], message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        read(tmp_path, header + "\n", **label_map)


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        ({"positive": ("x",), "negative": (" X",)}, "expected each value in one list, got in two: 'x'"),
        ({"list_column": "x"}, "expected list_column and list_findings together"),
        ({"list_findings": ("Mass",)}, "expected list_column and list_findings together"),
        ({"list_names": {"Ergus": "Effusion"}}, "expected list_column beside list_names"),
        ({"patient": "image"}, "expected patient_pattern where patient and image are one column"),
        ({"patient_pattern": "("}, r"expected a regular expression, got \("),
        ({"columns": {"Mass": 1}}, "valid string"),
    ],
)
def test_a_map_that_contradicts_itself(label_map: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LabelMap.model_validate(label_map)


LETTERS = st.text("ßqxzÄ-7", min_size=3, max_size=8)


@settings(max_examples=80, deadline=None)
@given(
    patient=LETTERS,
    image=LETTERS,
    label=st.sampled_from(["1", "2", "ja", "", "-1"]),
    extra=st.sampled_from(["", ",", ',"', "\n"]),
    header=st.sampled_from(["patient_id,image,Pneumonia", "patient_id,Pneumonia", "image,patientid", None]),
    prefix=st.sampled_from(["", "../", "/"]),
    pattern=st.sampled_from([None, "never", "(.)"]),
)
def test_errors_name_no_patient_and_no_film(
    tmp_path_factory: pytest.TempPathFactory,
    patient: str,
    image: str,
    label: str,
    extra: str,
    header: str | None,
    prefix: str,
    pattern: str | None,
) -> None:
    row = f"{patient},{prefix}{image}.png,{label}{extra}"
    lines = [row, row] if header is None else [header, row, row]
    with pytest.raises(LabelError) as error:
        read(tmp_path_factory.mktemp("site"), "\n".join(lines) + "\n", patient_pattern=pattern)
    said = "".join(traceback.format_exception_only(error.value)) + repr(error.value)
    assert patient not in said
    assert image not in said
    assert error.value.__context__ is None


def test_a_table_shows_no_patient(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "patient_id,image,Pneumonia,Report\nGeheim,47119.png,1,Frau Geheim\n",
        list_column="Report",
        list_findings=["Mass"],
    )
    assert table.unknown_names == {"Frau Geheim": 1}
    assert not re.search("Geheim|47119", repr(table))


def test_spellings_and_aliases_of_a_finding_are_its_columns(tmp_path: Path) -> None:
    table = read(tmp_path, "patient_id,image,pneumonia,Pleural_effusion\np,1.png,1,0\n")
    np.testing.assert_array_equal(table.labels, [[1, 0]])


def test_a_mapped_column_is_found_by_any_name_of_the_finding(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "patient_id,image,Erguss,effusion\np,1.png,1,9\n",
        ["Effusion", "pleural effusion"],
        columns={"Pleural Effusion": "Erguss"},
    )
    np.testing.assert_array_equal(table.labels, [[1, 1]])


def test_a_mapped_column_is_not_what_it_is_called(tmp_path: Path) -> None:
    text = "patient_id,image,Nodule,Hernia\np,1.png,1,Mass\n"
    table = read(
        tmp_path, text, None, columns={"Mass": "Nodule"}, list_column="Hernia", list_findings=["Effusion"]
    )
    assert table.findings == ("Mass", "Pleural Effusion")
    np.testing.assert_array_equal(table.labels, [[1, 0]])


def test_a_column_that_is_something_else(tmp_path: Path) -> None:
    text = "patient_id,image,mass,Pneumonia\np,1.png,82,1\n"
    assert read(tmp_path, text, None, columns={"Mass": None}).findings == ("Pneumonia",)


@pytest.mark.parametrize(
    ("policy", "expected"), [("ignore", [[NAN, 1]]), ("positive", [[1, 1]]), ("negative", [[0, 1]])]
)
def test_uncertain_labels_follow_the_policy_and_are_counted(
    tmp_path: Path, policy: str, expected: list[list[float]]
) -> None:
    table = read(
        tmp_path, "patient_id,image,Pneumonia,Effusion,Mass\np,1.png,-1,1,-1.0\n", uncertain_policy=policy
    )
    np.testing.assert_array_equal(table.labels, expected)
    assert table.uncertain == {"Pneumonia": 1, "Mass": 1}


def test_the_sites_own_values(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "patient_id,image,Pneumonia\na,1.png,Ja\nb,2.png, NEIN\nc,3.png,fraglich\nd,4.png,n/a\n",
        positive=["ja"],
        negative=["nein"],
        uncertain=["fraglich"],
        not_labelled=["n/a"],
    )
    np.testing.assert_array_equal(table.labels[:, 0], [1, 0, NAN, NAN])
    with pytest.raises(LabelError, match="line 2, column 'Pneumonia': expected one of 'ja'"):
        read(tmp_path, "patient_id,image,Pneumonia\na,1.png,1\n", positive=["ja"])


def test_no_finding_with_a_finding_is_listed_and_kept(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "patient_id,image,normal,Support Devices,Pacemaker,Mass,Pneumonia,Rippen\n"
        "a,1.png,1,1,1,0,0,0\nb,2.png,1,0,0,1,0,1\nc,3.png,0,0,0,1,1,1\nd,4.png,1,,,,-1,\n",
        columns={"Cervical Rib": "Rippen"},
    )
    assert table.conflicts == ((1, ("Cervical Rib", "Mass")),)  # findings that the run does not train
    np.testing.assert_array_equal(table.labels[:, 0], [0, 0, 1, NAN])


def test_all_findings_of_the_file(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "patient_id,image,Mass,Quiddity,Erguss,Own,Nodule\np,1.png,1,7,0,1,\n",
        None,
        columns={"Q": "Own", "Effusion": "Erguss"},
    )
    assert table.findings == ("Q", "Pleural Effusion", "Mass", "Nodule")
    np.testing.assert_array_equal(table.labels, [[1, 0, 1, NAN]])


CHEST_XRAY14 = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height],\
OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly|Effusion,0,1,057Y,M,PA,2682,2749,0.143,0.143,
00000002_000.png,No Finding,0,2,81,F,AP,2500,2048,0.168,0.168,
00000003_000.png,,0,3,,,,2500,2048,0.168,0.168,
00000004_000.png,Cardiomegaly|Unheard|Pleural_Thickening,0,4,999,X,LL,2500,2048,0.168,0.168,
00000005_000.png,No Finding|Unheard|Unheard|Hernia,0,5,7,F,PA,2500,2048,0.168,0.168,
"""
CHEST_XRAY14_MAP: dict[str, object] = {
    "patient": "Patient ID",
    "image": "Image Index",
    "view": "View Position",
    "sex": "Patient Gender",
    "age": "Patient Age",
    "list_column": "Finding Labels",
    "list_findings": ["Cardiomegaly", "Effusion", "No Finding"],
}


def test_chest_xray14_as_it_is_published(tmp_path: Path) -> None:
    table = read(tmp_path, CHEST_XRAY14, ["Cardiomegaly", "Pleural Effusion", "Hernia"], **CHEST_XRAY14_MAP)
    np.testing.assert_array_equal(
        table.labels, [[1, 1, NAN], [0, 0, NAN], [NAN, NAN, NAN], [1, 0, NAN], [0, 0, 1]]
    )
    assert table.patients == ("1", "2", "3", "4", "5")
    assert table.views == ("PA", "AP", None, "LL", "PA")
    assert table.sexes == ("M", "F", None, None, "F")
    assert table.ages == (57, 81, None, None, 7)
    assert table.conflicts == ((4, ("Hernia",)),)
    assert table.unknown_names == {"Unheard": 2}


def test_all_findings_of_a_list(tmp_path: Path) -> None:
    """A name that the site did not say it looks for is present where it stands, and nowhere absent."""
    table = read(tmp_path, CHEST_XRAY14, None, **CHEST_XRAY14_MAP)
    assert table.findings == (
        "Cardiomegaly",
        "Pleural Effusion",
        "No Finding",
        "Pleural Thickening",
        "Hernia",
    )
    np.testing.assert_array_equal(table.labels[:, 3], [NAN, NAN, NAN, 1, NAN])
    np.testing.assert_array_equal(table.labels[:, 4], [NAN, NAN, NAN, NAN, 1])


CHEXPERT = """\
Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,\
Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices
CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0
CheXpert-v1.0/train/patient00002/study2/view1_frontal.jpg,Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,
CheXpert-v1.0/train/patient00002/study1/view2_lateral.jpg,Unknown,0,Lateral,,,,,1.0,,,,0.0,,,,,,
"""


@pytest.mark.parametrize(
    ("view", "views"), [("AP/PA", ("AP", "PA", None)), ("Frontal/Lateral", (None, None, "LATERAL"))]
)
def test_chexpert_as_it_is_published(tmp_path: Path, view: str, views: tuple[str | None, ...]) -> None:
    label_map = {"patient": "Path", "image": "Path", "patient_pattern": r"patient\d+"}
    table = read(tmp_path, CHEXPERT, None, **label_map, view=view, sex="Sex", age="Age")
    assert table.findings == tuple(CHEXPERT.splitlines()[0].split(",")[5:])
    assert table.patients == ("patient00001", "patient00002", "patient00002")
    np.testing.assert_array_equal(np.argwhere(table.labels == 1), [[0, 0], [0, 13], [1, 3], [1, 12], [2, 3]])
    np.testing.assert_array_equal(np.argwhere(table.labels == 0), [[0, 9], [2, 7]])
    assert table.views == views
    assert table.sexes == ("F", "M", None)
    assert table.ages == (68, 87, 0)
    assert table.conflicts == ()
    uncertain = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
    assert table.uncertain == dict.fromkeys(uncertain, 1)


@pytest.mark.parametrize(
    ("pattern", "patient"), [(r"patient(\d+)", "00001"), ("(nobody)?", None), ("nobody", None), ("-", "-")]
)
def test_the_patient_within_a_column(tmp_path: Path, pattern: str, patient: str | None) -> None:
    text = "patient_id,image\nCheXpert-v1.0/patient00001,1.png\n"
    if patient is not None:
        assert read(tmp_path, text, patient_pattern=pattern).patients == (patient,)
        return
    with pytest.raises(
        LabelError, match=r"line 2, column 'patient_id': expected text with what .* patient_pattern"
    ):
        read(tmp_path, text, patient_pattern=pattern)


PADCHEST = """\
,ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,Labels
0,1.png,0,20140915,s1,p1,1930.0,F,POSTEROANTERIOR,PA,"['cardiomegaly', 'loculated pleural effusion']"
1,2.png,0,20140915,s2,p1,1930.0,F,ANTEROPOSTERIOR,AP_horizontal,['normal']
2,3.png,0,20140915,s3,p2,1930.0,M,LATERAL,L,"[' Cardiomegaly ', 'unchanged', '']"
3,4.png,0,20140915,s4,p2,1930.0,M,,EXCLUDE,['suboptimal study']
4,5.png,0,20140915,s5,p3,1930.0,M,,PA,"['bulging flanks', 'callus rib fracture', 'NSG tube', 'normal']"
5,6.png,0,20140915,s6,p3,1930.0,M,,PA,[]
"""


def test_padchest_as_it_is_published(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        PADCHEST,
        ["Cardiomegaly", "Effusion", "No Finding", "Fracture"],
        patient="PatientID",
        image="ImageID",
        view="Projection",
        sex="PatientSex_DICOM",
        list_column="Labels",
        list_separator=",",
        list_findings=["Cardiomegaly", "Pleural Effusion", "No Finding", "Fracture"],
    )
    np.testing.assert_array_equal(
        table.labels,
        [[1, 1, 0, 0], [0, 0, 1, 0], [1, NAN, NAN, NAN], [NAN] * 4, [0, 0, 1, 1], [NAN] * 4],
    )
    assert table.views == ("PA", "AP", "L", "EXCLUDE", "PA", "PA")
    assert table.conflicts == ((4, ("Fracture", "Rib Fracture")),)
    assert table.unknown_names == {"bulging flanks": 1}


def test_a_list_in_the_sites_own_language(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "patient_id,image,Befund\np,1.png,Erguss; Lungenentzündung\np,2.png,Milchglas\np,3.png,Halsrippe\n",
        [*FINDINGS, "Halsrippe"],
        list_column="Befund",
        list_separator=";",
        list_findings=[*FINDINGS, "Halsrippe"],
        list_names={"erguss": "Effusion", "Lungenentzündung": "Pneumonia"},
    )
    np.testing.assert_array_equal(table.labels, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    assert table.unknown_names == {"Milchglas": 1}


@pytest.mark.parametrize(
    ("text", "view"),
    [
        ("pa", "PA"),
        ("AP SUPINE", "AP"),
        ("antero-posterior", "AP"),
        ("PA/AP", None),
        ("frontal", None),
        ("unknown", None),
        ("?", None),
        ("lateral", "LATERAL"),
        ("XTABLE LATERAL", "XTABLE LATERAL"),
        ("LAPO", "LAPO"),
    ],
)
def test_views(tmp_path: Path, text: str, view: str | None) -> None:
    assert read(tmp_path, f"patient_id,image,v\np,1.png,{text}\n", view="v").views == (view,)


def test_sexes_and_ages_that_say_nothing(tmp_path: Path) -> None:
    rows = [("f", "40.5"), ("Mujer", "-1"), ("O", "nan"), ("", "131"), ("male", "old"), ("FEMALE", "006M")]
    lines = [f"p,{number}.png,{sex},{age}" for number, (sex, age) in enumerate(rows)]
    table = read(tmp_path, "\n".join(["patient_id,image,s,a", *lines]), sex="s", age="a")
    assert table.sexes == ("F", None, None, None, "M", "F")
    assert table.ages == (40.5, None, None, None, None, None)


OWN = ["Mass", "Nodule", "Halsrippe"]
WORDS = st.text("abcdefgh12.-", min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(
    labels=st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, -1.0, NAN])] * 3), max_size=8),
    words=st.lists(WORDS, min_size=4, max_size=4, unique=True),
    columns=st.lists(WORDS.map("x{}".format), min_size=5, max_size=5, unique=True),
    order=st.permutations(range(5)),
    policy=st.sampled_from([("ignore", NAN), ("positive", 1.0), ("negative", 0.0)]),
)
def test_what_is_written_by_a_map_is_read_by_it(
    tmp_path_factory: pytest.TempPathFactory,
    labels: list[tuple[float, ...]],
    words: list[str],
    columns: list[str],
    order: list[int],
    policy: tuple[str, float],
) -> None:
    spelled = dict(zip(["1.0", "0.0", "-1.0", "nan"], words, strict=True))
    rows = [columns]
    for film, values in enumerate(labels):
        rows.append([f"p{film // 2}", f"{film}.png", *(spelled[str(value)].title() for value in values)])
    table = read(
        tmp_path_factory.mktemp("site"),
        "\n".join(",".join(row[place] for place in order) for row in rows) + "\n",
        OWN,
        patient=columns[0],
        image=columns[1],
        columns=dict(zip(OWN, columns[2:], strict=True)),
        positive=words[:1],
        negative=words[1:2],
        uncertain=words[2:3],
        not_labelled=words[3:],
        uncertain_policy=policy[0],
    )
    written = np.array(labels, np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(table.labels, np.where(written == -1, policy[1], written))
    assert sum(table.uncertain.values()) == (written == -1).sum()
    assert table.patients == tuple(f"p{film // 2}" for film in range(len(labels)))


KNOWN = sorted(FINDING_NAMES)


@settings(max_examples=80, deadline=None)
@given(
    films=st.lists(st.sets(st.sampled_from(KNOWN), min_size=1, max_size=5), min_size=1, max_size=6),
    looked_for=st.sets(st.sampled_from(KNOWN), min_size=1, max_size=8),
    separator=st.sampled_from(["|", ",", ";", " / "]),
)
def test_what_is_written_as_a_list_is_read_from_it(
    tmp_path_factory: pytest.TempPathFactory, films: list[set[str]], looked_for: set[str], separator: str
) -> None:
    names = [separator.join(name.lower() for name in sorted(film)) for film in films]
    rows = [f'p,{number}.png,"{text}"' for number, text in enumerate(names)]
    table = read(
        tmp_path_factory.mktemp("site"),
        "\n".join(["patient_id,image,found", *rows]),
        KNOWN,
        list_column="found",
        list_separator=separator,
        list_findings=sorted(looked_for),
    )
    present = [{finding for name in film for finding in stated(name)} for film in films]
    absent = [looked_for - film for film in present]
    expected = [
        [1 if name in here else 0 if name in not_here else NAN for name in KNOWN]
        for here, not_here in zip(present, absent, strict=True)
    ]
    np.testing.assert_array_equal(table.labels, expected)
    assert table.unknown_names == {}


_PEAK = """
import json, sys, tracemalloc
from pathlib import Path
from acm_core.config.site import LabelMap
from acm_core.data.labels import read_labels

label_map = LabelMap(patient="Path", image="Path", patient_pattern="patient[0-9]+")
tracemalloc.start()
table = read_labels(Path(sys.argv[1]), None, label_map)
print(json.dumps([table.labels.shape, len(table.conflicts), tracemalloc.get_traced_memory()[1]]))
"""


def test_many_films_take_little_memory(tmp_path: Path) -> None:
    films = 10_000
    path = tmp_path / "labels.csv"
    with path.open("w") as file:
        file.write(CHEXPERT.splitlines()[0] + "\n")
        file.writelines(
            f"patient{film // 3}/{film}.jpg,Male,68,Frontal,AP{',1.0' * 14}\n" for film in range(films)
        )
    # In a process of its own: names of files are interned, and the interpreter's one table of such strings may grow by
    # megabytes over a single name where other tests have filled it.
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    shape, conflicts, peak = json.loads(done.stdout)
    assert shape == [films, 14]
    assert conflicts == films
    assert peak < 1000 * films


TABLE = "patient_id,image,Pneumonia,Age\nMüller,ö.png,1,45.5\nq,2.png,0,\n"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("latin-1", "Latin-1"),
        ("cp1252", "Latin-1"),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_encodings_and_separators_are_found_out(
    tmp_path: Path, encoding: str, said: str, separator: str, ending: str
) -> None:
    text = TABLE.replace(",", separator).replace("\n", ending)
    if separator != ",":
        text = text.replace("45.5", "45,5")
    table = read(tmp_path, text.encode(encoding), None)
    assert (table.written.encoding, table.written.separator) == (said, separator)
    assert table.patients == ("Müller", "q")
    assert table.images == ("ö.png", "2.png")
    assert table.ages == (45.5, None)
    np.testing.assert_array_equal(table.labels, [[1], [0]])


def test_a_spreadsheets_separator_line_and_decimal_commas(tmp_path: Path) -> None:
    table = read(tmp_path, "sep=;\npatient_id;image;Pneumonia\np;1.png;1,0\nq;2.png;-1,0\n", None)
    assert table.written.separator == ";"
    np.testing.assert_array_equal(table.labels, [[1], [NAN]])
    with pytest.raises(LabelError, match="line 3, column 'Pneumonia'"):
        read(tmp_path, "sep=;\npatient_id;image;Pneumonia\np;1.png;x\n", None)


def test_latin_1_beyond_the_first_kilobytes(tmp_path: Path) -> None:
    rows = "".join(f"p{row},{row}.png\n" for row in range(200_000))
    table = read(tmp_path, f"patient_id,image\n{rows}Müller,last.png\n".encode("latin-1"), None)
    assert (table.written.encoding, table.patients[-1]) == ("Latin-1", "Müller")


def test_all_problems_at_once_with_their_lines(tmp_path: Path) -> None:
    bad = ["p,1.png,x", "p,2.png", ",3.png,1", "p,../4.png,1"]
    with pytest.raises(LabelError) as error:
        read(tmp_path, "patient_id,image,Pneumonia\n" + "\n".join(["ok,0.png,1", *bad]) + "\n")
    assert [line.split(":")[0].split(",")[0] for line in str(error.value).splitlines()] == [
        f"line {number}" for number in (3, 4, 5, 6)
    ]
    with pytest.raises(LabelError, match=r"and 480 more lines with problems$"):
        read(tmp_path, "patient_id,image,Pneumonia\n" + "".join(f"p,{row}.png,x\n" for row in range(500)))
    with pytest.raises(LabelError) as header:
        read(tmp_path, "patient_id,image\n", view="v", age="a")
    assert str(header.value).count("expected a column") == 2


@pytest.mark.parametrize(
    ("columns", "cells", "advice"),
    [
        ("rad_id", "R1", r"3 rows too many, of 1 films .* a row a reader \(column 'rad_id'\); merge"),
        ("Reader", "2", "a row a reader"),
        ("x_min,y_min,x_max,y_max", "1,2,3,4", "a row a box .* present where any box shows it"),
        ("class_name", "Mass", r"a row a finding \(column 'class_name'\); write a column a finding"),
        ("comment", "x", "merge the rows of a film to one; where they say different things"),
    ],
)
def test_several_rows_a_film_are_told_with_what_they_look_like(
    tmp_path: Path, columns: str, cells: str, advice: str
) -> None:
    rows = "".join(f"p,1.png,{value},{cells}\n" for value in (1, 0, 1, 0))
    with pytest.raises(LabelError, match=advice) as error:
        read(tmp_path, f"patient_id,image,Pneumonia,{columns}\n{rows}")
    assert str(error.value).startswith("line 3: the film of line 2 stands here again\n")
    assert "keep one" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "cells", "facts", "by_name"),
    [
        ("ViewPosition", "AP", ("AP", None, None), {"view": "ViewPosition"}),
        ("Projection", "L", ("L", None, None), {"view": "Projection"}),
        (
            "Patient Gender,Patient Age",
            "F,45",
            (None, "F", 45),
            {"sex": "Patient Gender", "age": "Patient Age"},
        ),
        ("sex,gender", "F,M", (None, None, None), {}),
        ("Frontal/Lateral,AP/PA", "Frontal,PA", ("PA", None, None), {"view": "Frontal/Lateral and AP/PA"}),
        ("Frontal/Lateral,AP/PA", "Lateral,", ("LATERAL", None, None), {"view": "Frontal/Lateral and AP/PA"}),
        ("page,sexual history", "4,F", (None, None, None), {}),
    ],
)
def test_view_sex_and_age_are_read_by_their_names(
    tmp_path: Path, header: str, cells: str, facts: tuple[object, ...], by_name: dict[str, str]
) -> None:
    table = read(tmp_path, f"patient_id,image,{header}\np,1.png,{cells}\n", None)
    assert (table.views[0], table.sexes[0], table.ages[0]) == facts
    assert table.by_name == by_name


def test_a_column_that_is_named_or_denied_is_not_looked_for(tmp_path: Path) -> None:
    text = "patient_id,image,view,v\np,1.png,AP,PA\n"
    assert read(tmp_path, text, None, view="v").views == ("PA",)
    assert read(tmp_path, text, None, view="").views == (None,)
    assert read(tmp_path, text, None, view="v").by_name == {}


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Pleural Efusion", {"Pleural Efusion": "Pleural Effusion"}),
        ("Pnuemonia,Cardiomegally", {"Pnuemonia": "Pneumonia", "Cardiomegally": "Cardiomegaly"}),
        ("Pneumonia,Pneumonias", {}),  # the finding has its column
        ("report,history,Mas", {}),
    ],
)
def test_a_column_that_looks_like_a_misspelt_finding(
    tmp_path: Path, header: str, found: dict[str, str]
) -> None:
    cells = ",".join("1" for _ in header.split(","))
    assert read(tmp_path, f"patient_id,image,{header}\np,1.png,{cells}\n", None).misspelt == found
    denied = dict.fromkeys(found.values())
    assert (
        read(tmp_path, f"patient_id,image,{header}\np,1.png,{cells}\n", None, columns=denied).misspelt == {}
    )
