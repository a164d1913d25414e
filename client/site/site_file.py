"""The site's own file, as every command of the client opens it."""

from __future__ import annotations

from pathlib import Path

from acm_core.config.loading import load_config
from acm_core.config.site import SiteConfig


class SiteFileError(Exception):
    """The site's file is well-formed but does not fit what is on disk."""


def load_named_site(folder: Path, name: str) -> SiteConfig:
    """The settings of site `name` from `folder`/`name`.yaml, whatever else is there.

    Raises:
        ConfigError: the file is missing or wrong.
        SiteFileError: it is another site's.
    """
    path = folder / f"{name}.yaml"
    site = load_config(path, SiteConfig)
    if site.site != name:
        raise SiteFileError(f"{path}: site: expected {name!r}, the name asked for, got {site.site!r}")
    return site


def load_site_file(folder: Path, name: str) -> SiteConfig:
    """The settings of site `name` from `folder`/`name`.yaml.

    Raises:
        ConfigError: the file is missing or wrong.
        SiteFileError: it is another site's, or its films or labels are not there.
    """
    path = folder / f"{name}.yaml"
    site = load_named_site(folder, name)
    if isinstance(site.films, Path) and not site.films.is_dir():
        raise SiteFileError(f"{path}: films: expected a folder, found none at {site.films}")
    if not site.labels.is_file():
        raise SiteFileError(f"{path}: labels: expected a CSV file, found none at {site.labels}")
    return site
