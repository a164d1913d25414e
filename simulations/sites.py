"""The simulated sites: synthetic hospitals written to disk, or folders of real films."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path

from acm_core.config import dump_config
from acm_core.config.site import LabelMap, SiteConfig, SitePolicy, SitePrivacy
from acm_core.data.splits import Split, split_of
from acm_core.files import write_atomically, write_text_atomically
from acm_core.randomness import stream
from simulations.phantoms import write_hospital
from simulations.settings import SimulationConfig

_SMALLEST_GROUP = 2  # what an interval needs: nobody is behind a simulation's small cells

Progress = Callable[[str, int, int], None]


class MissingFilmsError(RuntimeError):
    """A folder of real films is not there."""


def prepare_sites(
    config: SimulationConfig, processes: int, progress: Progress, *, resume: bool
) -> dict[str, SiteConfig]:
    """Write the synthetic hospitals that are not there yet and return each site's settings.

    The settings also lie in `DATA/sites/RUN/SITE.yaml`, for the commands of the client.

    Args:
        resume: keep the sites' privacy ledgers. A simulation that starts anew is another history of the same hospitals,
            in which nothing has been spent.
        progress: called with (site, films written, films in all).

    Raises:
        MissingFilmsError: a folder of real films has no label file.
    """
    section = config.simulation
    for name, folder in section.folders.items():
        if not (folder / "labels.csv").is_file():
            raise MissingFilmsError(
                f"simulation.folders.{name}: expected a folder with labels.csv and films, found none at {folder}"
            )
    folders = dict(section.folders)
    for hospital in section.hospitals:
        folder = section.data / "hospitals" / config.name / hospital.name
        write_hospital(
            hospital,
            folder,
            config.seed,
            progress=lambda done, total, name=hospital.name: progress(name, done, total),  # type: ignore[misc]
        )
        folders[hospital.name] = folder
    sites = {name: _site(config, name, folders[name], processes) for name in config.federation.sites}
    for name, site in sites.items():
        write_text_atomically(section.data / "sites" / config.name / f"{name}.yaml", dump_config(site))
    if config.privacy is not None and not resume:
        for site in sites.values():
            for kept in ("privacy", "runs"):
                shutil.rmtree(site.state / kept, ignore_errors=True)
    return sites


def _site(config: SimulationConfig, name: str, folder: Path, processes: int) -> SiteConfig:
    state = config.simulation.data / "state" / config.name / name
    salt = state / "salt"
    # A hospital draws its salt from the operating system; a simulation has to split the same way every time.
    content = stream(config.seed, name, "salt").bytes(32)
    if not salt.exists() or salt.read_bytes() != content:
        write_atomically(salt, lambda path: path.write_bytes(content))
        salt.chmod(0o600)
    return SiteConfig(
        site=name,
        films=folder,
        labels=_labels(config, name, folder / "labels.csv", state, content),
        state=state,
        splits=config.simulation.splits,
        threads=1 if processes > 1 else None,
        policy=SitePolicy(smallest_group=_SMALLEST_GROUP),
        privacy=_policy(config, name),
    )


def _labels(config: SimulationConfig, name: str, labels: Path, state: Path, salt: bytes) -> Path:
    """The site's label file; with `training_patients` one without the rows of the other training patients."""
    most = config.simulation.training_patients
    if most is None:
        return labels
    with labels.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    column = LabelMap().patient
    shares = config.simulation.splits
    training = sorted({row[column] for row in rows if split_of(row[column], salt, shares) == Split.TRAIN})
    left_out = {
        training[place] for place in stream(config.seed, name, "patients").permutation(len(training))[most:]
    }
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(row for row in rows if row[column] not in left_out)
    chosen = state / "labels.csv"
    write_text_atomically(chosen, text.getvalue())
    return chosen


def _policy(config: SimulationConfig, name: str) -> SitePrivacy | None:
    """What the run needs and no more; figures leave as they are, since a simulation's films are not a hospital's."""
    if config.privacy is None:
        return None
    return SitePrivacy(
        unit=config.privacy.unit,
        epsilon=config.privacy.epsilon,
        delta=config.privacy.delta,
        population=config.simulation.populations[name],
        counts="exact",
        metrics="exact",
    )
