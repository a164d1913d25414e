"""What preflight says of what tells findings and is no medicine: figures, and a sentence where one tells much."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from browser import SIZES, address_of, chromium, expect_readable, opened
from dicom_files import write_dicom
from PIL import Image

from client import preflight

Found = dict[str, Any]
FILMS = 80


def picture(seed: int, grey: float) -> np.ndarray:
    """12 bits, 60×50; of the same contrast whatever its mean grey."""
    random = np.random.default_rng(seed)
    coarse = np.kron(random.random((6, 5)) - 0.5, np.ones((10, 10)))
    return np.clip((grey + 0.4 * coarse) * 4095, 0, 4095).astype(np.uint16)


def film(folder: Path, name: str, seed: int, grey: float, **says: object) -> None:
    store(folder, name, picture(seed, grey), **says)


def store(folder: Path, name: str, stored: np.ndarray, **says: object) -> None:
    """A file of the kind that its ending says."""
    silent = dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "InstitutionName", "StudyDescription")
    )
    shown = {"BitsStored": 12, "WindowCenter": "2048", "WindowWidth": "4096"}
    path = folder / "films" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray((stored // 16).astype(np.uint8)).save(path)
    else:
        path.write_bytes(write_dicom(stored, **{**silent, **shown, **says}))


@pytest.fixture
def looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], Found]:
    """Run preflight on films and rows of patient, image, Pneumonia and another; the JSON that it prints."""

    def look(rows: list[str]) -> Found:
        (tmp_path / "labels.csv").write_text(
            "patient_id,image,Pneumonia,Enlarged Cardiomediastinum\n" + "\n".join(rows) + "\n"
        )
        (tmp_path / "sites").mkdir()
        (tmp_path / "state").mkdir()
        (tmp_path / "state/salt").write_bytes(bytes(32))
        about = {"site": "A", "films": "../films", "labels": "../labels.csv", "state": "../state"}
        (tmp_path / "sites/A.yaml").write_text(yaml.safe_dump(about))
        arguments = ["--site", "A", "--sites", str(tmp_path / "sites"), "--workers", "2"]
        preflight.main([*arguments, "--format", "json"])
        found: Found = json.loads(capsys.readouterr().out)
        assert found["files"]["used"] == len(rows)
        return found

    return look


def sentences(found: Found) -> list[str]:
    return [problem["what"] for problem in found["problems"] if problem["code"] == "shortcut"]


def brightness_and_scanner(folder: Path) -> list[str]:
    """Rows of films whose brightness tells Pneumonia, and whose scanner the other finding."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(FILMS):
        pneumonia, enlarged = (int(random.random() < 0.5) for _ in range(2))
        model = "Alpha" if random.random() < (0.95 if enlarged else 0.05) else "Beta"
        grey = 0.4 + 0.15 * pneumonia + random.normal(0, 0.06)
        film(folder, f"{index}.dcm", index, grey, Manufacturer="ACME", ManufacturerModelName=model)
        rows.append(f"p{index},{index}.dcm,{pneumonia},{enlarged}")
    return rows


def test_brightness_and_scanner_that_tell_findings_are_said(
    tmp_path: Path, looked: Callable[[list[str]], Found]
) -> None:
    found = looked(brightness_and_scanner(tmp_path))
    second, first = sentences(found)
    assert first.startswith("labelled films: brightness alone tells Pneumonia with AUROC 0.9")
    assert second.startswith(
        "labelled films: scanner model alone tells Enlarged Cardiomediastinum with AUROC 0.9"
    )
    assert "at this site (0." in first
    problem = next(problem for problem in found["problems"] if problem["what"] == first)
    assert (problem["count"], problem["weight"]) == (FILMS, "note")
    alone, others = found["shortcuts"]["Pneumonia"]["grey"], found["shortcuts"]["Enlarged Cardiomediastinum"]
    assert alone["far"]
    assert 0.8 < alone["low"] < alone["auroc"] < alone["high"] <= 1
    assert not others["grey"]["far"]
    assert set(others) == {"grey", "border", "device"}  # films are alike in all else
    assert "ACME" not in json.dumps(found).upper()
    page = (tmp_path / "state/intake/preflight.html").read_text()
    assert f"<b>{alone['auroc']:.2f}</b>" in page
    assert first in page


def test_the_page_can_be_read_at_two_widths(tmp_path: Path, looked: Callable[[list[str]], Found]) -> None:
    looked(brightness_and_scanner(tmp_path))
    address = address_of(tmp_path / "state/intake/preflight.html")
    with chromium() as browser:
        for size in SIZES:
            for scheme in ("light", "dark"):
                with opened(browser, address, size, scheme) as (page, complaints):
                    heading = "What tells the findings without medicine"
                    assert page.get_by_role("region", name=heading).is_visible()
                    expect_readable(page, size)
                    assert complaints == []


