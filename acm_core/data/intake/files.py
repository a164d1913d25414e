"""The files of a site's folder, and which of them the label file means."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
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


def find_files(folder: Path, without: Collection[Path]) -> list[FoundFile]:
    """Every regular file below `folder` at any depth, by name; links to folders are not followed.

    Args:
        without: files and folders that are no films: the label file, the site's state.

    Raises:
        OSError: the folder cannot be read.
    """
    left_out = {path.resolve() for path in without}
    return sorted(_find(folder.resolve(), PurePosixPath(), left_out), key=lambda file: file.name)


def _find(folder: Path, below: PurePosixPath, left_out: set[Path]) -> Iterator[FoundFile]:
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        path = Path(entry.path)
        if path in left_out:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _find(path, below / entry.name, left_out)
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing, or a file that has just gone
            continue
        if stat.S_ISREG(status.st_mode):
            name = (
                str(below / entry.name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            )
            yield FoundFile(name, path, Stamp.of(status))


def match(names: Sequence[str], images: Sequence[str]) -> list[str]:
    """For each image of a label file the name of the file that it means.

    A path in the films folder; else a file name alone, where one file below the folder has it. An image that means no
    file keeps its own name.
    """
    present = set(names)
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        by_name[PurePosixPath(name).name].append(name)
    matched = []
    for image in images:
        same = by_name[image] if image not in present and "/" not in image else []
        matched.append(same[0] if len(same) == 1 else image)
    return matched
