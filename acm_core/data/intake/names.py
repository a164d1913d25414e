"""Which file of a folder the label file means: the one of that name, else one that only its spelling parts from it."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import NamedTuple

from acm_core.data.set_aside import SetAside

Spelling = Callable[[str], str]


class Match(NamedTuple):
    """What an image of a label file means.

    Attributes:
        name: of the file; the image's own where it means none.
        reason: why it means none, else None.
        value: what more is to be said of that: the endings that there are.
        respelled: whether the file's name is spelt otherwise than the image.
    """

    name: str
    reason: SetAside | None = None
    value: str | None = None
    respelled: bool = False


def match(
    names: Sequence[str],
    images: Sequence[str],
    *,
    suffix: str = "",
    no_films: Collection[str] = (),
    closed: Sequence[str] = (),
    linked: Sequence[str] = (),
) -> list[Match]:
    """For each image of a label file the file that it means.

    An image is a path in the films folder; else a file name alone, where one file below the folder has it. Where no
    file is called so, one is taken that differs in nothing but how the name is written: Unicode forms (NFC, NFD),
    backslashes, letter case, a missing ending. Several such files are ambiguous, and none is taken.

    Args:
        names: of the files, as paths in the films folder.
        suffix: ending that the images lack.
        no_films: files that are no images: a report beside a film of the same name makes no name ambiguous.
        closed: folders that may not be entered.
        linked: links to folders, which are not followed.
    """
    folder = _Folder(names, no_films)
    return [folder.meant(image, suffix, closed, linked) for image in images]


def _exact(name: str) -> str:
    return name


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", _composed(name).casefold())


class _Index:
    """Files by path and by name alone, both in one spelling."""

    def __init__(self, names: Sequence[str], spelling: Spelling) -> None:
        self.by_path: defaultdict[str, list[str]] = defaultdict(list)
        self.by_name: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            spelt = spelling(name)
            self.by_path[spelt].append(name)
            self.by_name[spelt.rpartition("/")[2]].append(name)

    def find(self, spelt: str) -> list[str]:
        found = self.by_path.get(spelt, [])
        return found if found or "/" in spelt else self.by_name.get(spelt, [])


class _Folder:
    def __init__(self, names: Sequence[str], no_films: Collection[str]) -> None:
        self._names, self._no_films = names, no_films
        self._exact = _Index(names, _exact)

    @cached_property
    def _composed(self) -> _Index:
        return _Index(self._names, _composed)

    @cached_property
    def _folded(self) -> _Index:
        return _Index(self._films, _folded)

    @cached_property
    def _stems(self) -> _Index:
        return _Index(self._films, lambda name: _without_ending(_folded(name)))

    @cached_property
    def _films(self) -> Sequence[str]:
        return [name for name in self._names if name not in self._no_films]

    def meant(self, image: str, suffix: str, closed: Sequence[str], linked: Sequence[str]) -> Match:
        for written in (image, image + suffix) if suffix else (image,):
            # One after another, so that an index is made only where the ones before do not answer.
            indices: tuple[tuple[Spelling, Callable[[], _Index]], ...] = (
                (_exact, lambda: self._exact),
                (_composed, lambda: self._composed),
                (_folded, lambda: self._folded),
            )
            for spelling, index in indices:
                found = index().find(spelling(written))
                if len(found) == 1:
                    return Match(found[0], respelled=spelling is not _exact)
                if found:
                    return Match(image, SetAside.AMBIGUOUS_NAME)
        return self._by_stem(image) or self._out_of_reach(image, closed, linked)

    def _by_stem(self, image: str) -> Match | None:
        spelt = _folded(image)
        found = self._stems.find(spelt)
        if len(found) == 1:
            return Match(found[0], respelled=True)
        if found:
            if len({_without_ending(name) for name in found}) > 1:
                return Match(image, SetAside.AMBIGUOUS_NAME)
            endings = sorted(PurePosixPath(name).suffix for name in found)
            return Match(image, SetAside.NO_ENDING, " or ".join(endings))
        ending = PurePosixPath(spelt).suffix
        others = self._stems.find(_without_ending(spelt)) if ending else []
        if others:
            there = Counter(PurePosixPath(name).suffix for name in others)
            return Match(image, SetAside.OTHER_ENDING, f"{ending} instead of {' or '.join(sorted(there))}")
        return None

    @staticmethod
    def _out_of_reach(image: str, closed: Sequence[str], linked: Sequence[str]) -> Match:
        spelt = _composed(image)
        for folders, reason in ((closed, SetAside.CLOSED_FOLDER), (linked, SetAside.BEHIND_LINK)):
            if any(spelt.startswith(f"{_composed(folder)}/") for folder in folders):
                return Match(image, reason)
        return Match(image, SetAside.MISSING_FILE)


def _without_ending(name: str) -> str:
    path = PurePosixPath(name)
    return name if path.suffix[1:].isdigit() else str(path.with_suffix(""))  # a UID ends in a number
