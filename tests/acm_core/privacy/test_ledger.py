"""The ledger holds at least what was spent, whatever happens to it, or says what is wrong with it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import random
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from chains import Killed, chained, fails, in_child, mutate, write_head
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from acm_core.config.sections import TrainingConfig
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier, ClassifierOutput
from acm_core.privacy.accounting import NoisedSteps, Plan, epsilon, noise_multiplier
from acm_core.privacy.chain import (
    LedgerBrokenError,
    LedgerBusyError,
    LedgerError,
    LedgerMissingError,
    LedgerRolledBackError,
    Step,
)
from acm_core.privacy.ledger import (
    BudgetExceededError,
    DatasetChangedError,
    Ledger,
    PlanChangedError,
    Record,
    UnitChangedError,
    accept_dataset,
    begin_witness,
    verify,
)
from acm_core.privacy.noise import GaussianNoise
from acm_core.privacy.training import Mechanism, PrivateTraining, Steps

# Children are forked while pytest's libraries may have threads: Python 3.12 warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

DELTA = 1e-5
FILMS, OTHER_FILMS, MODEL = "a" * 64, "b" * 64, "c" * 64
SIGMA = 2.0
SITE: dict[str, Any] = {
    "site": "A",
    "unit": "patient",
    "fingerprint": FILMS,
    "delta": DELTA,
    "budget": 50.0,
}


def plan_of(run: str = "run", *, sigma: float = SIGMA, steps: int = 3, rounds: int = 20, **more: Any) -> Plan:
    """A plan whose ε is what its steps cost, unless said otherwise."""
    cost = epsilon([NoisedSteps(sigma, 0.1, steps * rounds)], DELTA)
    plan = Plan(
        run=run,
        settings="digest",
        unit="patient",
        sigma=sigma,
        q=0.1,
        clipping_norm=1.0,
        expected_batch=10,
        steps_per_round=steps,
        rounds=rounds,
        epsilon=cost,
        delta=DELTA,
    )
    return replace(plan, **more)


def take_round(ledger: Ledger, plan: Plan, number: int) -> None:
    permit = ledger.begin_round(plan, number, steps=plan.steps_per_round, model=MODEL)
    for _ in range(plan.steps_per_round):
        permit.record()


def begun(folder: Path, rounds: int = 1, witness: Path | None = None) -> list[Any]:
    """A ledger of rows opened, dataset, planned and three steps a round."""
    with Ledger.open(folder, **SITE, witness=witness) as ledger:
        plan = ledger.admit(plan_of())
        for number in range(1, rounds + 1):
            take_round(ledger, plan, number)
        return list(ledger.rows)


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)


def write_lines(folder: Path, lines: list[bytes]) -> None:
    (folder / "ledger.jsonl").write_bytes(b"".join(lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "privacy"


@pytest.fixture
def without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are not about power cuts and write much."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the client's log is told."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("acm_fed.client")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_a_ledger_says_what_it_counts_and_is_nobody_elses_business(folder: Path) -> None:
    begun(folder)
    kinds = [json.loads(line)["kind"] for line in lines_of(folder)]
    assert kinds == ["opened", "dataset", "planned", "step", "step", "step"]
    opened = json.loads(lines_of(folder)[0])
    assert (opened["site"], opened["unit"], opened["adjacency"]) == ("A", "patient", "add_remove")
    assert set(opened["versions"]) == {"acm-fed", "opacus", "torch"}
    assert len(bytes.fromhex(opened["nonce"])) == 16
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.name for path in folder.iterdir()} == {"ledger.jsonl", "head.json", "lock"}


def test_a_step_says_all_that_the_design_lists(folder: Path) -> None:
    begun(folder)
    step = json.loads(lines_of(folder)[-1])
    assert step.pop("versions").keys() == {"acm-fed", "opacus", "torch"}
    assert abs(step.pop("time") - time.time()) < 60
    assert [len(step.pop(name)) for name in ("hash", "previous")] == [64, 64]
    assert step == {
        "index": 5,
        "kind": "step",
        "run": "run",
        "settings": "digest",
        "round": 1,
        "attempt": 1,
        "sigma": SIGMA,
        "q": 0.1,
        "clipping_norm": 1.0,
        "steps": 1,
        "expected_batch": 10,
        "unit": "patient",
        "adjacency": "add_remove",
        "sampler": "poisson",
        "accountant": "prv",
        "dataset": FILMS,
        "model": MODEL,
        "population": "train",
    }


def test_rows_are_chained_and_the_head_and_the_witness_stand_at_the_last(
    folder: Path, tmp_path: Path
) -> None:
    begun(folder, witness=tmp_path / "witness.json")
    lines = lines_of(folder)
    assert chained([json.loads(line) for line in lines]) == lines
    end = {"rows": 6, "hash": json.loads(lines[-1])["hash"]}
    assert json.loads((folder / "head.json").read_text()) == end
    assert json.loads((tmp_path / "witness.json").read_text()) == end
    assert verify(folder, tmp_path / "witness.json").head.model_dump() == end


def test_whole_numbers_read_as_they_were_written(folder: Path) -> None:
    """An ε of 8 is no 8.0 in the file, and must not be one when its hash is checked."""
    plan = plan_of(epsilon=8, clipping_norm=1)
    with Ledger.open(folder, **SITE) as ledger:
        ledger.admit(plan)
    assert b'"epsilon":8,' in lines_of(folder)[2]
    assert verify(folder).plan_of("run", "digest") == plan


def test_a_step_is_on_disk_before_it_counts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []

    def spied(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **more: Any) -> Any:
            target = arguments[-1 if name == "replace" else 0]
            path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else target
            calls.append((name, path.name))
            return real(*arguments, **more)

        return call

    with Ledger.open(folder, **SITE, witness=tmp_path / "witness.json") as ledger:
        permit = ledger.begin_round(ledger.admit(plan_of()), 1, steps=1, model=MODEL)
        for name in ("write", "fsync", "replace"):
            monkeypatch.setattr(os, name, spied(name))
        permit.record()
    temporary = f".{os.getpid()}.tmp"
    assert calls == [
        ("write", "ledger.jsonl"),
        ("fsync", "ledger.jsonl"),
        ("fsync", f".head.json{temporary}"),
        ("replace", "head.json"),
        ("fsync", "privacy"),
        ("fsync", f".witness.json{temporary}"),
        ("replace", "witness.json"),
        ("fsync", tmp_path.name),
    ]


@pytest.mark.usefixtures("without_fsync")
def test_twenty_rounds_in_twenty_processes_are_one_run(folder: Path, tmp_path: Path) -> None:
    for number in range(1, 21):

        def one_round(number: int = number) -> None:
            with Ledger.open(folder, **SITE) as ledger:
                take_round(ledger, ledger.admit(plan_of()), number)

        assert in_child(one_round) == 0
    alone = tmp_path / "alone"
    begun(alone, rounds=20)
    assert [step.round for step in verify(folder).steps()] == [
        number for number in range(1, 21) for _ in range(3)
    ]
    for accountant in ("prv", "rdp"):
        assert verify(folder).spent(DELTA, accountant) == verify(alone).spent(DELTA, accountant)
    assert verify(folder).spent(DELTA) == plan_of().epsilon == epsilon([NoisedSteps(SIGMA, 0.1, 60)], DELTA)


@pytest.mark.usefixtures("without_fsync")
def test_a_new_engine_each_round_would_report_a_third_of_what_the_ledger_does(folder: Path) -> None:
    """Flower's own Opacus example: ε 1.98 of the last round where 6.70 is true."""
    plan = plan_of(sigma=1.1, steps=205, rounds=11, q=0.0256, epsilon=6.71)
    for number in range(1, 12):
        with Ledger.open(folder, **SITE) as ledger:
            take_round(ledger, ledger.admit(plan), number)
    record = verify(folder)
    last = [step.noised for step in record.steps() if step.round == 11]
    assert epsilon(last, DELTA) == pytest.approx(1.98, abs=0.01)
    assert record.spent(DELTA) == pytest.approx(6.70, abs=0.01)


