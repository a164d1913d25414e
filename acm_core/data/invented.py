"""Whether a site's films are phantoms, drawn by a computer, as the record beside them says."""

from __future__ import annotations

from pathlib import Path

from acm_core.config.site import SiteConfig

RECORD_FILE = "phantom.json"
"""What the generator of phantoms leaves in the folder of the films and of the label file."""


def are_invented(site: SiteConfig) -> bool:
    """Whether a generator's record lies in the site's folder of films, or beside its label file."""
    folders = [site.labels.parent, *([site.films] if isinstance(site.films, Path) else [])]
    return any((folder / RECORD_FILE).is_file() for folder in folders)
