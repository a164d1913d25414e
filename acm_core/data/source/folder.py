"""Films in a folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from acm_core.data.film import read_content
from acm_core.data.set_aside import SetAside
from acm_core.data.source.film_source import FoundFile, Listing, Progress, Stamp

_ESCAPED_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")


class FolderSource:
    """The files below a folder, at any depth; a film's name is its path in the folder.

    Args:
        without: files and folders that are no films: the label file, the site's state.
    """

    seconds = 60.0
    at_once = None
    passing: frozenset[SetAside] = frozenset()

    def __init__(self, folder: Path, without: Collection[Path] = ()) -> None:
        self._folder, self._without = folder, without

    @property
    def place(self) -> str:
        """The folder's path."""
        return str(self._folder)

    def turn(self) -> float:
        """Now: a disk serves whoever asks."""
        return 0.0

    def look(self, *, anew: bool = False, progress: Progress | None = None) -> Listing:  # noqa: ARG002  # it is at hand
        """Every regular file, apart from those in folders that may not be entered; links to folders are not followed.

        Raises:
            OSError: the folder cannot be read; or one below it, for another reason than its permissions.
        """
        found = Listing([])
        without = {str(path.resolve()) for path in self._without}
        _walk(str(self._folder.resolve()), "", without, found)
        found.files.sort()
        found.closed.sort()
        found.linked.sort()
        return found

    def state(self) -> Listing:
        """All that `look` says: a folder is looked through at once."""
        return self.look()

    def every_file(self) -> list[FoundFile]:
        """Every regular file, by name.

        Raises:
            OSError: the folder or one below it cannot be read.
        """
        found = self.look()
        if found.closed:
            raise PermissionError(
                f"expected folders below {self._folder} that may be entered, got {len(found.closed)} that may not, the "
                f"first {found.closed[0]}: let the user that runs this enter them, or move them elsewhere"
            )
        return found.files

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FilmSetAside: MISSING_FILE, TOO_LARGE, or CANNOT_OPEN where the file system refuses.
        """
        path = self._folder / name
        if "\\x" in name and not path.exists():
            path = self._folder / os.fsdecode(_unescaped(name))
        return read_content(path)

    def expect_there(self) -> None:
        """A folder that has gone shows when it is looked through."""

    def identifiers(self, name: str) -> Mapping[str, str]:  # noqa: ARG002  # whatever it is
        """None: a path says nothing of the film."""
        return {}


def _walk(folder: str, below: str, without: Collection[str], found: Listing) -> None:
    # In plain strings: a Path a file takes three times as long as looking at it.
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except PermissionError:
        if not below:
            raise
        found.closed.append(_written(below[:-1]))
        return
    for entry in entries:
        if entry.path in without:
            continue
        name = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            _walk(entry.path, f"{name}/", without, found)
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing, or a file that has just gone
            continue
        if stat.S_ISREG(status.st_mode):
            stamp = Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            found.files.append(FoundFile(_written(name), stamp))
        elif stat.S_ISDIR(status.st_mode):
            found.linked.append(_written(name))


def _written(name: str) -> str:
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unescaped(name: str) -> bytes:
    """The bytes of which `_written` made a name."""
    return _ESCAPED_BYTE.sub(lambda escape: bytes.fromhex(escape[1].decode()), name.encode("utf-8"))
