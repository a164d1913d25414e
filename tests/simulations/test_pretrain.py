"""Making a start: what it and its card say, going on after an interruption, and folders that cannot be used."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from hospitals import FINDINGS, federation, hospital
from safetensors.numpy import load_file

from acm_core.config import dump_config
from acm_core.config.sections import ModelConfig
from acm_core.files import file_sha256
from acm_core.nn import build_classifier, load_weights
from acm_core.nn.weight_file import read_weight_file
from simulations.pretrain.__main__ import main
from simulations.pretrain.learning import Learner

SMALL = ("--image-size", "32", "--epochs", "2", "--seed", "4")

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 patients, whose label file says where each film is from and under which licence."""
    folder = hospital(tmp_path_factory.mktemp("films"), "PUBLIC", patients=40)
    relabelled(folder, lambda row: {**row, "licence": "free, attribution", "source": row["image"]})
    return folder


def relabelled(folder: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    labels = folder / "labels.csv"
    with labels.open(encoding="utf-8", newline="") as file:
        rows = [change(row) for row in csv.DictReader(file)]
    with labels.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def pretrain(films: Path, output: Path, *options: str) -> int:
    return main(["--films", str(films), "--output", str(output), *SMALL, *options])


def test_a_start_with_labels_is_what_its_card_says(
    public: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "start.safetensors"
    assert pretrain(public, output, "--findings", "Effusion, Lung Opacity") == 0
    said = capsys.readouterr().out
    assert "epoch 2 of 2: loss " in said
    assert "  Effusion: " in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["start.md", "start.safetensors"]
    file = read_weight_file(output)
    assert file.origin is not None
    assert file.origin.findings == ("Effusion", "Lung Opacity")
    assert " patients in PUBLIC, with labels of 2 findings, 2 epochs, seed 4" in file.origin.made_from
    card = (tmp_path / "start.md").read_text(encoding="utf-8")
    films = len(list(public.rglob("*.dcm")))
    for text in (
        file.sha256,
        "For research only.",
        "folder `PUBLIC`",
        "- licence: free, attribution (",
        "- source: one of ",
        "| Effusion | ",
        "VICReg",
    ):
        assert (text in card) is (text != "VICReg"), text
    trained, held_out = (int(card.split(before)[1].split()[0]) for before in ("trained on ", "held out: "))
    assert trained + held_out == films
    assert trained > held_out > 0
    model = build_classifier(ModelConfig(image_size=32), 2)
    report = load_weights(model, output, FINDINGS, file.sha256)
    assert report.rows == ("Lung Opacity", "Pleural Effusion")
    assert report.missing == report.unexpected == report.mismatched == ()


def test_the_findings_are_those_of_the_runs_file_or_all_that_the_label_file_has(
    public: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run.yaml"
    section = {"context": "none", "norm": "group", "weights": "start.safetensors"}  # which is not there yet
    run.write_text(dump_config(federation(findings=["Pleural Effusion"], model=section)), encoding="utf-8")
    assert pretrain(public, tmp_path / "start.safetensors", "--config", str(run), "--epochs", "1") == 0
    origin = read_weight_file(tmp_path / "start.safetensors").origin
    assert origin is not None
    assert origin.findings == ("Pleural Effusion",)
    assert origin.model == ModelConfig(image_size=32, context="none", norm="group")
    assert pretrain(public, tmp_path / "all.safetensors", "--epochs", "1") == 0
    origin = read_weight_file(tmp_path / "all.safetensors").origin
    assert origin is not None
    assert set(FINDINGS) <= set(origin.findings)


def test_films_that_nobody_labelled_teach_without_labels(tmp_path: Path) -> None:
    folder = hospital(tmp_path, "UNLABELLED", patients=20)
    relabelled(
        folder,
        lambda row: {
            name: "" if name in FINDINGS else text for name, text in row.items() if name != "licence"
        },
    )
    output = tmp_path / "start.safetensors"
    assert pretrain(folder, output, "--without-labels") == 0
    origin = read_weight_file(output).origin
    assert origin is not None
    assert origin.findings == ()
    assert "without labels" in origin.made_from
    assert not [name for name in load_file(output) if name.startswith(("head.", "expander."))]
    card = output.with_suffix(".md").read_text(encoding="utf-8")
    assert "VICReg" in card
    assert "- licence: the label file does not say" in card
    assert "- source: ACM-Fed chest phantom, generator 1, seed 7 (20 films)" in card
    report = load_weights(build_classifier(ModelConfig(image_size=32), 2), output, FINDINGS)
    assert (report.rows, report.missing, report.unexpected) == ((), (), ())


@pytest.mark.parametrize("how", [["--findings", "Lung Opacity"], ["--without-labels"]])
def test_an_interrupted_start_goes_on_and_is_the_same_bit_for_bit(
    how: list[str],
    public: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert pretrain(public, tmp_path / "whole.safetensors", *how) == 0
    train = Learner.train

    def interrupted(learner: Learner, epoch: int) -> float:
        if epoch == 1:
            raise KeyboardInterrupt
        return train(learner, epoch)

    output = tmp_path / "again.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "train", interrupted)
        assert pretrain(public, output, *how) == 130
    assert not output.exists()
    assert pretrain(public, output, *how, "--seed", "5") == 1
    assert "begun with the same films and settings" in capsys.readouterr().err
    assert pretrain(public, output, *how) == 0
    assert "going on after epoch 1 of 2" in capsys.readouterr().out
    assert file_sha256(output) == file_sha256(tmp_path / "whole.safetensors")


def test_a_damaged_checkpoint_costs_the_epochs_and_nothing_else(
    public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "start.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(
            "simulations.pretrain.learning.write_start", lambda *_: (_ for _ in ()).throw(OSError("full"))
        )
        assert pretrain(public, output, "--epochs", "1", "--findings", "Lung Opacity") == 1
    checkpoint = tmp_path / "start.work" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    assert pretrain(public, output, "--epochs", "1", "--findings", "Lung Opacity") == 0
    assert "epoch 1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--findings", "Hernia"], 1, "films with and without Hernia"),
        (["--findings", "Lung Opacity,"], 2, "findings"),
        (["--epochs", "0"], 2, r"training.epochs: expected an integer ≥ 1"),
        (["--config", "absent.yaml"], 2, "absent.yaml: expected a file"),
    ],
)
def test_what_cannot_be_learnt_is_said(
    options: list[str],
    code: int,
    message: str,
    public: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert pretrain(public, tmp_path / "start.safetensors", *options) == code
    assert message in capsys.readouterr().err


def test_places_that_cannot_be_used_are_said(
    public: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain(tmp_path, tmp_path / "start.safetensors") == 1
    assert "expected a folder with labels.csv" in capsys.readouterr().err
    assert pretrain(public, tmp_path / "start.pt") == 2
    assert ".safetensors, got start.pt" in capsys.readouterr().err
    (tmp_path / "start.safetensors").touch()
    assert pretrain(public, tmp_path / "start.safetensors") == 2
    assert "is there already" in capsys.readouterr().err
