"""Which source a site's films come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from acm_core.data.source.film_source import FilmSource
from acm_core.data.source.folder import FolderSource

if TYPE_CHECKING:
    from acm_core.config.site import SiteConfig


def film_source(site: SiteConfig) -> FilmSource:
    """The source that a site's file names."""
    return FolderSource(site.films, (site.labels, site.state))


def source_at(place: Any) -> FilmSource:
    """The source of this `place`, to read from."""
    return FolderSource(Path(place))
