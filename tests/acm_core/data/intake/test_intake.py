"""A folder to its manifest: the same every time, whatever happened in between."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import hospitals
import numpy as np
import pytest
from PIL import Image

from acm_core.config.site import SiteConfig
from acm_core.data.intake.intake import Intake, intake_folder, prepare, take_in
from acm_core.data.label_file import LabelError
from acm_core.data.set_aside import SetAside


def picture(seed: int) -> Image.Image:
    """No two look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7)).astype(np.uint8)
    return Image.fromarray(coarse).resize((60, 70), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path, dicom: Callable[..., bytes]) -> Path:
    """Films of five patients at several depths, a copy, a copy in JPEG, a report and a lateral film."""
    films = tmp_path / "films"
    (films / "deep/er").mkdir(parents=True)
    picture(1).save(films / "one.png")
    picture(2).save(films / "deep/two.png")
    stored = np.asarray(picture(3)).astype(np.uint16) * 16
    (films / "deep/er/three.dcm").write_bytes(
        dicom(stored, PatientID="P3", PatientSex="F", PatientAge="093Y")
    )
    (films / "deep/er/again.dcm").write_bytes(dicom(stored, PatientID="P9", StudyDescription="CHEST"))
    picture(1).save(films / "one small.jpg", quality=70)
    (films / "lateral.dcm").write_bytes(dicom(stored, ViewPosition="LL"))
    (films / "report.txt").write_text("Geheim")
    picture(4).save(films / "four.png")
    (tmp_path / "labels.csv").write_text(
        "patient_id,image,view,Pneumonia,No Finding\n"
        "p1,one.png,PA,1,0\np2,deep/two.png,AP,0,1\nP3,three.dcm,,,\np4,four.png,L,1,1\np5,gone.png,PA,1,\n"
    )
    return tmp_path


def site(folder: Path, state: str = "state", **changes: Any) -> SiteConfig:
    return hospitals.site(
        folder,
        "A",
        films=folder / "films",
        labels=folder / "labels.csv",
        state=folder / state,
        **{"label_map": {"view": "view"}, **changes},
    )


def verdicts(taken: Intake) -> dict[str, SetAside | None]:
    return {taken.names[row.film]: row.reason for row in taken.rows}


def test_every_file_has_one_verdict(folder: Path) -> None:
    taken = take_in(site(folder))
    assert verdicts(taken) == {
        "one.png": None,
        "one small.jpg": SetAside.NEAR_DUPLICATE,
        "deep/two.png": None,
        "deep/er/three.dcm": None,
        "deep/er/again.dcm": SetAside.DUPLICATE,  # of the one that the label file lists
        "lateral.dcm": SetAside.NOT_FRONTAL,
        "report.txt": SetAside.NOT_AN_IMAGE,
        "four.png": SetAside.NOT_FRONTAL,  # the label file says so
        "gone.png": SetAside.MISSING_FILE,
    }
    rows = {taken.names[row.film]: row for row in taken.rows}
    assert rows["deep/er/again.dcm"].duplicate_of == rows["deep/er/three.dcm"].film
    assert rows["deep/er/again.dcm"].patient == rows["deep/er/three.dcm"].patient
    assert (rows["deep/er/three.dcm"].view, rows["deep/er/three.dcm"].sex) == ("PA", "F")
    assert rows["deep/er/three.dcm"].age == 90  # the oldest are not told apart
    assert rows["deep/two.png"].view == "AP"
    assert rows["deep/er/three.dcm"].listed  # by its file name alone
    assert [taken.names[taken.images[conflict.row]] for conflict in taken.table.conflicts] == ["four.png"]


def test_the_manifest_is_the_same_byte_for_byte_and_nothing_is_read_twice(folder: Path) -> None:
    first = take_in(site(folder))
    content = first.manifest.read_bytes()
    again = take_in(site(folder))
    assert first.read == 8
    assert again.rows == first.rows
    assert set((again.changes or {}).values()) == {0}
    (folder / "elsewhere").mkdir()
    shutil.copytree(folder / "films", folder / "elsewhere/films")
    shutil.copy(folder / "labels.csv", folder / "elsewhere/labels.csv")
    elsewhere = take_in(site(folder / "elsewhere"), workers=1)
    assert elsewhere.manifest.read_bytes() == content
    assert elsewhere.fingerprint == first.fingerprint
    other_salt = hospitals.site(
        folder, "B", films=folder / "films", labels=folder / "labels.csv", label_map={"view": "view"}
    )
    assert take_in(other_salt).fingerprint != first.fingerprint


def test_unchanged_files_are_not_read_again(folder: Path) -> None:
    import os

    for path in (folder / "films").rglob("*.*"):
        os.utime(path, (1, 1))
    take_in(site(folder))
    assert (
        take_in(site(folder)).read == 8
    )  # changed less than two seconds before: they may change again unseen
    import time

    time.sleep(2.1)
    assert take_in(site(folder)).read == 8
    assert take_in(site(folder)).read == 0
    picture(7).save(folder / "films/one.png")
    assert take_in(site(folder)).read == 1


