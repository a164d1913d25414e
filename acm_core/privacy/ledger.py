"""A site's own record of every noised step: append-only, hash-chained, on disk before the noise is drawn.

In its folder lie `ledger.jsonl` (a row a line), `head.json` (where the ledger ends) and `lock`. Killed anywhere, it
holds at least what was spent and opens again. It notices a row that was changed, a ledger or a head that is older than
the other, and, where a witness lies on another disk, a folder that was restored as a whole.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from acm_core.config.sections import PrivacyUnit, SiteConfig
from acm_core.files import flush_folder, write_atomically, write_private
from acm_core.privacy.accounting import Accountant, NoisedSteps, Plan, epsilon

log = logging.getLogger("acm_fed.client")

Population = Literal["train", "test"]
"""Whose films a step is about: test patients are others than training patients, and their ε is another."""

_START = "0" * 64
_ROUNDING = 1 + 1e-9
_TRIES = 100
_MOST_STEPS = 10**9
_LONGEST_ROW = 2**14  # bytes, far more than any has: what is longer is no row that a crash cut short
_LOST = (
    "what the patients have spent can no longer be shown; keep the folder as it is, and train on them again only when "
    "its newest copy is back"
)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8,128}$")]


class LedgerError(Exception):
    """The ledger permits nothing: no noise may be drawn."""


class LedgerMissingError(LedgerError):
    """Head or witness speak of a ledger that is not there."""


class LedgerBrokenError(LedgerError):
    """A row is not the one that was written."""


class LedgerRolledBackError(LedgerError):
    """Ledger, head and witness are not of the same time."""


class LedgerBusyError(LedgerError):
    """Another process has the ledger open."""


class DatasetChangedError(LedgerError):
    """The site's films are not those that the ledger speaks of."""


class UnitChangedError(LedgerError):
    """The ledger counts for another unit."""


class PlanChangedError(LedgerError):
    """A run goes on otherwise than it was admitted."""


class BudgetExceededError(LedgerError):
    """More would be spent than the site or the run permits."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Head(_Strict):
    """Where a ledger ends: the number of its rows and the last one's hash."""

    rows: int = Field(ge=0)
    hash: _Hex


class _Row(_Strict):
    """What every row has; `time` in seconds, UTC; `hash` is over all the rest."""

    index: int = Field(ge=0)
    previous: _Hex
    hash: _Hex
    time: int


class Opened(_Row):
    """The first row; its nonce tells one ledger from another."""

    kind: Literal["opened"]
    site: str
    unit: PrivacyUnit
    adjacency: Literal["add_remove"]
    versions: dict[str, str]
    nonce: _Hex


class Dataset(_Row):
    """From here on the site trains on the films of this manifest."""

    kind: Literal["dataset"]
    fingerprint: _Hex


class Planned(_Row):
    """A run was admitted: the fields are `Plan`'s; `epsilon` is what it may cost, not what it has."""

    kind: Literal["planned"]
    run: str
    settings: str
    unit: PrivacyUnit
    sigma: float = Field(gt=0)
    q: float = Field(gt=0, le=1)
    clipping_norm: float = Field(gt=0)
    expected_batch: int = Field(ge=1)
    steps_per_round: int = Field(ge=1, le=_MOST_STEPS)
    rounds: int = Field(ge=1, le=_MOST_STEPS)
    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    accountant: Accountant
    sampler: Literal["poisson"]

    @property
    def plan(self) -> Plan:
        """The plan as it was admitted."""
        return Plan(**{field.name: getattr(self, field.name) for field in fields(Plan)})


class Step(_Row):
    """Noise was permitted to be drawn: for a step of training, or for a released metric (population "test")."""

    kind: Literal["step"]
    run: str
    settings: str
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)
    sigma: float = Field(gt=0)
    q: float = Field(gt=0, le=1)
    clipping_norm: float = Field(gt=0)
    steps: int = Field(ge=1, le=_MOST_STEPS)
    expected_batch: int | None = Field(ge=1)
    unit: PrivacyUnit
    adjacency: Literal["add_remove"]
    sampler: Literal["poisson"]
    accountant: Accountant
    dataset: _Hex
    model: _Hex
    population: Population
    versions: dict[str, str]

    @property
    def noised(self) -> NoisedSteps:
        """What the accountants know of it."""
        return NoisedSteps(self.sigma, self.q, self.steps)


