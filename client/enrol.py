"""`python -m client.enrol --site=A`: makes the site's key and request, and installs the operator's answer.

Exit codes: 0 done; 1 not confirmed, or the disk did not take it; 2 wrong input.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import fail, run_command, say
from client.site.site_arguments import add_site_arguments

if TYPE_CHECKING:
    from acm_core.config.site import SiteConfig
    from acm_core.trust.enrolment import Answer
    from acm_core.trust.keys import SiteKey
    from client.site.membership import Joining

OK, FAILED, WRONG = 0, 1, 2
_LATER = (
    "not confirmed: nothing was changed. Run it again when you have compared, or give what was read to you with "
    "--authority-fingerprint"
)


def main(arguments: list[str] | None = None) -> int:
    """Ask to join, move, or install the answer; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.enrol",
        description="Join a federation in two steps. --server makes the site's key, which never leaves this machine, "
        "and writes request-SITE.json into this folder for the operator; --answer installs the operator's answer. "
        "Neither file holds a secret. A member whose server has moved gives its new address with --server.",
        epilog="exit codes: 0 done; 1 not confirmed, or the disk did not take it; 2 wrong input",
    )
    add_site_arguments(parser)
    step = parser.add_mutually_exclusive_group(required=True)
    step.add_argument("--server", metavar="HOST:PORT", help="the server's address, from the operator")
    step.add_argument("--answer", type=Path, metavar="FILE", help="the operator's answer")
    parser.add_argument(
        "--authority-fingerprint",
        metavar="3F2A-91C0-…",
        help="with --answer: the fingerprint that the operator read to you, instead of being asked",
    )
    options = parser.parse_args(arguments)
    if options.authority_fingerprint is not None and options.answer is None:
        parser.error("expected --authority-fingerprint beside --answer")

    from acm_core.audit_log import AuditError
    from acm_core.config.loading import ConfigError
    from acm_core.trust import TrustError
    from client.site.site_file import SiteFileError, load_named_site

    try:
        site = load_named_site(options.sites, options.site)
        chosen = f"--site={site.site}"
        if options.sites != parser.get_default("sites"):
            chosen += f" --sites {shlex.quote(str(options.sites))}"
        if options.answer is not None:
            return _install(site, chosen, options.answer, options.authority_fingerprint)
        return _ask(site, chosen, options.server)
    except (ConfigError, SiteFileError, TrustError) as error:
        return fail(str(error), WRONG)
    except (OSError, AuditError) as error:
        return fail(f"{error}; run it again when that is mended: nothing is lost", FAILED)


def _ask(site: SiteConfig, chosen: str, server: str) -> int:
    from acm_core.trust import keys
    from acm_core.trust.address import split_address
    from acm_core.trust.enrolment import Request
    from client.site.membership import Joining, key_file, membership_folder, read_joining, write_joining

    split_address(server)
    folder = membership_folder(site)
    joining = read_joining(folder)
    made = not key_file(folder).exists()
    key = keys.create_key(key_file(folder)) if made else keys.load_key(key_file(folder))
    fingerprint = keys.fingerprint(key.public_key())
    if joining is None or joining.key != fingerprint:
        joining = Joining(server=server, key=fingerprint)
    former, joining = joining.server, joining.model_copy(update={"server": server})
    write_joining(folder, joining)
    if joining.authority is not None and former != server:
        say(
            f"site {site.site} looks for the server of {joining.federation} at {server} from now on, instead of "
            f"{former}",
            "There is nothing else to do: key and authority stay, and a client.run that runs connects there.",
        )
        return OK
    path = Path(f"request-{site.site}.json")
    Request.signed(site.site, key).write(path)
    if joining.federation is not None:
        say(
            f"note: {site.site} is a member of {joining.federation} already; another request is of use only to a "
            "server that was set up anew"
        )
    say(
        f"key        {'made' if made else 'was there'}: {key_file(folder).resolve()} (never leaves this machine)",
        f"request    {path.absolute()}",
        "key's fingerprint, which the operator compares with you by telephone:",
        f"           {fingerprint}",
        "",
        f"Next: send {path} to the operator, by any channel: there is no secret in it. When the answer is back, run",
        f"`python -m client.enrol {chosen} --answer answer-{site.site}.json`",
    )
    return OK


def _install(site: SiteConfig, chosen: str, path: Path, compared: str | None) -> int:
    from acm_core.audit_events import Enrolled
    from acm_core.audit_log import AuditLog, audit_folder
    from acm_core.trust import keys
    from acm_core.trust.enrolment import Answer
    from client.site.membership import NotEnrolledError, install, key_file, membership_folder, read_joining

    folder = membership_folder(site)
    joining = read_joining(folder)
    if joining is None or not key_file(folder).exists():
        raise NotEnrolledError(
            f"expected a site that has asked to join, got none: run `python -m client.enrol {chosen} "
            "--server HOST:PORT` first"
        )
    answer = Answer.read(path)
    _expect_for(site, keys.load_key(key_file(folder)), answer)
    if answer.server != joining.server:
        say(f"note: you gave {joining.server}; the operator says {answer.server}, which is used from now on")
    if not _trusted(joining, answer, compared):
        return FAILED
    AuditLog(audit_folder(site.state)).append(
        Enrolled(site=site.site, key=answer.key, authority=answer.authority_fingerprint)
    )
    install(folder, answer)
    say(
        f"site {site.site} is a member of {answer.federation}; its server is at {answer.server}",
        f"Next: `python -m client.run {chosen}`",
    )
    return OK


def _expect_for(site: SiteConfig, key: SiteKey, answer: Answer) -> None:
    """Refuse an answer that is not for this site and this key, or whose authority has ended."""
    from acm_core.trust.certificates import days_left, ends
    from acm_core.trust.enrolment import EnrolmentError
    from acm_core.trust.keys import fingerprint

    if answer.site != site.site:
        raise EnrolmentError(f"expected an answer to site {site.site}, got one to {answer.site}")
    if answer.key != (own := fingerprint(key.public_key())):
        raise EnrolmentError(
            f"expected an answer to this site's key {own}, got one to {answer.key}: send the operator the request of "
            f"now, or look for the answer to it"
        )
    authority = answer.authority.encode()
    if days_left(authority) < 0:
        raise EnrolmentError(
            f"expected a living authority, got one that ended on {ends(authority):%Y-%m-%d}: is this machine's clock "
            "right? If it is, the operator has to make a new one"
        )


def _trusted(joining: Joining, answer: Answer, compared: str | None) -> bool:
    from acm_core.trust.certificates import same_fingerprint, spoken
    from acm_core.trust.comparison import confirmed

    if joining.authority == answer.authority_fingerprint:
        return True
    if compared is not None:
        if same_fingerprint(compared, answer.authority_fingerprint):
            return True
        fail(
            f"expected the authority {compared}, got {spoken(answer.authority_fingerprint)}: nothing was changed; ask "
            "the operator for the answer again, and for the fingerprint by telephone",
            FAILED,
        )
        return False
    if joining.authority is not None:
        say(
            f"This site is a member of {joining.federation} and trusts another authority:",
            f"    {spoken(joining.authority)}",
            "It changes only when the operator sets the server up anew: be sure that it is so.",
        )
    say(
        f"authority of {answer.federation}, SHA-256 fingerprint:",
        f"    {spoken(answer.authority_fingerprint)}",
    )
    if confirmed(
        "Telephone the operator, at a number that you did not get with this file, and have the fingerprint read to "
        "you.\nIs it the one above?"
    ):
        return True
    fail(_LATER, FAILED)
    return False


if __name__ == "__main__":
    run_command(main)
