"""`python -m client.doctor --site=A`: whether this site can take part, a row for each thing, with the fix."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.checks import Check, show_checks
from acm_core.command import run_command
from client.site.site_arguments import add_site_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acm_core.config.archive import Archive
    from acm_core.config.sections import FederationConfig
    from acm_core.config.site import SiteConfig
    from client.site.membership import Membership

_LEAST_GIGABYTES = 5.0
_DAYS_WARNED = 60


def main(arguments: list[str] | None = None) -> int:
    """Examine and print; returns the exit code (0 all is right, 1 something is not, 2 the site file is wrong)."""
    parser = argparse.ArgumentParser(
        prog="python -m client.doctor",
        description="Examine whether this site can take part: server, certificate, clock, key, disk, films, policy. "
        "Nothing leaves the site but one signed greeting; nothing is changed.",
        epilog="exit codes: 0 all is right; 1 something is not, and its row says what to do; 2 the site file or the "
        "federation file is wrong",
    )
    add_site_arguments(parser)
    parser.add_argument(
        "--federation",
        type=Path,
        metavar="FILE",
        help="also whether the site's policy permits this federation file",
    )
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError, load_config
    from acm_core.config.sections import FederationConfig
    from acm_core.config.site import SiteConfig

    try:
        site = load_config(options.sites / f"{options.site}.yaml", SiteConfig)
        config = None if options.federation is None else load_config(options.federation, FederationConfig)
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 2
    name = site.site
    rows = list(_checks(site, config))
    return show_checks(rows, f"site {name} can take part", f"to mend before site {name} can take part")


def _checks(site: SiteConfig, config: FederationConfig | None) -> Iterator[Check]:
    from acm_core import checks
    from client.link.connection import examine
    from client.site.membership import Membership, NotEnrolledError

    yield checks.versions()
    yield from _films(site)
    yield from checks.machine(site.state, _LEAST_GIGABYTES, "prepared films and models")
    if site.workers:
        yield checks.shared_memory()
    yield _device(site)
    try:
        membership = Membership.load(site)
    except NotEnrolledError as error:
        yield Check("membership", "not enrolled", str(error))
    else:
        yield _membership(membership)
        yield from examine(membership, site.site)
    if config is not None:
        yield _policy(site, config)


def _films(site: SiteConfig) -> Iterator[Check]:
    import sqlite3

    from acm_core.data.intake.intake import intake_folder
    from acm_core.data.intake.manifest import fingerprint, read_rows

    if isinstance(site.films, Path) and not site.films.is_dir():
        yield Check(
            "films", f"no folder at {site.films}", "films: in the site file names the folder of the films"
        )
        return
    if not site.labels.is_file():
        yield Check(
            "labels", f"no file at {site.labels}", "labels: in the site file names the CSV of the labels"
        )
        return
    if not isinstance(site.films, Path):
        yield _archive(site, site.films)
    manifest = intake_folder(site) / "manifest.sqlite"
    if not manifest.is_file():
        fix = f"run python -m client.preflight --site={site.site}, and look at its page before training"
        yield Check("films", "not looked at yet", fix)
        return
    try:
        rows = sum(1 for _ in read_rows(manifest))
    except (sqlite3.DatabaseError, TypeError, ValueError):
        fix = f"run python -m client.preflight --site={site.site}, which writes it anew"
        yield Check("films", f"expected a manifest in {manifest}, got a damaged file", fix)
        return
    yield Check("films", f"{rows:,} files in the manifest, dataset {fingerprint(manifest)[:12]}")


def _archive(site: SiteConfig, archive: Archive) -> Check:
    from acm_core.data.label_file import LabelError
    from acm_core.data.source.choice import dicomweb_source
    from acm_core.data.source.dicomweb_link import ArchiveError

    if archive.token_file is not None and archive.token_file.is_file():
        mode = archive.token_file.stat().st_mode & 0o777
        if mode & 0o077:
            fix = f"chmod 600 {archive.token_file}: others on this machine can read the credential"
            return Check("archive", f"the token file has mode {mode:03o}", fix)
    try:
        films, searches = dicomweb_source(site, archive).first_page()
    except ArchiveError as error:
        return Check("archive", error.found, error.fix)
    except LabelError as error:
        return Check("archive", "not asked, since the label file cannot be read", str(error))
    if not searches:
        return Check(
            "archive", f"{archive}: nothing to ask for", "the label file lists no film by label_map: image_is"
        )
    found = f"{archive} answers: {films:,} films on the first page of the first of {searches:,} searches"
    if not films and searches == 1:
        return Check("archive", found, "look at films: query in the site file")
    return Check("archive", found)


def _device(site: SiteConfig) -> Check:
    import os

    import torch

    if site.device != "cpu" and torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Check("device", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GB")
    cores = f"CPU, {os.cpu_count()} cores"
    if site.device == "cuda":
        return Check(
            "device", f"{cores}; no CUDA device", "mend the driver, or set device: auto in the site file"
        )
    return Check("device", cores)


def _membership(membership: Membership) -> Check:
    found = (
        f"{membership.federation} at {membership.address}, authority valid for {membership.days_left} days"
    )
    if membership.days_left < _DAYS_WARNED:
        fix = "ask the operator for a new authority and answer file before it ends"
        return Check("membership", found, fix)
    return Check("membership", found)


def _policy(site: SiteConfig, config: FederationConfig) -> Check:
    from datetime import datetime

    from client.round.policy import expect_permitted, permitted_privacy
    from client.round.refusal import RefusedError

    if site.site not in config.federation.sites:
        return Check(
            "policy",
            f"run {config.name} is not for this site",
            "ask the operator to add it to federation.sites",
        )
    try:
        expect_permitted(config, site, datetime.now())  # the site's own clock time
        permitted_privacy(config, site)
    except RefusedError as error:
        return Check("policy", f"does not permit run {config.name}", str(error))
    return Check("policy", f"permits run {config.name}")


if __name__ == "__main__":
    run_command(main)
