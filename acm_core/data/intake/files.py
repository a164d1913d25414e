"""The files of a site's folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from acm_core.data.intake.journal import Stamp


@dataclass(frozen=True)
class FoundFile:
    """A file below the films folder.

    Attributes:
        name: path in the folder with forward slashes; bytes that are no UTF-8 are written as escapes.
    """

    name: str
    path: Path = field(repr=False)
    stamp: Stamp


@dataclass(frozen=True)
class Folder:
    """What is below a films folder.

    Attributes:
        files: every regular file at any depth, by name.
        closed: folders that may not be entered, as paths in the films folder.
        linked: links to folders, which are not followed.
    """

    files: list[FoundFile]
    closed: list[str] = field(repr=False)
    linked: list[str] = field(repr=False)


def look_through(folder: Path, without: Collection[Path]) -> Folder:
    """What is below `folder`, apart from folders that may not be entered.

    Args:
        without: files and folders that are no films: the label file, the site's state.

    Raises:
        OSError: the folder cannot be read; or one below it, for another reason than its permissions.
    """
    found = Folder([], [], [])
    left_out = {path.resolve() for path in without}
    _look_through(folder.resolve(), PurePosixPath(), left_out, found)
    found.files.sort(key=lambda file: file.name)
    found.closed.sort()
    found.linked.sort()
    return found


def find_files(folder: Path, without: Collection[Path]) -> list[FoundFile]:
    """Every regular file below `folder` at any depth, by name; links to folders are not followed.

    Raises:
        OSError: the folder or one below it cannot be read.
    """
    found = look_through(folder, without)
    if found.closed:
        raise PermissionError(
            f"expected folders below {folder} that may be entered, got {len(found.closed)} that may not, the first "
            f"{found.closed[0]}: let the user that runs this enter them, or move them elsewhere"
        )
    return found.files


def _look_through(folder: Path, below: PurePosixPath, left_out: set[Path], found: Folder) -> None:
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except PermissionError:
        if below == PurePosixPath():
            raise
        found.closed.append(_written(below))
        return
    for entry in entries:
        path = Path(entry.path)
        if path in left_out:
            continue
        name = below / entry.name
        if entry.is_dir(follow_symlinks=False):
            _look_through(path, name, left_out, found)
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing, or a file that has just gone
            continue
        if stat.S_ISREG(status.st_mode):
            found.files.append(FoundFile(_written(name), path, Stamp.of(status)))
        elif stat.S_ISDIR(status.st_mode):
            found.linked.append(_written(name))


def _written(path: PurePosixPath) -> str:
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