def test_no_more_steps_than_the_permit_is_for(folder: Path) -> None:
    with Ledger.open(folder, **SITE) as ledger:
        permit = ledger.begin_round(ledger.admit(plan_of()), 1, steps=2, model=MODEL)
        assert len(ledger.steps()) == 0
        permit.record()
        assert (permit.attempt, permit.left) == (1, 1)
        permit.record()
        with pytest.raises(BudgetExceededError, match="one more"):
            permit.record()
    assert len(verify(folder).steps()) == 2


def test_a_permit_ends_with_the_next_and_with_the_ledger(folder: Path) -> None:
    with Ledger.open(folder, **SITE) as ledger:
        plan = ledger.admit(plan_of())
        first = ledger.begin_round(plan, 1, steps=2, model=MODEL)
        second = ledger.begin_round(plan, 1, steps=2, model=MODEL)
        with pytest.raises(LedgerError, match="newest permit"):
            first.record()
        second.record()
    with pytest.raises(LedgerError, match="open it again"):
        second.record()
    assert len(verify(folder).steps()) == 1


def test_a_forked_process_cannot_write(folder: Path) -> None:
    """Workers that make batches are forked from the process that holds the ledger."""
    with Ledger.open(folder, **SITE) as ledger:
        permit = ledger.begin_round(ledger.admit(plan_of()), 1, steps=2, model=MODEL)

        def in_worker() -> None:
            with pytest.raises(LedgerError, match="another process's"):
                permit.record()

        assert in_child(in_worker) == 0
        permit.record()
    assert len(verify(folder).steps()) == 1


