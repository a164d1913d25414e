"""Writes a synthetic hospital: a folder of DICOM films, its label file and the truth about its findings."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from acm_core.data.invented import RECORD_FILE
from acm_core.randomness import stream
from simulations.phantoms.anatomy import Anatomy, Sex, draw_anatomy
from simulations.phantoms.dicom import FilmIdentity, build_dicom, phantom_uid
from simulations.phantoms.exposure import expose
from simulations.phantoms.film import Truth, draw_film
from simulations.phantoms.findings import FINDINGS, NO_FINDING, PlantedFinding, draw_finding
from simulations.phantoms.geometry import draw_positioning
from simulations.phantoms.hospital import GENERATOR, LABELS, HospitalSpec, Label

FILMS, LABEL_FILE, TRUTH_FILE = "films", "labels.csv", "truth.csv"
PATIENT_COLUMNS = ("patient_id", "image", "view", "sex", "age", "source", "licence")
TRUTH_COLUMNS = (
    *("image", "finding", "side", "top", "left", "bottom", "right"),
    *("mirror_top", "mirror_left", "mirror_bottom", "mirror_right"),
)


@dataclass(frozen=True)
class Patient:
    """An invented patient of a synthetic hospital."""

    number: int
    sex: Sex
    age: int
    """Years."""
    films: int
    anatomy: Anatomy
    planted: tuple[PlantedFinding, ...]


def draw_patients(spec: HospitalSpec, seed: int) -> list[Patient]:
    """The hospital's patients. Findings are drawn apart from all else, so that only the film tells them."""
    affected = {}
    for finding in FINDINGS:
        order = stream(seed, "phantom", spec.name, finding, "affected").permutation(spec.patients)
        affected[finding] = set(order[: round(spec.prevalence.get(finding, 0.0) * spec.patients)].tolist())
    patients = []
    for number in range(spec.patients):
        who = stream(seed, "phantom", spec.name, number, "patient")
        sex: Sex = "F" if who.random() < spec.female_share else "M"
        age = int(who.integers(spec.age[0], spec.age[1], endpoint=True))
        films = int(who.integers(*spec.films_per_patient, endpoint=True))
        anatomy = draw_anatomy(stream(seed, "phantom", spec.name, number, "anatomy"), sex)
        planted = tuple(
            draw_finding(stream(seed, "phantom", spec.name, number, finding), finding, spec.difficulty)
            for finding in FINDINGS
            if number in affected[finding]
        )
        patients.append(Patient(number, sex, age, films, anatomy, planted))
    return patients


def write_hospital(
    spec: HospitalSpec, folder: Path, seed: int, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write the hospital into `folder` and return it; the same settings and seed give the same bytes.

    A finished folder of the same settings, seed and generator stays as it is; another phantom hospital is
    replaced. Everything is written beside `folder` and moved there when complete. One writer a folder.

    Args:
        spec: the hospital.
        folder: receives `films/*.dcm`, `labels.csv`, `truth.csv` and `phantom.json`.
        seed: of every draw.
        progress: called with the number of films written and of all films.

    Raises:
        FileExistsError: `folder` holds something that is no phantom hospital; it is not touched.
    """
    if _finished(spec, folder, seed):
        return folder
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / RECORD_FILE).is_file())
    ):
        raise FileExistsError(
            f"expected an absent or empty folder or a phantom hospital to replace, got something else "
            f"in the folder named {folder.name}: choose another folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.partial"
    replaced = folder.parent / f".{folder.name}.replaced"
    # Both may be left by a writer that was killed.
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        _write_all(spec, partial, seed, progress)
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    return folder


def _finished(spec: HospitalSpec, folder: Path, seed: int) -> bool:
    """Whether `folder` holds exactly this hospital, no file missing."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (
        isinstance(record, dict)
        and record.get("fingerprint") == spec.fingerprint(seed)
        and (folder / LABEL_FILE).is_file()
        and (folder / TRUTH_FILE).is_file()
        and sum(1 for _ in (folder / FILMS).glob("*.dcm")) == record.get("films")
    )


def _write_all(
    spec: HospitalSpec, folder: Path, seed: int, progress: Callable[[int, int], None] | None
) -> None:
    (folder / FILMS).mkdir(parents=True)
    patients = draw_patients(spec, seed)
    total = sum(patient.films for patient in patients)
    label_rows: list[list[str]] = []
    truth_rows: list[list[str]] = []
    for patient in patients:
        for film in range(patient.films):
            image, view, truth = _write_film(spec, folder, seed, patient, film)
            label_rows.append(_label_row(spec, seed, patient, image, view))
            truth_rows.extend(_truth_row(image, entry) for entry in truth)
            if progress:
                progress(len(label_rows), total)
    _write_csv(folder / LABEL_FILE, (*PATIENT_COLUMNS, *LABELS), label_rows)
    _write_csv(folder / TRUTH_FILE, TRUTH_COLUMNS, truth_rows)
    record = {
        "fingerprint": spec.fingerprint(seed),
        "generator": GENERATOR,
        "seed": seed,
        "films": total,
        "spec": spec.model_dump(mode="json"),
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _write_film(
    spec: HospitalSpec, folder: Path, seed: int, patient: Patient, film: int
) -> tuple[str, str, tuple[Truth, ...]]:
    """Draw, expose and write one film; its path below the hospital's folder, its view and its truth."""
    rng = stream(seed, "phantom", spec.name, patient.number, "film", film)
    view = "AP" if rng.random() < spec.ap_share else "PA"
    positioning = draw_positioning(rng, view)
    canvas = spec.scanner.canvas(spec.image_size)
    drawn = draw_film(patient.anatomy, positioning, patient.planted, canvas, rng)
    exposure = expose(drawn.image, spec.scanner, rng)
    names = (spec.fingerprint(seed), patient.number)
    identity = FilmIdentity(
        patient_id=patient_id(spec, patient),
        patient_name=f"Phantom^P{patient.number:05d}",
        sex=patient.sex,
        age=patient.age,
        view=view,
        study=phantom_uid(*names, "study", film),
        series=phantom_uid(*names, "series", film),
        instance=phantom_uid(*names, "instance", film),
        number=film + 1,
    )
    image = f"{FILMS}/{int(identity.instance.rsplit('.', 1)[1]) >> 64:016x}.dcm"
    build_dicom(exposure, spec.scanner, identity).save_as(folder / image, enforce_file_format=True)
    return image, view, drawn.truth


def patient_id(spec: HospitalSpec, patient: Patient) -> str:
    """The invented patient's id in the label file and in the films."""
    return f"{spec.name}-{patient.number:05d}"


def _label_row(spec: HospitalSpec, seed: int, patient: Patient, image: str, view: str) -> list[str]:
    present: set[Label] = {planted.finding for planted in patient.planted}
    present = present or {NO_FINDING}
    marks = [str(int(label in present)) if label in spec.labels else "" for label in LABELS]
    source = f"ACM-Fed chest phantom, generator {GENERATOR}, seed {seed}"
    return [
        patient_id(spec, patient),
        image,
        view,
        patient.sex,
        str(patient.age),
        source,
        "Apache-2.0",
        *marks,
    ]


def _truth_row(image: str, truth: Truth) -> list[str]:
    corners = [(box.top, box.left, box.bottom, box.right) for box in (truth.box, truth.mirror)]
    return [image, truth.finding, truth.side, *(str(pixel) for box in corners for pixel in box)]


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream_out:
        writer = csv.writer(stream_out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
