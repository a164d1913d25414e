"""Where a finding lies in what a model is shown, and what a model that is known to look there is said to hit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from acm_core.config import load_config
from acm_core.config.loading import dump_config
from acm_core.config.sections import ModelConfig
from acm_core.data.batches import evaluation_batches
from acm_core.data.film import read_film
from acm_core.data.shrink import square_film
from acm_core.nn import Classifier, build_classifier
from acm_core.training.weights import get_arrays, save_arrays
from simulations.phantoms import FINDINGS, write_hospital
from simulations.phantoms.findings import Finding
from simulations.pointing.__main__ import main
from simulations.pointing.films import PlantedFilms, planted_films
from simulations.pointing.game import inside
from simulations.pointing.maps import grad_cam, point
from simulations.pointing.measure import ON_FINDING, ON_MIRROR, TOLERANCE, measure, most_hits
from simulations.settings import SimulationConfig

REPOSITORY = Path(__file__).resolve().parents[3]
SIZE = 64
MODEL = ModelConfig(architecture="resnet18", context="acm", head="average", image_size=SIZE)


@pytest.fixture(scope="module")
def config() -> SimulationConfig:
    return load_config(REPOSITORY / "configs" / "planted_findings.yaml", SimulationConfig)


@pytest.fixture(scope="module")
def planted(config: SimulationConfig, tmp_path_factory: pytest.TempPathFactory) -> PlantedFilms:
    folder = tmp_path_factory.mktemp("pointing")
    return planted_films(config.simulation.hospitals, FINDINGS, SIZE, 40, folder, lambda *_: None)


@pytest.fixture(scope="module")
def network() -> Classifier:
    return build_classifier(MODEL, len(FINDINGS), seed=3).eval()


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_finding_lies_where_the_film_is_another_without_it(
    config: SimulationConfig, finding: Finding, tmp_path: Path
) -> None:
    def films(folder: str, prevalence: dict[Finding, float]) -> PlantedFilms:
        hospitals = [
            spec.model_copy(update={"prevalence": prevalence}) for spec in config.simulation.hospitals
        ]
        return planted_films(hospitals, FINDINGS, SIZE, 12, tmp_path / folder, lambda *_: None)

    ill, well = films("ill", {finding: 0.5}), films("well", {})
    changed = np.abs(np.asarray(ill.films.images, np.float64) - np.asarray(well.films.images, np.float64))
    places = ill.places[finding]
    assert well.places == {}
    assert sorted(places.rows) == np.flatnonzero(changed.max((1, 2)) > 0.03).tolist()
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    for row, box in zip(places.rows, places.finding, strict=True):
        within = inside(np.stack([y, x], -1), box, 2)
        assert changed[row][within].sum() > 0.8 * changed[row].sum()


def test_the_mirror_side_is_the_other_side(planted: PlantedFilms) -> None:
    for finding in ("Lung Opacity", "Pneumothorax", "Pleural Effusion", "Nodule"):
        places = planted.places[finding]
        middle, mirrored = places.finding[:, 1::2].mean(1), places.mirror[:, 1::2].mean(1)
        assert ((middle < SIZE / 2) != (mirrored < SIZE / 2)).mean() > 0.9
        heights = places.finding[:, 2] - places.finding[:, 0]
        np.testing.assert_allclose(places.mirror[:, 2] - places.mirror[:, 0], heights, atol=4)
    assert set(planted.places) == set(FINDINGS)
    assert all(
        (places.finding >= 0).all() and (places.finding <= SIZE).all() for places in planted.places.values()
    )


def test_the_films_are_not_the_runs_own(
    config: SimulationConfig, planted: PlantedFilms, tmp_path: Path
) -> None:
    again = planted_films(config.simulation.hospitals, FINDINGS, SIZE, 40, tmp_path, lambda *_: None)
    np.testing.assert_array_equal(np.asarray(again.films.images), np.asarray(planted.films.images))
    assert len(planted.films) == 80
    assert len(set(planted.films.patients.tolist())) == 80
    spec = config.simulation.hospitals[0].model_copy(update={"patients": 40})
    folder = write_hospital(spec, tmp_path / "own", config.seed)
    own = [square_film(read_film(path).pixels, SIZE) for path in (folder / "films").iterdir()]
    theirs = {np.asarray(image).tobytes() for image in np.asarray(planted.films.images)}
    assert not theirs & {film.tobytes() for film in own}


def test_grad_cam_of_the_last_stage_is_the_score_map_without_its_bias(
    network: Classifier, planted: PlantedFilms
) -> None:
    images, _ = next(evaluation_batches(planted.films, 6))
    with torch.no_grad():
        network.head.bias.copy_(torch.linspace(-1, 1, len(FINDINGS)))  # type: ignore[union-attr]
        scores = network.score_maps(images)
    cells = scores.shape[-1] * scores.shape[-2]
    expected = torch.relu(scores - network.head.bias[None, :, None, None]) / cells  # type: ignore[index]
    torch.testing.assert_close(grad_cam(network, images, "layer4"), expected, rtol=1e-4, atol=1e-7)
    assert grad_cam(network, images, "layer3").shape == (6, len(FINDINGS), 4, 4)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_maps_that_point_at_the_truth_are_found_among_those_that_do_not(planted: PlantedFilms) -> None:
    network = build_classifier(MODEL, len(FINDINGS)).eval()
    pointed = point(network, planted.films, ("layer3",))
    assert pointed.key.shape == pointed.query.shape == (80, 8 * 32, 2)
    assert len(pointed.groups) == 256
    finding = "Pleural Effusion"
    places = planted.places[finding]
    for points, box in ((pointed.key, places.finding), (pointed.query, places.mirror)):
        points[places.rows, 77] = (box[:, :2] + box[:, 2:]) / 2
    assert most_hits(pointed.key, places, TOLERANCE * SIZE) == 77
    rows = {
        (row.map, row.where): row
        for row in measure(pointed, planted, FINDINGS, SIZE)
        if row.finding == finding
    }
    looked = rows["K", ON_FINDING]
    assert looked.group == pointed.groups[77] == "layer2.0.context, group 13"
    assert looked.hits.rate == 1 > looked.hits.by_place
    assert rows["K", ON_MIRROR].hits.rate < 0.5
    assert rows["K on the finding, Q on the mirror side", "both"].hits.rate == 1
    assert looked.films == sum(planted.films.patients[places.rows] % 2)


def test_a_model_without_attention_has_score_maps_and_grad_cam(planted: PlantedFilms) -> None:
    plain = build_classifier(MODEL.model_copy(update={"context": "none"}), len(FINDINGS)).eval()
    pointed = point(plain, planted.films, ("layer3",))
    assert pointed.key.shape == (80, 0, 2)
    rows = measure(pointed, planted, FINDINGS, SIZE)
    assert {row.map for row in rows} == {"score map", "Grad-CAM, layer3"}
    column = FINDINGS.index("Nodule")
    places = planted.places["Nodule"]
    odd = planted.films.patients[places.rows] % 2 == 1
    by_hand = inside(pointed.scores[places.rows[odd], column], places.finding[odd], TOLERANCE * SIZE).mean()
    (row,) = (row for row in rows if (row.map, row.where, row.finding) == ("score map", ON_FINDING, "Nodule"))
    assert row.hits.rate == pytest.approx(by_hand)


def test_the_command_writes_a_table_and_refuses_what_is_no_such_run(
    config: SimulationConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for context in ("acm", "none"):
        folder = tmp_path / context
        folder.mkdir()
        settings = config.model_dump()
        settings["model"] |= {"context": context, "image_size": SIZE}
        settings["simulation"]["data"] = tmp_path / "data"
        (folder / "config.yaml").write_text(dump_config(SimulationConfig.model_validate(settings)))
        model = SimulationConfig.model_validate(settings).model
        save_arrays(folder / "model.safetensors", get_arrays(build_classifier(model, len(config.findings))))
        folders.append(str(folder))
    assert main([*folders, "--patients", "20", "--output", str(tmp_path / "table.md")]) == 0
    table = (tmp_path / "table.md").read_text()
    assert "| acm | K on the finding, Q on the mirror side | both |" in table
    assert "| none | score map | mirror side |" in table
    assert "by place" in table
    assert "none, seed 1: mean AUROC on these films 0." in table
    capsys.readouterr()
    assert main([str(tmp_path / "nothing")]) == 1
    assert "expected the folder of a finished run" in capsys.readouterr().err
    other = tmp_path / "none" / "config.yaml"
    other.write_text(other.read_text().replace("- Nodule\n", "", 1))
    assert main(folders) == 1
    assert "give runs of one configuration" in capsys.readouterr().err