def test_a_round_tried_again_is_counted_again_until_the_runs_epsilon_is_spent(folder: Path) -> None:
    plan = plan_of(rounds=3)
    with Ledger.open(folder, **SITE) as ledger:
        ledger.admit(plan)
        for number in (1, 1, 2):
            take_round(ledger, plan, number)
        assert [step.attempt for step in ledger.steps_of("run", "digest")] == [1] * 3 + [2] * 3 + [1] * 3
        assert ledger.spent(DELTA) == plan.epsilon
        with pytest.raises(BudgetExceededError, match=r"9 steps are spent, .* the run is over for this site"):
            ledger.begin_round(plan, 3, steps=1, model=MODEL)
        assert len(ledger.steps()) == 9


def test_an_attempt_that_was_cut_short_counts_and_the_next_has_another_number(folder: Path) -> None:
    with Ledger.open(folder, **SITE) as ledger:
        plan = ledger.admit(plan_of())
        ledger.begin_round(plan, 1, steps=3, model=MODEL).record()
    with Ledger.open(folder, **SITE) as ledger:
        assert ledger.begin_round(plan, 1, steps=2, model=MODEL).attempt == 2
        assert ledger.begin_round(plan, 2, steps=2, model=MODEL).attempt == 1


@pytest.mark.usefixtures("without_fsync")
def test_a_run_that_would_overspend_is_refused_before_it_starts(folder: Path) -> None:
    first, second = plan_of("first"), plan_of("second")
    both = epsilon([NoisedSteps(SIGMA, 0.1, 120)], DELTA)
    with Ledger.open(folder, **{**SITE, "budget": both}) as ledger:
        ledger.admit(first)
        for number in range(1, 21):
            take_round(ledger, first, number)
        rows = len(ledger.rows)
        with pytest.raises(
            BudgetExceededError, match=rf"{both:g} at δ = 1e-05 .*{first.epsilon:.4g} is spent"
        ):
            ledger.admit(plan_of("second", rounds=21))
        assert len(ledger.rows) == rows
        ledger.admit(second)
        for number in range(1, 21):
            take_round(ledger, second, number)
        assert ledger.spent(DELTA) == both > first.epsilon + 1e-3


@pytest.mark.usefixtures("without_fsync")
def test_a_round_that_would_overspend_is_refused_before_noise(folder: Path) -> None:
    """Two runs that fit alone are admitted side by side; the ledger stops the one that comes too late."""
    first, second = plan_of("first"), plan_of("second")
    with Ledger.open(folder, **{**SITE, "budget": first.epsilon}) as ledger:
        ledger.admit(first)
        ledger.admit(second)
        for number in range(1, 21):
            take_round(ledger, first, number)
        with pytest.raises(BudgetExceededError, match="round 1 of run second would cost"):
            ledger.begin_round(second, 1, steps=1, model=MODEL)
        assert len(ledger.steps()) == 60


def test_a_run_goes_on_with_the_noise_it_began_with(folder: Path) -> None:
    with Ledger.open(folder, **SITE) as ledger:
        began = ledger.admit(plan_of())
    with Ledger.open(folder, **SITE) as ledger:
        assert ledger.admit(replace(began, sigma=SIGMA * 1.001)) == began
        with pytest.raises(LedgerError, match="call admit first"):
            ledger.begin_round(replace(began, sigma=SIGMA / 2), 1, steps=1, model=MODEL)
        with pytest.raises(LedgerError, match="call admit first"):
            ledger.begin_round(replace(began, run="other"), 1, steps=1, model=MODEL)
        with pytest.raises(PlanChangedError, match=r"got q 0.1 → 0.2: .*population back"):
            ledger.admit(replace(began, q=0.2))


def test_another_unit_or_site_is_refused(folder: Path) -> None:
    begun(folder)
    with pytest.raises(UnitChangedError, match=r"unit patient .* got film"):
        Ledger.open(folder, **{**SITE, "unit": "film"})
    with Ledger.open(folder, **SITE) as ledger, pytest.raises(UnitChangedError):
        ledger.admit(plan_of("other", unit="film"))
    with pytest.raises(LedgerError, match="expected the ledger of site B"):
        Ledger.open(folder, **{**SITE, "site": "B"})


def test_another_dataset_is_refused_until_it_is_accepted_and_what_was_spent_stays(folder: Path) -> None:
    begun(folder)
    changed = {**SITE, "fingerprint": OTHER_FILMS}
    with pytest.raises(
        DatasetChangedError, match=r"aaaaaaaaaaaa .* got bbbbbbbbbbbb: .* --site=A --accept-dataset"
    ):
        Ledger.open(folder, **changed)
    for _ in range(2):
        accept_dataset(folder, site="A", unit="patient", fingerprint=OTHER_FILMS)
    with Ledger.open(folder, **changed) as ledger:
        assert ledger.spent(DELTA) == epsilon([NoisedSteps(SIGMA, 0.1, 3)], DELTA)
        take_round(ledger, ledger.admit(plan_of()), 2)
        assert [step.dataset for step in ledger.steps()] == [FILMS] * 3 + [OTHER_FILMS] * 3
        assert ledger.spent(DELTA) == epsilon([NoisedSteps(SIGMA, 0.1, 6)], DELTA)
    assert sum(b'"kind":"dataset"' in line for line in lines_of(folder)) == 2
    with pytest.raises(DatasetChangedError):
        Ledger.open(folder, **SITE)


