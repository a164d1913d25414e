"""A site's films as a worker keeps them open from one task to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acm_core.config.site import SiteConfig
from acm_core.data.intake.intake import intake_folder
from acm_core.data.site_films import SiteFilms, load_site
from acm_core.data.source.choice import film_source

_Seen = tuple[object, ...]


class OpenFilms:
    """The films that were read last, which are read again where anything has changed.

    What counts: the site's file, the findings, the size, what the films' source lists, and size and times of the label
    file, the manifest and the prepared films. So a task pays for looking at the folder, and not for parsing labels and
    checking each prepared film.
    """

    def __init__(self) -> None:
        self._seen: _Seen | None = None
        self._films: SiteFilms | None = None

    def load(self, site: SiteConfig, findings: Sequence[str], image_size: int, *, apart: bool) -> SiteFilms:
        """As `load_site`."""
        asked = (site.model_dump_json(), tuple(findings), image_size, apart)
        found = film_source(site).state(), _stamp(site.labels)
        if self._films is None or self._seen != (asked, found, _made(site, image_size)):
            self._seen = self._films = None
            self._films = load_site(site, findings, image_size, apart=apart)
            # Of before: a film that came while the others were read is looked at next time.
            self._seen = asked, found, _made(site, image_size)
        return self._films


def _made(site: SiteConfig, image_size: int) -> _Seen:
    """What the intake and the preparation leave."""
    folder = intake_folder(site)
    prepared = sorted((site.state / "prepared").glob(f"films-{image_size}-*"))
    return tuple(_stamp(path) for path in (folder / "manifest.sqlite", folder / "journal.sqlite", *prepared))


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
