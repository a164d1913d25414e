"""A site's own record of every noised step: what it permits, and what the rows on disk say is spent."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from acm_core.config.sections import PrivacyUnit
from acm_core.config.site import SiteConfig
from acm_core.hash_chain import Chain, Head, head_of, read
from acm_core.privacy.accounting import Accountant, NoisedSteps, Plan, epsilon, filtered_epsilon
from acm_core.privacy.chain import LEDGER, Dataset, LedgerError, Opened, Planned, Population, Row, Step

log = logging.getLogger("acm_fed.client")

_ROUNDING = 1 + 1e-9
_PATIENTS = {"train": "training patient", "test": "test patient"}


class DatasetChangedError(LedgerError):
    """The site's films are not those that the ledger speaks of."""


class UnitChangedError(LedgerError):
    """The ledger counts for another unit."""


class PlanChangedError(LedgerError):
    """A run goes on otherwise than it was admitted."""


class BudgetExceededError(LedgerError):
    """More would be spent than the site or the run permits."""


def ledger_folder(site: SiteConfig) -> Path:
    """Where a site keeps its ledger."""
    return site.state / "privacy"


class Record:
    """What the rows of a ledger say."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    @property
    def head(self) -> Head:
        """Where it ends."""
        return head_of(self.rows)

    @property
    def opened(self) -> Opened | None:
        """The first row, None where nothing was ever spent."""
        return next((row for row in self.rows if isinstance(row, Opened)), None)

    @property
    def dataset(self) -> str | None:
        """Fingerprint of the dataset that the site trains on, None before the first."""
        return next((row.fingerprint for row in reversed(self.rows) if isinstance(row, Dataset)), None)

    def plan_of(self, run: str, settings: str) -> Plan | None:
        """The plan that a run was admitted with, or None."""
        return next(
            (
                row.plan
                for row in self.rows
                if isinstance(row, Planned) and (row.run, row.settings) == (run, settings)
            ),
            None,
        )

    def steps(self, population: Population = "train") -> list[Step]:
        """All noised steps on one population, oldest first."""
        return [row for row in self.rows if isinstance(row, Step) and row.population == population]

    def steps_of(self, run: str, settings: str, population: Population = "train") -> list[Step]:
        """The noised steps of one run, oldest first."""
        return [step for step in self.steps(population) if (step.run, step.settings) == (run, settings)]

    def spent(self, delta: float, accountant: Accountant = "prv", population: Population = "train") -> float:
        """ε at `delta` of everything on one population, whatever the run and dataset: patients are in several.

        As if all of it had been planned beforehand; what the site permits is judged by `filtered_epsilon`.
        """
        return epsilon([step.noised for step in self.steps(population)], delta, accountant)

    def admissible(self, plan: Plan, *, delta: float, budget: float) -> Plan:
        """The plan if its run may begin; where the run has begun already, the plan that it began with.

        Args:
            delta, budget: all runs together may cost ε = `budget` at `delta`.

        Raises:
            UnitChangedError, PlanChangedError, BudgetExceededError: the run may not begin or go on.
        """
        if self.opened is not None:
            _expect_unit(self.opened.unit, plan.unit)
        if (admitted := self.plan_of(plan.run, plan.settings)) is not None:
            _expect_unchanged(admitted, plan)
            return admitted
        steps = plan.noised(plan.steps_per_round * plan.rounds)
        self._expect_within(budget, delta, steps, f"run {plan.run}")
        return plan

    def _expect_within(
        self, budget: float, delta: float, more: NoisedSteps, what: str, population: Population = "train"
    ) -> None:
        after = filtered_epsilon([*(step.noised for step in self.steps(population)), more], delta, budget)
        if after > budget * _ROUNDING:
            spent = self.spent(delta, population=population)
            advice = {
                "train": "plan runs with fewer rounds or a smaller privacy.epsilon",
                "test": "withhold figures (privacy.metrics) or make them cost less (privacy.metrics_epsilon)",
            }
            raise BudgetExceededError(
                f"expected at most ε = {budget:g} at δ = {delta:g} for a {_PATIENTS[population]} over all runs of the "
                f"site together, got {after:.4g}: {spent:.4g} is spent and {what} would cost "
                f"{epsilon([more], delta):.4g} alone, and runs chosen one after another may cost more together "
                f"(docs/PRIVACY.md); {advice[population]}, or decide that the site file's ε may be larger"
            )


class Ledger(Record):
    """The ledger of a site, open for writing by this process alone; a context manager."""

    def __init__(self, chain: Chain[Row], opened: Opened, dataset: str, delta: float, budget: float) -> None:
        super().__init__(chain.rows)
        self._chain, self._opened, self._dataset = chain, opened, dataset
        self._delta, self._budget = delta, budget
        self._permit: RoundPermit | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        site: str,
        unit: PrivacyUnit,
        fingerprint: str,
        delta: float,
        budget: float,
        witness: Path | None = None,
    ) -> Self:
        """Open the ledger in `folder`, or begin one where there is none; what a crash left is set right.

        Args:
            site, unit: must be those that the ledger began with.
            fingerprint: of the dataset that will be trained on; the first one is written down, another is refused
                until `accept_dataset`.
            delta, budget: all runs together may cost ε = `budget` at `delta`: by training a training patient, by
                noised figures a test patient.
            witness: file on another disk that says what `head.json` says.

        Raises:
            LedgerError: its kind says why nothing is permitted.
        """
        with _opened_chain(folder, witness, site, unit) as (opening, chain, opened):
            known = Record(chain.rows).dataset
            if known is None:
                chain.append({"kind": "dataset", "fingerprint": fingerprint})
            else:
                _expect_dataset(known, fingerprint, site)
            opening.pop_all()
        return cls(chain, opened, fingerprint, delta, budget)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._chain.close()

    def admit(self, plan: Plan) -> Plan:
        """Write down that a run begins; one that was admitted before goes on with the σ it began with.

        Raises:
            LedgerError: its kind says why the run may not begin or go on.
        """
        admitted = self.admissible(plan, delta=self._delta, budget=self._budget)
        if self.plan_of(plan.run, plan.settings) is None:
            self._chain.append({"kind": "planned", **asdict(admitted)})
        return admitted

    def begin_round(self, plan: Plan, round: int, *, steps: int, model: str) -> RoundPermit:  # noqa: A002  # the field's name
        """Permission for `steps` noised steps, or for none: it is the permit that writes them down.

        Args:
            plan: as `admit` returned it.
            model: hash, in hex, of the weights that the round starts from.

        Raises:
            BudgetExceededError: with all that came before, retries too, the steps would cost more than the run's ε or
                than the site permits.
            LedgerError: the plan was not admitted.
        """
        if self.plan_of(plan.run, plan.settings) != plan:
            raise LedgerError(
                f"expected a plan that was admitted, got another for run {plan.run}: call admit first"
            )
        own, more = self.steps_of(plan.run, plan.settings), plan.noised(steps)
        after = epsilon([*(step.noised for step in own), more], plan.delta, plan.accountant)
        if after > plan.epsilon * _ROUNDING:
            raise BudgetExceededError(
                f"expected run {plan.run} to cost at most ε = {plan.epsilon:g} at δ = {plan.delta:g}, got {after:.4g} "
                f"with round {round}: {len(own)} steps are spent, those of rounds that were tried again among them; "
                "the run is over for this site"
            )
        self._expect_within(self._budget, self._delta, more, f"round {round} of run {plan.run}")
        attempt = _next_attempt(own, round)
        about = {
            "run": plan.run,
            "settings": plan.settings,
            "round": round,
            "attempt": attempt,
            "sigma": plan.sigma,
            "q": plan.q,
            "clipping_norm": plan.clipping_norm,
            "expected_batch": plan.expected_batch,
            "sampler": plan.sampler,
            "accountant": plan.accountant,
            "model": model,
        }
        self._permit = RoundPermit(attempt, steps, partial(self._record_step, about))
        return self._permit

    def record_release(
        self,
        *,
        run: str,
        settings: str,
        round: int,  # noqa: A002  # the field's name
        sigma: float,
        sensitivity: float,
        model: str,
    ) -> None:
        """Write down one noised release about all test units; the caller draws the noise afterwards.

        Args:
            sigma: the noise's standard deviation over `sensitivity`.
            sensitivity: L2 norm of what one unit can change.
            model: hash, in hex, of the weights that are measured.

        Raises:
            ValueError: σ is not a finite number > 0.
            BudgetExceededError: all releases together would cost a test patient more than the site permits.
            LedgerError: it could not be written.
        """
        release = NoisedSteps(sigma, 1.0, 1)
        self._expect_within(self._budget, self._delta, release, f"the figures of run {run}", "test")
        about = {
            "run": run,
            "settings": settings,
            "round": round,
            "attempt": _next_attempt(self.steps_of(run, settings, "test"), round),
            "sigma": sigma,
            "q": 1.0,
            "clipping_norm": sensitivity,
            "expected_batch": None,
            "sampler": "poisson",
            "accountant": "prv",
            "model": model,
        }
        self._write_step("test", about)

    def _record_step(self, about: dict[str, Any], permit: RoundPermit) -> None:
        if permit is not self._permit:
            raise LedgerError("expected the newest permit, got that of an attempt that was given up")
        self._write_step("train", about)

    def _write_step(self, population: Population, about: dict[str, Any]) -> None:
        ever = {
            "kind": "step",
            "steps": 1,
            "unit": self._opened.unit,
            "adjacency": self._opened.adjacency,
            "dataset": self._dataset,
            "versions": _versions(),
        }
        self._chain.append({**ever, "population": population, **about})


@dataclass
class RoundPermit:
    """Permission for one attempt at a round.

    Attributes:
        attempt: 1 for the first.
        left: noised steps that may still be recorded.
    """

    attempt: int
    left: int
    _write: Callable[[RoundPermit], None]

    def record(self) -> None:
        """Write one step down; the caller draws its noise when this returns, and not if it raises.

        Raises:
            BudgetExceededError: all permitted steps are recorded.
            LedgerError: it could not be written.
        """
        if self.left < 1:
            raise BudgetExceededError("expected no more steps than the round's permit is for, got one more")
        self._write(self)
        self.left -= 1


def accept_dataset(
    folder: Path, *, site: str, unit: PrivacyUnit, fingerprint: str, witness: Path | None = None
) -> None:
    """Write down that the site trains on another dataset from now on; what was spent on those before stays spent.

    Raises:
        LedgerError: see `Ledger.open`.
    """
    with _opened_chain(folder, witness, site, unit) as (_, chain, _):
        if Record(chain.rows).dataset != fingerprint:
            chain.append({"kind": "dataset", "fingerprint": fingerprint})


def begin_witness(folder: Path, *, site: str, unit: PrivacyUnit, witness: Path) -> None:
    """Write where a ledger stands into a witness that is not there yet; without it the ledger is refused from then on.

    Raises:
        LedgerError: see `Ledger.open`.
        FileExistsError: the witness is there.
    """
    with _opened_chain(folder, None, site, unit) as (_, chain, _):
        chain.begin_witness(witness)


def verify(folder: Path, witness: Path | None = None) -> Record:
    """The verified rows of a ledger, none where none was begun; reads only, also while another process writes.

    Raises:
        LedgerError: its kind says what is wrong with it.
    """
    return Record(read(folder, LEDGER, witness).rows)


def _expect_unit(counted: PrivacyUnit, asked: PrivacyUnit) -> None:
    if asked != counted:
        raise UnitChangedError(
            f"expected the unit {counted} that the ledger counts for, got {asked}: the two cannot be added up; set "
            f"privacy.unit to {counted}"
        )


def _expect_unchanged(admitted: Plan, asked: Plan) -> None:
    changes = [
        f"{field.name} {getattr(admitted, field.name)} → {getattr(asked, field.name)}"
        for field in fields(Plan)
        if field.name != "sigma" and getattr(admitted, field.name) != getattr(asked, field.name)
    ]
    if changes:
        raise PlanChangedError(
            f"expected run {asked.run} to go on as it was admitted, got {', '.join(changes)}: put the setting or the "
            "site's population back, or give the run another name"
        )


def _next_attempt(steps: Sequence[Step], round: int) -> int:  # noqa: A002  # the field's name
    return 1 + max((step.attempt for step in steps if step.round == round), default=0)


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("acm-fed", "opacus", "torch")}


@contextmanager
def _opened_chain(
    folder: Path, witness: Path | None, site: str, unit: PrivacyUnit
) -> Iterator[tuple[ExitStack, Chain[Row], Opened]]:
    """The chain of a site, begun where there is none; closed in the end unless the stack is emptied."""
    with ExitStack() as opening:
        chain = Chain(folder, LEDGER, witness)
        opening.callback(chain.close)
        if chain.cut:
            log.warning(
                "privacy ledger: cut off %d bytes of an unfinished row %d, which was never spent",
                chain.cut,
                len(chain.rows),
            )
        if not chain.rows:
            about = {"site": site, "unit": unit, "versions": _versions(), "nonce": secrets.token_hex(16)}
            chain.append({"kind": "opened", "adjacency": "add_remove", **about})
        opened = chain.rows[0]
        if not isinstance(opened, Opened) or opened.site != site:
            raise LedgerError(f"expected the ledger of site {site} in {folder}, got another site's")
        _expect_unit(opened.unit, unit)
        yield opening, chain, opened


def _expect_dataset(known: str, fingerprint: str, site: str) -> None:
    if fingerprint != known:
        raise DatasetChangedError(
            f"expected the dataset {known[:12]} that the ledger speaks of, got {fingerprint[:12]}: if films were meant "
            f"to come or go, run python -m client.privacy --site={site} --accept-dataset"
        )
