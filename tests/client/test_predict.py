"""`python -m client.predict` on a folder as hospitals have them: films, other files, an end in the middle."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from deployments import deployed
from hospitals import FINDINGS, federation, hospital, site
from PIL import Image

from acm_core.config import dump_config
from acm_core.data.film import read_film
from acm_core.data.shrink import square_film
from acm_core.deployment import OperatingPoint
from acm_core.federated.cohort import Cohort
from acm_core.nn import build_classifier, normalised
from client.model_use import prediction
from client.model_use.prediction import predict_folder
from client.predict import main

CALLED = [f"{finding} at specificity 0.9" for finding in FINDINGS]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    made = build_classifier(federation().model, len(FINDINGS), seed=4).eval()
    with torch.no_grad():
        made.head.weight.mul_(50)
    return made


@pytest.fixture
def given(tmp_path: Path, network: torch.nn.Module) -> Path:
    """A site, its model in `export` and a folder `in` of 20 films and two files that are none."""
    hospital(tmp_path, "A", patients=20)
    sites = tmp_path / "sites"
    sites.mkdir()
    (sites / "A.yaml").write_text(dump_config(site(tmp_path, "A")), encoding="utf-8")
    point = OperatingPoint(specificity=0.9, threshold=0.5, sensitivity=0.7)
    points = {FINDINGS[0]: (point,), FINDINGS[1]: ()}
    deployed(tmp_path / "export", federation().model, network, points)
    films = tmp_path / "in"
    shutil.copytree(tmp_path / "A" / "films", films)
    shutil.copy(tmp_path / "A" / "labels.csv", films / "deeper.csv")
    (films / "deeper").mkdir()
    (films / "deeper" / "empty.dcm").touch()
    return tmp_path


def predict(given: Path, *options: str) -> int:
    own = ["--site=A", "--sites", str(given / "sites"), "--model", str(given / "export"), *options]
    return main([*own, str(given / "in"), str(given / "out.csv")])


def rows(given: Path) -> list[dict[str, str]]:
    with (given / "out.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_has_a_row_with_the_models_answer_or_the_reason(
    given: Path, network: torch.nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(given) == 1
    assert capsys.readouterr().out.splitlines() == [
        "run test: the shared model, with the average of the sites' normalisation",
        f"{given / 'out.csv'}: 20 films answered, 2 files not used",
    ]
    table = rows(given)
    assert [row["file"] for row in table] == sorted(row["file"] for row in table)
    aside = {row["file"]: row for row in table if row["not_used"]}
    assert {name: row["not_used"] for name, row in aside.items()} == {
        "deeper.csv": "not_an_image",
        "deeper/empty.dcm": "not_an_image",
    }
    assert all(row[name] == "" for row in aside.values() for name in (*FINDINGS, *CALLED))
    answered = [row for row in table if not row["not_used"]]
    films = np.stack([square_film(read_film(given / "in" / row["file"]).pixels, 32) for row in answered])
    with torch.no_grad():
        logits = network(normalised(torch.from_numpy(films).float()[:, None])).logits
    expected = torch.sigmoid(logits).numpy()
    given_scores = np.array([[float(row[finding]) for finding in FINDINGS] for row in answered])
    assert given_scores.std() > 0.01
    np.testing.assert_allclose(given_scores, expected, atol=1e-4)
    assert {row["model"] for row in table} == {
        "run test: the shared model, with the average of the sites' normalisation"
    }
    assert {row[CALLED[0]] for row in answered} <= {"present", "absent"}
    for row in answered:
        assert (row[CALLED[0]] == "present") == (float(row[FINDINGS[0]]) >= 0.5)
        assert row[CALLED[1]] == ""
    assert sorted(path.name for path in given.iterdir()) == ["A", "export", "in", "out.csv", "sites", "state"]


def test_a_model_of_invented_films_says_so_beside_each_answer(
    given: Path, network: torch.nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(given / "export")
    invented = (Cohort(site="A", invented=True),)
    deployed(given / "export", federation().model, network, {}, invented)
    assert predict(given) == 1
    assert "What the model says of a person's film means nothing." in capsys.readouterr().err
    assert all(row["model"].startswith("run test (invented films): ") for row in rows(given))


def test_films_of_unknown_view_are_answered_only_where_the_site_trains_on_them(given: Path) -> None:
    folder = given / "in"
    shutil.rmtree(folder)
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64), np.uint8)).save(folder / "film.png")
    assert predict(given) == 0
    strict = site(given, "A").model_copy(update={"unknown_view": "set_aside"})
    (given / "sites" / "A.yaml").write_text(dump_config(strict), encoding="utf-8")
    assert predict(given) == 1
    assert [row["not_used"] for row in rows(given)] == ["unknown_view"]


def test_a_stopped_run_goes_on(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = site(given, "A")
    where = (given / "export", given / "in", given / "out.csv", 0.9)
    predict_folder(settings, *where, lambda *_: None)
    whole = (given / "out.csv").read_bytes()
    (given / "out.csv").unlink()

    def stop(done: int, files: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prediction, "_PROGRESS_SECONDS", 0.0)
        predict_folder(settings, *where, stop)
    unfinished = given / ".out.csv.unfinished"
    with unfinished.open("ab") as file:
        file.write(b'{"stamp": [1, 2')  # killed over a line
    read: list[str] = []
    real = prediction.read_files

    def counted(source: object, names: list[str], *arguments: object, **options: object) -> object:
        read.extend(names := list(names))
        return real(source, names, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(prediction, "read_files", counted)
    predict_folder(settings, *where, lambda *_: None)
    assert len(read) == 22 - 1
    assert (given / "out.csv").read_bytes() == whole
    assert not unfinished.exists()


def test_what_another_model_answered_is_not_taken_up(given: Path) -> None:
    (given / ".out.csv.unfinished").write_text('{"model": "another", "specificity": 0.9}\n{"row": {}}\n')
    assert predict(given) == 1
    assert len(rows(given)) == 22


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--specificity", "0.8"], "expected one of 0.9, got 0.8"),
        (["--model", "none"], "expected a folder that server.export wrote"),
    ],
)
def test_wrong_input_is_said(
    given: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(given, *options) == 2
    assert says in capsys.readouterr().err
    assert not (given / "out.csv").exists()


def test_a_folder_without_files(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(given / "in")
    (given / "in").mkdir()
    assert predict(given) == 2
    assert "found no file" in capsys.readouterr().err
