"""Which source a site's films come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from acm_core.data.source.film_source import FilmSource
from acm_core.data.source.folder import FolderSource

if TYPE_CHECKING:
    from acm_core.config.archive import Archive
    from acm_core.config.site import SiteConfig
    from acm_core.data.source.dicomweb import DicomwebSource

# An archive's libraries take half a second to import, and few sites need them.


def film_source(site: SiteConfig) -> FilmSource:
    """The source that a site's file names."""
    if isinstance(site.films, Path):
        return FolderSource(site.films, (site.labels, site.state))
    return dicomweb_source(site, site.films)


def dicomweb_source(site: SiteConfig, archive: Archive) -> DicomwebSource:
    """An archive as the source of a site's films."""
    from acm_core.data.labels import read_labels
    from acm_core.data.source.dicomweb import DicomwebSource, Wanted

    def wanted() -> Wanted:
        images = read_labels(site.labels, (), site.label_map).images
        return Wanted(site.label_map.image_is, frozenset(images))

    kept = site.state / "intake" / "archive.jsonl"
    return DicomwebSource(archive, kept, wanted if archive.query.listed else None)


def source_at(place: Any) -> FilmSource:
    """The source of this `place`, to read from."""
    if isinstance(place, str):
        return FolderSource(Path(place))
    from acm_core.config.archive import Archive
    from acm_core.data.source.dicomweb import DicomwebSource

    return DicomwebSource(Archive.model_validate(place))
