"""The promises of one sum: what makes them a list, its transcript, and what a site asks of it before it masks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple, Self

from pydantic import TypeAdapter, ValidationError

from acm_core.secure_aggregation.promise import Promise
from acm_core.trust.keys import PublicKey

MOST_BYTES = 2**17
"""Of a list as JSON; a promise has some 600."""

_PROMISES = TypeAdapter(tuple[Promise, ...])


class ListFault(StrEnum):
    """Why a site does not take part in a sum."""

    ROSTER = "roster"  # a site that is not in the pinned roster, or a promise that it has not signed
    LIST = "list"  # the promises are no list, or not one that this site has promised to be in
    MINIMUM = "policy.minimum_sites"  # fewer sites than this site's file asks for
    OPENED = "opened"  # this round's sum, or one with this very update, was opened with another list
    LOST = "lost"  # what was promised is not on this site's disk any more


class ListRefused(Exception):  # noqa: N818 - a refusal is an outcome of the round, not a defect
    """A list that no sum may have, or in which this site takes no part: `fault` for machines, the text for people."""

    def __init__(self, fault: ListFault, detail: str) -> None:
        super().__init__(f"list refused ({fault}): {detail}")
        self.fault = fault


class Terms(NamedTuple):
    """What follows from a list in public, and is the same at all its sites and at the server.

    Attributes:
        sites: how many.
        films: what all their films together do not exceed.
        labelling: sites that label films for each finding.
        rows: of each finding, whether its rows are summed; those that too few sites label are in no vector.
        losses: of each of `LOSSES`, whether it is summed: every site has measured it.
    """

    sites: int
    films: int
    labelling: tuple[int, ...]
    rows: tuple[bool, ...]
    losses: tuple[bool, ...]


@dataclass(frozen=True)
class SumList:
    """The promises of one sum, by site.

    Raises:
        ListRefused: fewer than two, not in order, a site or key twice, or promises for different sums.
    """

    promises: tuple[Promise, ...]

    def __post_init__(self) -> None:
        sites = self.sites
        if len(sites) < 2 or sites != sorted(set(sites)):
            raise ListRefused(ListFault.LIST, "expected two sites or more, each once and in order")
        if len({promise.key for promise in self.promises}) < len(sites):
            raise ListRefused(ListFault.LIST, "expected a key of each site's own, got one twice")
        if len({(promise.subject, len(promise.labels)) for promise in self.promises}) > 1:
            raise ListRefused(
                ListFault.LIST,
                "expected promises for one sum, got another federation, run, round, model, configuration or roster",
            )

    @classmethod
    def of(cls, promises: Sequence[Promise]) -> Self:
        """The list of these, which may come in any order.

        Raises:
            ListRefused: see above.
        """
        return cls(tuple(sorted(promises, key=lambda promise: promise.site)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The list that `text` made, as it came over the network.

        Raises:
            ListRefused: it is something else.
        """
        if len(text) > MOST_BYTES:
            raise ListRefused(ListFault.LIST, f"expected at most {MOST_BYTES} bytes of promises, got more")
        try:
            return cls(_PROMISES.validate_json(text))
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise ListRefused(
                ListFault.LIST, f"expected a list of promises, got something else: {problem['msg']}"
            ) from None

    @property
    def text(self) -> str:
        """JSON, for `parse`."""
        return _PROMISES.dump_json(self.promises).decode()

    @property
    def sites(self) -> list[str]:
        return [promise.site for promise in self.promises]

    @cached_property
    def transcript(self) -> bytes:
        """SHA-256 over all that the sum is about: who, with which keys, in which round, from which model.

        Every mask's key is derived from it, so that masks of sites that were shown different lists do not cancel.
        """
        digest = hashlib.sha256()
        for promise in self.promises:
            content = "\n".join(promise.texts).encode()
            digest.update(len(content).to_bytes(4, "big") + content)
        return digest.digest()

    def terms(self, quorum: int) -> Terms:
        """What follows from the list.

        Args:
            quorum: of the run: sites that a finding's rows need. It is not a site's own number, or sites would leave
                out different rows.
        """
        labelling = [sum(flags) for flags in _columns([promise.labels for promise in self.promises])]
        return Terms(
            sites=len(self.promises),
            films=sum(promise.films for promise in self.promises),
            labelling=tuple(labelling),
            rows=tuple(sites >= quorum for sites in labelling),
            losses=tuple(all(flags) for flags in _columns([promise.losses for promise in self.promises])),
        )

    def expect_permitted(
        self, own: Promise, keys: Mapping[str, PublicKey], *, quorum: int, least: int
    ) -> None:
        """Refuse what this site does not take part in. What it has masked or opened before is not asked here.

        Args:
            own: the promise that this site made.
            keys: of the sites in the roster that it has pinned.
            quorum: of the run.
            least: sites of a sum that this site's file asks for; with c hospitals that may work with the operator, at
                least c + 2.

        Raises:
            ListRefused: the site is not in the list as it promised; the sum may have too few sites; a site is not in
                the roster or has not signed.
        """
        if own not in self.promises:
            raise ListRefused(ListFault.LIST, "expected this site's own promise as it made it, got none")
        if len(self.promises) < least or quorum < least:
            raise ListRefused(
                ListFault.MINIMUM,
                f"expected {least} sites or more in every sum and behind every row, got {len(self.promises)} in a run "
                f"with a quorum of {quorum}",
            )
        for promise in self.promises:
            key = keys.get(promise.site)
            if key is None:
                raise ListRefused(
                    ListFault.ROSTER, f"expected sites of the pinned roster, got {promise.site}"
                )
            if not promise.is_signed(key):
                raise ListRefused(
                    ListFault.ROSTER, f"expected a promise that {promise.site} signed, got another"
                )


def _columns(flags: Sequence[str]) -> list[list[bool]]:
    return [[flag == "1" for flag in column] for column in zip(*flags, strict=True)]
