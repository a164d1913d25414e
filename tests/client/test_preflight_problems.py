"""What preflight says of lost films: their cause, and that something is to do where the label file lists them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dicom_files import write_dicom
from PIL import Image
from pydicom import Dataset

from client import preflight

Found = dict[str, Any]


def film(seed: int, side: tuple[int, int] = (140, 120)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7)).astype(np.uint8)
    return Image.fromarray(coarse).resize((side[1], side[0]), Image.Resampling.BICUBIC)


@pytest.fixture
def looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Found]:
    """Run preflight on `tmp_path/films` with these rows of the label file; the JSON that it prints."""

    def look(rows: Sequence[str], columns: str = "patient_id,image,Pneumonia", **settings: object) -> Found:
        (tmp_path / "labels.csv").write_text("\n".join([columns, *rows]) + "\n")
        (tmp_path / "sites").mkdir(exist_ok=True)
        about = {"site": "A", "films": "../films", "labels": "../labels.csv", "state": "../state", **settings}
        (tmp_path / "sites/A.yaml").write_text(yaml.safe_dump(about))
        arguments = ["--site", "A", "--sites", str(tmp_path / "sites"), "--workers", "1", "--format", "json"]
        code = preflight.main(arguments)
        found: Found = json.loads(capsys.readouterr().out)
        assert found["exit_code"] == code
        return found

    (tmp_path / "films").mkdir()
    return look


def problems(found: Found, code: str) -> list[Found]:
    return [problem for problem in found["problems"] if problem["code"] == code]


def test_a_listed_film_that_is_no_image_is_something_to_do(
    tmp_path: Path, looked: Callable[..., Found]
) -> None:
    for index in range(3):
        film(index).save(tmp_path / f"films/{index}.png")
    (tmp_path / "films/3.png").write_bytes(b"")
    (tmp_path / "films/4.png").write_bytes(b"<html><head><title>403 Forbidden</title></head></html>")
    (tmp_path / "films/5.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "films/notes.txt").write_bytes(b"not listed")
    found = looked([f"p{index},{index}.png,{index % 2}" for index in range(6)])
    assert found["exit_code"] == preflight.ACT
    listed, other = problems(found, "not_an_image")
    assert (listed["weight"], listed["count"]) == ("act", 3)
    assert "fetch them again" in listed["do"]
    assert listed["values"] == {"empty file": 1, "web page or XML": 1, "Git LFS pointer": 1}
    assert (other["weight"], other["count"]) == ("note", 1)


@pytest.mark.parametrize(
    ("reason", "says", "value"),
    [
        ("body_part", {"BodyPartExamined": "KNEE"}, "KNEE"),
        ("modality", {"Modality": "MG"}, "MG"),
        ("not_frontal", {"ViewPosition": "LL"}, "LL"),
        ("multi_frame", {"NumberOfFrames": "3"}, "3 frames"),
        ("too_large", {"Rows": 30000, "Columns": 20000}, "30000×20000"),
        ("incomplete_header", {"BitsStored": None, "HighBit": 11}, "BitsStored"),
    ],
)
def test_a_listed_film_that_is_refused_is_told_with_the_value_that_refused_it(
    tmp_path: Path,
    looked: Callable[..., Found],
    reason: str,
    says: dict[str, Any],
    value: str,
) -> None:
    film(0).save(tmp_path / "films/good.png")
    stored = np.asarray(film(1)).astype(np.uint16) * 16
    for name in ("listed", "unlisted"):
        (tmp_path / f"films/{name}.dcm").write_bytes(write_dicom(stored, **says))
    found = looked(["p0,good.png,1", "p1,listed.dcm,0"])
    assert found["exit_code"] == preflight.ACT
    listed, other = problems(found, reason)
    assert (listed["weight"], listed["count"], listed["values"]) == ("act", 1, {value: 1})
    assert other["count"] == 1
    page = (tmp_path / "state/intake/preflight.html").read_text()
    assert f"{value} (1)" in page


def test_a_value_that_names_the_patient_is_not_told(tmp_path: Path, looked: Callable[..., Found]) -> None:
    film(0).save(tmp_path / "films/good.png")
    stored = np.asarray(film(1)).astype(np.uint16) * 16
    content = write_dicom(stored, PatientName="Geheim^Annegret", BodyPartExamined="GEHEIM KNEE")
    (tmp_path / "films/listed.dcm").write_bytes(content)
    found = looked(["p0,good.png,1", "p1,listed.dcm,0"])
    assert problems(found, "body_part")[0]["values"] == {}
    assert "GEHEIM" not in json.dumps(found)


def test_only_duplicates_may_be_lost_without_a_word(tmp_path: Path, looked: Callable[..., Found]) -> None:
    for index in range(4):
        film(index).save(tmp_path / f"films/{index}.png")
    film(3).save(tmp_path / "films/again.png")
    found = looked([*(f"p{index},{index}.png,{index % 2}" for index in range(4)), "p3,again.png,1"])
    assert found["reasons"] == {"duplicate": 1}
    assert found["exit_code"] == preflight.OK


def test_names_from_windows_without_endings_and_in_other_capitals_are_taken(
    tmp_path: Path, looked: Callable[..., Found]
) -> None:
    (tmp_path / "films/Sub").mkdir()
    for index in range(3):
        film(index).save(tmp_path / f"films/Sub/film-{index}.png")
    found = looked(["p0,Sub\\film-0.png,1", "p1,film-1,0", "p2,FILM-2.PNG,1"])
    assert found["files"]["used"] == 3
    assert [problem["count"] for problem in problems(found, "respelled")] == [3]
    assert found["exit_code"] == preflight.OK


def test_two_files_of_a_name_are_said_to_be_two(tmp_path: Path, looked: Callable[..., Found]) -> None:
    for number, folder in enumerate(("raw", "processed")):
        (tmp_path / "films" / folder).mkdir()
        for index in range(2):
            film(index + 10 * number).save(tmp_path / f"films/{folder}/{index}.png")
    film(5).save(tmp_path / "films/5.png")
    found = looked(["p0,0.png,1", "p1,1.png,0", "p5,5.png,1"])
    (problem,) = problems(found, "ambiguous_name")
    assert (problem["weight"], problem["count"]) == ("act", 2)
    assert "write the folder" in problem["do"]


def test_an_ending_that_two_files_differ_in_is_asked_for(
    tmp_path: Path, looked: Callable[..., Found]
) -> None:
    for index in range(2):
        film(index).save(tmp_path / f"films/{index}.png")
        film(index + 10).save(tmp_path / f"films/{index}.jpg")
    found = looked(["p0,0,1", "p1,1,0"])
    (problem,) = problems(found, "no_ending")
    assert problem["values"] == {".jpg or .png": 2}
    assert "label_map.image_suffix" in problem["do"]
    again = looked(["p0,0,1", "p1,1,0"], label_map={"image_suffix": ".png"})
    assert again["files"]["used"] == 2


def test_a_folder_that_may_not_be_entered_costs_what_is_in_it(
    tmp_path: Path, looked: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(2):
        film(index).save(tmp_path / f"films/{index}.png")
    for name in ("lost+found", "Geheim"):
        (tmp_path / "films" / name).mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "films/link").symlink_to(tmp_path / "elsewhere")
    scandir = os.scandir

    def refuse(folder: Path) -> Any:  # permissions do not bind the administrator, as whom tests may run
        if Path(folder).name in ("lost+found", "Geheim"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("acm_core.data.source.folder.os.scandir", refuse)
    found = looked(["p0,0.png,1", "p1,1.png,0"])
    assert found["files"]["used"] == 2
    assert found["exit_code"] == preflight.OK
    (problem,) = problems(found, "folders_not_entered")
    assert problem["count"] == 2
    assert "lost+found" in problem["what"]
    assert "Geheim" not in json.dumps(found)
    assert "Geheim" in (tmp_path / "state/intake/preflight.html").read_text()
    lost = looked(["p0,0.png,1", "p1,Geheim/1.png,0", "p2,link/2.png,0", "p3,nowhere.png,1"])
    assert lost["reasons"] == {"behind_link": 1, "closed_folder": 1, "missing_file": 1}
    assert all(
        problems(lost, code)[0]["weight"] == "act" for code in ("folders_not_entered", "closed_folder")
    )


def chest(seed: int, **says: Any) -> bytes:
    return write_dicom(np.asarray(film(seed)).astype(np.uint16) * 16, **says)


@pytest.mark.parametrize(
    ("says", "columns", "cell", "code", "value"),
    [
        (
            {"ViewPosition": "PA"},
            "view",
            "LATERAL",
            "view_conflict",
            "PA in the header, LATERAL in the label file",
        ),
        ({"ViewPosition": "PA"}, "view", "AP", "view_conflict", "PA in the header, AP in the label file"),
        ({"ViewPosition": "LL"}, "view", "PA", "view_conflict", "LL in the header, PA in the label file"),
        ({"PatientSex": "F"}, "sex", "M", "sex_conflict", "F in the header, M in the label file"),
        ({"PatientAge": "070Y"}, "age", "7", "age_conflict", None),
    ],
)
def test_header_and_label_file_that_disagree_are_told(
    tmp_path: Path,
    looked: Callable[..., Found],
    says: dict[str, Any],
    columns: str,
    cell: str,
    code: str,
    value: str | None,
) -> None:
    for index in range(3):
        content = chest(index, PatientName="", PatientID="", **(says if index < 2 else {}))
        (tmp_path / f"films/film-{index}.dcm").write_bytes(content)
    rows = [f"p{index},film-{index}.dcm,{index % 2},{cell if index < 2 else ''}" for index in range(3)]
    found = looked(rows, f"patient_id,image,Pneumonia,{columns}", label_map={columns: columns})
    (problem,) = problems(found, code)
    assert (problem["weight"], problem["count"]) == ("act", 2)
    assert problem["values"] == ({value: 2} if value else {})
    assert found["exit_code"] in (preflight.ACT, preflight.NO_FILMS)
    assert "film-0" not in json.dumps(found)
    page = (tmp_path / "state/intake/preflight.html").read_text()
    assert "Header and label file disagree" in page
    assert "<code>film-1.dcm</code>" in page


@pytest.mark.parametrize(
    ("ids", "code", "count"),
    [
        (["12", "13", "14", "99"], "patient_conflict", 1),
        (["012", "013", "014", "015"], "patient_conflict", 0),  # pseudonyms of the site: none is the header's
        (["12", "13", "14", "15"], "patient_conflict", 0),
    ],
)
def test_another_patient_in_the_header_is_told_where_ids_are_the_hospitals(
    tmp_path: Path, looked: Callable[..., Found], ids: list[str], code: str, count: int
) -> None:
    rows = []
    for index, patient in enumerate(ids):
        (tmp_path / f"films/{index}.dcm").write_bytes(chest(index, PatientID=str(12 + index), PatientName=""))
        rows.append(f"{patient},{index}.dcm,{index % 2}")
    assert sum(problem["count"] for problem in problems(looked(rows), code)) == count


def test_leading_zeros_that_a_spreadsheet_took_are_told(tmp_path: Path, looked: Callable[..., Found]) -> None:
    for index in range(3):
        (tmp_path / f"films/{index}.dcm").write_bytes(chest(index, PatientID=f"00047{index}", PatientName=""))
    found = looked([f"47{index},{index}.dcm,{index % 2}" for index in range(3)])
    (problem,) = problems(found, "leading_zeros")
    assert (problem["weight"], problem["count"]) == ("act", 3)
    assert "patient_conflict" not in [one["code"] for one in found["problems"]]


def test_raw_signal_and_phantoms_are_told(tmp_path: Path, looked: Callable[..., Found]) -> None:
    film(0).save(tmp_path / "films/good.png")
    (tmp_path / "films/raw.dcm").write_bytes(chest(1, PresentationIntentType="FOR PROCESSING"))
    (tmp_path / "films/qc.dcm").write_bytes(chest(2, QualityControlImage="YES"))
    found = looked(["p0,good.png,1", "p1,raw.dcm,0", "p2,qc.dcm,0"])
    assert found["reasons"] == {"for_processing": 1, "phantom": 1}
    assert problems(found, "for_processing")[0]["weight"] == "act"
    assert "FOR PRESENTATION" in problems(found, "for_processing")[0]["do"]


def pictures(folder: Path, count: int) -> list[str]:
    for index in range(count):
        film(index).save(folder / f"films/{index}.png")
    return [f"{index}.png" for index in range(count)]


@pytest.mark.parametrize("patient", ["1.23458E+11", "9,87E+08", "2E+10"])
def test_ids_that_a_spreadsheet_rounded(tmp_path: Path, looked: Callable[..., Found], patient: str) -> None:
    found = looked([f'"{patient}",{name},{index % 2}' for index, name in enumerate(pictures(tmp_path, 30))])
    assert found["exit_code"] == preflight.ACT
    assert problems(found, "rounded_ids")[0]["count"] == 30
    (one,) = problems(found, "one_patient")
    assert (one["weight"], one["count"]) == ("act", 30)
    assert "none is left to" in one["what"]
    assert patient not in json.dumps(found)


def test_ids_that_only_look_like_numbers_are_none(tmp_path: Path, looked: Callable[..., Found]) -> None:
    rows = [f"{12345678900 + index}E,{name},{index % 2}" for index, name in enumerate(pictures(tmp_path, 6))]
    found = looked(rows)
    assert problems(found, "rounded_ids") == problems(found, "one_patient") == []
    assert found["exit_code"] == preflight.OK


def test_a_site_without_test_films(tmp_path: Path, looked: Callable[..., Found]) -> None:
    rows = [f"p{index % 2},{name},{index % 2}" for index, name in enumerate(pictures(tmp_path, 8))]
    few = looked(rows, splits={"validation": 0.001, "test": 0.001})
    assert problems(few, "no_test_films")[0]["weight"] == "note"
    none = looked(rows, splits={"validation": 0.0, "test": 0.0})
    assert problems(none, "no_test_films") == problems(none, "no_validation_films") == []


def test_findings_that_are_the_same_and_columns_that_are_misspelt(
    tmp_path: Path, looked: Callable[..., Found]
) -> None:
    rows = [
        f"p{index},{name},{index % 2},{index % 2},{index % 3 % 2},1,F"
        for index, name in enumerate(pictures(tmp_path, 24))
    ]
    found = looked(rows, "patient_id,image,Pneumonia,Edema,Mass,Pleural Efusion,Sex")
    assert problems(found, "same_findings")[0]["values"] == {"Edema and Pneumonia": 1}
    assert problems(found, "misspelt_finding")[0]["values"] == {"'Pleural Efusion': Pleural Effusion?": 1}
    assert problems(found, "read_by_name")[0]["values"] == {"sex from Sex": 1}
    assert found["sexes"] == {"F": 24}
    assert found["exit_code"] == preflight.ACT


def test_a_label_file_of_a_spreadsheet_is_read_and_said(
    tmp_path: Path, looked: Callable[..., Found], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"p{index},{name},{index % 2}" for index, name in enumerate(pictures(tmp_path, 4))]
    looked(rows)
    text = "\n".join(["patient_id;image;Pneumonia", *(row.replace(",", ";") for row in rows)])
    (tmp_path / "labels.csv").write_bytes(text.encode("utf-16"))
    arguments = ["--site", "A", "--sites", str(tmp_path / "sites"), "--workers", "1", "--format", "json"]
    assert preflight.main(arguments) == preflight.OK
    found = json.loads(capsys.readouterr().out)
    assert found["files"]["used"] == 4
    assert "UTF-16 with semicolons" in problems(found, "label_file_written")[0]["what"]


def test_copies_that_nobody_lists_stand_under_no_other_patient(
    tmp_path: Path, looked: Callable[..., Found]
) -> None:
    names = pictures(tmp_path, 4)
    (tmp_path / "films/#recycle").mkdir()
    for index, name in enumerate(names):
        film(index).save(tmp_path / f"films/#recycle/old{index}.png")
        film(index).save(tmp_path / f"films/#recycle/old{index}.jpg", quality=80)
        (tmp_path / f"films/._{name}").write_bytes(b"\0\5\x16\7" + bytes(60))
    found = looked([f"p{index},{name},{index % 2}" for index, name in enumerate(names)])
    assert (found["files"]["used"], found["patients"]) == (4, 4)
    assert problems(found, "shared_film") == problems(found, "linked_patients") == []
    assert found["exit_code"] == preflight.OK


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, looked: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"p{index},{name},{index % 2}" for index, name in enumerate(pictures(tmp_path, 4))]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert looked(rows, films="~/films", labels="~/labels.csv", state="~/state")["files"]["used"] == 4
    assert (tmp_path / "state/intake/preflight.html").is_file()


def test_a_sites_own_words_take_what_was_refused(tmp_path: Path, looked: Callable[..., Found]) -> None:
    own = {"BodyPartExamined": "RAUM 7", "ViewPosition": "PROJ 1", "Modality": "ZZ"}
    (tmp_path / "films/0.dcm").write_bytes(chest(0, **own, PatientID="", PatientName=""))
    film(1).save(tmp_path / "films/1.png")
    film(2).save(tmp_path / "films/2.png")
    rows = ["p0,0.dcm,1,", "p1,1.png,0,schief", "p2,2.png,1,AP"]
    columns = "patient_id,image,Pneumonia,view"
    accept: dict[str, Any] = {"modality": ["zz"]}
    refused = looked(rows, columns, accept=accept)
    assert problems(refused, "body_part")[0]["values"] == {"RAUM 7": 1}
    assert problems(refused, "not_frontal")[0]["values"] == {"SCHIEF": 1}
    assert "accept: body_part" in problems(refused, "body_part")[0]["do"]
    accept |= {"body_part": ["Raum 7"], "view": {"proj 1": "PA", "schief": "frontal"}}
    taken = looked(rows, columns, accept=accept)
    assert taken["files"]["used"] == 3
    assert taken["views"] == {"AP": 1, "PA": 1, "unknown": 1}


def test_a_word_of_the_header_that_its_code_contradicts_is_told(
    tmp_path: Path, looked: Callable[..., Found]
) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "272479007", "SCT", ""
    for index in range(3):
        stored = np.asarray(film(index)).astype(np.uint16) * 16
        says = {} if index == 2 else {"ViewPosition": "AP", "ViewCodeSequence": [code]}
        content = write_dicom(stored, PatientID=f"p{index}", PatientName="", PatientBirthDate="", **says)
        (tmp_path / f"films/{index}.dcm").write_bytes(content)
    found = looked([f"p{index},{index}.dcm,{index % 2}" for index in range(3)])
    (problem,) = problems(found, "header_conflict")
    assert (problem["weight"], problem["count"]) == ("act", 2)
    assert problem["values"] == {"view PA by its code, AP by its word": 2}
    assert found["views"] == {"PA": 3}
    page = (tmp_path / "state/intake/preflight.html").read_text()
    assert page.count("<td>view PA by its code, AP by its word</td>") == 2
