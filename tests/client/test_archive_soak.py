"""Two thousand films from an archive, some broken, the preflight killed in between; figures go to the terminal."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orthanc
import pydicom
import pytest
import yaml
from orthanc import Orthanc

from simulations.phantoms import HospitalSpec, write_hospital

ROOT = Path(__file__).resolve().parents[2]
FILMS = int(os.environ.get("ACM_FED_ARCHIVE_FILMS", "2000"))
BROKEN = 50
KILLS = 4
DISK = 64 * 2**20
IMAGE_SIZE = 224


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_part(path: Path) -> None:
    film = pydicom.dcmread(path)
    film.AnatomicRegionSequence[0].CodeValue = "85562004"
    film.AnatomicRegionSequence[0].CodeMeaning = "Hand"
    film.BodyPartExamined = "HAND"
    film.save_as(path)


def lateral(path: Path) -> None:
    film = pydicom.dcmread(path)
    film.pop("ViewCodeSequence", None)
    film.ViewPosition = "LL"
    film.save_as(path)


def blank(path: Path) -> None:
    film = pydicom.dcmread(path)
    film.PixelData = bytes(len(film.PixelData))
    film.save_as(path)


def no_rows(path: Path) -> None:
    film = pydicom.dcmread(path)
    del film.Rows
    film.save_as(path)


def wrong_bits(path: Path) -> None:
    film = pydicom.dcmread(path)
    noise = np.random.default_rng(0).integers(0, 2**16, film.Rows * film.Columns).astype("<u2")
    film.PixelData, film.BitsStored, film.HighBit = noise.tobytes(), 8, 7
    film.save_as(path)


BREAK = (cut_off, other_part, lateral, blank, no_rows, wrong_bits)


def export(folder: Path) -> list[Path]:
    """Phantoms, laid down as an archive names them, one in fifty broken; the label file names the instances."""
    settings = {
        "name": "A",
        "patients": FILMS,
        "labels": ["Lung Opacity", "Pleural Effusion"],
        "scanner": "dx_mono2_14bit_window",
        "image_size": 256,
    }
    written = write_hospital(HospitalSpec.model_validate(settings), folder / "written", 7)
    rows, paths = [], []
    with (written / "labels.csv").open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            film = pydicom.dcmread(written / row["image"], stop_before_pixels=True)
            uids = film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID
            path = folder / "films" / "/".join(uids)
            path = path.with_name(f"{path.name}.dcm")
            path.parent.mkdir(parents=True)
            (written / row["image"]).rename(path)
            paths.append(path)
            rows.append(row | {"image": film.SOPInstanceUID})
            breaks = BREAK[number // BROKEN % len(BREAK)]
            if number % BROKEN == 0 and breaks is not cut_off:
                breaks(path)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return paths


def site_file(folder: Path, state: str, films: object) -> list[str]:
    (folder / state).mkdir()
    (folder / state / "salt").write_bytes(bytes(32))
    settings = {
        "site": "A",
        "films": films,
        "labels": str(folder / "labels.csv"),
        "state": str(folder / state),
        "label_map": {"image_is": "instance"},
    }
    sites = folder / f"sites-{state}"
    sites.mkdir()
    (sites / "A.yaml").write_text(yaml.safe_dump(settings))
    return ["--site", "A", "--sites", str(sites), "--image-size", str(IMAGE_SIZE), "--format", "json"]


class Disk:
    """The most that lies beside the prepared films, looked at while a command runs."""

    def __init__(self, *folders: Path) -> None:
        self._folders, self.most = folders, 0

    def look(self) -> None:
        total = 0
        for folder in self._folders:
            for where, _, names in os.walk(folder):
                for name in names:
                    try:
                        status = (Path(where) / name).stat()
                    except FileNotFoundError:
                        continue
                    total += 0 if Path(where).name == "prepared" else status.st_blocks * 512
        self.most = max(self.most, total)


def preflight(
    arguments: list[str], disk: Disk, temporary: Path, kill_after: float | None = None
) -> tuple[dict[str, Any] | None, float]:
    """What it says, None where it was killed, and its seconds."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "client.preflight", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            disk.look()

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        out, err = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return None, time.monotonic() - begun
    finally:
        ended.set()
        watching.join()
    assert process.returncode in (0, 1), err.decode()
    return json.loads(out), time.monotonic() - begun


def fill(archive: Orthanc, paths: list[Path]) -> None:
    for path in paths:
        archive.store(path.read_bytes())
    stored = archive.stored_files()
    for path in paths[:: BROKEN * len(BREAK)]:
        kept = stored[orthanc.file_sha256(path)]
        for copy in (kept, path):
            cut_off(copy)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_killed_preflight_of_an_archive_gives_the_manifest_of_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    say: Callable[[str], None] = lambda text: _say(capsys, text)  # noqa: E731
    paths = export(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with orthanc.running(tmp_path / "orthanc") as archive:
        fill(archive, paths)
        settings = archive.site_settings(tmp_path, at_once=len(os.sched_getaffinity(0)))
        disk = Disk(tmp_path / "folder", temporary)
        folder, seconds = preflight(site_file(tmp_path, "folder", str(tmp_path / "films")), disk, temporary)
        assert folder is not None
        say(f"folder:  {FILMS} films in {seconds:.1f} s, {FILMS / seconds:.1f} films/s")
        disk = Disk(tmp_path / "whole", temporary)
        whole, whole_seconds = preflight(site_file(tmp_path, "whole", settings), disk, temporary)
        assert whole is not None
        ratio = seconds / whole_seconds
        say(
            f"archive: {FILMS} films in {whole_seconds:.1f} s, {FILMS / whole_seconds:.1f} films/s, {ratio:.2f} of it"
        )
        say(f"  at most {disk.most / 2**20:.1f} MiB beside the prepared films")
        assert disk.most < DISK
        disk = Disk(tmp_path / "killed", temporary)
        arguments, rng = site_file(tmp_path, "killed", settings), random.Random(0)
        for _ in range(KILLS):
            said, _ = preflight(arguments, disk, temporary, whole_seconds * rng.uniform(0.2, 0.5))
        said, _ = preflight(arguments, disk, temporary)
        assert said is not None
        say(f"killed {KILLS} times: {said['files']['read']} films were left to the last run")
        say(f"  at most {disk.most / 2**20:.1f} MiB beside the prepared films")
        assert disk.most < DISK
    manifests = [
        (tmp_path / state / "intake/manifest.sqlite").read_bytes() for state in ("folder", "whole", "killed")
    ]
    assert manifests[0] == manifests[1] == manifests[2]
    assert folder["files"]["all"] == FILMS
    assert set(folder["reasons"]) >= {"unreadable", "body_part", "not_frontal", "blank"}
    assert folder["files"]["used"] == FILMS - sum(folder["reasons"].values())
    say(f"set aside: {folder['reasons']}")
    prepared = [
        next((tmp_path / state / "prepared").iterdir()).stat().st_size for state in ("folder", "killed")
    ]
    assert prepared[0] == prepared[1]


def _say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        print(text, flush=True)  # noqa: T201  # the figures