Row = Opened | Dataset | Planned | Step
_ROW: TypeAdapter[Row] = TypeAdapter(Annotated[Row, Field(discriminator="kind")])


class _Chain:
    """The rows on disk: locked, verified, set right after a crash and appended to."""

    def __init__(self, folder: Path, witness: Path | None) -> None:
        self._folder, self._process = folder, os.getpid()
        self._marks = (folder / "head.json", *([] if witness is None else [witness]))
        with ExitStack() as opening, _disk(folder):
            if witness is not None and not witness.parent.is_dir():
                raise LedgerError(
                    f"expected the witness's folder {witness.parent}, found none: is its disk there?"
                )
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            flush_folder(folder.parent)
            self._lock(opening)
            found = _read(folder, witness)
            self.rows = found.rows
            self._file = os.open(folder / "ledger.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            opening.callback(os.close, self._file)
            flush_folder(folder)
            if found.unfinished:
                os.ftruncate(self._file, found.length)
                log.warning(
                    "privacy ledger: cut off %d bytes of an unfinished row %d, which was never spent",
                    found.unfinished,
                    len(self.rows),
                )
            os.fsync(self._file)  # whoever was killed had perhaps not come to that, and the marks build on it
            self._tidy(found)
            self._opened = opening.pop_all()
        self._sound = True

    def append(self, values: dict[str, Any]) -> None:
        """Add a row; when this returns it is on disk, and head and witness say so.

        Raises:
            LedgerError: it is not, or not surely; the ledger must be opened again.
        """
        if not self._sound or os.getpid() != self._process:
            raise LedgerError(
                "expected a ledger that this process has open, got one that is closed, another process's, or one whose "
                "last write failed: open it again"
            )
        head = _head_of(self.rows)
        values = {**values, "index": head.rows, "previous": head.hash, "time": int(time.time())}
        values["hash"] = _hash(values)
        row = _ROW.validate_python(values)
        line = f"{_ENCODER.encode(values)}\n".encode()
        self._sound = False
        with _disk(self._folder):
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file)
            self.rows.append(row)
            self._write_marks()
        self._sound = True

    def close(self) -> None:
        """Let go of the lock."""
        self._sound = False
        self._opened.close()

    def _lock(self, opening: ExitStack) -> None:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        opening.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerBusyError(
                f"expected nobody else at the ledger in {self._folder}, got another process: a site trains once at a "
                "time; wait for the other run to end"
            ) from None

    def _tidy(self, found: _Found) -> None:
        """What a crash leaves: half-written marks, and marks that are a row behind."""
        for path in self._marks:
            for leftover in path.parent.glob(f".{path.name}.*.tmp"):
                leftover.unlink()
        if self.rows and any(mark != _head_of(self.rows) for mark in found.marks):
            self._write_marks()

    def _write_marks(self) -> None:
        content = f"{_head_of(self.rows).model_dump_json()}\n".encode()
        for path in self._marks:
            write_atomically(path, partial(write_private, content=content))


class _Found(NamedTuple):
    """What a folder holds: rows in `length` bytes, then `unfinished` ones; the marks are head and, if any, witness."""

    rows: list[Row]
    length: int
    unfinished: int
    marks: Sequence[Head | None]


def _read(folder: Path, witness: Path | None) -> _Found:
    paths = (folder / "head.json", *([] if witness is None else [witness]))
    for _ in range(_TRIES):
        contents = [_content(path) for path in paths]
        ledger = _content(folder / "ledger.jsonl")
        if [_content(path) for path in paths] == contents:
            break
    else:
        raise LedgerBusyError(
            f"expected the ledger in {folder} to rest for a moment, got new rows all the time"
        )
    marks = [_parse_mark(path, content) for path, content in zip(paths, contents, strict=True)]
    if ledger is None:
        for path, mark in zip(paths, marks, strict=True):
            if mark is not None:
                raise LedgerMissingError(
                    f"expected the ledger of {mark.rows} rows that {path} speaks of in {folder}, found none: {_LOST}"
                )
        return _Found([], 0, 0, marks)
    rows, length = _parse_rows(ledger, 0 if marks[0] is None else marks[0].rows)
    for path, mark in zip(paths, marks, strict=True):
        _expect_at_end(path, mark, rows, may_be_new=path == witness)
    return _Found(rows, length, len(ledger) - length, marks)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parse_mark(path: Path, content: bytes | None) -> Head | None:
    if content is None:
        return None
    try:
        return Head.model_validate_json(content)
    except ValidationError:
        raise LedgerBrokenError(
            f"expected where the ledger ends in {path}, got something else: {_LOST}"
        ) from None


