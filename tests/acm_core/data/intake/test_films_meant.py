"""A label file may name films as the archive does: by SOP Instance, Series or Study UID, or by accession number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hospitals
import numpy as np
import pytest

from acm_core.config.site import SiteConfig
from acm_core.data.intake.intake import Intake, intake_folder, take_in
from acm_core.data.intake.journal import Journal
from acm_core.data.label_file import LabelError
from acm_core.data.set_aside import SetAside
from acm_core.data.site_films import load_site

LATERAL = {"ViewPosition": "LL"}


@pytest.fixture
def folder(tmp_path: Path, dicom: Callable[..., bytes]) -> Path:
    """Study 1: two frontal films and a lateral one; study 2: one frontal; study 3: a lateral one, and one cut off."""
    films = tmp_path / "films"
    films.mkdir()
    for study, film, more in (
        (1, 1, {}),
        (1, 2, {}),
        (1, 3, LATERAL),
        (2, 1, {}),
        (3, 1, LATERAL),
        (3, 2, {}),
    ):
        coarse = np.random.default_rng(10 * study + film).integers(0, 4096, (12, 10)).astype(np.uint16)
        content = dicom(
            np.repeat(np.repeat(coarse, 8, 0), 8, 1),
            BitsStored=12,
            PatientID=f"P{study}",
            PatientName=f"Name^{study}",
            SOPInstanceUID=f"1.9.{study}.1.{film}",
            SeriesInstanceUID=f"1.9.{study}.{1 if film < 3 else 2}",
            StudyInstanceUID=f"1.9.{study}",
            AccessionNumber=f"00{study}",
            **more,
        )
        (films / f"{study}-{film}.dcm").write_bytes(content[:-5000] if (study, film) == (3, 2) else content)
    (films / "note.txt").write_text("no film")
    return tmp_path


def site(folder: Path, kind: str, rows: str) -> SiteConfig:
    (folder / "labels.csv").write_text(f"patient_id,named,Pneumonia,No Finding\n{rows}", encoding="utf-8")
    return hospitals.site(
        folder,
        "A",
        films=folder / "films",
        labels=folder / "labels.csv",
        label_map={"image": "named", "image_is": kind},
        splits={"validation": 0, "test": 0},
    )


def meant(taken: Intake) -> list[tuple[str, SetAside | None, float]]:
    """Film, verdict and the label of Pneumonia, of each row that the label file comes to."""
    reasons = {row.film: row.reason for row in taken.rows}
    column = taken.table.findings.index("Pneumonia")
    return [
        (taken.names[film], reasons[film], float(labels[column]))
        for film, labels in zip(taken.images, taken.table.labels, strict=True)
    ]


@pytest.mark.parametrize("kind", ["study", "accession"])
def test_a_row_of_a_study_stands_for_each_of_its_frontal_films(folder: Path, kind: str) -> None:
    one, two, three, four = (
        ("1.9.1", "1.9.2", "1.9.3", "1.9.4") if kind == "study" else ("001", "002", "003", "004")
    )
    rows = f"P2,{two},0,1\nP1,{one},1,1\nP3,{three},1,0\nP4,{four},1,0\n"
    taken = take_in(site(folder, kind, rows))
    assert meant(taken) == [
        ("2-1.dcm", None, 0),
        ("1-1.dcm", None, 1),
        ("1-2.dcm", None, 1),
        ("3-1.dcm", SetAside.NOT_FRONTAL, 1),  # none of its films can be used: what is lost is seen
        ("3-2.dcm", SetAside.UNREADABLE, 1),
        (four, SetAside.MISSING_FILE, 1),
    ]
    assert [conflict.row for conflict in taken.table.conflicts] == [1, 2]
    assert list(taken.label_rows) == [0, 1, 1, 2, 2, 3]
    listed = {taken.names[row.film]: row.listed for row in taken.rows}
    assert not listed["1-3.dcm"]


def test_a_row_of_a_series_or_an_instance_stands_for_its_films(folder: Path) -> None:
    taken = take_in(site(folder, "series", "P1,1.9.1.1,1,0\nP1,1.9.1.2,0,1\n"))
    assert meant(taken) == [("1-1.dcm", None, 1), ("1-2.dcm", None, 1), ("1-3.dcm", SetAside.NOT_FRONTAL, 0)]
    taken = take_in(site(folder, "instance", "P1,1.9.1.1.2,1,0\nP3,1.9.3.1.2,0,1\nP1,1.9.1.1,1,0\n"))
    assert meant(taken) == [
        ("1-2.dcm", None, 1),
        ("3-2.dcm", SetAside.UNREADABLE, 0),
        ("1.9.1.1", SetAside.MISSING_FILE, 1),  # the beginning of a UID is another UID
    ]


def test_labels_and_films_stay_together_up_to_training(folder: Path) -> None:
    films = load_site(site(folder, "study", "P3,1.9.3,1,0\nP2,1.9.2,0,1\nP1,1.9.1,1,0\n"), ["Pneumonia"], 32)
    assert films.train.labels[:, 0].tolist() == [0, 1, 1]
    assert films.train.patients.tolist() == [0, 1, 1]
    assert films.set_aside == {"not_frontal": 1, "unreadable": 1}


def test_a_name_in_another_column_changes_nothing_else(folder: Path) -> None:
    by_name = take_in(site(folder, "path", "P1,1-1.dcm,1,0\nP1,1-2.dcm,1,0\nP2,2-1.dcm,0,1\n"))
    by_instance = take_in(site(folder, "instance", "P1,1.9.1.1.1,1,0\nP1,1.9.1.1.2,1,0\nP2,1.9.2.1.1,0,1\n"))
    assert by_instance.fingerprint == by_name.fingerprint


def test_the_journal_holds_no_identifier(folder: Path) -> None:
    settings = site(folder, "study", "P1,1.9.1,1,0\n")
    take_in(settings)
    with Journal(intake_folder(settings) / "journal.sqlite") as journal:
        text = "\n".join(journal.lines())
    assert "1.9." not in text
    assert '"001"' not in text
    assert text.count('"accession"') == 6


def test_the_same_study_twice_is_a_mistake(folder: Path) -> None:
    with pytest.raises(LabelError, match="line 3: the film of line 2 stands here again"):
        take_in(site(folder, "study", "P1,1.9.1,1,0\nP1,1.9.1,0,0\n"))
