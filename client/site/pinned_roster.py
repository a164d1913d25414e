"""The roster that a site has pinned: `STATE/federation/roster.json`, by which it knows the other hospitals."""

from __future__ import annotations

from pathlib import Path

from acm_core.audit_events import RosterPinned
from acm_core.audit_log import AuditLog, audit_folder
from acm_core.config.site import SiteConfig
from acm_core.files import turn
from acm_core.trust.roster import Roster, RosterError
from client.site.membership import membership_folder


def pinned_roster(site: SiteConfig) -> Roster | None:
    """The roster, or None where none was pinned.

    Raises:
        RosterError: the file is damaged.
    """
    path = _file(site)
    if not path.exists():
        return None
    try:
        return Roster.read(path)
    except RosterError as error:
        raise RosterError(f"{error}; move it away and pin the roster of today") from None


def pin_roster(site: SiteConfig, roster: Roster, *, instead_of: Roster | None) -> None:
    """Know the other hospitals by this roster from now on; killed at any point, by this one or by the former.

    Args:
        instead_of: the pinned roster that whoever compared has seen.

    Raises:
        RosterError: another process has pinned another one meanwhile; that one stays.
        AuditError, OSError: the disk did not take it.
    """
    with turn(_file(site).with_suffix(".lock")):
        pinned = pinned_roster(site)
        if pinned == roster:
            return
        if pinned != instead_of:
            raise RosterError(
                "expected the pinned roster that was shown, got another: somebody else pinned one meanwhile; run this "
                "again"
            )
        AuditLog(audit_folder(site.state)).append(
            RosterPinned(federation=roster.federation, roster=roster.fingerprint, sites=len(roster.sites))
        )
        roster.write(_file(site))


def _file(site: SiteConfig) -> Path:
    return membership_folder(site) / "roster.json"
