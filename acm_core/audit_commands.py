"""`verify` and `show`, with which either side reads its audit log; light, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from acm_core.audit_events import AnyEvent
    from acm_core.audit_log import AuditRow
    from acm_core.hash_chain import Found

SOUND, BROKEN, WRONG = 0, 1, 2
EXIT_CODES = (
    "exit codes: 0 the log is sound; 1 it is not, and the row is named; 2 wrong input, or no log there"
)

_HASH = re.compile(r"[0-9a-f]{64}")
_SHOWN = 12  # characters of a hash


def add_commands(parser: argparse.ArgumentParser) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Add `verify` and `show` and return their parsers."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="verify|show")
    verify = commands.add_parser(
        "verify",
        help="check every row and its place in the chain",
        description="Check every row of the audit log and its place in the chain; nothing is written.",
        epilog=EXIT_CODES,
    )
    verify.add_argument(
        "--witness",
        type=Path,
        metavar="FOLDER",
        help="a copy of the other side's audit folder: every row of this log that it speaks of must be here",
    )
    show = commands.add_parser(
        "show",
        help="print the rows",
        description="Check the audit log and print its rows, hashes shortened; the file has them whole.",
        epilog=EXIT_CODES,
    )
    show.add_argument(
        "--kind",
        nargs="+",
        metavar="KIND",
        help="only rows of these kinds, which docs/REFERENCE.md lists (default: all)",
    )
    return verify, show


def answer(options: argparse.Namespace, folder: Path, *, site: str | None, about: str | None = None) -> int:
    """Do the command on the log in `folder`; returns the exit code.

    Args:
        site: whose log it is, None for the server's.
        about: show only rows about this site.
    """
    from rich.console import Console

    from acm_core.audit_events import KINDS
    from acm_core.audit_log import AuditError, verify

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if options.command == "show" and (unknown := set(options.kind or ()) - set(KINDS)):
        return _fail(f"--kind: expected some of {', '.join(KINDS)}, got {', '.join(sorted(unknown))}", WRONG)
    try:
        found = verify(folder)
        if not found.rows and not found.unfinished:
            return _fail(
                f"expected an audit log in {folder}, found none: nothing was written down there", WRONG
            )
        if options.command == "show":
            _show(console, found.rows, options.kind or KINDS, about)
            return SOUND
        _tell(console, found, folder, site)
    except AuditError as error:
        return _fail(str(error), BROKEN)
    return SOUND if options.witness is None else _compare(console, found.rows, options.witness, site)


def _compare(console: Console, rows: list[AuditRow], witness: Path, site: str | None) -> int:
    from acm_core.audit_log import AuditError, compare, verify

    try:
        others = verify(witness).rows
        if not others:
            return _fail(f"--witness: expected an audit log in {witness}, found none", WRONG)
        spoken = compare(rows, others, site)
    except AuditError as error:
        return _fail(f"--witness: {error}", BROKEN)
    console.print(f"rows that the log in {witness} speaks of: {spoken:,}, all here")
    return SOUND


def _tell(console: Console, found: Found[AuditRow], folder: Path, site: str | None) -> None:
    from acm_core.hash_chain import head_of

    owner = "the server" if site is None else f"site {site}"
    head = head_of(found.rows)
    since = (
        f", the first of {_time(found.rows[0])} UTC, the last of {_time(found.rows[-1])} UTC"
        if found.rows
        else ""
    )
    console.print(f"audit log of {owner} in {folder}: {head.rows:,} rows, chain verified{since}")
    console.print(f"head: {head.hash}")
    if found.unfinished:
        console.print(
            f"after them {found.unfinished:,} bytes of a row whose writer was killed or had no disk left: whoever "
            "writes next cuts them off and says so"
        )


def _show(console: Console, rows: list[AuditRow], kinds: Collection[str], about: str | None) -> None:
    shown = [
        row
        for row in rows
        if row.event.kind in kinds and (about is None or getattr(row.event, "site", None) == about)
    ]
    console.print(f"{'row':>7}  {'time (UTC)':<19}  {'kind':<19}  what", style="bold")
    for row in shown:
        console.print(f"{row.index:>7}  {_time(row)}  {row.event.kind:<19}  {_what(row.event)}")
    console.print(f"{len(shown):,} of {len(rows):,} rows, chain verified", style="bold")


def _what(event: AnyEvent) -> str:
    return " ".join(
        f"{name}={_shown(value)}"
        for name, value in event.model_dump(mode="json").items()
        if name != "kind" and value is not None
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    text = str(value)
    return text[:_SHOWN] if _HASH.fullmatch(text) else text


def _time(row: AuditRow) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(row.time, UTC):%Y-%m-%d %H:%M:%S}"


def _fail(text: str, code: int) -> int:
    print(text, file=sys.stderr)  # noqa: T201  # the command's own output
    return code
