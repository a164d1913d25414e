"""Leave one hospital out: what a new hospital gets from the others, against models of its own films alone."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.data.site_films import FilmSet, SiteFilms, load_site
from acm_core.nn import Classifier, build_classifier, unfilled_classifier
from acm_core.processes import usable_cores
from acm_core.randomness import stream, stream_seed
from acm_core.training.adaptation import estimate_statistics
from acm_core.training.local import predict
from acm_core.training.weights import load_arrays, set_arrays
from client.round.device import best_device
from client.round.kept_models import KeptModels, KeptScores, SiteRun
from client.round.local_only import train_local_only
from server.round.run_folder import RunFolder
from server.round.starts import load_start
from simulations.run import run
from simulations.settings import SimulationConfig
from simulations.sites import prepare_sites
from simulations.tables.cells import SiteFigures
from simulations.tables.experiment import Cell, Experiment
from simulations.tables.finished import seconds_at_work
from simulations.tables.replicates import measure
from simulations.tables.run_folders import forget, opened

OWN_FILMS = (25, 50, 100, 200)
"""Training films of a new hospital's own models, beside one of all it has."""

_FINISHED = "simulation_finished"
Scores = NDArray[np.float32]


class FailedRunError(RuntimeError):
    """The others' training failed."""


def measure_newcomers(experiment: Experiment, cell: Cell, runs: Path) -> tuple[dict[str, SiteFigures], float]:
    """Each site's figures as the one left out, and the seconds that all of it took.

    The models at a site: `received`, which the other sites trained together, as it comes; `adapted`, the same with
    batch statistics of the new hospital's own training films, whose labels are not looked at; `own_25` … and
    `local_only`, trained there on so many films and on all.

    Raises:
        FailedRunError: a run of the other sites failed; its folder is named.
    """
    begun, trained = time.monotonic(), 0.0
    sites = prepare_sites(cell.config, usable_cores(), lambda *_: None, resume=True)
    figures: dict[str, SiteFigures] = {}
    for site, settings in sites.items():
        others = without(cell.config, site)
        folder, before = _of_others(others, runs)
        trained += before
        films = load_site(settings, cell.config.findings, cell.config.model.image_size)
        if len(films.test) == 0:
            continue
        scores = KeptScores(
            films.test.labels,
            films.test.patients,
            dict(_scores(cell.config.federation_config(), settings, films, folder.model)),
        )
        figures[site] = SiteFigures(
            fingerprint=films.fingerprint,
            training_films=len(films.train),
            shortcuts={},
            **measure(scores, cell.config.findings, experiment.settings.least_patients, cell.seed, site),
        )
    return figures, round(time.monotonic() - begun + trained, 1)


def without(config: SimulationConfig, site: str) -> SimulationConfig:
    """The simulation without one site, and without what is only for comparison."""
    settings = config.model_dump()
    sites = [name for name in config.federation.sites if name != site]
    settings["name"] = f"{config.name}-without-{site}"
    settings["evaluation"] |= {"local_only": False, "fine_tuned": False}
    settings["federation"] |= {"sites": sites, "quorum": min(config.federation.quorum, len(sites))}
    simulation: dict[str, Any] = settings["simulation"]
    simulation["pooled"] = False
    simulation["hospitals"] = [spec for spec in simulation["hospitals"] if spec["name"] != site]
    for by_site in ("folders", "populations"):
        simulation[by_site].pop(site, None)
    return SimulationConfig.model_validate(settings)


def own_films(train: FilmSet, films: int, seed: int, site: str) -> FilmSet:
    """So many of the training films, of patients in a drawn order: more films are the fewer ones and others."""
    patients = stream(seed, site, "own films").permutation(np.unique(train.patients))
    place = {patient: number for number, patient in enumerate(patients.tolist())}
    order = np.argsort([place[patient] for patient in train.patients.tolist()], kind="stable")[:films]
    return FilmSet(np.asarray(train.images)[order], train.labels[order], train.patients[order])


def own_epochs(config: FederationConfig, films: int, all_films: int) -> int:
    """Epochs in which so few films are trained on in as many steps as all the films are."""
    size = config.training.batch_size
    steps = config.federation.rounds * config.training.epochs * math.ceil(all_films / size)
    return max(1, round(steps / math.ceil(films / size)))


def _of_others(config: SimulationConfig, runs: Path) -> tuple[RunFolder, float]:
    """The finished run of the others, and the seconds that it took before this call."""
    folder, resume = opened(runs, config)
    before = seconds_at_work(folder.events) if folder.events.exists() else 0.0
    if not _finished(folder) and run(config, folder, resume=resume) != 0:
        raise FailedRunError(f"{config.name} failed: see {folder.folder}")
    forget(folder, config)
    return folder, before


def _finished(folder: RunFolder) -> bool:
    if not (folder.events.exists() and folder.model.exists()):
        return False
    lines = folder.events.read_text(encoding="utf-8").splitlines()
    return bool(lines) and json.loads(lines[-1])["event"] == _FINISHED


def _scores(
    config: FederationConfig, site: SiteConfig, films: SiteFilms, received: Path
) -> Iterator[tuple[str, Scores]]:
    """Model → what it says of the site's test films."""
    device = best_device()

    def said(model: Classifier) -> Scores:
        return predict(model, films.test, config.training.batch_size, device)[0]

    model = unfilled_classifier(config.model, len(config.findings))
    set_arrays(model, load_arrays(received))
    model = model.to(device).to(memory_format=torch.channels_last)
    yield "received", said(model)
    if estimate_statistics(model, films.train, device):
        yield "adapted", said(model)
    for count in OWN_FILMS:
        if count < len(films.train):
            yield f"own_{count}", said(_own(config, site, films, count, device))
    if len(films.train):
        yield "local_only", said(_own(config, site, films, len(films.train), device))


def _own(
    config: FederationConfig, site: SiteConfig, films: SiteFilms, count: int, device: torch.device
) -> Classifier:
    """The model trained at the site on so many films; training goes on where an interrupted call stopped."""
    model = build_classifier(config.model, len(config.findings), seed=stream_seed(config.seed, "model"))
    if config.model.weights is not None:
        load_start(model, config)
    model = model.to(device).to(memory_format=torch.channels_last)
    epochs = own_epochs(config, count, len(films.train))
    alone = config.model_copy(
        update={
            "name": f"{config.name}-own-{count}",
            "training": config.training.model_copy(update={"epochs": 1}),
            "federation": config.federation.model_copy(update={"rounds": epochs}),
        }
    )
    kept = KeptModels(site.state, SiteRun.of(alone))
    fingerprint = hashlib.sha256(f"{films.fingerprint} {count}".encode()).hexdigest()
    chosen = own_films(films.train, count, config.seed, site.site)
    train_local_only(model, alone, site.site, chosen, fingerprint, kept, device)
    arrays = kept.load_local_only(fingerprint)
    if arrays is None:
        raise FailedRunError(f"{alone.name}: expected a model of {site.site}, got none kept")
    set_arrays(model, arrays)
    return model
