"""`python -m client.preflight`, as a hospital's engineer runs it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import hospitals
import numpy as np
import pytest
import yaml
from PIL import Image

from client import preflight

ROOT = Path(__file__).resolve().parents[2]


def films(folder: Path, count: int) -> None:
    (folder / "films").mkdir(parents=True)
    rows = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (9, 7)).astype(np.uint8)
        picture = Image.fromarray(coarse).resize((120, 140), Image.Resampling.BICUBIC)
        picture.save(folder / f"films/Geheim-{number}.png")
        rows.append(f"Patient{number // 2},Geheim-{number}.png,{number % 2},{1 - number % 2}\n")
    (folder / "labels.csv").write_text("patient_id,image,Pneumonia,No Finding\n" + "".join(rows))


def site_file(folder: Path, state: str = "state", **more: object) -> list[str]:
    (folder / state).mkdir(parents=True, exist_ok=True)
    (folder / state / "salt").write_bytes(bytes(32))
    settings = {
        "site": "A",
        "films": str(folder / "films"),
        "labels": str(folder / "labels.csv"),
        "state": str(folder / state),
        **more,
    }
    (folder / f"sites-{state}").mkdir(exist_ok=True)
    (folder / f"sites-{state}/A.yaml").write_text(yaml.safe_dump(settings))
    return ["--site", "A", "--sites", str(folder / f"sites-{state}")]


def run(arguments: list[str], **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client.preflight", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        **how,
    )  # type: ignore[call-overload, no-any-return]


def test_json_is_one_envelope_and_nothing_else(tmp_path: Path) -> None:
    films(tmp_path, 60)
    done = run([*site_file(tmp_path), "--format", "json", "--image-size", "32"])
    assert done.returncode == preflight.OK, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert found["format"] == "acm-fed.preflight/1"
    assert found["files"] == {"all": 60, "accepted": 60, "used": 60, "read": 60}
    assert found["findings"]["Pneumonia"] == {"positive": 30, "negative": 30, "not labelled": 0}
    assert sum(found["splits"].values()) == 60
    assert found["patients"] == 30
    assert re.search(r"Geheim|Patient\d", done.stdout) is None
    assert Path(found["manifest"]).is_file()
    assert list((tmp_path / "state/prepared").glob("films-32-*.bin"))


def test_what_a_person_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    films(tmp_path, 60)
    (tmp_path / "films/broken.png").write_bytes((tmp_path / "films/Geheim-1.png").read_bytes()[:300])
    (tmp_path / "films/note.txt").write_text("no film")
    assert preflight.main(site_file(tmp_path)) == preflight.ACT
    shown = capsys.readouterr()
    said = " ".join(shown.out.split())
    assert "62 files, 62 of them new; 60 labelled films of 30 patients can be used" in said
    assert "act 1 films break off" in said
    assert "note 1 files are neither DICOM, PNG nor JPEG" in said
    assert "reading films: 62 of 62" in shown.err
    assert re.search(r"Geheim|Patient\d", shown.out + shown.err) is None


@pytest.mark.parametrize(
    ("what", "code", "text"),
    [
        ("no film", preflight.NO_FILMS, "0 labelled films"),
        ("no labels", preflight.WRONG, "labels: expected a CSV file, found none"),
        ("bad label", preflight.WRONG, "line 2, column 'Pneumonia': expected one of"),
        ("no site", preflight.WRONG, "expected"),
    ],
)
def test_exit_codes_and_errors(
    tmp_path: Path, what: str, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    films(tmp_path, 4)
    arguments = site_file(tmp_path)
    if what == "no film":
        for path in (tmp_path / "films").iterdir():
            path.write_text("no film")
    elif what == "no labels":
        (tmp_path / "labels.csv").unlink()
    elif what == "bad label":
        labels = (tmp_path / "labels.csv").read_text().replace(",0,", ",perhaps,", 1)
        (tmp_path / "labels.csv").write_text(labels)
    else:
        arguments[1] = "B"
    assert preflight.main(arguments) == code
    shown = capsys.readouterr()
    assert text in " ".join((shown.out + shown.err).split())
    assert "Patient0" not in shown.out + shown.err
    assert preflight.main([*arguments, "--format", "json"]) == code
    assert json.loads(capsys.readouterr().out)["exit_code"] == code


def test_the_page_shows_films_and_needs_nothing_else(tmp_path: Path) -> None:
    films(tmp_path, 30)
    picture = Image.open(tmp_path / "films/Geheim-0.png")
    picture.save(tmp_path / "films/again.jpg", quality=70)
    (tmp_path / "films/<b>bold&.txt").write_text("no film")
    preflight.main(site_file(tmp_path))
    page = (tmp_path / "state/intake/preflight.html").read_text()
    assert page.count("data:image/png;base64,") >= 24 + 24 + 2
    assert "It stays at the site" in page
    assert "&lt;b&gt;bold&amp;.txt" in page
    assert "<b>bold" not in page
    assert re.search(r"(src|href)=\"(?!data:)", page) is None
    assert "url(" not in page


@pytest.mark.slow
def test_killed_at_any_point_it_ends_with_the_same_manifest(tmp_path: Path) -> None:
    films(tmp_path, 240)
    assert run([*site_file(tmp_path, "quiet"), "--format", "json"]).returncode == preflight.OK
    expected = (tmp_path / "quiet/intake/manifest.sqlite").read_bytes()
    arguments = site_file(tmp_path, "killed")
    chance = random.Random(5)  # moments, not secrets
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-m", "client.preflight", *arguments, "--image-size", "32"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.2, 3.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = run([*arguments, "--format", "json", "--image-size", "32"])
    assert done.returncode == preflight.OK, done.stdout
    assert (tmp_path / "killed/intake/manifest.sqlite").read_bytes() == expected


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_read(tmp_path: Path) -> None:
    films(tmp_path, 4000)  # a fast machine reads half of them before the first are on disk
    time.sleep(2.1)  # so that the files count as settled
    process = subprocess.Popen(
        [sys.executable, "-m", "client.preflight", *site_file(tmp_path), "--workers", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = tmp_path / "state/intake/journal.sqlite-wal"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size > 50_000):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == preflight.INTERRUPTED
    assert "run it again to go on" in said
    assert "Traceback" not in said
    again = json.loads(run([*site_file(tmp_path), "--format", "json"]).stdout)
    assert 0 < again["files"]["read"] < 4000


def test_workers_end_with_the_command(tmp_path: Path) -> None:
    films(tmp_path, 300)
    process = subprocess.Popen(
        [sys.executable, "-m", "client.preflight", *site_file(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    mark = f"acm_core.data.intake.worker {process.pid} "

    def workers() -> int:
        found = 0
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found += mark in command
        return found

    deadline = time.monotonic() + 20
    while not workers() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert workers()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while workers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers()


def test_phantoms_of_a_hospital_pass(tmp_path: Path) -> None:
    folder = hospitals.hospital(tmp_path, "H", patients=8)
    (folder / "films").mkdir(exist_ok=True)
    arguments = site_file(tmp_path)
    settings = yaml.safe_load((tmp_path / "sites-state/A.yaml").read_text())
    settings |= {"films": str(folder), "labels": str(folder / "labels.csv")}
    (tmp_path / "sites-state/A.yaml").write_text(yaml.safe_dump(settings))
    found = json.loads(run([*arguments, "--format", "json"]).stdout)
    assert found["files"]["used"] == 8
    assert set(found["views"]) <= {"AP", "PA"}
