"""The label file: what it means, and errors that help without quoting a patient."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.data.labels import LabelError, LabelTable, read_labels

FINDINGS = ["Pneumonia", "Effusion"]
NAN = float("nan")


def read(folder: Path, text: str | bytes, columns: dict[str, str] | None = None) -> LabelTable:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(path, FINDINGS, columns)


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
        {"Effusion": "Erguss", "Nodule": "Rundherd"},
    )
    np.testing.assert_array_equal(table.labels, [[0, 1]])


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_spreadsheets_write(tmp_path: Path, mark: str, ending: str) -> None:
    rows = ["patient_id,image,Pneumonia", '"Müller, A","a ""b"".png",1', ""]
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
        ("patient_id;image;Pneumonia\np;1.png;1\n", "separated by commas"),
        (
            "patient,image,Pneumonia\n",
            "expected a column 'patient_id' in the label file; the nearest there is 'patient'",
        ),
        ("patient_id,Images\n", "expected a column 'image' in the label file; the nearest there is 'Images'"),
        ("patient_id,quite other\n", "expected a column 'image' in the label file$"),
        ("patient_id,image,Pneumonia,Pneumonia\n", "got twice: Pneumonia"),
        (
            "patient_id,image,pneumonia\n",
            "expected a column 'Pneumonia', got 'pneumonia': rename it, or name it under",
        ),
        ("patient_id,image,Pneumonia\np,1.png\n", "line 2: expected 3 values, one a column"),
        ("patient_id,image,Pneumonia\np,1.png,1,1\n", "line 2: expected 3 values, one a column"),
        (
            "patient_id,image,Pneumonia\np,1.png,1\n,2.png,1\n",
            "line 3: expected a patient_id and an image, got a blank",
        ),
        ("patient_id,image,Pneumonia\np, ,1\n", "line 2: expected a patient_id and an image, got a blank"),
        ("patient_id,image,Pneumonia\np,1.png,yes\n", r"line 2, column 'Pneumonia': expected 1 \(present\)"),
        ("patient_id,image,Pneumonia\np,1.png,-1\n", "line 2, column 'Pneumonia'"),
        ("patient_id,image\np,../1.png\n", "line 2, column 'image': expected a path inside the films folder"),
        ("patient_id,image\np,a/../../1.png\n", "line 2, column 'image'"),
        ("patient_id,image\np,a\\..\\1.png\n", "line 2, column 'image'"),
        ("patient_id,image\np,/1.png\n", "line 2, column 'image'"),
        ("patient_id,image\np,C:\\1.png\n", "line 2, column 'image'"),
        ("patient_id,image\np,1.png\nq,2.png\nq,1.png\n", "line 4: the film of line 2 stands here again"),
        ("patient_id,image\np,1.png\nq,./1.png\n", "line 3: the film of line 2 stands here again"),
        ('patient_id,image\n"p,1.png\n', "balanced quotes"),
        ("patient_id,image\nMüller,1.png\n".encode("latin-1"), "UTF-8"),
        ("patient_id,image\np,1.png\n".encode("utf-16"), "UTF-8"),
    ],
)
def test_every_error_says_what_was_expected(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(LabelError, match=message) as error:
        read(tmp_path, text)
    assert error.value.__context__ is None


def test_a_mapped_column_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(
        LabelError, match="expected a column 'Ergus' in the label file; the nearest there is 'Erguss'"
    ):
        read(tmp_path, "patient_id,image,Erguss\n", {"Effusion": "Ergus"})


LETTERS = st.text("ßqxzÄ-7", min_size=3, max_size=8)


@settings(max_examples=80, deadline=None)
@given(
    patient=LETTERS,
    image=LETTERS,
    label=st.sampled_from(["1", "2", "ja", ""]),
    extra=st.sampled_from(["", ",", ',"', "\n"]),
    header=st.sampled_from(["patient_id,image,Pneumonia", "patient_id,Pneumonia", "image,patientid", None]),
    prefix=st.sampled_from(["", "../", "/"]),
)
def test_errors_name_no_patient_and_no_film(
    tmp_path_factory: pytest.TempPathFactory,
    patient: str,
    image: str,
    label: str,
    extra: str,
    header: str | None,
    prefix: str,
) -> None:
    row = f"{patient},{prefix}{image}.png,{label}{extra}"
    lines = [row, row] if header is None else [header, row, row]
    with pytest.raises(LabelError) as error:
        read(tmp_path_factory.mktemp("site"), "\n".join(lines) + "\n")
    said = "".join(traceback.format_exception_only(error.value)) + repr(error.value)
    assert patient not in said
    assert image not in said
    assert error.value.__context__ is None


def test_a_table_shows_no_patient(tmp_path: Path) -> None:
    table = read(tmp_path, "patient_id,image,Pneumonia\nGeheim,47119.png,1\n")
    assert not re.search("Geheim|47119", repr(table))
