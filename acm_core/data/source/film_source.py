"""What the intake asks of the place where a site's films are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from acm_core.data.set_aside import SetAside

Progress = Callable[[int, int], None]
"""Called with (searches done, searches in all)."""


class Stamp(NamedTuple):
    """What a source says of a film without opening it; the same stamp stands for the same content.

    Attributes:
        size: in bytes, or any number that another content would change.
        modified, changed: when the content and when anything was last changed, in nanoseconds; 0 where nobody says.
    """

    size: int
    modified: int
    changed: int


class FoundFile(NamedTuple):
    """A film, or what may be one.

    Attributes:
        name: which the source opens it by, with forward slashes; bytes that are no UTF-8 are written as escapes.
    """

    name: str
    stamp: Stamp


@dataclass(frozen=True)
class Listing:
    """What a source has.

    Attributes:
        files: each once, by name.
        closed: folders that may not be entered.
        linked: links to folders, which are not followed.
        passed_over: films that an archive has and cannot list.
    """

    files: list[FoundFile] = field(repr=False)
    closed: list[str] = field(default_factory=list, repr=False)
    linked: list[str] = field(default_factory=list, repr=False)
    passed_over: int = 0


class FilmSource(Protocol):
    """Lists a site's films and gives their bytes. Nothing else knows where films are.

    The intake lists in its own process; the readers' processes each open the source by its `place` and read.

    Attributes:
        place: what `source_at` opens the same source by, as JSON has it.
        seconds: that a film may take to be read, from its turn.
        at_once: films that may be read at a time; None: any number.
        passing: verdicts that may be others the next time, without another stamp.
    """

    @property
    def place(self) -> Any: ...

    @property
    def seconds(self) -> float: ...

    @property
    def at_once(self) -> int | None: ...

    @property
    def passing(self) -> frozenset[SetAside]: ...

    def look(self, *, anew: bool = False, progress: Progress | None = None) -> Listing:
        """What is there.

        Args:
            anew: ask again, where what was said the last time is kept.

        Raises:
            OSError: the source cannot be listed.
        """
        ...

    def state(self) -> object:
        """Equal to what it was while `look` would say what it said."""
        ...

    def turn(self) -> float:
        """When the next film may be asked for, in seconds of the monotonic clock; each call gives a turn away."""
        ...

    def read(self, name: str) -> bytes:
        """The content of a film.

        Raises:
            FilmSetAside: it cannot be had. NOT_SENT where it may be that no other can.
        """
        ...

    def expect_there(self) -> None:
        """Raise OSError where the source is gone, and not only a film of it."""
        ...

    def identifiers(self, name: str) -> Mapping[str, str]:
        """Kind of `IDENTIFIERS` → what the source tells a film by, for a film that cannot be read."""
        ...
