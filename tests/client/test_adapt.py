"""`python -m client.adapt`: a shared model gets the normalisation of a hospital that did not train it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from deployments import deployed
from hospitals import FINDINGS, federation, hospital, site

from acm_core.config import dump_config
from acm_core.config.sections import ModelConfig
from acm_core.deployment import read_deployment
from acm_core.nn import build_classifier
from client.adapt import main
from client.predict import main as predict

MODEL = federation(model={"context": "se"}).model


def given(folder: Path, config: ModelConfig = MODEL) -> Path:
    """A new hospital of 30 films and the shared model of a run, in `export`."""
    hospital(folder, "NEW", patients=30)
    (folder / "sites").mkdir()
    (folder / "sites" / "NEW.yaml").write_text(dump_config(site(folder, "NEW")), encoding="utf-8")
    deployed(folder / "export", config, build_classifier(config, len(FINDINGS), seed=2), {})
    return folder


def adapt(folder: Path, films: Path, model: str = "export") -> int:
    return main(["--site=NEW", "--sites", str(folder / "sites"), "--model", str(folder / model), str(films)])


def test_a_new_hospitals_model_has_its_own_statistics_and_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = given(tmp_path) / "NEW" / "films"
    (films / "no_film.dcm").write_text("none", encoding="utf-8")
    (tmp_path / "NEW" / "labels.csv").write_text(
        "patient_id,image\n", encoding="utf-8"
    )  # nobody labelled anything
    assert adapt(tmp_path, films) == 0
    assert "normalisation measured on 30 films, 1 files not used" in capsys.readouterr().out
    own = tmp_path / "state" / "NEW" / "models" / "test"
    (deployment, (adapted,)), (shared, (before,)) = map(read_deployment, (own, tmp_path / "export"))
    assert (deployment.site, deployment.delivered, shared.site) == ("NEW", "federated", None)
    changed = {name for name in before if not np.array_equal(before[name], adapted[name])}
    assert changed == {name for name in before if "running_" in name or "num_batches" in name}
    arguments = ["--site=NEW", "--sites", str(tmp_path / "sites"), "--model", str(own)]
    assert (
        predict([*arguments, str(films), str(tmp_path / "answers.csv")]) == 1
    )  # of the file that is no film
    assert "run test, site NEW: the shared model with the site's own normalisation" in capsys.readouterr().out


def test_too_few_films_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = given(tmp_path) / "few"
    films.mkdir()
    for path in sorted((tmp_path / "NEW" / "films").iterdir())[:15]:
        shutil.copy(path, films)
    assert adapt(tmp_path, films) == 1
    assert "expected at least 16 frontal chest films to measure on, got 15 among 15 files" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "state" / "NEW" / "models").exists()


def test_a_model_without_statistics_or_of_a_site_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = given(tmp_path, MODEL.model_copy(update={"norm": "group"})) / "NEW" / "films"
    assert adapt(tmp_path, films) == 2
    assert "expected batch normalisation, got a model with group normalisation" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    given(other)
    assert adapt(other, other / "NEW" / "films") == 0
    assert adapt(other, other / "NEW" / "films", "state/NEW/models/test") == 2
    assert "expected the shared model that server.export wrote" in capsys.readouterr().err
