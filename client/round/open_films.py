"""A site's films as a worker keeps them open from one task to the next."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from acm_core.config.site import SiteConfig
from acm_core.data.intake.intake import intake_folder
from acm_core.data.site_films import SiteFilms, load_site

_Seen = tuple[object, ...]


class OpenFilms:
    """The films that were read last, which are read again where anything has changed.

    What counts: the site's file, the findings, the size, the names, sizes and times of all files in the films folder,
    and those of the label file, the manifest and the prepared films. So a task pays for looking at the folder, and not
    for parsing labels and checking each prepared film.
    """

    def __init__(self) -> None:
        self._seen: _Seen | None = None
        self._films: SiteFilms | None = None

    def load(self, site: SiteConfig, findings: Sequence[str], image_size: int, *, apart: bool) -> SiteFilms:
        """As `load_site`."""
        asked = (site.model_dump_json(), tuple(findings), image_size, apart)
        found = _found(site)
        if self._films is None or self._seen != (asked, found, _made(site, image_size)):
            self._seen = self._films = None
            self._films = load_site(site, findings, image_size, apart=apart)
            # Of before: a film that came while the others were read is looked at next time.
            self._seen = asked, found, _made(site, image_size)
        return self._films


def _found(site: SiteConfig) -> _Seen:
    """Names, sizes and times of all that lies in the films folder, but for the site's state, and of the label file."""
    without = {str(site.state.resolve()), str(site.labels.resolve())}
    return (*_files(str(site.films.resolve()), without), _stamp(site.labels))


def _files(folder: str, without: Collection[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.path in without:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, without)
            else:
                yield entry.path, _stamp(entry.path)


def _made(site: SiteConfig, image_size: int) -> _Seen:
    """What the intake and the preparation leave."""
    folder = intake_folder(site)
    prepared = sorted((site.state / "prepared").glob(f"films-{image_size}-*"))
    return tuple(_stamp(path) for path in (folder / "manifest.sqlite", folder / "journal.sqlite", *prepared))


def _stamp(path: str | Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116  # twenty thousand times
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
