"""A site's private round: what its policy refuses, what it costs, what leaves."""

from __future__ import annotations

import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hospitals import FINDINGS, federation, hospital, site
from wire import trained, whole

from acm_core.arrays import Arrays
from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.federated.payload import write_payload
from acm_core.nn import build_classifier
from acm_core.privacy.accounting import NoisedSteps, epsilon
from acm_core.privacy.ledger import ledger_folder
from acm_core.randomness import stream_seed
from acm_core.training.weights import get_arrays
from client.round import private_round
from client.round.kept_models import KeptModels
from client.round.site_round import SiteRound

POLICY = {"epsilon": 8.0, "delta": 1e-3, "population": 40}
PRIVACY = {"epsilon": 8.0, "delta": 1e-3, "expected_batch": 10}

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    hospital(folder, "A", patients=40, films_per_patient=(1, 2))
    return folder


def private(**changes: Any) -> FederationConfig:
    return federation(
        privacy={**PRIVACY, **changes.pop("privacy", {})}, model={"norm": "group", "context": "se"}, **changes
    )


def at_site(films: Path, state: Path, **policy: Any) -> SiteConfig:
    return site(films, "A", state=state, privacy={**POLICY, **policy})


def weights_of(config: FederationConfig) -> Arrays:
    seed = stream_seed(config.seed, "model")
    return get_arrays(build_classifier(config.model, len(FINDINGS), seed=seed))


def task(config: FederationConfig, kind: TaskKind = TaskKind.TRAIN, number: int = 1) -> Task:
    return Task(kind, number, config.model_dump_json(), arrays=whole(weights_of(config)))


def rows(settings: SiteConfig) -> list[dict[str, Any]]:
    path = ledger_folder(settings) / "ledger.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def steps(settings: SiteConfig) -> list[dict[str, Any]]:
    return [row for row in rows(settings) if row["kind"] == "step"]


def wire(reply: Reply) -> bytes:
    """The reply as it leaves the process, without the weights."""
    with tempfile.TemporaryDirectory() as folder:
        return write_payload(replace(reply, arrays={}), Path(folder)).path.read_bytes()


@pytest.mark.slow
def test_the_whole_run_costs_what_was_planned_and_each_step_is_in_the_ledger(
    films: Path, tmp_path: Path
) -> None:
    config, settings = private(), at_site(films, tmp_path)
    runner = SiteRound(settings)
    first = runner.answer(task(config))
    assert first.refusal == ""
    second = runner.answer(replace(task(config, number=2), arrays=first.arrays))
    assert second.refusal == ""
    written = steps(settings)
    assert [row["round"] for row in written] == [1] * 4 + [2] * 4  # q = 10/40, one epoch
    spent = epsilon([NoisedSteps(row["sigma"], row["q"], row["steps"]) for row in written], 1e-3)
    assert 7.9 < spent <= 8.0
    assert second.metrics == {"epsilon": round(spent, 6), "noise_multiplier": written[0]["sigma"]}
    assert first.metrics["epsilon"] < 8.0
    assert {row["unit"] for row in written} == {"patient"}
    assert {row["expected_batch"] for row in written} == {10}


def test_who_asks_again_gets_the_same_weights_at_no_cost(films: Path, tmp_path: Path) -> None:
    config, settings = private(), at_site(films, tmp_path)
    first = SiteRound(settings).answer(task(config))
    before = rows(settings)
    again = SiteRound(settings).answer(task(config))
    assert rows(settings) == before
    assert wire(again) == wire(first)
    assert all(np.array_equal(again.arrays[name], first.arrays[name]) for name in first.arrays)
    other = replace(task(config), arrays={name: array + 0 for name, array in first.arrays.items()})
    SiteRound(settings).answer(other)
    assert len(steps(settings)) == 8


def test_a_round_that_would_overspend_is_refused_before_any_noise(films: Path, tmp_path: Path) -> None:
    config, settings = private(), at_site(films, tmp_path)
    runner = SiteRound(settings)
    start = weights_of(config)
    once = trained(runner.answer(task(config)), start)
    # From other weights: what the two planned rounds may cost is spent.
    twice = trained(runner.answer(replace(task(config), arrays=whole(once))), once)
    assert runner.answer(replace(task(config, number=2), arrays=whole(twice))).refusal == Refusal.BUDGET
    before = rows(settings)
    refused = runner.answer(replace(task(config, number=2), arrays=whole(once)))
    assert len(steps(settings)) == 8
    assert (refused.refusal, refused.arrays) == (Refusal.BUDGET, {})
    assert rows(settings) == before


def test_a_run_that_would_overspend_is_refused_before_it_starts(films: Path, tmp_path: Path) -> None:
    settings = at_site(films, tmp_path, epsilon=4.0)
    assert SiteRound(settings).answer(task(private())).refusal == Refusal.BUDGET
    assert steps(settings) == []