def _parse_rows(ledger: bytes, marked: int) -> tuple[list[Row], int]:
    """The rows and the number of bytes they take; an unfinished row after those `marked` as written is left out."""
    *lines, rest = ledger.split(b"\n")
    rows: list[Row] = []
    length = 0
    for number, line in enumerate(lines):
        values = _parse(line)
        if values is None and number == marked == len(lines) - 1 and not rest:
            return rows, length
        rows.append(_checked(values, line, number, rows[-1].hash if rows else _START))
        length += len(line) + 1
    if rest and (marked != len(lines) or len(rest) > _LONGEST_ROW):
        raise _broken(len(lines))
    return rows, length


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _checked(values: dict[str, Any] | None, line: bytes, number: int, previous: str) -> Row:
    if values is None:
        raise _broken(number)
    try:
        row = _ROW.validate_python(values)
        # Compared as text too: then nothing in the line can differ from what was written.
        sound = _ENCODER.encode(values).encode() == line and row.hash == _hash(values)
    except (ValueError, RecursionError):
        raise _broken(number) from None
    follows = row.index == number and row.previous == previous and isinstance(row, Opened) == (number == 0)
    if not (sound and follows):
        raise _broken(number)
    return row


def _broken(number: int) -> LedgerBrokenError:
    return LedgerBrokenError(f"expected the ledger as it was written, got another row {number}: {_LOST}")


def _expect_at_end(path: Path, mark: Head | None, rows: Sequence[Row], *, may_be_new: bool) -> None:
    """The last write may have been interrupted before the mark: it may be one row behind."""
    if mark is None and may_be_new:
        return
    at = 0 if mark is None else mark.rows
    if not len(rows) - 1 <= at <= len(rows):
        raise LedgerRolledBackError(
            f"expected {path} to end with the ledger, after {len(rows)} rows, got {at}: one is an older copy; {_LOST}"
        )
    if mark is not None and at and rows[at - 1].hash != mark.hash:
        raise LedgerBrokenError(
            f"expected row {at - 1} of the ledger to be the one that {path} speaks of, got another: {_LOST}"
        )


def _head_of(rows: Sequence[Row]) -> Head:
    return Head(rows=len(rows), hash=rows[-1].hash if rows else _START)


def _hash(values: dict[str, Any]) -> str:
    text = _ENCODER.encode({name: value for name, value in values.items() if name != "hash"})
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"expected to read and write the ledger in {folder}, got {error}: nothing more is permitted; mend that, "
            "then start again"
        ) from error


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
        return _head_of(self.rows)

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
        """ε at `delta` of everything on one population, whatever the run and dataset: patients are in several."""
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

    def _expect_within(self, budget: float, delta: float, more: NoisedSteps, what: str) -> None:
        after = epsilon([*(step.noised for step in self.steps()), more], delta)
        if after > budget * _ROUNDING:
            raise BudgetExceededError(
                f"expected at most ε = {budget:g} at δ = {delta:g} for all runs of the site together, got {after:.4g}: "
                f"{self.spent(delta):.4g} is spent and {what} would cost {epsilon([more], delta):.4g} alone; plan runs "
                "with fewer rounds or a smaller privacy.epsilon, or decide that the site file's may be larger"
            )


class Ledger(Record):
    """The ledger of a site, open for writing by this process alone; a context manager."""

    def __init__(self, chain: _Chain, opened: Opened, dataset: str, delta: float, budget: float) -> None:
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
            delta, budget: all runs together may cost ε = `budget` at `delta`.
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
            LedgerError: it could not be written.
        """
        NoisedSteps(sigma, 1.0, 1)
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


def verify(folder: Path, witness: Path | None = None) -> Record:
    """The verified rows of a ledger, none where none was begun; reads only, also while another process writes.

    Raises:
        LedgerError: its kind says what is wrong with it.
    """
    with _disk(folder):
        return Record(_read(folder, witness).rows)


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
) -> Iterator[tuple[ExitStack, _Chain, Opened]]:
    """The chain of a site, begun where there is none; closed in the end unless the stack is emptied."""
    with ExitStack() as opening:
        chain = _Chain(folder, witness)
        opening.callback(chain.close)
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
