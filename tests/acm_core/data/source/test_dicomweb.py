"""Films of a real archive (Orthanc): the manifest is a folder's, whatever breaks; nothing is kept, nothing told."""

from __future__ import annotations

import logging
import shutil
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hospitals
import numpy as np
import orthanc
import pytest
from orthanc import Orthanc

from acm_core.config.site import SiteConfig
from acm_core.data.intake.intake import Intake, take_in
from acm_core.data.set_aside import SetAside
from acm_core.data.site_films import load_site
from acm_core.data.source.dicomweb_link import ArchiveError
from client.round.open_films import OpenFilms

PATIENTS = 12
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"ViewPosition": "AP"},
    {"ViewPosition": "LL"},
    {"BodyPartExamined": "HAND", "Modality": "DX"},
)


def name(patient: int, kind: int) -> str:
    return f"1.9.{patient}/1.9.{patient}.{kind}/1.9.{patient}.{kind}.1.dcm"


def content(dicom: Callable[..., bytes], patient: int, kind: int, **more: Any) -> bytes:
    coarse = np.random.default_rng(100 * patient + kind).integers(0, 4096, (12, 10)).astype(np.uint16)
    said = {
        "PatientID": f"P{patient}",
        "PatientName": f"Name^{patient}",
        "SOPInstanceUID": f"1.9.{patient}.{kind}.1",
        "SeriesInstanceUID": f"1.9.{patient}.{kind}",
        "StudyInstanceUID": f"1.9.{patient}",
        "AccessionNumber": f"0{patient}",
        "StudyDate": f"2020{patient + 1:02d}15",
        **KINDS[kind],
        **more,
    }
    return dicom(np.repeat(np.repeat(coarse, 8, 0), 8, 1), BitsStored=12, **said)


def fill(archive: Orthanc, folder: Path, dicom: Callable[..., bytes]) -> None:
    """Four films a patient, in the archive and below `films`; two are cut off in both after they were stored."""
    for patient in range(PATIENTS):
        for kind in range(len(KINDS)):
            film = content(dicom, patient, kind)
            archive.store(film)
            path = folder / "films" / name(patient, kind)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(film)
    stored = archive.stored_files()
    for patient in (3, 7):
        path = folder / "films" / name(patient, 0)
        kept = stored[orthanc.file_sha256(path)]
        for copy in (kept, path):
            copy.write_bytes(copy.read_bytes()[:-2000])
    for column, named in (
        ("accession", "0{}"),
        ("study", "1.9.{}"),
        ("instance", "1.9.{}.0.1"),
        ("path", ""),
    ):
        rows = [
            f"P{patient},{named.format(patient) or name(patient, 0)},{patient % 2}\n"
            for patient in range(PATIENTS)
        ]
        (folder / f"{column}.csv").write_text("patient_id,image,Pneumonia\n" + "".join(rows))


@pytest.fixture(scope="module")
def there(
    tmp_path_factory: pytest.TempPathFactory, dicom: Callable[..., bytes]
) -> Iterator[tuple[Orthanc, Path]]:
    """An archive behind the hospital's own certificate, and a folder with the same films."""
    folder = tmp_path_factory.mktemp("archive")
    with orthanc.running(folder / "orthanc") as archive, orthanc.behind_tls(archive):
        fill(archive, folder, dicom)
        yield archive, folder


@pytest.fixture
def own(tmp_path: Path, dicom: Callable[..., bytes]) -> Iterator[tuple[Orthanc, Path]]:
    """As `there`, for a test that breaks it."""
    with orthanc.running(tmp_path / "orthanc") as archive:
        fill(archive, tmp_path, dicom)
        yield archive, tmp_path


def site(folder: Path, films: object, image_is: str, state: Path) -> SiteConfig:
    return hospitals.site(
        folder,
        "A",
        films=films,
        labels=folder / f"{image_is}.csv",
        label_map={"image_is": image_is},
        state=state,
        splits={"validation": 0, "test": 0},
    )


def verdicts(taken: Intake) -> dict[str, SetAside | None]:
    return {taken.names[row.film]: row.reason for row in taken.rows}


@pytest.mark.parametrize("image_is", ["path", "instance", "study", "accession"])
def test_the_manifest_is_that_of_a_folder_with_the_same_films(
    there: tuple[Orthanc, Path], tmp_path: Path, image_is: str
) -> None:
    archive, folder = there
    from_folder = take_in(site(folder, folder / "films", image_is, tmp_path / "folder"))
    settings = archive.site_settings(tmp_path)
    from_archive = take_in(site(folder, settings, image_is, tmp_path / "archive"), image_size=32)
    assert from_archive.manifest.read_bytes() == from_folder.manifest.read_bytes()
    assert len(from_archive.rows) == 4 * PATIENTS
    found = verdicts(from_archive)
    assert found[name(3, 0)] is SetAside.UNREADABLE
    assert found[name(0, 0)] is None
    again = take_in(site(folder, settings, image_is, tmp_path / "archive"), anew=True)
    assert again.read == 0


