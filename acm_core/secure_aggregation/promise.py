"""What a site promises for one round: to be in one sum, with a key made for this round alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator

from acm_core.audit_events import RunName
from acm_core.config.sections import SiteName
from acm_core.federated.messages import Metric
from acm_core.federated.update import SiteUpdate
from acm_core.hash_chain import Sha256, Strict
from acm_core.trust.keys import PublicKey, SiteKey
from acm_core.trust.signatures import is_signed, sign

MOST_FILMS = 2**24
"""The largest number of films that a promise can speak of."""

LOSSES = (Metric.TRAIN_LOSS, Metric.VALIDATION_LOSS)
"""What is summed beside the model, films and labelled films."""

_Flags = Annotated[str, StringConstraints(pattern=r"^[01]{1,1000}$")]


class Subject(Strict):
    """What a sum is about, in which all its promises agree.

    Attributes:
        federation, run, round: as the site knows them.
        model: fingerprint of the global model that the site has.
        config: SHA-256 of the task's configuration.
        roster: fingerprint of the roster that the site has pinned.
    """

    federation: RunName
    run: RunName
    round: int = Field(ge=1, lt=2**31)
    model: Sha256
    config: Sha256
    roster: Sha256


class Promise(Subject):
    """A site's promise, signed with its registered key (ECDSA on P-384 with SHA-384).

    Attributes:
        key: X25519 public key of this round, in hex (RFC 7748).
        films: a power of two that the site's films do not exceed; no more is known of their number.
        labels: "1" for each finding that films of the site are labelled for, else "0", in the run's order.
        losses: the same for each of `LOSSES` that the site has measured.
        signature: in base64. It is no part of the transcript.
    """

    protocol: Literal["acm-fed.sum/1"] = "acm-fed.sum/1"
    site: SiteName
    key: Sha256
    films: int = Field(ge=1, le=MOST_FILMS)
    labels: _Flags
    losses: Annotated[str, StringConstraints(pattern=rf"^[01]{{{len(LOSSES)}}}$")]
    signature: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/=]{1,200}$")]

    @field_validator("films")
    @classmethod
    def _is_power_of_two(cls, films: int) -> int:
        if films & (films - 1):
            raise ValueError("expected a power of two")
        return films

    @classmethod
    def signed(cls, key: SiteKey, subject: Subject, update: SiteUpdate, public: str) -> Self:
        """The promise to be in the sum with this update.

        Args:
            key: the site's registered key.
            public: the round's X25519 public key, in hex.
        """
        unsigned = cls.model_construct(
            **subject.model_dump(),
            site=update.site,
            key=public,
            films=1 << (update.films - 1).bit_length(),
            labels=_flags(films > 0 for films in update.labelled),
            losses=_flags(loss in update.metrics for loss in LOSSES),
            signature="",
        )
        signature = sign(key, *unsigned.texts)
        return cls(**unsigned.model_dump(exclude={"signature"}), signature=signature)

    @property
    def texts(self) -> tuple[str, ...]:
        """What is signed, and what the transcript is made of: every field but the signature, the protocol first."""
        fields = self.model_dump(exclude={"signature", "protocol"})
        return (self.protocol, *(str(fields[name]) for name in sorted(fields)))

    @property
    def subject(self) -> Subject:
        return Subject(**self.model_dump(include=set(Subject.model_fields)))

    def is_signed(self, key: PublicKey) -> bool:
        """Whether the owner of this registered key made it."""
        return is_signed(key, self.signature, *self.texts)


def _flags(values: Iterable[bool]) -> str:
    return "".join("1" if value else "0" for value in values)
