"""An archive as a hospital's engineer meets it: in the doctor's row, at preflight, and when it goes wrong."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import orthanc
import pytest
import yaml
from dicom_files import write_dicom
from orthanc import Orthanc

from client import doctor, preflight


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc.running(tmp_path_factory.mktemp("archive")) as running:
        for number in range(8):
            coarse = np.random.default_rng(number).integers(0, 4096, (12, 10)).astype(np.uint16)
            film = write_dicom(
                np.repeat(np.repeat(coarse, 8, 0), 8, 1),
                BitsStored=12,
                PatientID=f"GEHEIM{number}",
                SOPInstanceUID=f"1.77.{number}.1.1",
                SeriesInstanceUID=f"1.77.{number}.1",
                StudyInstanceUID=f"1.77.{number}",
                AccessionNumber=f"ACC{number}",
                StudyDate="20200115",
            )
            running.store(film)
        yield running


def site_file(folder: Path, films: dict[str, Any], image_is: str = "accession") -> list[str]:
    rows = "".join(f"GEHEIM{number},ACC{number},{number % 2}\n" for number in range(8))
    (folder / "labels.csv").write_text(f"patient_id,image,Pneumonia\n{rows}")
    settings = {
        "site": "A",
        "films": films,
        "labels": "labels.csv",
        "state": "state",
        "label_map": {"image_is": image_is},
    }
    (folder / "A.yaml").write_text(yaml.safe_dump(settings))
    return ["--site", "A", "--sites", str(folder)]


def examined(arguments: list[str]) -> str:
    """What the doctor's rows about the archive say."""
    text = io.StringIO()
    with redirect_stdout(text):
        doctor.main(arguments)
    lines = text.getvalue().splitlines()
    (first,) = [number for number, line in enumerate(lines) if " archive " in line]
    return " ".join(" ".join(lines[first : first + 2]).split())


def test_the_doctor_asks_the_archive(archive: Orthanc, tmp_path: Path) -> None:
    said = examined(site_file(tmp_path, archive.site_settings(tmp_path)))
    assert (
        f"ok archive {archive.dicomweb} answers: 8 films on the first page of the first of 2 searches" in said
    )
    said = examined(site_file(tmp_path, archive.site_settings(tmp_path, query={"listed": True})))
    assert "answers: 1 films on the first page of the first of 8 searches" in said
    none = archive.site_settings(tmp_path, query={"modality": ["DX"]})
    assert "→ look at films: query" in examined(site_file(tmp_path, none))


def test_the_doctor_says_what_is_wrong(archive: Orthanc, tmp_path: Path) -> None:
    settings = archive.site_settings(tmp_path)
    arguments = site_file(tmp_path, settings)
    (tmp_path / "token").write_text("acm-fed:wrong-password")
    said = examined(arguments)
    assert "!! archive" in said
    assert "got HTTP 401" in said
    assert "→ renew the credential" in said
    assert "wrong-password" not in said
    (tmp_path / "token").chmod(0o644)
    assert f"→ chmod 600 {tmp_path / 'token'}" in examined(arguments)
    (tmp_path / "token").unlink()
    assert "expected one line, a bearer token or user:password" in examined(arguments)


def test_preflight_reads_the_archive(
    archive: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = site_file(tmp_path, archive.site_settings(tmp_path))
    assert preflight.main(arguments) in (preflight.OK, preflight.ACT)
    told = capsys.readouterr()
    assert "8 files, 8 of them new; 8 labelled films" in told.out
    assert "reading films: 8 of 8" in told.err
    assert "asking the archive: 2 of 2" in told.err
    page = (tmp_path / "state/intake/preflight.html").read_text()
    assert page.count("data:image/png;base64,") >= 8
    for text in (told.out, told.err):
        assert not any(secret in text for secret in ("1.77.", "GEHEIM", "ACC", orthanc.PASSWORD))


def test_preflight_without_an_answer_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acm_core.data.source.dicomweb_link._WAITS", (0.01,))
    arguments = site_file(tmp_path, {"dicomweb": "http://127.0.0.1:1/dicom-web", "query": {"listed": True}})
    assert preflight.main(arguments) == preflight.WRONG
    told = capsys.readouterr()
    assert (
        "http://127.0.0.1:1/dicom-web: expected an answer, got none: look whether the archive runs"
        in told.err
    )
    assert "ACC" not in told.err


def test_a_folder_needs_no_archive_library() -> None:
    code = (
        "import sys, acm_core.data.intake.worker, acm_core.data.intake.intake; "
        "print('dicomweb_client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
