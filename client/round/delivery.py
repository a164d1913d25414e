"""The model that a site has in the end: formed at the site from the shared model and its own films.

A choice among models by a site's few validation films is mostly luck. So one rule holds for all sites. A site departs
from it only where another model is better by a paired interval above zero.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acm_core.arrays import Arrays, fingerprint
from acm_core.config.sections import Delivered
from acm_core.config.site import SiteConfig
from acm_core.data.invented import are_invented
from acm_core.data.site_films import FilmSet
from acm_core.deployment import Deployment, Description, OperatingPoint, write_deployment
from acm_core.federated.cohort import Cohort
from acm_core.files import remove_unfinished
from acm_core.histograms import ScoreHistogram
from acm_core.nn import Classifier
from acm_core.randomness import stream_seed
from acm_core.training.adaptation import estimate_statistics
from acm_core.training.local import Schedule, make_optimizer, predict, train
from acm_core.training.metrics import paired_difference
from acm_core.training.weights import get_arrays
from client.round.site_task import SiteTask

log = logging.getLogger("acm_fed.client")

Scores = NDArray[np.float32]

_FEWEST_PATIENTS = 50


@dataclass(frozen=True)
class SiteModels:
    """What a site can have after the rounds.

    Attributes:
        members: name → arrays of the model, or of the models whose scores are averaged, as far as they were formed.
            `federated`: the shared model with the site's own normalisation; `mixture`: half that, half
            `local_only`.
        delivered: the one that the site has in the end, as it was written.
    """

    members: Mapping[Delivered, tuple[Arrays, ...]] = field(repr=False)
    delivered: Deployment


class Delivery:
    """Forms a site's models and hands over one of them.

    The training films fine-tune, the validation films choose; test films are not looked at.
    """

    def __init__(self, task: SiteTask) -> None:
        self._task, self._config, self._site = task, task.config, task.site
        self._films, self._kept, self._device = task.films, task.kept, task.device

    def form(self, shared: Classifier) -> SiteModels:
        """Form what the run asks for and write the delivered model into the site's state folder.

        Args:
            shared: the global model as it came; its normalisation is measured here where the run says so.
        """
        if self._config.federation.normalisation == "site":
            estimate_statistics(shared, self._films.train, self._device)
        arrays = get_arrays(shared)
        members: dict[Delivered, tuple[Arrays, ...]] = {"federated": (arrays,)}
        alone = self._kept.load_local_only(self._films.fingerprint)
        if self._config.evaluation.local_only and alone is not None:
            members["local_only"] = (alone,)
            members["mixture"] = (arrays, alone)
        if self._config.fine_tunes and len(self._films.train):
            members["fine_tuned"] = (self._fine_tuned(shared, fingerprint(arrays)),)
        on_validation = {
            name: self.scores(several, self._films.validation) for name, several in members.items()
        }
        delivered = self._chosen(on_validation)
        return SiteModels(members, self._write(delivered, members[delivered], on_validation[delivered]))

    def scores(self, members: tuple[Arrays, ...], films: FilmSet) -> Scores:
        """Probabilities N×F: the mean of the members'."""
        if len(films) == 0:
            return np.zeros((0, len(self._config.findings)), np.float32)
        batch = self._config.training.batch_size
        of_each = [predict(self._task.model(arrays), films, batch, self._device)[0] for arrays in members]
        mean: Scores = np.mean(of_each, axis=0, dtype=np.float32)
        return mean

    def _fine_tuned(self, shared: Classifier, start: str) -> Arrays:
        """The shared model after some gentle epochs on the site's films, with an optimiser of its own."""
        settings = self._config.deliver
        of = f"{self._films.fingerprint}{start}{settings.model_dump_json()}"
        if (tuned := self._kept.load_fine_tuned(of)) is not None:
            return tuned
        config = self._config.training.model_copy(update={"learning_rate": settings.learning_rate})
        model = self._task.model(get_arrays(shared))
        log.info("fine-tuning the shared model on %d films", len(self._films.train))
        train(
            model,
            make_optimizer(model, config),
            self._films.train,
            config,
            Schedule(0, settings.epochs, settings.epochs),
            seeds=lambda epoch: stream_seed(self._config.seed, self._site.site, epoch, "fine-tuning"),
            device=self._device,
            workers=self._site.workers,
        )
        tuned = get_arrays(model)
        self._kept.save_fine_tuned(of, tuned)
        return tuned

    def _chosen(self, on_validation: Mapping[Delivered, Scores]) -> Delivered:
        rule: Delivered = "federated" if self._config.deliver.rule == "shared" else self._config.deliver.rule
        if rule not in on_validation:
            rule = "federated"  # the site did not train alone, or has nothing to fine-tune on
        chosen = choose(
            rule,
            on_validation,
            self._films.validation,
            self._config.findings,
            resamples=self._config.evaluation.bootstrap,
            seed=stream_seed(self._config.seed, self._site.site, "choice"),
        )
        if chosen != rule:
            log.info("delivering %s instead of %s: clearly better on the validation films", chosen, rule)
        return chosen

    def _write(self, delivered: Delivered, members: tuple[Arrays, ...], on_validation: Scores) -> Deployment:
        config = self._config
        description = Description(
            run=config.name,
            version=version("acm-fed"),
            findings=config.findings,
            model=config.model.shared(),
            operating_points=self._operating_points(on_validation),
            site=self._site.site,
            delivered=delivered,
            cohorts=(
                Cohort(
                    site=self._site.site,
                    invented=are_invented(self._site),
                    about=self._site.about,
                    fingerprint=self._films.fingerprint,
                ),
            ),
        )
        folder = delivered_folder(self._site, config.name)
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder)
        return write_deployment(folder, description, members)

    def _operating_points(self, scores: Scores) -> dict[str, tuple[OperatingPoint, ...]]:
        """By the site's own validation films."""
        labels = self._films.validation.labels
        points = {}
        for column, finding in enumerate(self._config.findings):
            histogram = ScoreHistogram.of(scores[:, column], labels[:, column])
            points[finding] = tuple(
                OperatingPoint(specificity=specificity, threshold=point[0], sensitivity=point[1])
                for specificity in self._config.evaluation.specificities
                if (point := histogram.operating_point(specificity)) is not None
            )
        return points


def choose(
    rule: Delivered,
    scores: Mapping[Delivered, Scores],
    films: FilmSet,
    findings: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> Delivered:
    """`rule`, or the best of the models whose mean AUROC on these films is above its by a 95 % paired interval.

    With films of fewer than 50 patients always `rule`: the bootstrap's interval is too narrow there (DiCiccio and Efron
    1996), and a site would follow luck.

    Args:
        scores: model → probabilities N×F for the films; `rule` is among them.
        resamples, seed: of the patient bootstrap.
    """
    margins: dict[Delivered, float] = {}
    enough = len(np.unique(films.patients)) >= _FEWEST_PATIENTS
    for name in scores if enough else ():
        difference = paired_difference(
            scores[name],
            scores[rule],
            films.labels,
            films.patients,
            findings,
            resamples=resamples,
            seed=seed,
        )
        if difference is not None and difference.low is not None and difference.low > 0:
            margins[name] = difference.value
    return max(margins, key=lambda name: margins[name], default=rule)


def delivered_folder(site: SiteConfig, run: str) -> Path:
    """Where the site has its model of a run, for `client.predict`, `client.explain` and `client.export`."""
    return site.state / "models" / run
