"""A written hospital: the same bytes for the same settings, whole or not at all, labels that the films alone tell."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from simulations.phantoms import FINDINGS, LABELS, SCANNERS, HospitalSpec, write_hospital
from simulations.phantoms.writing import draw_patients

SPEC = HospitalSpec(
    name="NORTH",
    patients=12,
    films_per_patient=(1, 2),
    labels=("No Finding", "Lung Opacity", "Nodule"),
    scanner=SCANNERS["cr_mono1_10bit"],
    image_size=64,
    ap_share=0.5,
    age=(30, 40),
)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hospital(SPEC, tmp_path_factory.mktemp("phantoms") / "north", seed=7)


def test_the_same_settings_and_seed_give_the_same_bytes(hospital: Path, tmp_path: Path) -> None:
    again = write_hospital(SPEC, tmp_path / "elsewhere", seed=7)
    assert contents(again) == contents(hospital)
    other_seed = write_hospital(SPEC, tmp_path / "other", seed=8)
    assert not set(contents(other_seed).values()) & set(contents(hospital).values())


@pytest.mark.parametrize("name", SCANNERS)
def test_every_scanner_writes_the_same_bytes_twice(name: str, tmp_path: Path) -> None:
    spec = HospitalSpec.model_validate({"name": "H", "patients": 1, "scanner": name, "image_size": 64})
    assert contents(write_hospital(spec, tmp_path / "a", 0)) == contents(
        write_hospital(spec, tmp_path / "b", 0)
    )


def test_label_file_has_the_sites_columns_and_names_every_film(hospital: Path) -> None:
    labels = rows(hospital / "labels.csv")
    assert list(labels[0]) == ["patient_id", "image", "view", "sex", "age", "source", "licence", *LABELS]
    films = {str(path.relative_to(hospital)) for path in (hospital / "films").iterdir()}
    assert {row["image"] for row in labels} == films
    assert len(labels) == len(films)
    for row in labels:
        film = pydicom.dcmread(hospital / row["image"])
        assert film.PatientID == row["patient_id"]
        assert row["patient_id"] not in row["image"]
        assert (film.ViewPosition, film.PatientSex) == (row["view"], row["sex"])
        assert int(film.PatientAge[:-1]) == int(row["age"])
        assert 30 <= int(row["age"]) <= 40
        assert film.pixel_array.shape == (64, 52)
    assert {row["view"] for row in labels} == {"PA", "AP"}


def test_uids_differ_between_films_and_hospitals(hospital: Path, tmp_path: Path) -> None:
    other = write_hospital(SPEC.model_copy(update={"name": "SOUTH"}), tmp_path / "south", seed=7)
    uids = [
        uid
        for folder in (hospital, other)
        for path in (folder / "films").iterdir()
        for film in [pydicom.dcmread(path, stop_before_pixels=True)]
        for uid in (film.SOPInstanceUID, film.SeriesInstanceUID, film.StudyInstanceUID)
    ]
    assert len(set(uids)) == len(uids)


def test_labels_say_what_was_planted_and_unlabelled_findings_are_blank(hospital: Path) -> None:
    planted = defaultdict(set)
    for row in rows(hospital / "truth.csv"):
        planted[row["image"]].add(row["finding"])
        box = [int(row[key]) for key in ("top", "left", "bottom", "right")]
        mirror = [int(row[f"mirror_{key}"]) for key in ("top", "left", "bottom", "right")]
        for top, left, bottom, right in (box, mirror):
            assert 0 <= top < bottom <= 64
            assert 0 <= left < right <= 52
        assert row["side"] in ({"both"} if row["finding"] == "Cardiomegaly" else {"left", "right"})
    labels = rows(hospital / "labels.csv")
    for row in labels:
        found = planted[row["image"]] or {"No Finding"}
        for label in LABELS:
            expected = str(int(label in found)) if label in SPEC.labels else ""
            assert row[label] == expected, label
    assert {row["Nodule"] for row in labels} == {"0", "1"}


def test_prevalence_is_held_and_every_film_of_a_patient_shows_the_same() -> None:
    prevalence = {"Nodule": 0.25, "Pneumothorax": 0.1}
    spec = SPEC.model_copy(update={"patients": 200, "prevalence": prevalence})
    patients = draw_patients(spec, 1)
    counts = {f: sum(any(p.finding == f for p in patient.planted) for patient in patients) for f in FINDINGS}
    assert counts == {
        "Lung Opacity": 0,
        "Pneumothorax": 20,
        "Pleural Effusion": 0,
        "Cardiomegaly": 0,
        "Nodule": 50,
    }
    assert {patient.films for patient in patients} == {1, 2}


def test_findings_are_independent_of_everything_else_about_a_patient() -> None:
    patients = draw_patients(SPEC.model_copy(update={"patients": 1500, "age": (18, 90)}), 3)
    ill = np.array([[any(p.finding == f for p in patient.planted) for f in FINDINGS] for patient in patients])
    about = {
        "sex": [patient.sex == "F" for patient in patients],
        "age": [patient.age for patient in patients],
        "films": [patient.films for patient in patients],
        "size": [patient.anatomy.half_width[0] for patient in patients],
        "order": [patient.number for patient in patients],
        "heart": [patient.anatomy.heart_ratio for patient in patients],
        "shadow": [patient.anatomy.paired_shadow for patient in patients],
    }
    for number, finding in enumerate(FINDINGS):
        for name, values in about.items():
            # 300 patients with and 1200 without: a standard error of 0.019.
            assert abs(roc_auc_score(ill[:, number], values) - 0.5) < 0.06, (finding, name)
    together = np.corrcoef(ill.T.astype(float))
    assert np.abs(together - np.eye(len(FINDINGS))).max() < 0.09


def test_another_scanner_keeps_the_patients_and_their_findings() -> None:
    other = SPEC.model_copy(update={"scanner": SCANNERS["dx_mono2_14bit_window"], "image_size": 128})
    assert draw_patients(SPEC, 7) == draw_patients(other, 7)


def test_a_finished_folder_is_left_as_it_is(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"patients": 2})
    folder = write_hospital(spec, tmp_path / "h", 1)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    calls: list[tuple[int, int]] = []
    write_hospital(spec, folder, 1, progress=lambda done, total: calls.append((done, total)))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert not calls


def test_other_settings_or_a_missing_film_write_it_anew(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"patients": 2})
    folder = write_hospital(spec, tmp_path / "h", 1)
    whole = contents(folder)
    next((folder / "films").iterdir()).unlink()
    calls: list[tuple[int, int]] = []
    write_hospital(spec, folder, 1, progress=lambda done, total: calls.append((done, total)))
    assert contents(folder) == whole
    films = len(list((folder / "films").iterdir()))
    assert calls == [(done, films) for done in range(1, films + 1)]
    write_hospital(spec.model_copy(update={"difficulty": 0.9}), folder, 1)
    assert contents(folder).keys() & whole.keys() == {"labels.csv", "truth.csv", "phantom.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["h"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_an_interrupt_leaves_nothing_or_the_former_hospital(
    tmp_path: Path, stop: type[BaseException]
) -> None:
    spec = SPEC.model_copy(update={"patients": 3})

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise stop

    with pytest.raises(stop):
        write_hospital(spec, tmp_path / "h", 1, progress=interrupt)
    assert not list(tmp_path.iterdir())
    folder = write_hospital(spec, tmp_path / "h", 1)
    former = contents(folder)
    with pytest.raises(stop):
        write_hospital(spec, folder, 2, progress=interrupt)
    assert contents(folder) == former
    assert [path.name for path in tmp_path.iterdir()] == ["h"]


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    for left_over in (".h.partial", ".h.replaced"):
        (tmp_path / left_over / "films").mkdir(parents=True)
        (tmp_path / left_over / "films" / "half.dcm").write_bytes(b"DICM")
    folder = write_hospital(SPEC.model_copy(update={"patients": 1}), tmp_path / "h", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["h"]
    assert not (folder / "films" / "half.dcm").exists()


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    precious = tmp_path / "site" / "labels.csv"
    precious.parent.mkdir()
    precious.write_text("patient_id,image\n")
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_hospital(SPEC, tmp_path / "site", 1)
    assert precious.read_text() == "patient_id,image\n"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (write_hospital(SPEC.model_copy(update={"patients": 1}), empty, 1) / "phantom.json").is_file()


def test_the_record_names_what_made_the_folder(hospital: Path) -> None:
    record = json.loads((hospital / "phantom.json").read_text())
    assert HospitalSpec.model_validate(record["spec"]) == SPEC
    assert record["fingerprint"] == SPEC.fingerprint(7) != SPEC.fingerprint(8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scanner": "cr_unknown"}, "expected one of dx_mono2_14bit_window"),
        ({"labels": ["Nodule", "Nodule"]}, "expected each label once"),
        ({"labels": ["Fracture"]}, "No Finding"),
        ({"prevalence": {"Nodule": 1.5}}, "less than or equal to 1"),
        ({"prevalence": {"Fracture": 0.5}}, "Pneumothorax"),
        ({"films_per_patient": (3, 1)}, "expected 1 ≤ first ≤ second"),
        ({"name": "../x"}, "pattern"),
        ({"colour": 1}, "Extra inputs"),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HospitalSpec.model_validate(SPEC.model_dump() | change)
