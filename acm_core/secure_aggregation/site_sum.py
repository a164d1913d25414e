"""What a site has promised, masked and opened of a round, and what it may do next: the state that outlives a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import Field

from acm_core.arrays import Arrays, fingerprint
from acm_core.federated.update import SiteUpdate
from acm_core.hash_chain import Sha256, Strict
from acm_core.secure_aggregation.masks import Vector
from acm_core.secure_aggregation.promise import Promise, Subject
from acm_core.secure_aggregation.round_secrets import RoundSecrets
from acm_core.secure_aggregation.sum_list import ListFault, ListRefused, SumList
from acm_core.trust.keys import PublicKey, SiteKey

MOST_LISTS = 16
"""Lists that a site masks one update for."""


class SiteSum(Strict):
    """A site's part in one round of one run. It never changes: each step gives the state that has to be written first.

    Attributes:
        promise: as it left.
        private, root: `RoundSecrets`, in hex; gone with the next round's promise.
        films, labelled, metrics: of the update that was promised.
        update: fingerprint of its arrays.
        masked: transcript of each list that it was masked for → SHA-256 of what lay under the masks.
        opened: transcript of the one list that was opened.
        opened_round: the last round of this run of which a list was opened; 0 for none.
    """

    promise: Promise
    private: Sha256 = Field(repr=False)
    root: Sha256 = Field(repr=False)
    films: int
    labelled: tuple[int, ...]
    metrics: dict[str, float]
    update: Sha256
    masked: dict[str, Sha256] = Field(default_factory=dict)
    opened: Sha256 | None = None
    opened_round: int = 0

    @classmethod
    def promised(cls, key: SiteKey, subject: Subject, update: SiteUpdate, former: SiteSum | None) -> Self:
        """The state after training, with a promise and secrets of its own.

        Args:
            key: the site's registered key.
            former: the state that this one takes the place of.
        """
        secrets = RoundSecrets.draw()
        return cls(
            promise=Promise.signed(key, subject, update, secrets.public),
            private=secrets.private.hex(),
            root=secrets.root.hex(),
            films=update.films,
            labelled=update.labelled,
            metrics=dict(update.metrics),
            update=fingerprint(update.arrays),
            opened_round=0 if former is None else former.opened_round,
        )

    @property
    def secrets(self) -> RoundSecrets:
        return RoundSecrets(bytes.fromhex(self.private), bytes.fromhex(self.root))

    def expect_next(self, subject: Subject) -> None:
        """Refuse to promise again what would put a second sum beside one that may have been opened.

        Raises:
            ListRefused: the round was opened already, or a later one was promised.
        """
        if subject.round <= self.opened_round:
            raise ListRefused(
                ListFault.OPENED,
                f"expected a round after {self.opened_round}, whose sum was opened, got {subject.round}: give another "
                "run another name",
            )
        if subject.round < self.promise.round:
            raise ListRefused(
                ListFault.LIST,
                f"expected round {self.promise.round} or a later one, got {subject.round}: give another run another "
                "name",
            )

    def promised_update(self, arrays: Arrays | None) -> SiteUpdate:
        """The update that was promised, of the arrays that are on the disk.

        Raises:
            ListRefused: they are not there, or are others. Under these masks they would open both.
        """
        if arrays is None or fingerprint(arrays) != self.update:
            raise ListRefused(
                ListFault.LOST, "expected the update that was promised on this disk, got none or another"
            )
        return SiteUpdate(self.promise.site, arrays, self.films, self.labelled, self.metrics)

    def expect_permitted(
        self,
        sums: SumList,
        keys: Mapping[str, PublicKey],
        *,
        quorum: int,
        least: int,
        opened_with: Sequence[str] | None,
    ) -> None:
        """Refuse a list that this site does not mask or open.

        Args:
            keys, quorum, least: see `SumList.expect_permitted`.
            opened_with: the sites of the one list, of whatever run, in whose sum this very update was opened.

        Raises:
            ListRefused: also where another list of the round was opened, or one with this update of other sites.
        """
        sums.expect_permitted(self.promise, keys, quorum=quorum, least=least)
        transcript = sums.transcript.hex()
        if self.opened not in (None, transcript):
            raise ListRefused(
                ListFault.OPENED, "expected the list of this round that was opened, got another"
            )
        if opened_with is not None and list(opened_with) != sums.sites:
            raise ListRefused(
                ListFault.OPENED, "expected the sites in whose sum this very update was opened, got others"
            )
        if transcript not in self.masked and len(self.masked) >= MOST_LISTS:
            raise ListRefused(ListFault.LIST, f"expected at most {MOST_LISTS} lists of a round, got another")

    def after_masking(self, sums: SumList, plain: Vector) -> Self:
        """The state in which this list is masked.

        Args:
            plain: what lies under the masks.

        Raises:
            ListRefused: other data lay under these masks before; the difference would be readable.
        """
        transcript, data = sums.transcript.hex(), plain.fingerprint
        if self.masked.get(transcript, data) != data:
            raise ListRefused(
                ListFault.LOST, "expected the data that went under these masks before, got others"
            )
        return self.model_copy(update={"masked": {**self.masked, transcript: data}})

    def after_opening(self, sums: SumList) -> Self:
        """The state in which this list, and no other of the round, is opened."""
        return self.model_copy(update={"opened": sums.transcript.hex(), "opened_round": self.promise.round})
