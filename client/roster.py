"""`python -m client.roster --site=A roster-NAME.json`: shows the roster, has it compared in a call, and pins it.

Exit codes: 0 pinned, or shown; 1 not confirmed, or the disk did not take it; 2 wrong input.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import fail, run_command, say
from client.site.site_arguments import add_site_arguments

if TYPE_CHECKING:
    from acm_core.config.site import SiteConfig
    from acm_core.trust.roster import Roster

OK, FAILED, WRONG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Show, compare and pin; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.roster",
        description="Pin by which keys this site knows the other hospitals. Shows the operator's roster and its one "
        "fingerprint, which all hospitals read aloud in one call, and asks whether all have read the same. Without a "
        "file it shows what is pinned.",
        epilog="exit codes: 0 pinned, or shown; 1 not confirmed, or the disk did not take it; 2 wrong input",
    )
    add_site_arguments(parser)
    parser.add_argument("roster", type=Path, nargs="?", help="the file that server.roster wrote")
    parser.add_argument(
        "--fingerprint",
        metavar="3F2A-91C0-…",
        help="the fingerprint that all hospitals read in the call, instead of being asked",
    )
    options = parser.parse_args(arguments)
    if options.fingerprint is not None and options.roster is None:
        parser.error("expected a roster's file beside --fingerprint")

    from acm_core.audit_log import AuditError
    from acm_core.config.loading import ConfigError
    from acm_core.trust import TrustError
    from client.site.site_file import SiteFileError, load_named_site

    try:
        site = load_named_site(options.sites, options.site)
        if options.roster is None:
            return _show_pinned(site)
        return _pin(site, options.roster, options.fingerprint)
    except (ConfigError, SiteFileError, TrustError) as error:
        return fail(str(error), WRONG)
    except (OSError, AuditError) as error:
        return fail(f"{error}; run it again when that is mended: nothing is lost", FAILED)


def _show_pinned(site: SiteConfig) -> int:
    from acm_core.trust.roster import RosterError
    from client.site.pinned_roster import pinned_roster

    roster = pinned_roster(site)
    if roster is None:
        raise RosterError(
            f"expected a pinned roster of {site.site}, found none: give the file that the operator sent"
        )
    _show(site, roster, roster)
    return OK


def _pin(site: SiteConfig, path: Path, compared: str | None) -> int:
    from acm_core.trust.keys import load_key
    from acm_core.trust.roster import Roster
    from client.site.membership import Membership
    from client.site.pinned_roster import pin_roster, pinned_roster

    membership = Membership.load(site)
    roster = Roster.read(path)
    roster.expect_own(membership.federation, site.site, load_key(membership.key).public_key())
    former = pinned_roster(site)
    _show(site, roster, former)
    if former == roster:
        say("This roster is pinned already.")
        return OK
    if not _agreed(roster, compared):
        return FAILED
    pin_roster(site, roster, instead_of=former)
    say(f"site {site.site} knows the hospitals of {roster.federation} by this roster from now on")
    return OK


def _show(site: SiteConfig, roster: Roster, former: Roster | None) -> None:
    from acm_core.trust.certificates import spoken

    before = {} if former is None else {row.site: row.public_key for row in former.sites}
    say(f"roster       of {roster.federation}, {len(roster.sites)} hospitals")
    for row in roster.sites:
        if row.site == site.site:
            note = "this site"
        elif row.site not in before:
            note = "new"
        else:
            note = (
                "as it was" if before[row.site] == row.public_key else "ANOTHER KEY than in the pinned roster"
            )
        say(f"             {row.site}  {row.fingerprint}  {note}")
    if gone := sorted(set(before) - {row.site for row in roster.sites}):
        say(f"gone         {', '.join(gone)}")
    say(
        "fingerprint  which all hospitals read aloud in one call:",
        f"             {spoken(roster.fingerprint)}",
    )


def _agreed(roster: Roster, compared: str | None) -> bool:
    from acm_core.trust.certificates import same_fingerprint, spoken
    from acm_core.trust.comparison import confirmed

    if compared is not None:
        if same_fingerprint(compared, roster.fingerprint):
            return True
        fail(
            f"expected the roster {compared}, got {spoken(roster.fingerprint)}: nothing was pinned. Not all hospitals "
            "have the same file: have the operator send it again, to all",
            FAILED,
        )
        return False
    if confirmed(
        "Be in a call with all of these hospitals, at numbers that you did not get with this file. Each says its name "
        f"and reads the fingerprint.\nDid {len(roster.sites)} hospitals, yours among them, read the one above?"
    ):
        return True
    fail(
        "not confirmed: nothing was pinned. Run it again in the call, or give what all hospitals read with "
        "--fingerprint",
        FAILED,
    )
    return False


if __name__ == "__main__":
    run_command(main)