def test_what_changed_is_told(folder: Path) -> None:
    assert take_in(site(folder)).changes is None
    picture(5).save(folder / "films/five.png")
    (folder / "films/report.txt").unlink()
    (folder / "films/deep/two.png").write_bytes(b"no film")
    taken = take_in(site(folder))
    assert taken.changes == {"added": 1, "removed": 1, "content": 1, "verdict": 1}


@pytest.mark.parametrize("damage", ["manifest", "journal", "summary", "journal's log"])
def test_damaged_state_is_made_anew(folder: Path, damage: str) -> None:
    first = take_in(site(folder)).manifest.read_bytes()
    state = intake_folder(site(folder))
    name = {"manifest": "manifest.sqlite", "journal": "journal.sqlite", "summary": "manifest.json"}.get(
        damage
    )
    if name is None:
        (state / "journal.sqlite-wal").write_bytes(bytes(5000))
    else:
        (state / name).write_bytes(b"x" * 3000)
    assert take_in(site(folder)).manifest.read_bytes() == first


def test_one_person_under_two_ids_is_in_one_split(folder: Path, dicom: Callable[..., bytes]) -> None:
    """The header's Patient ID, or name, birth date and sex, join what accession numbers hide."""
    rows = []
    for number in range(12):
        person = number // 2
        stored = np.asarray(picture(100 + number)).astype(np.uint16) * 16
        says: dict[str, Any] = {"PatientName": f"N^{person}", "PatientBirthDate": "19500101"}
        says["PatientID"] = f"id{person}" if person % 2 else f"id{100 + number}"
        (folder / f"films/{number}.dcm").write_bytes(dicom(stored, **says))
        rows.append(f"accession{number},{number}.dcm,PA,1,\n")
    with (folder / "labels.csv").open("a") as file:
        file.writelines(rows)
    taken = take_in(site(folder))
    where = {taken.names[row.film]: (row.patient, row.split) for row in taken.rows}
    for person in range(6):
        assert where[f"{2 * person}.dcm"] == where[f"{2 * person + 1}.dcm"]
    assert len({where[f"{number}.dcm"][0] for number in range(12)}) == 6
    assert taken.linked >= 6


def test_nothing_in_the_manifest_names_a_patient(folder: Path) -> None:
    taken = take_in(site(folder))
    content = taken.manifest.read_bytes()
    for secret in (
        b"Geheim",
        b"GEHEIM",
        b"1947",
        b"Klinikum",
        b"one.png",
        b"three",
        b"1.2.3.47119",
        b"P3",
        b"p1",
    ):
        assert secret not in content, secret
    with closing(sqlite3.connect(taken.manifest)) as database:
        assert database.execute("SELECT count(*) FROM film").fetchone() == (9,)
        assert database.execute("SELECT finding, value FROM label ORDER BY finding, value").fetchall() == [
            ("No Finding", 0.0), ("No Finding", 1.0), ("No Finding", 1.0),
            ("Pneumonia", 0.0), ("Pneumonia", 1.0), ("Pneumonia", 1.0), ("Pneumonia", 1.0),
        ]  # fmt: skip


def test_films_of_unknown_view_are_kept_unless_the_site_says_otherwise(folder: Path) -> None:
    blind = {"label_map": {"view": ""}}
    assert verdicts(take_in(site(folder, **blind)))["one.png"] is None
    strict = take_in(site(folder, **blind, unknown_view="set_aside"))
    assert verdicts(strict)["one.png"] is SetAside.UNKNOWN_VIEW
    assert verdicts(strict)["deep/er/three.dcm"] is None


def test_two_rows_for_one_file_are_refused(folder: Path) -> None:
    with (folder / "labels.csv").open("a") as file:
        file.write("p2,two.png,AP,0,1\n")
    with pytest.raises(LabelError, match="expected each film once in the label file, got rows 2 and 6"):
        take_in(site(folder))


def test_a_film_that_changed_since_is_not_prepared(folder: Path) -> None:
    take_in(site(folder))
    picture(9).save(folder / "films/one.png")
    films, contents = prepare(site(folder), ["one.png", "deep/two.png", "never.png"], 32)
    assert contents[0] is None
    assert contents[1] in films
    assert contents[2] is None


def test_names_that_are_no_utf8_and_links_do_no_harm(folder: Path) -> None:
    import os

    with open(os.fsencode(folder / "films") + b"/\xff.png", "wb") as file:  # noqa: PTH123  # bytes
        picture(8).save(file, "PNG")
    (folder / "films/loop").symlink_to(folder / "films")
    (folder / "films/nothing").symlink_to(folder / "absent")
    os.mkfifo(folder / "films/pipe")
    found = verdicts(take_in(site(folder)))
    assert found["\\xff.png"] is None
    assert len(found) == 10
