"""A site's part in a joint sum: promise, masked vector and opening, each on the disk before it leaves.

Two files lie in the run's folder: the update that was promised, and the state. Beside all runs lies a file for each
update that was ever opened, with the sites of its list. Killed at any point a site says the same again, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pydantic import ValidationError

from acm_core.arrays import Arrays, fingerprint
from acm_core.federated.update import SiteUpdate
from acm_core.files import DamagedFileError, read_sealed, write_sealed
from acm_core.secure_aggregation.fixed_point import Layout, expect_in_range
from acm_core.secure_aggregation.masks import Vector, add_masks
from acm_core.secure_aggregation.promise import Promise, Subject
from acm_core.secure_aggregation.site_sum import SiteSum
from acm_core.secure_aggregation.sum_list import ListFault, ListRefused, SumList
from acm_core.training.weights import load_sealed_arrays, save_sealed_arrays
from acm_core.trust.keys import SiteKey
from acm_core.trust.roster import Roster


class JointRound:
    """The rounds of one run at one site.

    Args:
        key: the site's registered key.
        roster: that the site has pinned.
        folder: of the run, at the site.
        opened: folder of what was opened, of all runs.
        least: sites of a sum that the site's file asks for, see `SumList.expect_permitted`.
        quorum: of the run.
    """

    def __init__(
        self, key: SiteKey, roster: Roster, folder: Path, opened: Path, *, least: int, quorum: int
    ) -> None:
        self._key, self._roster = key, roster
        self._state_file, self._update_file = folder / "joint_sum.json", folder / "joint_update.safetensors"
        self._opened, self._least, self._quorum = opened, least, quorum

    def promise(
        self,
        subject: Subject,
        reference: Arrays,
        findings: Sequence[str],
        train: Callable[[], SiteUpdate],
    ) -> Promise:
        """The promise for a round; asked again, the same one, without training again.

        Args:
            reference: the global model that training starts from.
            train: gives the update. Called again for a round only where the update of the first time was lost.

        Raises:
            ListRefused: the round was opened already, a later one was promised, or it is about another roster than the
                pinned one.
            UpdateRefused, OutOfRangeError: no list could sum what was trained; nothing is promised.
        """
        self._expect_pinned(subject)
        state = self._state()
        if state is not None and state.promise.subject == subject and self._stands(state):
            return state.promise
        if state is not None:
            state.expect_next(subject)
        update = train()
        expect_in_range(update, reference, findings)
        # Killed between the two files, the state speaks of an update that is not there: no list of it is masked.
        save_sealed_arrays(self._update_file, update.arrays)
        state = SiteSum.promised(self._key, subject, update, state)
        self._save(state)
        return state.promise

    def masked(
        self, sums: SumList, reference: Arrays, findings: Sequence[str], finding_rows: Collection[str]
    ) -> Vector:
        """The promised update under the masks of this list; asked again, the same bytes.

        Args:
            reference: the global model that the site holds, not one that comes with the list.

        Raises:
            ListRefused: see `SiteSum.expect_permitted`; or update or model are not those that were promised.
        """
        state = self._permitted(sums)
        update = state.promised_update(_arrays(self._update_file))
        if fingerprint(reference) != state.promise.model:
            raise ListRefused(ListFault.LOST, "expected the model of the promise at this site, got another")
        vector = Layout(reference, findings, finding_rows, sums.terms(self._quorum)).encode(update)
        masks = state.secrets.masks(state.promise.site, sums)
        self._save(state.after_masking(sums, vector))
        add_masks(vector, masks)
        return vector

    def opening(self, sums: SumList) -> bytes:
        """The key of the site's own mask for this list: 32 bytes, for one list of a round, ever.

        Raises:
            ListRefused: see `SiteSum.expect_permitted`; or the list was never masked.
        """
        state = self._permitted(sums)
        if sums.transcript.hex() not in state.masked:
            raise ListRefused(ListFault.LIST, "expected a list that this site has masked, got another")
        if state.opened is None:
            write_sealed(self._opened / state.update, "\n".join(sums.sites).encode())
            self._save(state.after_opening(sums))
        return state.secrets.own_key(sums)

    def _permitted(self, sums: SumList) -> SiteSum:
        state = self._state()
        if state is None:
            raise ListRefused(ListFault.LOST, "expected a promise on this disk, found none")
        self._expect_pinned(state.promise)
        state.expect_permitted(
            sums,
            self._roster.public_keys(),
            quorum=self._quorum,
            least=self._least,
            opened_with=self._opened_with(state.update),
        )
        return state

    def _expect_pinned(self, subject: Subject) -> None:
        if subject.roster != self._roster.fingerprint:
            raise ListRefused(ListFault.ROSTER, "expected the roster that this site has pinned, got another")

    def _stands(self, state: SiteSum) -> bool:
        """Whether the promise can still be kept, or was."""
        if state.opened is not None:
            return True
        try:
            state.promised_update(_arrays(self._update_file))
        except ListRefused:
            return False
        return True

    def _opened_with(self, update: str) -> list[str] | None:
        try:
            return read_sealed(self._opened / update).decode().split("\n")
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            raise ListRefused(
                ListFault.LOST, f"{error}: with whom an update was summed is not known"
            ) from None

    def _state(self) -> SiteSum | None:
        try:
            return SiteSum.model_validate_json(read_sealed(self._state_file))
        except FileNotFoundError:
            return None
        except (DamagedFileError, ValidationError):
            raise ListRefused(
                ListFault.LOST,
                f"expected what this site has promised in {self._state_file.name} as it was written, got something "
                "else: it takes no part in this run any more; a run of another name begins anew",
            ) from None

    def _save(self, state: SiteSum) -> None:
        write_sealed(self._state_file, state.model_dump_json().encode())


def _arrays(path: Path) -> Arrays | None:
    try:
        return load_sealed_arrays(path)
    except (FileNotFoundError, DamagedFileError):
        return None
