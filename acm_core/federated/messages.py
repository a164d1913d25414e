"""What the server asks of a site and what a site answers: plain values and named arrays, no network.

Both directions are closed lists of declared fields. A field that is not declared is refused when a message is
read, so nothing leaves a site by accident and nothing is taken in unread. The adapters map `to_wire()` onto the
transport's own records and back through `from_wire()`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self, TypeVar

from acm_core.arrays import Arrays, fingerprint
from acm_core.federated.update import MAX_FILMS

Scalar = int | float | str
WireFields = dict[str, Scalar]
_MOST_ROUNDS = 2**53
_MOST_METRIC = 1e12
_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T", int, str)


class TaskKind(StrEnum):
    """What a site can be asked to do."""

    TRAIN = "train"  # one round of local training from the global model
    LOCAL_ONLY = "local_only"  # train alone for as many epochs as the federation did
    EVALUATE = "evaluate"  # measure the global model on the site's own test films


class Refusal(StrEnum):
    """Why a site did not do a task. A code leaves the site; the text and trace of the error stay in its log."""

    POLICY = "policy"  # the site's own file does not permit it
    POLICY_FINDINGS = "policy.findings"  # policy.findings of the site's file
    POLICY_MODEL = "policy.model"  # policy.architectures or policy.image_size
    POLICY_ROUNDS = "policy.rounds"  # policy.rounds
    POLICY_EPOCHS = "policy.epochs"  # policy.epochs
    POLICY_TRAINING = "policy.training"  # policy.batch_size, policy.learning_rate or policy.augmentations
    POLICY_SITES = "policy.minimum_sites"  # policy.minimum_sites
    POLICY_HOURS = "policy.hours"  # policy.hours: it may be asked again later
    PRIVACY = "privacy"  # the site's file does not permit so little, or any, differential privacy
    BUDGET = "budget"  # the run or round would spend more privacy than is permitted
    LEDGER = "ledger"  # the privacy ledger cannot be trusted or written
    LABELS = "labels"  # the label file is missing or malformed
    NO_FILMS = "no_films"  # no readable film with a label for any of the run's findings
    TOO_FEW_FILMS = "too_few_films"  # not enough films to train on
    BASE = "base"  # the weights sent are a difference to weights that are not here: whole ones are needed
    MODEL = "model"  # the arrays sent do not fit the model described
    DIVERGED = "diverged"  # the local loss or weights stopped being finite
    MEMORY = "memory"  # the site ran out of memory
    STORAGE = "storage"  # the site's state folder cannot be read or written
    LOST = "lost"  # the site's process ended before it answered
    INTERNAL = "internal"  # anything else: see the site's log
    UNABLE = "unable"  # in a private run any that a single patient's films or labels may decide: see the site's log


class Metric(StrEnum):
    """What a site says of a round beside its model; nothing else is taken in."""

    TRAIN_LOSS = "train_loss"  # mean over the films of the last local epoch
    VALIDATION_LOSS = "validation_loss"  # of the model that came, before the round
    EPSILON = "epsilon"  # that the run has cost the site's units so far
    NOISE_MULTIPLIER = "noise_multiplier"  # σ of the round's steps


class MessageError(ValueError):
    """A message that does not consist of the declared fields."""


@dataclass(frozen=True)
class Task:
    """Server → site.

    Attributes:
        config: the run's FederationConfig as JSON.
        audit: hash of the last row of the server's audit log, "" without one.
        arrays: the global model as `encode` made it, or none.
    """

    kind: TaskKind
    round: int = 0
    config: str = ""
    audit: str = ""
    arrays: Arrays = field(default_factory=dict)

    def to_wire(self) -> WireFields:
        """The fields besides the arrays."""
        return {"kind": self.kind.value, "round": self.round, "config": self.config, "audit": self.audit}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any], arrays: Arrays) -> Self:
        """Read a task.

        Raises:
            MessageError: an undeclared or missing field, one of another type, a round that cannot be, or an array
                of anything but numbers.
        """
        _expect_fields(cls, wire)
        _expect_numbers(arrays)
        try:
            kind = TaskKind(_typed(wire, "kind", str))
        except ValueError as error:
            raise MessageError(f"expected one of {', '.join(TaskKind)} as the task's kind") from error
        if not 0 <= (number := _typed(wire, "round", int)) < _MOST_ROUNDS:
            raise MessageError("expected the number of a round in 'round', got another number")
        return cls(kind, number, _typed(wire, "config", str), _hash(wire, "audit"), arrays)


@dataclass(frozen=True)
class Reply:
    """Site → server.

    Attributes:
        site: the site's name.
        round: the round that was asked for.
        refusal: why the task was not done, or "" where it was.
        films: training films behind `arrays`.
        labelled: training films that label each finding, in the order of the run's findings.
        metrics: of a round: a Metric's name → number from 0 to 1e12.
        report: JSON object of the evaluation, "" for other tasks.
        audit: hash of the last row of the site's audit log, "" without one.
        arrays: the trained model as `encode` made it, the global one being the base; empty for other tasks.
    """

    site: str
    round: int = 0
    refusal: str = ""
    films: int = 0
    labelled: tuple[int, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    report: str = ""
    audit: str = ""
    arrays: Arrays = field(default_factory=dict)

    def to_wire(self) -> WireFields:
        """The fields besides the arrays."""
        return {
            "site": self.site,
            "round": self.round,
            "refusal": self.refusal,
            "films": self.films,
            "labelled": ",".join(str(count) for count in self.labelled),
            "metrics": json.dumps(dict(self.metrics), sort_keys=True),
            "report": self.report,
            "audit": self.audit,
        }

    @property
    def content(self) -> tuple[str, int]:
        """SHA-256, in hex, and bytes of all that leaves, but for `audit`: the same at the site and at the server."""
        text = json.dumps({**self.to_wire(), "audit": ""}, sort_keys=True).encode()
        digest = hashlib.sha256(text + bytes.fromhex(fingerprint(self.arrays))).hexdigest()
        return digest, len(text) + sum(array.nbytes for array in self.arrays.values())

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any], arrays: Arrays) -> Self:
        """Read a reply.

        Raises:
            MessageError: an undeclared or missing field, one of another type, an unknown refusal code, a metric that
                is none, or an array of anything but numbers.
        """
        _expect_fields(cls, wire)
        _expect_numbers(arrays)
        refusal = _typed(wire, "refusal", str)
        if refusal and refusal not in {code.value for code in Refusal}:
            raise MessageError("expected a known refusal code")
        labelled = _typed(wire, "labelled", str)
        try:
            counts = tuple(int(count) for count in labelled.split(",")) if labelled else ()
        except ValueError as error:
            raise MessageError("expected comma-separated integers in 'labelled'") from error
        if not 0 <= (films := _typed(wire, "films", int)) <= MAX_FILMS:
            raise MessageError(f"expected 0 to {MAX_FILMS} in 'films', got another number")
        return cls(
            site=_typed(wire, "site", str),
            round=_typed(wire, "round", int),
            refusal=refusal,
            films=films,
            labelled=counts,
            metrics=_metrics(_typed(wire, "metrics", str)),
            report=_typed(wire, "report", str),
            audit=_hash(wire, "audit"),
            arrays=arrays,
        )


def _expect_fields(message: type[Task] | type[Reply], wire: Mapping[str, Any]) -> None:
    declared = {f.name for f in fields(message)} - {"arrays"}
    if set(wire) != declared:
        missing, undeclared = sorted(declared - set(wire)), len(set(wire) - declared)
        raise MessageError(
            f"expected the fields {', '.join(sorted(declared))}; missing: {', '.join(missing) or 'none'}; "
            f"undeclared: {undeclared}"
        )


def _expect_numbers(arrays: Arrays) -> None:
    """Of other arrays, dates and records among them, no fingerprint can be taken."""
    if any(array.dtype.kind not in "biuf" for array in arrays.values()):
        raise MessageError("expected arrays of numbers, got others")


def _typed(wire: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    value = wire[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise MessageError(f"expected {kind.__name__} in '{name}', got {type(value).__name__}")
    return value


def _hash(wire: Mapping[str, Any], name: str) -> str:
    value = _typed(wire, name, str)
    if value and not _SHA256.fullmatch(value):
        raise MessageError(f"expected a SHA-256 in '{name}', got something else")
    return value


def _metrics(text: str) -> dict[str, float]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageError("expected a JSON object in 'metrics'") from error
    if not isinstance(values, dict):
        raise MessageError("expected a JSON object in 'metrics'")
    if not values.keys() <= set(Metric):
        raise MessageError(f"expected in 'metrics' no other names than {', '.join(Metric)}")
    for value in values.values():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST_METRIC:
            raise MessageError(f"expected numbers from 0 to {_MOST_METRIC:g} in 'metrics'")
    return {name: float(value) for name, value in values.items()}