def test_a_folder_and_a_year_that_tell_a_finding_are_said(
    tmp_path: Path, looked: Callable[[list[str]], Found]
) -> None:
    random = np.random.default_rng(1)
    rows = []
    for index in range(FILMS):
        pneumonia, enlarged = (int(random.random() < 0.5) for _ in range(2))
        folder = "new" if random.random() < (0.95 if pneumonia else 0.05) else "old"
        date = f"{2015 + (3 if random.random() < (0.95 if enlarged else 0.05) else 0)}0704"
        film(tmp_path, f"{folder}/p{index}/{index}.dcm", index, 0.45, AcquisitionDate=date)
        rows.append(f"p{index},{folder}/p{index}/{index}.dcm,{pneumonia},{enlarged}")
    second, first = sentences(looked(rows))
    assert first.startswith("labelled films: folder alone tells Pneumonia")
    assert second.startswith("labelled films: acquisition year alone tells Enlarged Cardiomediastinum")


@pytest.mark.parametrize("name", ["film size", "border", "file type", "view", "sex", "age"])
def test_each_other_shortcut_that_tells_a_finding_is_said(
    tmp_path: Path, looked: Callable[[list[str]], Found], name: str
) -> None:
    random = np.random.default_rng(3)
    rows = []
    for index in range(FILMS):
        pneumonia = int(random.random() < 0.5)
        told = bool(pneumonia) != (random.random() < 0.05)
        says: dict[str, object] = {
            "view": {"ViewPosition": "AP" if told else "PA"},
            "sex": {"PatientSex": "F" if told else "M"},
            "age": {"PatientAge": f"{random.integers(60, 69) if told else random.integers(30, 39):03d}Y"},
        }.get(name, {})
        stored = picture(index, random.uniform(0.4, 0.5))
        if name == "film size" and told:
            stored = stored[:50, :40]
        if name == "border":
            stored[:6] = random.integers(200, 900) if told else random.integers(3000, 4000)
        ending = "png" if name == "file type" and told else "dcm"
        store(tmp_path, f"{index}.{ending}", stored, **says)
        rows.append(f"p{index},{index}.{ending},{pneumonia},1")
    (sentence,) = sentences(looked(rows))
    assert f"{name} alone" in sentence
    assert "tells Pneumonia with AUROC 0.9" in sentence


def test_where_nothing_tells_a_finding_there_are_figures_and_no_sentence(
    tmp_path: Path, looked: Callable[[list[str]], Found]
) -> None:
    random = np.random.default_rng(2)
    rows = []
    for index in range(FILMS):
        says = {
            "ViewPosition": random.choice(["PA", "AP"]),
            "PatientSex": random.choice(["F", "M"]),
            "PatientAge": f"{random.integers(20, 80):03d}Y",
            "ManufacturerModelName": random.choice(["Alpha", "Beta"]),
        }
        film(tmp_path, f"{index % 3}/{index}.dcm", index, random.uniform(0.35, 0.65), **says)
        rows.append(f"p{index},{index % 3}/{index}.dcm,{random.integers(2)},{random.integers(2)}")
    found = looked(rows)
    assert sentences(found) == []
    assert set(found["shortcuts"]) == {"Pneumonia", "Enlarged Cardiomediastinum"}
    assert set(found["shortcuts"]["Enlarged Cardiomediastinum"]) == {
        "grey",
        "border",
        "device",
        "view",
        "sex",
        "age",
        "folder",
    }
    assert "What tells the findings" in (tmp_path / "state/intake/preflight.html").read_text()


@pytest.mark.parametrize("patients", ["one", "each"])
def test_of_one_patient_or_of_films_alike_nothing_is_said(
    tmp_path: Path, looked: Callable[[list[str]], Found], patients: str
) -> None:
    rows = []
    for index in range(24):
        bright = 0.6 if patients == "one" and index % 2 else 0.4
        film(tmp_path, f"{index}.dcm", index, bright)
        rows.append(f"{'p' if patients == 'one' else f'p{index}'},{index}.dcm,{index % 2},1")
    found = looked(rows)
    assert sentences(found) == []
    if patients == "one":
        assert found["shortcuts"] == {}
        assert "What tells the findings" not in (tmp_path / "state/intake/preflight.html").read_text()
    else:
        assert set(found["shortcuts"]) <= {"Pneumonia"}  # all films have the other
        assert set(found["shortcuts"]["Pneumonia"]) == {"grey", "border"}