def test_a_released_metric_costs_the_test_patients_and_nobody_else(folder: Path) -> None:
    sigma = noise_multiplier(1.0, DELTA, 1.0, 1)
    about = {"run": "run", "settings": "digest", "sensitivity": 2.0, "model": MODEL}
    with Ledger.open(folder, **SITE) as ledger:
        take_round(ledger, ledger.admit(plan_of()), 1)
        before = ledger.spent(DELTA)
        ledger.record_release(**about, round=1, sigma=sigma)
        ledger.record_release(**about, round=1, sigma=sigma)
        assert ledger.spent(DELTA) == before
        assert ledger.spent(DELTA, population="test") == epsilon([NoisedSteps(sigma, 1.0, 2)], DELTA)
        assert len(ledger.steps_of("run", "digest")) == 3
        assert [step.attempt for step in ledger.steps("test")] == [1, 2]
        rows = len(ledger.rows)
        with pytest.raises(ValueError, match="noise multiplier > 0"):
            ledger.record_release(**about, round=1, sigma=0.0)
        assert len(ledger.rows) == rows == len(lines_of(folder))


def test_releases_of_all_runs_together_stay_within_what_the_site_permits_a_test_patient(
    folder: Path,
) -> None:
    """45 names of runs gave ε = 10.8 at a site that permits 8."""
    permitted = {**SITE, "budget": 8.0}
    sigma = noise_multiplier(1.0, DELTA, 1.0, 1)
    about = {"settings": "digest", "round": 1, "sigma": sigma, "sensitivity": 2.0, "model": MODEL}
    released = 0
    with pytest.raises(
        BudgetExceededError, match=r"ε = 8 .* for a test patient .* the figures of run run-\d+"
    ):
        for run in range(1000):
            with Ledger.open(folder, **permitted) as ledger:
                ledger.record_release(run=f"run-{run}", **about)
            released += 1
    with Ledger.open(folder, **permitted) as ledger:
        assert len(ledger.steps("test")) == released > 8
        assert ledger.spent(DELTA, population="test") <= 8
        assert epsilon([NoisedSteps(sigma, 1.0, released + 1)], DELTA) > 8
        take_round(ledger, ledger.admit(plan_of()), 1)  # training patients are others


def test_no_step_without_a_hash_of_the_model(folder: Path) -> None:
    """Names of files or patients cannot come into the ledger by this way."""
    with Ledger.open(folder, **SITE) as ledger:
        permit = ledger.begin_round(ledger.admit(plan_of()), 1, steps=2, model="Müller, Anna")
        with pytest.raises(ValueError, match="model"):
            permit.record()
    assert len(verify(folder).steps()) == 0


def spend(folder: Path, witness: Path, kill_at: int, draw: Callable[[], object]) -> None:
    """A run of two rounds, the first one tried twice; `draw` stands for the noise."""
    Killed(kill_at)
    for numbers in ((1,), (1, 2)):
        with Ledger.open(folder, **SITE, witness=witness) as ledger:
            plan = ledger.admit(plan_of())
            for number in numbers:
                permit = ledger.begin_round(plan, number, steps=2, model=MODEL)
                for _ in range(2):
                    permit.record()
                    draw()


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """Folders of runs that were killed at their 1st, 2nd, … write, the last one ended, and the steps they noised."""
    plan_of()  # its ε is known to the children
    folder, runs = tmp_path_factory.mktemp("killed"), []
    for number in count(1):
        here = folder / str(number)
        here.mkdir()
        reader, writer = os.pipe()
        draw = partial(os.write, writer, b".")
        code = in_child(partial(spend, here / "privacy", here / "witness.json", number, draw))
        os.close(writer)
        runs.append((here, len(os.read(reader, 100))))
        os.close(reader)
        assert code in (0, 9)
        if code == 0:
            break
    return runs


def unsettled(folder: Path, witness: Path) -> tuple[object, ...] | None:
    """In what way a state must be set right, whatever it has in rows; None where all is well."""
    path = folder / "ledger.jsonl"
    content = path.read_bytes() if path.exists() else b""
    rows, torn = content.count(b"\n"), content[-1:] not in (b"", b"\n")
    marks = (folder / "head.json", witness)
    behind = [rows - (json.loads(mark.read_text())["rows"] if mark.exists() else 0) for mark in marks]
    return (
        (min(rows, 2), torn, *behind, len(list(folder.glob(".*"))))
        if torn or any(behind) or not rows
        else None
    )


