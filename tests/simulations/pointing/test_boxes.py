"""Boxes on real films: where they lie in what a model is shown, whose films count, and what is said of few of them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from acm_core.config import load_config
from acm_core.config.loading import dump_config
from acm_core.data.film import read_film
from acm_core.data.site_films import FilmSet, load_site
from acm_core.data.splits import Split, split_of
from acm_core.nn import build_classifier
from acm_core.training.weights import get_arrays, save_arrays
from simulations.phantoms import FINDINGS
from simulations.phantoms.writing import LABEL_FILE, TRUTH_FILE
from simulations.pointing.__main__ import main
from simulations.pointing.boxes import COLUMNS, BoxesError, boxed_films, trained_on
from simulations.pointing.films import Places, PlantedFilms, planted_films
from simulations.pointing.maps import Pointed
from simulations.pointing.measure import ALL_FINDINGS, ON_FINDING, ON_MIRROR, TOLERANCE, Row, measure_few
from simulations.settings import SimulationConfig
from simulations.sites import prepare_sites

REPOSITORY = Path(__file__).resolve().parents[3]
SHARED = REPOSITORY / "../shared/data/boxes.csv"
SIZE = 64


@pytest.fixture(scope="module")
def config() -> SimulationConfig:
    return load_config(REPOSITORY / "configs" / "planted_findings.yaml", SimulationConfig)


@pytest.fixture(scope="module")
def folder(config: SimulationConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantom hospitals, and beside them boxes.csv with what their truth says."""
    folder = tmp_path_factory.mktemp("boxes")
    planted_films(config.simulation.hospitals, FINDINGS, SIZE, 30, folder, lambda *_: None)
    lines = []
    for spec in config.simulation.hospitals:
        for truth in csv.DictReader((folder / spec.name / TRUTH_FILE).read_text().splitlines()):
            rows, columns = read_film(folder / spec.name / truth["image"]).pixels.shape
            top, bottom = int(truth["top"]) / rows, int(truth["bottom"]) / rows
            left, right = int(truth["left"]) / columns, int(truth["right"]) / columns
            finding = truth["finding"].replace("Pleural Effusion", "Effusion")
            lines.append([spec.name, truth["image"], finding, left, top, right - left, bottom - top])
    write_boxes(folder / "boxes.csv", lines)
    return folder


