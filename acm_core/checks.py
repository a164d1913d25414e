"""What has to be right before a command can do its work: a row for each thing, and what to do where it is wrong."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

_WIDTH = 160
_FILES = 1024
_SHARED_BYTES = 64 * 2**20
_LONGEST_TEMPORARY = 70
"""Letters: a socket there has a name of its own, and at most 108 in all (unix(7))."""


@dataclass(frozen=True)
class Check:
    """One thing that has to be right, as it was found.

    Attributes:
        found: what is there.
        fix: what to do where it is wrong; "" where it is right.
    """

    name: str
    found: str
    fix: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is right."""
        return not self.fix


def versions() -> Check:
    """Of what both sides have to agree on, and of torch."""
    return Check("versions", ", ".join(f"{name} {version(name)}" for name in ("acm-fed", "flwr", "torch")))


def disk(folder: Path, gigabytes: float, what: str) -> Check:
    """Whether a folder, made or to be made, takes files, and has room.

    Args:
        gigabytes: that it needs.
        what: it is for.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("disk", f"{there} takes no files", f"let this user write to it: it is for {what}")
    free = shutil.disk_usage(there).free / 1e9
    fix = "" if free >= gigabytes else f"at least {gigabytes:.0f} GB for {what}"
    return Check("disk", f"{free:.1f} GB free for {folder}", fix)


def temporary_folder() -> Check:
    """Where programs put what they need for a while, sockets among it."""
    fix = "set TMPDIR to a folder on a local disk that this user can write to, with a short name"
    try:
        folder = tempfile.gettempdir()
        with tempfile.NamedTemporaryFile():
            pass
    except OSError as error:
        return Check("temporary folder", f"none that takes files: {error.strerror or error}", fix)
    return Check("temporary folder", folder, fix if len(folder) > _LONGEST_TEMPORARY else "")


def shared_memory() -> Check:
    """What processes that read films hand them over by."""
    try:
        free = shutil.disk_usage("/dev/shm").free  # noqa: S108  # it is asked for its size
    except OSError:
        return Check("shared memory", "no /dev/shm: films are read by one process")
    fix = (
        ""
        if free >= _SHARED_BYTES
        else "give the container more (docker run --shm-size=1g), or set workers: 0"
    )
    return Check("shared memory", f"{free / 2**20:,.0f} MiB free in /dev/shm", fix)


def open_files() -> Check:
    """How many files, connections among them, a process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return Check("open files", "as many as there are")
    fix = "" if most >= _FILES else f"raise the limit to {_FILES} or more (ulimit -Hn, LimitNOFILE=)"
    return Check("open files", f"at most {most:,}", fix)


def proxies() -> Check | None:
    """Whether the proxies that the environment names can be used; None where it names none."""
    from acm_core.proxies import NAMES, ProxyError, settle_proxies

    named = [name for name in NAMES if os.environ.get(name) or os.environ.get(name.upper())]
    if not named:
        return None
    try:
        settle_proxies()
    except ProxyError as error:
        return Check("proxy", str(error), "mend the variable where the command is started")
    return Check("proxy", f"{', '.join(named)} can be used; loopback goes without")


def machine(folder: Path, gigabytes: float, what: str) -> list[Check]:
    """What every side needs of its machine; arguments as of `disk`."""
    return [disk(folder, gigabytes, what), temporary_folder(), open_files()]


def show_checks(checks: Sequence[Check], right: str, wrong: str) -> int:
    """Print the rows and a last line; returns the exit code, 1 where something is wrong.

    Args:
        right: the last line where all is right.
        wrong: what comes behind the number of what is to mend.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _WIDTH)
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        mark = Text("ok", "green") if check.passed else Text("!!", "bold red")
        table.add_row(mark, check.name, check.found)
        if not check.passed:
            table.add_row("", "", Text(f"→ {check.fix}", "yellow"))
    console.print(table)
    count = sum(not check.passed for check in checks)
    console.print(f"{count} {wrong}" if count else right)
    return 1 if count else 0