@pytest.mark.slow
@pytest.mark.usefixtures("without_fsync")
def test_killed_at_any_write_it_holds_at_least_what_was_spent(
    killed_runs: list[tuple[Path, int]], tmp_path: Path, told: list[str]
) -> None:
    for left, drawn in killed_runs:
        here = shutil.copytree(left, tmp_path / left.name)
        folder, witness = here / "privacy", here / "witness.json"
        seen = verify(folder, witness).rows
        with Ledger.open(folder, **SITE, witness=witness) as ledger:
            recorded = len(ledger.steps())
            assert drawn <= recorded <= drawn + 1
            assert ledger.rows[: len(seen)] == seen
            plan = ledger.admit(plan_of())
            take_round(ledger, plan, 3)
        again = verify(folder, witness)
        assert len(again.steps()) == recorded + 3
        assert not list(folder.glob(".*")), "temporary files are left"
        assert not list(here.glob(".*"))
    assert drawn == 6
    assert len(killed_runs) > 100
    assert sum("never spent" in message for message in told) >= 6  # one a row at least


@pytest.mark.slow
@pytest.mark.usefixtures("without_fsync")
def test_killed_again_while_it_is_set_right(killed_runs: list[tuple[Path, int]], tmp_path: Path) -> None:
    states: dict[tuple[object, ...], tuple[Path, int]] = {}
    for here, drawn in killed_runs:
        if (state := unsettled(here / "privacy", here / "witness.json")) is not None:
            states.setdefault(state, (here, drawn))
    assert len(states) >= 10
    for here, drawn in states.values():
        for number in count(1):
            copy = shutil.copytree(here, tmp_path / f"{here.name}-{number}")
            code = in_child(partial(reopen, copy, number))
            with Ledger.open(copy / "privacy", **SITE, witness=copy / "witness.json") as ledger:
                assert drawn <= len(ledger.steps()) <= drawn + 1
            if code == 0:
                break


class Counted(GaussianNoise):
    """Says in a pipe when noise is drawn."""

    def __init__(self, writer: int) -> None:
        super().__init__()
        self._writer = writer

    def add_to(self, values: Tensor, standard_deviation: float) -> None:
        os.write(self._writer, b".")
        super().add_to(values, standard_deviation)


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32 * 32, 1, bias=False)

    def forward(self, x: Tensor) -> ClassifierOutput:
        return ClassifierOutput(self.head(x.flatten(1)), x.new_zeros(len(x)))


