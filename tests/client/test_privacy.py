"""`python -m client.privacy`, as a hospital's engineer runs it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from acm_core.config import FederationConfig, SiteConfig, load_config
from acm_core.data.intake.manifest import Row, write_manifest
from acm_core.data.splits import Split
from acm_core.privacy.accounting import NoisedSteps, Plan, epsilon, filtered_epsilon
from acm_core.privacy.ledger import Ledger, ledger_folder, verify
from client import privacy
from client.round.kept_models import SiteRun
from client.site.expected_accuracy import ExpectedAccuracy

ROOT = Path(__file__).resolve().parents[2]
FILMS, MODEL = "a" * 64, "c" * 64
POLICY = {"epsilon": 10, "population": 1000}
OK = privacy.OK
HEAVY = {"torch", "opacus", "monai", "numpy", "scipy", "pydantic", "rich"}


class Hospital:
    """A site file, a federation file and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "films").mkdir()
        (folder / "labels.csv").touch()
        self.policy(**POLICY)
        self.federation()

    def policy(self, **policy: object) -> None:
        paths = {name: str(self.folder / name) for name in ("films", "state")}
        settings = {"site": "A", "labels": str(self.folder / "labels.csv"), **paths}
        (self.folder / "A.yaml").write_text(
            yaml.safe_dump(settings | ({"privacy": policy} if policy else {}))
        )

    def federation(
        self, sites: tuple[str, ...] = ("A",), model: dict[str, object] | None = None, **privacy: object
    ) -> Path:
        settings = {
            "name": "chest",
            "findings": ["Nodule"],
            "privacy": {"epsilon": 3, "expected_batch": 50, **privacy},
            "model": model or {"norm": "group"},
            "federation": {"sites": list(sites), "rounds": 2},
        }
        path = self.folder / "chest.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    @property
    def site(self) -> SiteConfig:
        return load_config(self.folder / "A.yaml", SiteConfig)

    @property
    def plan(self) -> Plan:
        config = load_config(self.folder / "chest.yaml", FederationConfig)
        assert self.site.privacy is not None
        return Plan.of(config, self.site.privacy, SiteRun.of(config).settings)

    def ledger(self, fingerprint: str = FILMS) -> Ledger:
        assert self.site.privacy is not None
        return Ledger.open(
            ledger_folder(self.site),
            site="A",
            unit="patient",
            fingerprint=fingerprint,
            delta=1e-5,
            budget=self.site.privacy.epsilon,
            witness=self.site.privacy.witness,
        )

    def train(self, *rounds: int) -> None:
        with self.ledger() as ledger:
            plan = ledger.admit(self.plan)
            for number in rounds:
                permit = ledger.begin_round(plan, number, steps=plan.steps_per_round, model=MODEL)
                for _ in range(plan.steps_per_round):
                    permit.record()

    def run(self, *arguments: str) -> int:
        return privacy.main(["--site", "A", "--sites", str(self.folder), *arguments])


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def read(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_help_needs_nothing_that_takes_long_to_import() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "client.privacy", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == privacy.OK
    assert "--accept-dataset" in done.stdout
    lines = [line.rsplit("|", 1)[1] for line in done.stderr.splitlines() if "|" in line]
    imported = {line.strip().split(".")[0] for line in lines}
    assert "argparse" in imported
    assert imported & HEAVY == set()


def test_before_the_first_run_nothing_is_spent_and_nothing_is_written(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hospital.run() == privacy.OK
    assert "nothing is spent; permitted are ε = 10 at δ = 1e-05" in read(capsys)
    assert not (hospital.folder / "state").exists()


def test_it_says_what_is_spent_and_left_by_dataset_and_run(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.train(1)
    spent = epsilon([NoisedSteps(hospital.plan.sigma, 0.05, 20)], 1e-5)
    assert hospital.run() == privacy.OK
    text = read(capsys)
    head = verify(ledger_folder(hospital.site)).head
    assert f"site A: ledger of 23 rows, chain verified, head {head.hash[:12]}\n" in text
    assert (
        f"spent: ε = {spent:.3f} of 10 at δ = 1e-05 for a training patient; left {10 - spent:.3f}\n" in text
    )
    assert "spent: ε = 0.000 of 10 at δ = 1e-05 for a test patient; left 10.000\n" in text
    assert "All runs on all datasets compose" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["dataset", "unit", "steps", "ε"] in rows
    assert ["aaaaaaaaaaaa", "patient", "20", f"{spent:.3f}"] in rows
    plan = hospital.plan
    expected = ["chest", plan.settings, "20", "of", "40", f"{plan.sigma:.4g}", "0.05", f"{spent:.3f}"]
    assert expected in rows
    assert "released figures" not in text


def test_another_dataset_and_released_metrics_are_listed_apart_and_spending_is_in_all(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.train(1)
    manifest(hospital, b"second")
    assert hospital.run("--accept-dataset") == privacy.OK
    second = hashlib.sha256(b"second").hexdigest()
    with hospital.ledger(second) as ledger:
        permit = ledger.begin_round(hospital.plan, 2, steps=10, model=MODEL)
        for _ in range(10):
            permit.record()
        ledger.record_release(
            run="chest", settings="digest", round=2, sigma=4.0, sensitivity=1.0, model=MODEL
        )
    read(capsys)
    assert hospital.run() == privacy.OK
    text = read(capsys)
    sigma = hospital.plan.sigma
    first, then, both = (epsilon([NoisedSteps(sigma, 0.05, steps)], 1e-5) for steps in (20, 10, 30))
    released = epsilon([NoisedSteps(4.0, 1.0, 1)], 1e-5)
    rows = [line.split() for line in text.splitlines()]
    assert f"spent: ε = {both:.3f} of 10" in text
    assert ["aaaaaaaaaaaa", "patient", "20", f"{first:.3f}"] in rows
    assert [second[:12], "patient", "10", f"{then:.3f}"] in rows
    assert (
        f"spent: ε = {released:.3f} of 10 at δ = 1e-05 for a test patient; left {10 - released:.3f}" in text
    )
    assert "released figures, of test patients" in text
    assert ["chest", "digest", "2", "4", f"{released:.3f}"] in rows


def test_a_plan_that_fits_is_permitted(hospital: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    assert hospital.run("--plan", str(hospital.federation())) == privacy.OK
    text = read(capsys)
    plan = hospital.plan
    assert f"2 rounds of 20 steps, 0 of 40 done; q = 50 / 1000 = 0.05, σ = {plan.sigma:.4g}" in text
    alone = epsilon([plan.noised(40)], 1e-5)
    assert f"the run alone: ε = {alone:.3f} at δ = 1e-05 for a patient" in text
    assert f"after it: ε = {alone:.3f} of 10 at δ = 1e-05" in text
    assert text.endswith("\npermitted\n")


def test_a_plan_says_that_a_whole_network_learnt_nothing(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.run("--plan", str(hospital.federation()))
    text = read(capsys)
    assert "to expect: nothing learnt. A whole network under noise came hardly farther than its start" in text
    assert "model.trainable: head with model.head: projected on a frozen start" in text


def test_a_plan_says_what_a_head_on_a_frozen_start_may_reach(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.policy(epsilon=10, population=260)
    head = {"trainable": "head", "head": "projected", "weights": "start.safetensors"}
    assert hospital.run("--plan", str(hospital.federation(model=head, epsilon=5, expected_batch=260))) == OK
    text = read(capsys)
    rows = ExpectedAccuracy.load().head.rows
    at_four, without = (next(r for r in rows if (r.patients, r.epsilon) == (250, e)) for e in (4.0, None))
    assert (
        f"to expect, mean AUROC: {at_four.figure} with ε = 4 where each site has 250 training patients (this site: "
        f"260, as many or more); {without.figure} without privacy"
    ) in text
    assert "q = 260 / 260 = 1," in text
    assert "a direction, no promise" in text
    assert "membership" not in text


def test_an_epsilon_above_a_hundred_is_named_for_what_it_is(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    large = hospital.federation(epsilon=500)
    assert hospital.run("--plan", str(large)) == privacy.NOT_PERMITTED
    hospital.policy(epsilon=500, population=1000)
    assert hospital.run("--plan", str(large)) == OK
    named = (
        "ε = 500: this is no promise about membership; it was found to stop reconstruction of films (Ziller et al. "
        "2024)"
    )
    assert read(capsys).count(named) == 2
    assert hospital.run("--plan", str(hospital.federation(epsilon=1e7))) == privacy.WRONG


def test_a_plan_is_added_to_what_is_spent(hospital: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    hospital.train(1, 1)
    spent = hospital.plan
    hospital.policy(epsilon=3.2, population=1000)
    other = hospital.federation(clipping_norm=0.5, epsilon=2)
    assert hospital.run("--plan", str(other)) == privacy.NOT_PERMITTED
    text = read(capsys)
    after = filtered_epsilon([spent.noised(40), hospital.plan.noised(40)], 1e-5, 3.2)
    assert after > 3.2
    assert f"after it: ε = {after:.3f} of 3.2" in text
    assert "not permitted: expected at most ε = 3.2 at δ = 1e-05 for a training patient over all runs" in text


def test_of_a_run_that_has_begun_only_the_rest_is_added(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.train(1)
    assert hospital.run("--plan", str(hospital.folder / "chest.yaml")) == privacy.OK
    text = read(capsys)
    assert "20 of 40 done" in text
    assert f"after it: ε = {epsilon([hospital.plan.noised(40)], 1e-5):.3f} of 10" in text
    hospital.policy(epsilon=2.5, population=1000)
    assert hospital.run("--plan", str(hospital.folder / "chest.yaml")) == privacy.NOT_PERMITTED
    assert "would cost more than its file permits" in read(capsys)


def test_a_run_that_protects_films_is_not_permitted_where_patients_are_to_be(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hospital.run("--plan", str(hospital.federation(unit="film"))) == privacy.NOT_PERMITTED
    assert "not permitted: the site file says privacy.unit: patient" in read(capsys)


@pytest.mark.parametrize("required", [True, False])
def test_a_run_without_privacy_is_permitted_only_where_the_site_says_so(
    required: bool, hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.policy(**POLICY, required=required)
    path = hospital.federation()
    path.write_text(
        path.read_text().replace("\nprivacy:\n  epsilon: 3\n  expected_batch: 50\n", "\nprivacy: off\n")
    )
    assert hospital.run("--plan", str(path)) == (privacy.NOT_PERMITTED if required else privacy.OK)
    assert ("privacy.required: true" in read(capsys)) is required


def manifest(hospital: Hospital, content: bytes) -> None:
    folder = hospital.folder / "state" / "intake"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.sqlite").write_bytes(content)


def test_more_training_patients_than_are_declared_are_said_at_the_site(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(hospital, b"")
    path = hospital.folder / "state" / "intake" / "manifest.sqlite"
    path.unlink()
    rows = [
        Row(f"{number}", "c", None, None, "one", split, True, *[None] * 6, f"p{number}", split, None)
        for number, split in enumerate([Split.TRAIN] * 30 + [Split.TEST] * 9)
    ]
    write_manifest(path, rows, [])
    for population, said in ((29, True), (30, False)):
        hospital.policy(epsilon=10, population=population)
        assert hospital.run() == privacy.OK
        text = read(capsys)
        assert ("29 is declared, and there are 30 training patients" in text) is said


def test_a_dataset_is_accepted_once_and_both_fingerprints_are_shown(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.train(1)
    manifest(hospital, b"second")
    present = hashlib.sha256(b"second").hexdigest()
    for answer in ("accepted: runs from now on", "nothing to accept"):
        assert hospital.run("--accept-dataset") == privacy.OK
        text = read(capsys)
        assert f"dataset of now:        {present}\n" in text
        assert answer in text
    record = verify(ledger_folder(hospital.site))
    assert (record.dataset, len(record.rows)) == (present, 24)
    assert f"dataset in the ledger: {present}\n" in text


def test_there_is_nothing_to_accept_before_the_first_run_or_without_a_manifest(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hospital.run("--accept-dataset") == privacy.WRONG
    assert "run python -m client.preflight --site=A first" in capsys.readouterr().err
    manifest(hospital, b"first")
    assert hospital.run("--accept-dataset") == privacy.OK
    assert "the first run with privacy writes its dataset down" in read(capsys)
    assert not ledger_folder(hospital.site).exists()


def test_a_dataset_cannot_be_accepted_while_the_site_trains(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(hospital, b"second")
    with hospital.ledger():
        assert hospital.run("--accept-dataset") == privacy.UNSOUND
    assert "LedgerBusyError: expected nobody else at the ledger" in capsys.readouterr().err


def test_a_changed_ledger_is_named(hospital: Hospital, capsys: pytest.CaptureFixture[str]) -> None:
    hospital.train(1)
    path = ledger_folder(hospital.site) / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":2', 1))
    assert hospital.run() == privacy.UNSOUND
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(
        "LedgerBrokenError: expected the ledger as it was written, got another row 3:"
    )


def test_the_witness_of_the_site_file_is_looked_at(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    witness = hospital.folder / "witness.json"
    hospital.policy(**POLICY, witness=str(witness))
    hospital.train(1)
    assert hospital.run() == privacy.OK
    read(capsys)
    witness.write_text(witness.read_text().replace('"rows":23', '"rows":25'))
    assert hospital.run() == privacy.UNSOUND
    assert "LedgerRolledBackError" in capsys.readouterr().err


def test_the_ledger_of_another_site_is_refused(
    hospital: Hospital, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.train(1)
    text = (tmp_path / "A.yaml").read_text().replace("site: A", "site: B")
    (tmp_path / "B.yaml").write_text(text)
    assert privacy.main(["--site", "B", "--sites", str(tmp_path)]) == privacy.UNSOUND
    assert "expected the ledger of site B, got that of A" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda hospital: hospital.policy(), (), "privacy: expected what the site permits, got nothing"),
        (lambda hospital: (hospital.folder / "A.yaml").unlink(), (), "expected a file, got none"),
        (lambda hospital: None, ("--plan", "nowhere.yaml"), "nowhere.yaml: expected a file"),
        (
            lambda hospital: hospital.federation(sites=("B", "C")),
            ("--plan", "chest.yaml"),
            "federation.sites: expected A among them, got B, C",
        ),
        (
            lambda hospital: hospital.federation(delta=0.01),
            ("--plan", "chest.yaml"),
            "the run's delta below 1/population = 0.001, got 0.01",
        ),
    ],
)
def test_a_wrong_configuration_is_told(
    hospital: Hospital,
    change: Any,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(hospital)
    monkeypatch.chdir(hospital.folder)
    assert hospital.run(*arguments) == privacy.WRONG
    assert message in capsys.readouterr().err


def test_what_to_write_is_a_section_that_loads(
    hospital: Hospital, capsys: pytest.CaptureFixture[str]
) -> None:
    hospital.policy()
    assert hospital.run() == privacy.WRONG
    advice = capsys.readouterr().err.split("decided on:\n")[1]
    with (hospital.folder / "A.yaml").open("a") as file:
        file.write(advice)
    assert hospital.site.privacy is not None
    assert hospital.run() == privacy.OK
