"""What a site does with a task: the same code at a hospital and in a simulation."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import ValidationError

from acm_core.config.sections import FederationConfig, SiteConfig
from acm_core.data.labels import LabelError
from acm_core.data.site_films import SiteFilms, load_site
from acm_core.federated.encoding import BaseMismatchError, EncodingError, decode, encode
from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from acm_core.federated.update import Arrays, overgrown
from acm_core.nn import Classifier, normalisation_names, unfilled_classifier
from acm_core.randomness import stream_seed
from acm_core.training.local import (
    Proximal,
    Schedule,
    TrainingDivergedError,
    deterministic_kernels,
    predict,
    train,
)
from acm_core.training.weights import ModelMismatchError, blank_arrays, get_arrays, set_arrays
from client.device import use_device
from client.evaluation import FEDERATED, evaluate_models
from client.kept_models import KeptModels, SiteRun
from client.local_only import train_local_only
from client.policy import expect_permitted, permitted_privacy
from client.refusal import RefusedError
from client.release import figures_leave, labelled_counts, released

if TYPE_CHECKING:
    from client.private_round import PrivateRound

log = logging.getLogger("acm_fed.client")

_MIN_TRAINING_FILMS = 2


class SiteRound:
    """Answers the server's tasks with the films of one site.

    Nothing but the declared fields of `Reply` leaves: an error becomes a reason code, its text and trace go to the
    site's own log.
    """

    def __init__(self, site: SiteConfig) -> None:
        self._site = site
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
        kept = KeptModels(self._site.state, SiteRun.of(config))
        if task.kind is TaskKind.TRAIN:
            kept.forget_rounds_from(task.round)  # whatever comes of this one, refused or not
        expect_permitted(config, self._site, datetime.now())  # the site's own clock time
        films = load_site(self._site, config.findings, config.model.image_size)
        if task.kind is TaskKind.TRAIN:
            return self._train(task, config, films, kept)
        if task.kind is TaskKind.LOCAL_ONLY:
            privacy = permitted_privacy(config, self._site)
            if privacy is not None and not figures_leave(privacy[1]):
                return Reply(self._site.site, task.round)  # nobody would learn how well it does
            model = self._model(config, self._received(task, config, kept))
            train_local_only(
                model,
                config,
                self._site.site,
                films.train,
                films.fingerprint,
                kept,
                self._device,
                self._site.workers,
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
        model, at_site = self._global_model(task, config, kept, received)
        proximal = None
        if config.federation.proximal_mu > 0:
            reference = {name: p.detach().clone() for name, p in model.named_parameters()}
            proximal = Proximal(reference, config.federation.proximal_mu)
        log.info("round %d: training on %d films", task.round, len(films.train))
        if private is None:
            reply = self._train_openly(task, config, films, model, proximal)
        else:
            reply = self._train_privately(task, config, private, model, proximal)
        log.info("round %d: trained", task.round)
        if not all(np.isfinite(array).all() for array in reply.arrays.values()):
            raise TrainingDivergedError("expected finite weights after training")
        if at_site:
            kept.save_normalisation(task.round, {name: reply.arrays.pop(name) for name in at_site})
        base = {name: received[name] for name in reply.arrays}
        encoding = config.federation.encoding
        residual = kept.load_residual(before=task.round) if encoding == "int8" else {}
        encoded = encode(reply.arrays, base, encoding, residual)
        if encoded.residual:
            kept.save_residual(task.round, encoded.residual)
        return replace(reply, arrays=encoded.payload)

    def _train_openly(
        self,
        task: Task,
        config: FederationConfig,
        films: SiteFilms,
        model: Classifier,
        proximal: Proximal | None,
    ) -> Reply:
        metrics: dict[str, float] = {}
        if len(films.validation):
            metrics["validation_loss"] = predict(
                model, films.validation, config.training.batch_size, self._device
            )[1]
        epochs = config.training.epochs
        metrics["train_loss"] = train(
            model,
            films.train,
            config.training,
            Schedule((task.round - 1) * epochs, epochs, config.federation.rounds * epochs),
            seeds=lambda epoch: stream_seed(config.seed, self._site.site, epoch, "films"),
            device=self._device,
            proximal=proximal,
            workers=self._site.workers,
        )
        return Reply(
            self._site.site,
            task.round,
            films=len(films.train),
            labelled=tuple(int(count) for count in films.train.labelled()),
            metrics=metrics,
            arrays=get_arrays(model),
        )

    def _train_privately(
        self,
        task: Task,
        config: FederationConfig,
        private: PrivateRound,
        model: Classifier,
        proximal: Proximal | None,
    ) -> Reply:
        """Noised weights, and besides them only numbers that are the same whatever films there are."""
        arrays, metrics = private.train(task, model, proximal)
        return Reply(
            self._site.site,
            task.round,
            films=private.policy.population,
            labelled=labelled_counts(config, private.policy),
            metrics=metrics,
            arrays=arrays,
        )

    def _private(self, config: FederationConfig, films: SiteFilms, kept: KeptModels) -> PrivateRound | None:
        """What trains under differential privacy, or None for a run without it."""
        privacy = permitted_privacy(config, self._site)
        if privacy is None:
            return None
        # Imported here: a simulation's workers would wait a second for Opacus, which most runs do without.
        from client.private_round import PrivateRound

        return PrivateRound(self._site, config, *privacy, films, kept, self._device)

    def _evaluate(self, task: Task, config: FederationConfig, films: SiteFilms, kept: KeptModels) -> Reply:
        log.info("evaluating on %d test films", len(films.test))
        private = self._private(config, films, kept)
        received = self._received(task, config, kept)
        models = {FEDERATED: self._global_model(task, config, kept, received)[0]}
        alone = kept.load_local_only(films.fingerprint)
        if config.evaluation.local_only and alone is not None:
            models["local_only"] = self._model(config, alone)
        measured = models if private is None or figures_leave(private.policy) else {}
        report = evaluate_models(measured, films, config, self._site, self._device, kept)
        if private is not None:
            report = released(report, private.policy)
            if private.policy.metrics == "noised":
                report["models"] = {FEDERATED: private.report(task.round, models[FEDERATED])}
        return Reply(self._site.site, task.round, report=json.dumps(report))

    def _received(self, task: Task, config: FederationConfig, kept: KeptModels) -> Arrays:
        """The weights sent, whole or as the difference to those that came last."""
        try:
            last = kept.load_received()
        except OSError:
            last = None
        last = last or blank_arrays(unfilled_classifier(config.model, len(config.findings)))
        try:
            received = decode(task.arrays, last)
        except BaseMismatchError as error:
            raise RefusedError(Refusal.BASE, str(error)) from error
        except EncodingError as error:
            raise RefusedError(Refusal.MODEL, str(error)) from error
        if wrong := overgrown(received, last):
            raise RefusedError(Refusal.MODEL, wrong)
        return received

    def _global_model(
        self, task: Task, config: FederationConfig, kept: KeptModels, received: Arrays
    ) -> tuple[Classifier, frozenset[str]]:
        """The model sent, with what stays at this site in its place, and the names of that."""
        own: Arrays = {}
        if config.federation.local_norm:
            own = kept.load_normalisation(before=_round_after_training(task)) or {}
        model = self._model(config, {**received, **own})
        at_site = normalisation_names(model) if config.federation.local_norm else frozenset()
        return model, at_site

    def _model(self, config: FederationConfig, arrays: Arrays) -> Classifier:
        model = unfilled_classifier(config.model, len(config.findings))
        set_arrays(model, arrays)
        return model.to(self._device).to(memory_format=torch.channels_last)

    def _refuse(self, task: Task, refusal: Refusal, error: Exception) -> Reply:
        log.error("round %d: %s refused (%s): %s", task.round, task.kind, refusal, error)
        return Reply(self._site.site, task.round, refusal=refusal)


def _round_after_training(task: Task) -> int:
    """Normalisation saved in rounds before this one belongs to the model sent."""
    return task.round if task.kind is TaskKind.TRAIN else task.round + 1