def train_on(folder: Path, witness: Path, writer: int) -> None:
    """Rounds of one run by the loop that trains, until killed; each is begun anew as after a crash."""
    torch.set_num_threads(1)
    rng = np.random.default_rng()
    films = FilmSet(rng.random((6, 32, 32)).astype(np.float16), np.ones((6, 1), np.float32), np.arange(6))
    settings = TrainingConfig(optimizer="sgd", augment=False, orthogonality=0.0)
    for number in range(1, 1000):
        with Ledger.open(folder, **{**SITE, "budget": 1e6}, witness=witness) as ledger:
            plan = ledger.admit(plan_of(rounds=1000, steps=3, epsilon=1e6))
            permit = ledger.begin_round(plan, number, steps=3, model=MODEL)
            mechanism = Mechanism("patient", plan.sigma, plan.q, plan.clipping_norm, plan.expected_batch)
            model = cast(Classifier, OneWeight())
            loop = PrivateTraining(model, films, settings, mechanism, torch.device("cpu"))
            loop._private._noise = Counted(writer)
            loop.run(Steps(0, 3, 3), permit.record, lambda _: None)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_a_loop_that_is_killed_at_any_time_the_ledger_holds_what_was_drawn(tmp_path: Path) -> None:
    """A hundred times SIGKILL at a random moment, all on one ledger; draws are counted where they are made."""
    folder, witness = tmp_path / "privacy", tmp_path / "witness.json"
    epsilon([NoisedSteps(SIGMA, 0.1, 3000)], DELTA)  # known to the children
    reader, writer = os.pipe()
    drawn = 0
    for _ in range(100):
        if (child := os.fork()) == 0:
            try:
                train_on(folder, witness, writer)
            finally:
                os._exit(1)
        time.sleep(random.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.set_blocking(reader, False)
        with suppress(BlockingIOError):
            drawn += len(os.read(reader, 2**16))
        recorded = len(verify(folder, witness).steps()) if folder.exists() else 0
        assert drawn <= recorded
    assert drawn > 50
    assert recorded - drawn <= 100  # at most the step that each kill took


def reopen(here: Path, kill_at: int) -> None:
    Killed(kill_at)
    with Ledger.open(here / "privacy", **SITE, witness=here / "witness.json"):
        pass


@pytest.mark.parametrize("rows_lost", [0, 1])
def test_a_row_that_was_cut_short_was_never_spent(folder: Path, told: list[str], rows_lost: int) -> None:
    rows = begun(folder)
    lines = lines_of(folder)
    write_lines(folder, [*lines, lines[-1][:100] + (b"\n" if rows_lost else b"")])
    assert verify(folder).rows == rows
    assert len((folder / "ledger.jsonl").read_bytes()) > sum(map(len, lines)), "verify wrote"
    with Ledger.open(folder, **SITE) as ledger:
        assert ledger.rows == rows
    assert lines_of(folder) == lines
    assert any("unfinished row 6, which was never spent" in message for message in told)


def test_a_row_that_the_head_knows_is_not_cut_off(folder: Path) -> None:
    begun(folder)
    lines = lines_of(folder)
    for last in (lines[-1][:100], lines[-1][:100] + b"\n", lines[-1][:-1]):
        write_lines(folder, [*lines[:-1], last])
        with pytest.raises(LedgerBrokenError, match="row 5"):
            verify(folder)
        with pytest.raises(LedgerBrokenError, match="row 5"):
            Ledger.open(folder, **SITE)
    assert lines_of(folder)[-1] == lines[-1][:-1]


def test_a_head_one_row_behind_is_a_crash_and_is_set_right(folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness.json"
    begun(folder, witness=witness)
    lines = lines_of(folder)
    write_head(folder / "head.json", lines[:-1])
    write_head(witness, lines[:-1])
    assert len(verify(folder, witness).steps()) == 3
    with Ledger.open(folder, **SITE, witness=witness) as ledger:
        assert len(ledger.steps()) == 3
    for mark in (folder / "head.json", witness):
        assert json.loads(mark.read_text())["rows"] == 6


def expect_refused(folder: Path, kind: type[LedgerError], match: str, witness: Path | None = None) -> None:
    for look in (lambda: verify(folder, witness), lambda: Ledger.open(folder, **SITE, witness=witness)):
        with pytest.raises(kind, match=match):
            look()


@pytest.mark.usefixtures("without_fsync")
def test_any_byte_that_was_changed_is_noticed(folder: Path) -> None:
    begun(folder)
    for name in ("ledger.jsonl", "head.json"):
        original = (folder / name).read_bytes()
        for position in range(len(original)):
            changed = bytearray(original)
            changed[position] ^= 1
            (folder / name).write_bytes(changed)
            with pytest.raises(LedgerError):
                verify(folder)
        (folder / name).write_bytes(original)
    assert len(verify(folder).steps()) == 3


def test_a_changed_figure_is_named_by_its_row_even_where_its_own_hash_fits(folder: Path) -> None:
    begun(folder)
    lines = lines_of(folder)
    write_lines(folder, [*lines[:4], lines[4].replace(b'"sigma":2.0', b'"sigma":9.0'), lines[5]])
    expect_refused(folder, LedgerBrokenError, "row 4")
    rows = [json.loads(line) for line in lines]
    rows[3]["sigma"] = 9.0
    forged = chained(rows)
    write_lines(folder, [*lines[:3], forged[3], *lines[4:]])
    expect_refused(folder, LedgerBrokenError, "row 4")
    write_lines(folder, forged)
    expect_refused(folder, LedgerBrokenError, "row 5 of the ledger to be the one that .*head.json speaks of")


def test_rows_removed_swapped_or_doubled_are_noticed(folder: Path) -> None:
    begun(folder)
    lines = lines_of(folder)
    write_lines(folder, [*lines[:3], *lines[4:]])
    expect_refused(folder, LedgerBrokenError, "row 3")
    write_lines(folder, [*lines[:3], lines[4], lines[3], lines[5]])
    expect_refused(folder, LedgerBrokenError, "row 3")
    write_lines(folder, [*lines[:4], *lines[3:]])
    expect_refused(folder, LedgerBrokenError, "row 4")
    write_lines(folder, lines[1:])
    expect_refused(folder, LedgerBrokenError, "row 0")
    write_lines(folder, [*lines, b"\n"])
    assert len(verify(folder).rows) == 6  # an unfinished row
    write_lines(folder, [*lines, b"{}\n"])
    expect_refused(folder, LedgerBrokenError, "row 6")


def test_an_older_ledger_or_head_is_noticed(folder: Path) -> None:
    begun(folder)
    lines = lines_of(folder)
    write_lines(folder, lines[:-1])
    expect_refused(folder, LedgerRolledBackError, "after 5 rows, got 6: one is an older copy")
    write_lines(folder, lines)
    write_head(folder / "head.json", lines[:-2])
    expect_refused(folder, LedgerRolledBackError, "after 6 rows, got 4")
    (folder / "head.json").unlink()
    expect_refused(folder, LedgerRolledBackError, "after 6 rows, got 0")


def test_a_folder_restored_as_a_whole_is_noticed_by_the_witness(folder: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness.json"
    begun(folder, witness=witness)
    backup = tmp_path / "backup"
    shutil.copytree(folder, backup)
    with Ledger.open(folder, **SITE, witness=witness) as ledger:
        take_round(ledger, plan_of(), 2)
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    expect_refused(folder, LedgerRolledBackError, "witness.json to end .* after 6 rows, got 9", witness)
    with Ledger.open(folder, **SITE) as ledger:  # without a witness nobody can tell
        take_round(ledger, plan_of(), 3)
    expect_refused(folder, LedgerBrokenError, "row 8 .*witness.json speaks of", witness)
    shutil.rmtree(folder)
    expect_refused(folder, LedgerMissingError, "ledger of 9 rows that .*witness.json", witness)


def test_a_lost_ledger_is_not_begun_anew(folder: Path) -> None:
    begun(folder)
    (folder / "ledger.jsonl").unlink()
    expect_refused(folder, LedgerMissingError, "ledger of 6 rows that .*head.json")
    (folder / "ledger.jsonl").touch()
    expect_refused(folder, LedgerRolledBackError, "after 0 rows, got 6")
    (folder / "head.json").unlink()
    (folder / "ledger.jsonl").write_bytes(bytes(20_000))
    expect_refused(folder, LedgerBrokenError, "row 0")


def test_a_missing_witness_is_refused_like_a_wrong_one_until_it_is_begun(
    folder: Path, tmp_path: Path
) -> None:
    begun(folder)
    with pytest.raises(LedgerError, match=r"witness's folder .* is its disk there\?"):
        Ledger.open(folder, **SITE, witness=tmp_path / "away" / "witness.json")
    witness = tmp_path / "witness.json"
    expect_refused(folder, LedgerRolledBackError, "after 6 rows, got 0: .* --begin-witness", witness)
    begin_witness(folder, site="A", unit="patient", witness=witness)
    with Ledger.open(folder, **SITE, witness=witness):
        pass
    assert json.loads(witness.read_text())["rows"] == 6
    with pytest.raises(FileExistsError, match="a witness is begun once"):
        begin_witness(folder, site="A", unit="patient", witness=witness)
    witness.unlink()
    expect_refused(folder, LedgerRolledBackError, "after 6 rows, got 0", witness)


def test_one_writer_at_a_time(folder: Path) -> None:
    with Ledger.open(folder, **SITE):

        def second() -> None:
            with pytest.raises(LedgerBusyError, match="another process"):
                Ledger.open(folder, **SITE)

        second()
        assert in_child(second) == 0
        assert len(verify(folder).rows) == 2
    begun(folder)


def test_a_refused_opening_lets_go_of_the_lock(folder: Path) -> None:
    begun(folder)
    with pytest.raises(DatasetChangedError):
        Ledger.open(folder, **{**SITE, "fingerprint": OTHER_FILMS})
    with pytest.raises(UnitChangedError):
        Ledger.open(folder, **{**SITE, "unit": "film"})
    (folder / "head.json").rename(folder / "away.json")
    with pytest.raises(LedgerRolledBackError):
        Ledger.open(folder, **SITE)
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_killed_writer_leaves_no_lock_behind(folder: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        begun(folder)
        ledger = Ledger.open(folder, **SITE)
        os.write(writer, b".")
        signal.pause()
        ledger.__exit__(None, None, None)
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"."
        with pytest.raises(LedgerBusyError):
            Ledger.open(folder, **SITE)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    begun(folder, rounds=2)


def test_it_can_be_verified_while_it_grows(folder: Path) -> None:
    begun(folder)
    child = os.fork()
    if child == 0:
        with Ledger.open(folder, **SITE) as ledger:
            permit = ledger.begin_round(plan_of(), 2, steps=50, model=MODEL)
            for _ in range(50):
                permit.record()
                time.sleep(0.01)
        os._exit(0)
    seen = []
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        seen.append(len(verify(folder).rows))
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert len(verify(folder).rows) == 56


@pytest.mark.parametrize(("times", "rests"), [(3, True), (1000, False)])
@pytest.mark.usefixtures("without_fsync")
def test_rows_that_are_added_while_it_is_read_are_no_rollback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, times: int, rests: bool
) -> None:
    read_bytes = Path.read_bytes
    with Ledger.open(folder, **SITE) as ledger:
        permit = ledger.begin_round(ledger.admit(plan_of()), 1, steps=60, model=MODEL)
        replaced = iter(range(times))

        def grows(path: Path) -> bytes:
            if path.name == "ledger.jsonl" and next(replaced, None) is not None:
                permit.left = 2
                permit.record()
                permit.record()
            return read_bytes(path)

        monkeypatch.setattr(Path, "read_bytes", grows)
        if rests:
            assert len(verify(folder).steps()) == 2 * times
        else:
            with pytest.raises(LedgerBusyError, match="rest for a moment"):
                verify(folder)


def test_verifying_writes_nothing(tmp_path: Path) -> None:
    assert verify(tmp_path / "privacy").rows == []
    assert verify(tmp_path / "privacy").spent(DELTA) == 0.0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "instead", "text"),
    [
        ("write", fails(errno.ENOSPC), "No space left"),
        ("write", lambda file, line, real=os.write: real(file, line[:50]), "No space left"),
        ("fsync", fails(errno.EIO), "Input/output error"),
        ("replace", fails(errno.EROFS), "Read-only file system"),
    ],
)
def test_a_disk_that_does_not_take_the_row_authorises_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, instead: Callable[..., Any], text: str
) -> None:
    with Ledger.open(folder, **SITE) as ledger:
        permit = ledger.begin_round(ledger.admit(plan_of()), 1, steps=3, model=MODEL)
        permit.record()
        with monkeypatch.context() as patch:
            patch.setattr(os, name, instead)
            with pytest.raises(LedgerError, match=f"{text}.*nothing more is permitted"):
                permit.record()
        with pytest.raises(LedgerError, match="open it again"):
            permit.record()
        assert permit.left == 2
    with Ledger.open(folder, **SITE) as ledger:
        assert 1 <= len(ledger.steps()) <= 2
        take_round(ledger, plan_of(), 1)
    assert len(verify(folder).steps()) in (4, 5)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(LedgerError, match="expected to read and write the ledger"):
        Ledger.open(tmp_path / "state" / "privacy", **SITE)
    (tmp_path / "privacy" / "ledger.jsonl").mkdir(parents=True)
    expect_refused(tmp_path / "privacy", LedgerError, "Is a directory")