def test_only_what_the_query_finds_is_asked_for(there: tuple[Orthanc, Path], tmp_path: Path) -> None:
    archive, folder = there

    def films(number: int, **query: Any) -> set[str]:
        settings = archive.site_settings(tmp_path, query=query)
        kind = "accession" if query.get("listed") else "path"
        taken = take_in(site(folder, settings, kind, tmp_path / str(number)))
        return {taken.names[row.film] for row in taken.rows if row.reason is not SetAside.MISSING_FILE}

    everything = {name(patient, kind) for patient in range(PATIENTS) for kind in range(4)}
    assert films(0) == everything
    assert films(1, modality=["DX"]) == {name(patient, 3) for patient in range(PATIENTS)}
    assert films(2, body_part=["CHEST"]) == {one for one in everything if not one.endswith(".3.1.dcm")}
    assert films(3, dates="2020-02-01..2020-03-31") == {
        one for one in everything if one.startswith(("1.9.1/", "1.9.2/"))
    }
    assert films(4, modality=["CR", "DX"], body_part=["CHEST", "HAND"], dates="2020-05-01..2020-05-31") == {
        name(4, kind) for kind in range(4)
    }
    labels = folder / "accession.csv"
    whole = labels.read_text()
    labels.write_text("patient_id,image,Pneumonia\nP1,01,1\nP5,05,0\nP6,0*,1\n")
    try:
        assert films(5, listed=True) == {name(patient, kind) for patient in (1, 5) for kind in range(4)}
    finally:
        labels.write_text(whole)


def test_nothing_is_kept_but_the_prepared_film_and_nothing_names_anybody(
    there: tuple[Orthanc, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive, folder = there
    caplog.set_level(logging.DEBUG)
    state = tmp_path / "state"
    load_site(site(folder, archive.site_settings(tmp_path), "accession", state), ["Pneumonia"], 32)
    kept = {path.relative_to(state).as_posix() for path in state.rglob("*") if path.is_file()}
    kept = {one for one in kept if not one.startswith("prepared/films-32-")}
    assert kept == {
        *("salt", ".salt.lock", "intake/lock", "intake/journal.sqlite", "intake/manifest.json"),
        *("intake/manifest.sqlite", "intake/archive.jsonl"),
    }
    assert (state / "intake/archive.jsonl").stat().st_mode & 0o077 == 0
    secrets = [orthanc.PASSWORD.encode(), b64encode(f"{orthanc.USER}:{orthanc.PASSWORD}".encode())]
    for path in state.rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in (*secrets, b"Name^")), path
    assert not [
        one for one in caplog.messages if "1.9." in one or "dicom-web" in one or orthanc.PASSWORD in one
    ]


def test_a_film_that_is_not_sent_costs_its_row_and_is_asked_for_again(own: tuple[Orthanc, Path]) -> None:
    archive, folder = own
    stored = archive.stored_files()[orthanc.file_sha256(folder / "films" / name(5, 0))]
    settings = site(folder, archive.site_settings(folder), "instance", folder / "state")
    whole = take_in(settings)
    shutil.rmtree(settings.state)
    settings = site(folder, archive.site_settings(folder), "instance", folder / "state")

    def lose(done: int, _all: int) -> None:
        if done == 1 and stored.exists():  # it has been listed
            stored.rename(folder / "lost")

    lost = take_in(settings, progress=lose, workers=1)
    assert verdicts(lost) == verdicts(whole) | {name(5, 0): SetAside.NOT_SENT}
    (row,) = [row for row in lost.rows if lost.names[row.film] == name(5, 0)]
    assert row.listed  # the archive had told which it is
    assert take_in(settings).read == 0
    (folder / "lost").rename(stored)
    found = take_in(settings, anew=True)
    assert found.read == 1
    assert found.fingerprint == whole.fingerprint


def test_a_film_over_which_the_search_fails_costs_no_other(own: tuple[Orthanc, Path]) -> None:
    archive, folder = own
    stored = archive.stored_files()
    for patient in (2, 9):
        stored[orthanc.file_sha256(folder / "films" / name(patient, 0))].unlink()
    taken = take_in(site(folder, archive.site_settings(folder), "instance", folder / "state"))
    assert taken.passed_over == 2
    missing = {one for one, reason in verdicts(taken).items() if reason is SetAside.MISSING_FILE}
    assert missing == {"1.9.2.0.1", "1.9.9.0.1"}
    assert len(taken.rows) == 4 * PATIENTS


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 3])
def test_an_archive_that_goes_away_stops_the_intake_and_the_next_goes_on(
    tmp_path: Path, dicom: Callable[..., bytes], at_once: int
) -> None:
    with orthanc.running(tmp_path / "orthanc") as archive:
        fill(archive, tmp_path, dicom)
        settings = site(
            tmp_path, archive.site_settings(tmp_path, at_once=at_once), "path", tmp_path / "state"
        )
        port = archive.port

        def stop(done: int, _all: int) -> None:
            if done == 20:
                archive.call("POST", "/tools/shutdown")
                time.sleep(3)

        with pytest.raises(ArchiveError, match="expected an answer, got none: look whether the archive runs"):
            take_in(settings, progress=stop)
    with orthanc.running(tmp_path / "orthanc", port=port):
        taken = take_in(settings)
    assert 4 * PATIENTS - 20 - at_once <= taken.read <= 4 * PATIENTS - 20
    folder = take_in(site(tmp_path, tmp_path / "films", "path", tmp_path / "folder"))
    assert taken.manifest.read_bytes() == folder.manifest.read_bytes()