@pytest.mark.parametrize(
    ("config", "policy", "line"),
    [
        (federation(), POLICY, "privacy.required"),
        (private(), None, "privacy: expected what the site permits"),
        (private(privacy={"unit": "film"}), POLICY, "privacy.unit"),
        (private(privacy={"delta": 0.5}), POLICY, "delta"),
        (private(privacy={"epsilon": 1e-6, "delta": 1e-12}), POLICY, "noise multiplier"),
    ],
)
def test_what_the_policy_does_not_permit(
    films: Path,
    tmp_path: Path,
    config: FederationConfig,
    policy: dict[str, Any] | None,
    line: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = site(films, "A", state=tmp_path, privacy=policy)
    reply = SiteRound(settings).answer(task(config))
    assert wire(reply) == wire(Reply("A", 1, refusal=Refusal.PRIVACY))
    assert line in caplog.text
    assert rows(settings) == [] or steps(settings) == []


@pytest.mark.parametrize("clipping_norm", [1e-46, 1e-32, 9e-5, 1.1e4])
def test_a_server_cannot_ask_for_a_clipping_norm_that_nothing_reaches(
    films: Path, tmp_path: Path, clipping_norm: float
) -> None:
    """With C = 1e-32 gradients whose squares are 0 in float32 went out unclipped, with noise of σ·C."""
    asked = task(private())
    settings = json.loads(asked.config)
    settings["privacy"]["clipping_norm"] = clipping_norm
    site_settings = at_site(films, tmp_path)
    reply = SiteRound(site_settings).answer(replace(asked, config=json.dumps(settings)))
    assert wire(reply) == wire(Reply("A", 1, refusal=Refusal.POLICY))
    assert rows(site_settings) == []


def test_a_site_may_permit_runs_without_privacy_too(films: Path, tmp_path: Path) -> None:
    settings = at_site(films, tmp_path, required=False)
    assert SiteRound(settings).answer(task(federation())).refusal == ""


def test_a_ledger_that_cannot_be_trusted_stops_the_round(films: Path, tmp_path: Path) -> None:
    settings = at_site(films, tmp_path)
    SiteRound(settings).answer(task(private()))
    path = ledger_folder(settings) / "ledger.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-2]), encoding="utf-8")
    reply = SiteRound(settings).answer(task(private(), number=2))
    assert (reply.refusal, reply.arrays) == (Refusal.UNABLE, {})


def test_what_one_patients_row_may_decide_leaves_as_one_code(films: Path, tmp_path: Path) -> None:
    """Labels that cannot be read, none for the run's findings, a ledger of other films: a server learns none of it."""
    wrong, none = tmp_path / "wrong.csv", tmp_path / "none.csv"
    wrong.write_text("patient_id,image,Lung Opacity\np1,films/x.dcm,perhaps\n", encoding="utf-8")
    none.write_text("patient_id,image,Nodule\np1,films/x.dcm,1\n", encoding="utf-8")
    for kind in (TaskKind.TRAIN, TaskKind.EVALUATE):
        for labels in (wrong, none, tmp_path / "absent.csv"):
            settings = at_site(films, tmp_path / f"{kind} {labels.stem}").model_copy(
                update={"labels": labels}
            )
            reply = SiteRound(settings).answer(task(private(), kind))
            # Without a film that counts, steps are taken and noised all the same.
            assert reply.refusal == ("" if labels == none else Refusal.UNABLE)


def test_changed_films_stop_the_run(films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    hospital(folder, "A", patients=20)
    settings = at_site(folder, tmp_path / "state", population=20)
    config = private(privacy={"expected_batch": 5})
    assert SiteRound(settings).answer(task(config)).refusal == ""
    table = (folder / "A" / "labels.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "A" / "labels.csv").write_text("".join(table[:-1]), encoding="utf-8")
    assert SiteRound(settings).answer(task(config, number=2)).refusal == Refusal.UNABLE


@pytest.mark.parametrize("killed_after", [1, 3])
def test_an_interrupted_round_goes_on_from_its_checkpoint(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    if killed_after > 1:  # the first step's is always kept
        monkeypatch.setattr(private_round, "_CHECKPOINT_SHARE", 1e9)
    config, settings = private(), at_site(films, tmp_path)
    killed(settings, task(config), monkeypatch, killed_after)
    assert len(steps(settings)) == killed_after
    assert SiteRound(settings).answer(task(config)).refusal == ""
    assert [row["attempt"] for row in steps(settings)] == [1] * killed_after + [2] * (4 - killed_after)


def killed(settings: SiteConfig, asked: Task, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The site is killed when it has kept its checkpoint after so many steps."""

    class Killed(BaseException):
        pass

    original = KeptModels.save_private_checkpoint

    def kill(kept: Any, checkpoint: dict[str, Any]) -> None:
        original(kept, checkpoint)
        if checkpoint["steps"] == after:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(KeptModels, "save_private_checkpoint", kill)
        SiteRound(settings).answer(asked)


@pytest.mark.parametrize("what", ["update-*", "private.checkpoint.pt"])
def test_what_is_damaged_is_trained_anew_and_counted_again(
    films: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, settings = private(), at_site(films, tmp_path)
    if what == "update-*":
        assert SiteRound(settings).answer(task(config)).refusal == ""
    else:
        killed(settings, task(config), monkeypatch, after=1)
    (kept,) = settings.state.glob(f"runs/*/{what}")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 4
    kept.write_bytes(content)
    before = len(steps(settings))
    reply = SiteRound(settings).answer(task(config))
    assert reply.refusal == ""
    written = steps(settings)
    assert [row["attempt"] for row in written] == [1] * before + [2] * 4
    spent = epsilon([NoisedSteps(row["sigma"], row["q"], row["steps"]) for row in written], 1e-3)
    assert reply.metrics["epsilon"] == round(spent, 6)


def test_a_site_without_training_films_sends_noise(films: Path, tmp_path: Path) -> None:
    """A refusal would say that there is nobody."""
    folder = tmp_path / "films"
    hospital(folder, "A", patients=1)
    settings = at_site(folder, tmp_path / "state", population=40)
    reply = SiteRound(settings).answer(task(private()))
    assert (reply.refusal, reply.films) == ("", 40)
    assert len(steps(settings)) == 4
    start = weights_of(private())
    assert not np.array_equal(trained(reply, start)["head.weight"], start["head.weight"])


@pytest.fixture(scope="module")
def neighbours(films: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same hospital with and without some patients and with other labels."""
    other = tmp_path_factory.mktemp("neighbour")
    hospital(other, "A", patients=40, films_per_patient=(1, 2))
    path = other / "A" / "labels.csv"
    with path.open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    column = table[0].index(FINDINGS[0])
    for row in table[1:10]:
        row[column] = "1" if row[column] == "0" else "0"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table[:-6])
    return films, other


@pytest.mark.parametrize("kind", [TaskKind.TRAIN, TaskKind.LOCAL_ONLY, TaskKind.EVALUATE])
def test_besides_weights_the_bytes_on_the_wire_are_the_same_whoever_the_patients_are(
    neighbours: tuple[Path, Path], tmp_path: Path, kind: TaskKind
) -> None:
    config = private()
    replies = [
        SiteRound(at_site(folder, tmp_path / str(index))).answer(task(config, kind, 2))
        for index, folder in enumerate(neighbours)
    ]
    assert [reply.refusal for reply in replies] == ["", ""]
    assert wire(replies[0]) == wire(replies[1])
    if kind is TaskKind.TRAIN:
        assert replies[0].arrays.keys() == replies[1].arrays.keys()
        assert replies[0].labelled == (40, 40)
    else:
        assert replies[0].arrays == {}


def test_the_comparison_would_see_what_an_open_run_tells(
    neighbours: tuple[Path, Path], tmp_path: Path
) -> None:
    config = federation()
    for kind in (TaskKind.TRAIN, TaskKind.EVALUATE):
        first, second = (
            wire(
                SiteRound(site(folder, "A", state=tmp_path / f"{kind}{index}")).answer(task(config, kind, 1))
            )
            for index, folder in enumerate(neighbours)
        )
        assert first != second


def test_noised_metrics_are_released_once_a_run_and_are_in_the_ledger(films: Path, tmp_path: Path) -> None:
    config, settings = private(), at_site(films, tmp_path, metrics="noised", metrics_epsilon=3.0)
    runner = SiteRound(settings)
    asked = task(config, TaskKind.EVALUATE, 2)
    first, again = runner.answer(asked), runner.answer(asked)
    assert first.report == again.report
    report = json.loads(first.report)
    assert set(report["models"]) == {"federated"}
    assert report["training_films"] is None
    released = [row for row in steps(settings) if row["population"] == "test"]
    assert len(released) == 1
    assert released[0]["clipping_norm"] == pytest.approx(len(FINDINGS) ** 0.5)
    assert epsilon([NoisedSteps(released[0]["sigma"], 1.0, 1)], 1e-3) <= 3.0


def test_public_weights_per_finding_are_the_sites_own_statement(films: Path, tmp_path: Path) -> None:
    settings = at_site(films, tmp_path, labelled=["Pleural Effusion"])
    assert SiteRound(settings).answer(task(private())).labelled == (0, 40)