@pytest.mark.parametrize(
    "change",
    [
        {"index": 3},
        {"sigma": 0.0},
        {"sigma": -1.0},
        {"sigma": "2"},
        {"q": 0.0},
        {"q": 1.5},
        {"steps": 0},
        {"steps": True},
        {"steps": 10**400},
        {"sampler": "shuffled"},
        {"population": "everybody"},
        {"adjacency": "replace"},
        {"kind": "note"},
        {"kind": ["step"]},
        {"patient": "Anna"},
        {"model": "Anna"},
        {"versions": []},
        {"run": {}},
        {"kind": "opened"},
    ],
    ids=str,
)
def test_a_row_that_no_ledger_writes_is_refused_though_its_hash_fits(
    folder: Path, change: dict[str, Any]
) -> None:
    begun(folder)
    rows = [json.loads(line) for line in lines_of(folder)]
    rows[4] |= change
    lines = chained(rows)
    write_lines(folder, lines)
    write_head(folder / "head.json", lines)
    expect_refused(folder, LedgerBrokenError, "row 4")


def test_the_first_row_and_no_other_opens_a_ledger(folder: Path) -> None:
    begun(folder)
    rows = [json.loads(line) for line in lines_of(folder)]
    for forged, broken in (([*rows[:4], {**rows[0], "index": 4}], 4), ([{**rows[1], "index": 0}], 0)):
        lines = chained(forged)
        write_lines(folder, lines)
        write_head(folder / "head.json", lines)
        expect_refused(folder, LedgerBrokenError, f"row {broken}")


