"""What a site does with a task: the same code at a hospital and in a simulation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from acm_core.arrays import Arrays
from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.data.label_file import LabelError
from acm_core.data.site_films import SiteFilms
from acm_core.deployment import CARD
from acm_core.federated.encoding import BaseMismatchError, EncodingError, decode, encode, is_of
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.federated.update import MAX_GROWTH, first_fault
from acm_core.figures import ModelName
from acm_core.files import write_text_atomically
from acm_core.nn import Classifier, trained_names, unfilled_classifier
from acm_core.randomness import stream_seed
from acm_core.training.local import (
    Proximal,
    Schedule,
    TrainingDivergedError,
    deterministic_kernels,
    make_optimizer,
    predict,
    train,
)
from acm_core.training.optimizer_state import get_optimizer_arrays, set_optimizer_arrays
from acm_core.training.weights import ModelMismatchError, blank_arrays, get_arrays, set_arrays
from client.round.delivery import Delivery, delivered_folder
from client.round.device import use_device
from client.round.evaluation import FEDERATED, evaluate_models
from client.round.frozen_features import what_trains
from client.round.kept_models import KeptModels, SiteRun
from client.round.local_only import train_local_only
from client.round.open_films import OpenFilms
from client.round.policy import expect_permitted, permitted_privacy
from client.round.refusal import RefusedError
from client.round.release import figures_leave, labelled_counts, released
from client.round.site_card import site_card

if TYPE_CHECKING:
    from client.round.private_round import PrivateRound

log = logging.getLogger("acm_fed.client")

_MIN_TRAINING_FILMS = 2


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
                return self._answer(task)
        except RefusedError as error:
            return self._refuse(task, error.refusal, error)
        except LabelError as error:
            return self._refuse(task, Refusal.LABELS, error)
        except ModelMismatchError as error:
            return self._refuse(task, Refusal.MODEL, error)
        except TrainingDivergedError as error:
            return self._refuse(task, Refusal.DIVERGED, error)
        except (MemoryError, torch.OutOfMemoryError) as error:
            return self._refuse(task, Refusal.MEMORY, error)
        except OSError as error:
            return self._refuse(task, Refusal.STORAGE, error)
        except Exception as error:
            log.exception("unexpected error")
            return self._refuse(task, Refusal.INTERNAL, error)

    def _answer(self, task: Task) -> Reply:
        try:
            config = FederationConfig.model_validate_json(task.config)
        except ValidationError as error:
            raise RefusedError(Refusal.POLICY, "expected a valid configuration with the task") from error
        if self._site.site not in config.federation.sites:
            raise RefusedError(Refusal.POLICY, f"the run is not for site {self._site.site}")
        first, last = int(task.kind is TaskKind.TRAIN), config.federation.rounds
        if not first <= task.round <= last:
            raise RefusedError(Refusal.POLICY, f"expected a round from {first} to {last}, got {task.round}")
        kept = KeptModels(self._site.state, SiteRun.of(config))
        if task.kind is TaskKind.TRAIN:
            kept.forget_rounds_from(task.round)  # whatever comes of this one, refused or not
        expect_permitted(config, self._site, datetime.now())  # the site's own clock time
        apart = config.privacy is not None
        films = self._films.load(self._site, config.findings, config.model.image_size, apart=apart)
        if task.kind is TaskKind.TRAIN:
            return self._train(task, config, films, kept)
        if task.kind is TaskKind.LOCAL_ONLY:
            privacy = permitted_privacy(config, self._site)
            mixed = config.deliver.rule == "mixture"
            if privacy is not None and not mixed and not figures_leave(privacy[1]):
                return Reply(self._site.site, task.round)  # nobody would learn how well it does
            model = self._model(config, self._received(task, config, kept))
            trained, seen = what_trains(model, films, config, kept, self._device)
            train_local_only(
                model,
                config,
                self._site.site,
                seen.train,
                films.fingerprint,
                kept,
                self._device,
                self._site.workers,
                trained,
            )
            return Reply(self._site.site, task.round)
        return self._evaluate(task, config, films, kept)

    def _train(self, task: Task, config: FederationConfig, films: SiteFilms, kept: KeptModels) -> Reply:
        private = self._private(config, films, kept)
        if private is None and len(films.train) < _MIN_TRAINING_FILMS:
            raise RefusedError(
                Refusal.NO_FILMS if len(films.train) == 0 else Refusal.TOO_FEW_FILMS,
                f"expected at least {_MIN_TRAINING_FILMS} labelled training films, got {len(films.train)}",
            )
        received = self._received(task, config, kept)
        kept.save_received(received)
        model = self._model(config, received)
        proximal = None
        if config.federation.proximal_mu > 0:
            reference = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
            proximal = Proximal(reference, config.federation.proximal_mu)
        log.info("round %d: training on %d films", task.round, len(films.train))
        if private is None:
            reply, optimizer = self._train_openly(task, config, films, kept, model, proximal)
        else:
            reply, optimizer = self._train_privately(task, config, private, model, proximal)
        log.info("round %d: trained", task.round)
        if not all(np.isfinite(array).all() for array in reply.arrays.values()):
            raise TrainingDivergedError("expected finite weights after training")
        kept.save_optimizer(task.round, optimizer)
        trained = trained_names(model)
        base = {name: received[name] for name in trained}
        encoding = config.federation.encoding
        residual = kept.load_residual(before=task.round) if encoding == "int8" else {}
        encoded = encode({name: reply.arrays[name] for name in base}, base, encoding, residual)
        if encoded.residual:
            kept.save_residual(task.round, encoded.residual)
        return replace(reply, arrays=encoded.payload)

    def _train_openly(
        self,
        task: Task,
        config: FederationConfig,
        films: SiteFilms,
        kept: KeptModels,
        model: Classifier,
        proximal: Proximal | None,
    ) -> tuple[Reply, Arrays]:
        """The trained weights, and the optimiser's state after the round."""
        trained, films = what_trains(model, films, config, kept, self._device)
        metrics: dict[str, float] = {}
        if len(films.validation):
            metrics["validation_loss"] = predict(
                trained, films.validation, config.training.batch_size, self._device
            )[1]
        epochs = config.training.epochs
        optimizer = make_optimizer(model, config.training)
        set_optimizer_arrays(optimizer, model, kept.load_optimizer(before=task.round))
        metrics["train_loss"] = train(
            trained,
            optimizer,
            films.train,
            config.training,
            Schedule((task.round - 1) * epochs, epochs, config.federation.rounds * epochs),
            seeds=lambda epoch: stream_seed(config.seed, self._site.site, epoch, "films"),
            device=self._device,
            proximal=proximal,
            workers=self._site.workers,
        )
        reply = Reply(
            self._site.site,
            task.round,
            films=len(films.train),
            labelled=tuple(int(count) for count in films.train.labelled()),
            metrics=metrics,
            arrays=get_arrays(model),
        )
        return reply, get_optimizer_arrays(optimizer, model)

    def _train_privately(
        self,
        task: Task,
        config: FederationConfig,
        private: PrivateRound,
        model: Classifier,
        proximal: Proximal | None,
    ) -> tuple[Reply, Arrays]:
        """Noised weights, and besides them only numbers that are the same whatever films there are."""
        arrays, optimizer, metrics = private.train(task, model, proximal)
        reply = Reply(
            self._site.site,
            task.round,
            films=private.policy.population,
            labelled=labelled_counts(config, private.policy),
            metrics=metrics,
            arrays=arrays,
        )
        return reply, optimizer

    def _private(self, config: FederationConfig, films: SiteFilms, kept: KeptModels) -> PrivateRound | None:
        """What trains under differential privacy, or None for a run without it."""
        privacy = permitted_privacy(config, self._site)
        if privacy is None:
            return None
        # Imported here: a simulation's workers would wait a second for Opacus, which most runs do without.
        from client.round.private_round import PrivateRound

        return PrivateRound(self._site, config, *privacy, films, kept, self._device)

    def _evaluate(self, task: Task, config: FederationConfig, films: SiteFilms, kept: KeptModels) -> Reply:
        log.info("evaluating on %d test films", len(films.test))
        private = self._private(config, films, kept)
        received = self._received(task, config, kept)
        shared = self._model(config, received)
        delivery = Delivery(config, self._site, films, kept, self._device)
        formed = delivery.form(shared)
        measured = formed.members if private is None or figures_leave(private.policy) else {}
        scores: dict[ModelName, NDArray[np.float32]] = {
            name: delivery.scores(members, films.test) for name, members in measured.items()
        }
        report = evaluate_models(scores, films, config, self._site, kept, formed.delivered.delivered)
        write_text_atomically(
            delivered_folder(self._site, config.name) / CARD,
            site_card(formed.delivered, report if measured else None),
        )
        report = released(report, None if private is None else private.policy)
        if private is not None and private.policy.metrics == "noised":
            report = report.model_copy(update={"models": {FEDERATED: private.report(task.round, shared)}})
        return Reply(self._site.site, task.round, report=report.model_dump_json())

    def _received(self, task: Task, config: FederationConfig, kept: KeptModels) -> Arrays:
        """The weights sent: all, or what trains beside the rest that came before; as values, or as the difference to
        those that came last.

        The rest comes with round 1, or with the first task that the site gets, and stays as it is.
        """
        try:
            before = kept.load_received()
        except OSError:
            before = None
        model = unfilled_classifier(config.model, len(config.findings))
        last = before or blank_arrays(model)
        trained = trained_names(model)
        part = {name: last[name] for name in trained}
        try:
            is_part = len(part) < len(last) and is_of(task.arrays, part)
            received = {**last, **decode(task.arrays, part)} if is_part else decode(task.arrays, last)
        except BaseMismatchError as error:
            raise RefusedError(Refusal.BASE, str(error)) from error
        except EncodingError as error:
            raise RefusedError(Refusal.MODEL, str(error)) from error
        if is_part and before is None:
            raise RefusedError(Refusal.BASE, "expected the whole model first, got what trains of it")
        if before and not (task.kind is TaskKind.TRAIN and task.round == 1):
            _expect_same(received, before, sorted(last.keys() - trained))
        if fault := first_fault(received, last, MAX_GROWTH):
            raise RefusedError(Refusal.MODEL, fault[1])
        return received

    def _model(self, config: FederationConfig, arrays: Arrays) -> Classifier:
        model = unfilled_classifier(config.model, len(config.findings))
        set_arrays(model, arrays)
        return model.to(self._device).to(memory_format=torch.channels_last)

    def _refuse(self, task: Task, refusal: Refusal, error: Exception) -> Reply:
        log.error("round %d: %s refused (%s): %s", task.round, task.kind, refusal, error)
        if refusal in _OF_PATIENTS and _is_private(task):
            refusal = Refusal.UNABLE
        return Reply(self._site.site, task.round, refusal=refusal)


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


def _expect_same(received: Arrays, before: Arrays, frozen: Sequence[str]) -> None:
    for name in frozen:
        if received[name].tobytes() != before[name].tobytes():
            raise RefusedError(
                Refusal.MODEL,
                f"{name}: expected the values that came first, which model.trainable leaves as they are, got others: "
                "begin the run anew, under another name",
            )