def write_boxes(path: Path, lines: Sequence[Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(lines)
    return path


def test_boxes_lie_where_the_phantoms_truth_does(config: SimulationConfig, folder: Path) -> None:
    planted = planted_films(config.simulation.hospitals, FINDINGS, SIZE, 30, folder, lambda *_: None)
    boxed = boxed_films(folder / "boxes.csv", FINDINGS, SIZE)
    assert set(boxed.planted.places) == set(FINDINGS)
    for finding, expected in planted.places.items():
        got = boxed.planted.places[finding]
        np.testing.assert_allclose(got.finding, expected.finding)
        np.testing.assert_array_equal(
            boxed.planted.films.images[got.rows], planted.films.images[expected.rows]
        )
        assert (boxed.planted.films.labels[got.rows, FINDINGS.index(finding)] == 1).all()
        np.testing.assert_allclose(got.mirror[:, [0, 2]], got.finding[:, [0, 2]])
        np.testing.assert_allclose(got.mirror[:, 1] + got.finding[:, 3], SIZE)
    assert len(set(boxed.patients)) == len(boxed.patients) == len(boxed.planted.films)
    only = boxed_films(folder / "boxes.csv", ["Nodule", "Hernia"], SIZE)
    assert set(only.planted.places) == {"Nodule"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({3: "a"}, "line 2: expected numbers for x, y, width and height"),
        ({5: 0}, "line 2: expected a box within the film, as fractions of its sides"),
        ({3: 0.9, 5: 0.2}, "line 2: expected a box within the film"),
        ({4: "nan"}, "line 2: expected a box within the film"),
        ({0: "nowhere"}, "line 2: expected a folder beside the file of boxes with labels.csv"),
        ({1: "films/other.dcm"}, "line 2: expected a film of P/labels.csv, got one that it does not list"),
        ({2: "Hernia"}, "expected boxes of some of Nodule, got none"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(folder: Path, changes: dict[int, object], problem: str) -> None:
    with (folder / "P" / LABEL_FILE).open() as stream:
        image = next(csv.DictReader(stream))["image"]
    line: list[object] = ["P", image, "Nodule", 0.1, 0.1, 0.2, 0.2]
    for column, value in changes.items():
        line[column] = value
    with pytest.raises(BoxesError, match=problem):
        boxed_films(write_boxes(folder / "wrong.csv", [line]), ["Nodule"], SIZE)


def test_a_film_that_is_gone_and_other_columns_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "P").mkdir()
    (tmp_path / "P" / LABEL_FILE).write_bytes((folder / "P" / LABEL_FILE).read_bytes())
    (tmp_path / "boxes.csv").write_bytes((folder / "boxes.csv").read_bytes())
    with pytest.raises(BoxesError, match="line 2: expected a film that can be read"):
        boxed_films(tmp_path / "boxes.csv", FINDINGS, SIZE)
    (tmp_path / "boxes.csv").write_text("site,image\n")
    with pytest.raises(BoxesError, match="got none named finding, x, y, width, height"):
        boxed_films(tmp_path / "boxes.csv", FINDINGS, SIZE)
    with pytest.raises(BoxesError, match="expected a CSV of boxes"):
        boxed_films(tmp_path / "none.csv", FINDINGS, SIZE)


def real_run(config: SimulationConfig, folder: Path, data: Path, seed: int = 4) -> SimulationConfig:
    """A simulation whose sites are folders of films that were not written for it."""
    settings = config.model_dump()
    settings["seed"] = seed
    settings["model"] |= {"image_size": SIZE, "head": "average"}
    names = [spec.name for spec in config.simulation.hospitals]
    settings["simulation"] |= {
        "hospitals": [],
        "folders": {name: folder / name for name in names},
        "data": data,
    }
    return SimulationConfig.model_validate(settings)


def test_who_was_trained_on_is_who_the_sites_trained_on(
    config: SimulationConfig, folder: Path, tmp_path: Path
) -> None:
    run = real_run(config, folder, tmp_path)
    sites = prepare_sites(run, 1, lambda *_: None, resume=True)
    seen = trained_on(list(sites.values()), lambda *_: None)
    tested = 0
    for site in sites.values():
        films = load_site(site, FINDINGS, SIZE)
        tested += len(set(films.test.patients.tolist()))
        salt = (site.state / "salt").read_bytes()
        with site.labels.open() as stream:
            patients = {row["patient_id"] for row in csv.DictReader(stream)}
        assert {
            name for name in patients if split_of(name, salt, site.splits) != Split.TEST
        } == seen & patients
    assert 0 < tested == 60 - len(seen)


def pointed_at_random(films: int, findings: int, groups: int) -> Pointed:
    rng = np.random.default_rng(5)
    return Pointed(
        np.full((films, findings), 0.5, np.float32),
        rng.uniform(0, SIZE, (films, findings, 2)),
        {"layer3": rng.uniform(0, SIZE, (films, findings, 2))},
        rng.uniform(0, SIZE, (films, groups, 2)),
        rng.uniform(0, SIZE, (films, groups, 2)),
        [f"group {group}" for group in range(groups)],
    )


def scattered(films: int, boxes: dict[str, list[int]]) -> PlantedFilms:
    """Boxes that hardly meet: a film's lies on a diagonal of its own."""
    places = {}
    for finding, rows in boxes.items():
        corner = np.array([[2.0 * row, 3.0 * (row % 8)] for row in rows])
        lying = np.concatenate([corner, corner + 1], 1)
        mirror = np.stack([lying[:, 0], SIZE - lying[:, 3], lying[:, 2], SIZE - lying[:, 1]], 1)
        places[finding] = Places(np.array(rows), lying, mirror)
    images = np.zeros((films, SIZE, SIZE), np.float16)
    return PlantedFilms(FilmSet(images, np.zeros((films, 2), np.float32), np.arange(films)), places)


def by_kind(rows: list[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row.map, row.where, row.finding): row for row in rows}


def test_maps_are_chosen_by_the_other_patients_and_only_films_that_count_are_counted() -> None:
    planted = scattered(20, {"Mass": list(range(12)), "Nodule": list(range(8, 20))})
    pointed = pointed_at_random(20, 2, 300)
    middle = {
        finding: (places.finding[:, :2] + places.finding[:, 2:]) / 2
        for finding, places in planted.places.items()
    }
    mirrored = {
        finding: (places.mirror[:, :2] + places.mirror[:, 2:]) / 2
        for finding, places in planted.places.items()
    }
    pointed.scores[planted.places["Nodule"].rows, 1] = middle["Nodule"]
    pointed.key[planted.places["Mass"].rows, 123] = middle["Mass"]
    pointed.query[planted.places["Mass"].rows, 123] = mirrored["Mass"]
    counted = np.arange(20) % 2 == 0
    rows = by_kind(measure_few(pointed, planted, ["Mass", "Nodule"], SIZE, counted))
    assert {name for name, _, _ in rows} == {
        *("score map", "Grad-CAM, layer3", "K", "Q"),
        "K on the finding, Q on the mirror side",
        "Q on the finding, K on the mirror side",
    }
    assert rows["score map", ON_FINDING, "Nodule"].hits.rate == 1
    assert rows["score map", ON_FINDING, "Nodule"].films == 6
    assert rows["K", ON_FINDING, "Mass"].hits.rate == 1 > rows["K", ON_FINDING, "Mass"].hits.by_place
    assert rows["K", ON_MIRROR, "Mass"].hits.rate < 0.5
    assert rows["K on the finding, Q on the mirror side", "both", "Mass"].hits.rate == 1
    assert rows["K", ON_FINDING, ALL_FINDINGS].films == 12
    assert rows["score map", ON_FINDING, ALL_FINDINGS].hits.rate >= 0.5


def test_a_map_that_hits_one_patient_alone_is_not_chosen_for_that_patient() -> None:
    planted = scattered(6, {"Mass": list(range(6))})
    pointed = pointed_at_random(6, 1, 6)
    pointed.key[:] = np.nan
    for row in range(6):
        pointed.key[row, row] = (
            planted.places["Mass"].finding[row, :2] + 0.5
        )  # each hits its own film's box, once
    assert TOLERANCE * SIZE < 3
    everybody = np.ones(6, bool)
    rows = by_kind(measure_few(pointed, planted, ["Mass"], SIZE, everybody))
    assert rows["K", ON_FINDING, "Mass"].hits.rate == 0
    none = measure_few(pointed, planted, ["Mass"], SIZE, ~everybody)
    assert none == []


def test_all_findings_together_exchange_boxes_within_a_finding() -> None:
    planted = scattered(4, {"Mass": [0, 1], "Nodule": [2, 3]})
    same = planted.places["Nodule"]
    planted.places["Nodule"] = Places(same.rows, same.finding[[0, 0]], same.mirror[[0, 0]])
    pointed = pointed_at_random(4, 2, 0)
    pointed.scores[:] = np.nan
    pointed.scores[[2, 3], 1] = same.finding[0, :2] + 0.5
    rows = by_kind(measure_few(pointed, planted, ["Mass", "Nodule"], SIZE, np.ones(4, bool)))
    together = rows["score map", ON_FINDING, ALL_FINDINGS].hits
    # Both nodules' maps point into either's box; no map of a mass does, and masses' boxes are none of a nodule's.
    assert (together.rate, together.by_place) == (0.5, 0.5)


def test_the_command_shows_strangers_and_all_and_says_how_many(
    config: SimulationConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for seed in (4, 5):
        settings = real_run(config, folder, tmp_path / "data", seed)
        run = tmp_path / f"acm-{seed}"
        run.mkdir()
        (run / "config.yaml").write_text(dump_config(settings))
        save_arrays(
            run / "model.safetensors", get_arrays(build_classifier(settings.model, len(config.findings)))
        )
        runs.append(str(run))
    boxes, output = str(folder / "boxes.csv"), tmp_path / "table.md"
    assert main([*runs, "--boxes", boxes, "--output", str(output)]) == 0
    text = output.read_text()
    assert text.index("Boxes on films of patients on whom the run was neither") < text.index("All boxes:")
    films = boxed_films(folder / "boxes.csv", config.findings, SIZE)
    seen = [
        trained_on(
            list(
                prepare_sites(
                    real_run(config, folder, tmp_path / "data", seed), 1, lambda *_: None, resume=True
                ).values()
            ),
            lambda *_: None,
        )
        for seed in (4, 5)
    ]
    assert seen[0] != seen[1]
    for seed, ids in zip((4, 5), seen, strict=True):
        count = sum(patient in ids for patient in films.patients)
        assert (
            f"- acm, seed {seed}: {count} of the {len(films.patients)} films are of patients on whom it was"
            in text
        )
    assert f"{ALL_FINDINGS} ({sum(len(p.rows) for p in films.planted.places.values())} boxes)" in text
    assert "| acm | K on the finding, Q on the mirror side | both |" in text
    capsys.readouterr()
    assert main([*runs, "--boxes", str(tmp_path / "none.csv")]) == 1
    assert "expected a CSV of boxes" in capsys.readouterr().err
    assert main(runs) == 1
    assert "give real films with --boxes" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_file(), reason="the radiologists' boxes lie outside the repository")
def test_the_shared_boxes_can_be_read() -> None:
    boxed = boxed_films(SHARED, ["Effusion", "Atelectasis", "Cardiomegaly", "Pneumonia"], SIZE)
    assert {finding: len(places.rows) for finding, places in boxed.planted.places.items()} == {
        "Effusion": 3,
        "Atelectasis": 14,
        "Cardiomegaly": 10,
        "Pneumonia": 27,
    }
    for places in boxed.planted.places.values():
        assert ((places.finding >= 0) & (places.finding <= SIZE + 0.1)).all()
    images = torch.from_numpy(np.asarray(boxed.planted.films.images)).float()
    assert ((images.flatten(1).amax(1) > 0.5) & (images.flatten(1).amin(1) >= 0)).all()