def test_numbers_that_json_does_not_have_are_refused(folder: Path) -> None:
    begun(folder)
    lines = lines_of(folder)
    for number in (b"NaN", b"Infinity", b"1e999", b"2.00", b"2e0", b"9" * 5000):
        write_lines(folder, [*lines[:4], lines[4].replace(b'"sigma":2.0', b'"sigma":' + number), lines[5]])
        expect_refused(folder, LedgerBrokenError, "row 4")
    write_lines(folder, [*lines[:4], b"[" * 100_000 + b"\n", lines[5]])
    expect_refused(folder, LedgerBrokenError, "row 4")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[Any]]:
    here = tmp_path_factory.mktemp("sound")
    return here / "privacy", here / "witness.json", begun(here / "privacy", 2, here / "witness.json")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_done_to_two_of_the_files_it_says_the_same_or_what_is_wrong(
    sound: tuple[Path, Path, list[Any]], data: st.DataObject
) -> None:
    folder, witness, rows = sound
    paths = [folder / "ledger.jsonl", folder / "head.json", witness]
    originals = [path.read_bytes() for path in paths]
    try:
        for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2, unique=True)):
            mutate(path, data)
        found = verify(folder, witness).rows
        assert found == rows
    except LedgerError:
        pass
    finally:
        for path, original in zip(paths, originals, strict=True):
            path.write_bytes(original)


def test_twenty_thousand_rows_are_read_in_about_a_second(folder: Path) -> None:
    begun(folder)
    rows = [json.loads(line) for line in lines_of(folder)]
    lines = chained([*rows, *({**rows[5], "index": index} for index in range(len(rows), 20_000))])
    write_lines(folder, lines)
    write_head(folder / "head.json", lines)
    start = time.process_time()
    record = verify(folder)
    assert time.process_time() - start < 4  # about one where nothing else runs
    assert isinstance(record, Record)
    assert all(isinstance(row, Step) for row in record.rows[3:])
    assert len(record.rows) == 20_000
