"""What a site does with a task: the same code at a hospital and in a simulation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.data.label_file import LabelError
from acm_core.deployment import CARD
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.figures import ModelName
from acm_core.files import write_text_atomically
from acm_core.nn import trained_names
from acm_core.training.local import TrainingDivergedError, deterministic_kernels
from acm_core.training.weights import ModelMismatchError
from client.round.delivery import Delivery, delivered_folder
from client.round.device import use_device
from client.round.evaluation import FEDERATED, evaluate_models
from client.round.exchange import received_weights, sent_weights
from client.round.frozen_features import what_trains
from client.round.local_only import train_local_only
from client.round.open_films import OpenFilms
from client.round.open_round import train_openly
from client.round.refusal import RefusedError
from client.round.release import figures_leave, released
from client.round.site_card import site_card
from client.round.site_task import SiteTask

if TYPE_CHECKING:
    from client.round.private_round import PrivateRound

log = logging.getLogger("acm_fed.client")


class SiteRound:
    """Answers the server's tasks with the films of one site.

    Nothing but the declared fields of `Reply` leaves: an error becomes a reason code, its text and trace go to the
    site's own log.

    Args:
        films: of the site, as the process that answers has them open.
    """

    def __init__(self, site: SiteConfig, films: OpenFilms | None = None) -> None:
        self._site, self._films = site, films or OpenFilms()
        self._device = use_device(site)

    def answer(self, task: Task) -> Reply:
        """Do `task` and return its reply; never raises for anything that goes wrong with films, labels or training."""
        try:
            with deterministic_kernels():
                return _DOES[task.kind](SiteTask.of(task, self._site, self._films, self._device))
        except Exception as error:
            return self._refuse(task, error)

    def _refuse(self, task: Task, error: Exception) -> Reply:
        if isinstance(error, RefusedError):
            refusal = error.refusal
        else:
            refusal = next(
                (reason for kinds, reason in _REASONS.items() if isinstance(error, kinds)), Refusal.INTERNAL
            )
        trace = error if refusal is Refusal.INTERNAL else None
        log.error("round %d: %s refused (%s): %s", task.round, task.kind, refusal, error, exc_info=trace)
        if refusal in _OF_PATIENTS and _is_private(task):
            refusal = Refusal.UNABLE
        return Reply(self._site.site, task.round, refusal=refusal)


_REASONS: dict[type[Exception] | tuple[type[Exception], ...], Refusal] = {
    LabelError: Refusal.LABELS,
    ModelMismatchError: Refusal.MODEL,
    TrainingDivergedError: Refusal.DIVERGED,
    (MemoryError, torch.OutOfMemoryError): Refusal.MEMORY,
    OSError: Refusal.STORAGE,
}
_OF_PATIENTS = frozenset(
    {
        Refusal.LEDGER,
        Refusal.LABELS,
        Refusal.NO_FILMS,
        Refusal.TOO_FEW_FILMS,
        Refusal.DIVERGED,
        Refusal.MEMORY,
        Refusal.STORAGE,
        Refusal.INTERNAL,
    }
)
"""Which of these it is may hang on one patient, whom a private run promises to hide."""


def _is_private(task: Task) -> bool:
    try:
        return FederationConfig.model_validate_json(task.config).privacy is not None
    except ValidationError:
        return False


def _train(task: SiteTask) -> Reply:
    received = received_weights(task)
    task.kept.save_received(received)
    model = task.model(received)
    names, number = trained_names(model), task.asked.round
    log.info("round %d: training on %d films", number, len(task.films.train))
    private = _private(task)
    trained = train_openly(task, model) if private is None else private.train(model)
    log.info("round %d: trained", number)
    sent = sent_weights(task, trained.arrays, received, names)
    task.kept.save_optimizer(number, trained.optimizer)
    return Reply(
        task.site.site,
        number,
        films=trained.films,
        labelled=trained.labelled,
        metrics=trained.metrics,
        arrays=sent,
    )


def _train_alone(task: SiteTask) -> Reply:
    nothing = Reply(task.site.site, task.asked.round)
    mixed = task.config.deliver.rule == "mixture"
    if task.privacy is not None and not mixed and not figures_leave(task.privacy[1]):
        return nothing  # nobody would learn how well it does
    model = task.model(received_weights(task))
    trained, seen = what_trains(model, task.films, task.config, task.kept, task.device)
    train_local_only(
        model,
        task.config,
        task.site.site,
        seen.train,
        task.films.fingerprint,
        task.kept,
        task.device,
        task.site.workers,
        trained,
    )
    return nothing


def _evaluate(task: SiteTask) -> Reply:
    config, films, number = task.config, task.films, task.asked.round
    log.info("evaluating on %d test films", len(films.test))
    private = _private(task)
    policy = None if private is None else private.policy
    shared = task.model(received_weights(task))
    delivery = Delivery(task)
    formed = delivery.form(shared)
    measured = formed.members if policy is None or figures_leave(policy) else {}
    scores: dict[ModelName, NDArray[np.float32]] = {
        name: delivery.scores(members, films.test) for name, members in measured.items()
    }
    report = evaluate_models(scores, films, config, task.site, task.kept, formed.delivered.delivered)
    write_text_atomically(
        delivered_folder(task.site, config.name) / CARD,
        site_card(formed.delivered, report if measured else None),
    )
    report = released(report, policy)
    if private is not None and private.policy.metrics == "noised":
        report = report.model_copy(update={"models": {FEDERATED: private.report(shared)}})
    return Reply(task.site.site, number, report=report.model_dump_json())


_DOES = {TaskKind.TRAIN: _train, TaskKind.LOCAL_ONLY: _train_alone, TaskKind.EVALUATE: _evaluate}


def _private(task: SiteTask) -> PrivateRound | None:
    """What trains under differential privacy, or None for a run without it."""
    if task.privacy is None:
        return None
    # Imported here: a simulation's workers would wait a second for Opacus, which most runs do without.
    from client.round.private_round import PrivateRound

    return PrivateRound(task, *task.privacy)