def test_a_round_needs_no_archive(own: tuple[Orthanc, Path]) -> None:
    archive, folder = own
    settings = site(folder, archive.site_settings(folder), "study", folder / "state")
    take_in(settings, anew=True)
    opened = OpenFilms()
    first = opened.load(settings, ["Pneumonia"], 32, apart=False)
    archive.call("POST", "/tools/shutdown")
    time.sleep(2)
    assert opened.load(settings, ["Pneumonia"], 32, apart=False) is first
    again = load_site(settings, ["Pneumonia"], 32)
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.train.images, first.train.images)
    (folder / "study.csv").write_text("patient_id,image,Pneumonia\nP1,1.9.1,1\n")
    assert len(load_site(settings, ["Pneumonia"], 32).train) == 2


def test_a_patient_that_the_archive_corrects_is_read_again(
    own: tuple[Orthanc, Path], dicom: Callable[..., bytes]
) -> None:
    archive, folder = own
    settings = site(folder, archive.site_settings(folder), "path", folder / "state")
    first = take_in(settings)
    (instance,) = archive.call("POST", "/tools/lookup", data="1.9.4.1.1").json()
    archive.call("DELETE", instance["Path"])
    archive.store(content(dicom, 4, 1, PatientID="P11"))
    second = take_in(settings, anew=True)
    assert second.read in (1, 4)  # an archive may see the study as one more patient's
    rows = {taken.names[row.film]: row for taken in (first,) for row in taken.rows}
    moved = {second.names[row.film]: row for row in second.rows}
    assert rows[name(4, 1)].content != moved[name(4, 1)].content


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"token": "acm-fed:wrong-password"}, "got HTTP 401: renew the credential in films: token_file"),
        ({"token": "a.bearer.token"}, "got HTTP 401: renew the credential"),
        ({"token": ""}, "expected one line, a bearer token or user:password"),
        ({"token": "two\nlines"}, "expected one line"),
        (
            {"ca": "/nowhere/ca.pem"},
            "expected certificates (PEM) in /nowhere/ca.pem, got none: set films: ca",
        ),
        ({"ca": __file__}, "expected a certificate for this address from the authority in"),
        ({"ca": None}, "expected a certificate for this address from a public authority"),
        ({"dicomweb": "/nothing"}, "expected a DICOMweb service, got HTTP 404"),
        ({"port": 1}, "expected an answer, got none"),
    ],
)
def test_what_is_wrong_with_the_archive_is_said_and_no_secret_with_it(
    there: tuple[Orthanc, Path],
    tmp_path: Path,
    change: dict[str, Any],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("acm_core.data.source.dicomweb_link._WAITS", (0.01,))
    archive, folder = there
    settings = archive.site_settings(tmp_path)
    if "token" in change:
        (tmp_path / "token").write_text(change["token"])
    if "dicomweb" in change:
        settings["dicomweb"] += change["dicomweb"]
    if "port" in change:
        settings["dicomweb"] = "https://127.0.0.1:1/dicom-web"
    if "ca" in change:
        settings["ca"] = change["ca"]
    with pytest.raises(ArchiveError) as refused:
        take_in(site(folder, settings, "path", tmp_path / "state"))
    assert says in str(refused.value)
    chain = "".join(map(repr, (refused.value, refused.value.__cause__, refused.value.__context__)))
    assert not any(secret in chain for secret in ("wrong-password", "a.bearer.token", "Basic", "Bearer"))
    assert refused.value.__context__ is None
