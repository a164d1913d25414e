"""What the hash chain of a privacy ledger holds, and what is said where it cannot be trusted."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from acm_core.config.sections import PrivacyUnit
from acm_core.hash_chain import ChainKind, ChainRow, Faults, Hex
from acm_core.privacy.accounting import Accountant, NoisedSteps, Plan

Population = Literal["train", "test"]
"""Whose films a step is about: test patients are others than training patients, and their ε is another."""

_MOST_STEPS = 10**9


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


class Opened(ChainRow):
    """The first row; its nonce tells one ledger from another."""

    index: Literal[0]
    kind: Literal["opened"]
    site: str
    unit: PrivacyUnit
    adjacency: Literal["add_remove"]
    versions: dict[str, str]
    nonce: Hex


class _Later(ChainRow):
    index: int = Field(ge=1)


class Dataset(_Later):
    """From here on the site trains on the films of this manifest."""

    kind: Literal["dataset"]
    fingerprint: Hex


class Planned(_Later):
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


class Step(_Later):
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
    dataset: Hex
    model: Hex
    population: Population
    versions: dict[str, str]

    @property
    def noised(self) -> NoisedSteps:
        """What the accountants know of it."""
        return NoisedSteps(self.sigma, self.q, self.steps)


Row = Opened | Dataset | Planned | Step
LEDGER: ChainKind[Row] = ChainKind(
    name="ledger",
    file="ledger.jsonl",
    rows=TypeAdapter(Annotated[Row, Field(discriminator="kind")]),
    faults=Faults(
        LedgerError,
        missing=LedgerMissingError,
        broken=LedgerBrokenError,
        rolled_back=LedgerRolledBackError,
        busy=LedgerBusyError,
    ),
    lost="what the patients have spent can no longer be shown; keep the folder as it is, and train on them again only "
    "when its newest copy is back. Where privacy.witness was only now set: client.privacy --begin-witness",
    halted="nothing more is permitted; mend that, then start again",
    busy="a site trains once at a time; wait for the other run to end",
)
