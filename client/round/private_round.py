"""A round of private training at a site: its policy, its ledger, its films; noised weights come out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from acm_core.arrays import Arrays, fingerprint
from acm_core.config.sections import PrivacyConfig
from acm_core.config.site import SitePrivacy
from acm_core.federated.messages import Refusal
from acm_core.federated.report import ModelReport
from acm_core.nn import Classifier
from acm_core.privacy.accounting import Plan, epsilon, noise_multiplier
from acm_core.privacy.chain import LedgerError
from acm_core.privacy.gate import check_bound, check_gradients
from acm_core.privacy.gradients import full_float32
from acm_core.privacy.layers import UnknownGradientError
from acm_core.privacy.ledger import BudgetExceededError, Ledger, ledger_folder
from acm_core.privacy.scores import noised_aurocs
from acm_core.privacy.training import Mechanism, PrivateTraining, Steps
from acm_core.training.local import predict
from acm_core.training.optimizer_state import get_optimizer_arrays, set_optimizer_arrays
from acm_core.training.weights import get_arrays
from client.round.frozen_features import what_trains
from client.round.kept_models import SiteRun
from client.round.refusal import RefusedError
from client.round.release import labelled_counts, noised_model
from client.round.site_task import SiteTask, Trained

log = logging.getLogger("acm_fed.client")

_CHECKPOINT_SHARE = 0.05  # of the time after a checkpoint that the next one may take
_LIBRARIES = ("acm-fed", "torch", "opacus", "numba")


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except BudgetExceededError as error:
        raise RefusedError(Refusal.BUDGET, str(error)) from error
    except LedgerError as error:
        raise RefusedError(Refusal.LEDGER, str(error)) from error
    except UnknownGradientError as error:
        raise RefusedError(Refusal.MODEL, str(error)) from error


class PrivateRound:
    """A round of training, or a release of noised figures, for one task.

    Args:
        privacy, policy: the task's.
    """

    def __init__(self, task: SiteTask, privacy: PrivacyConfig, policy: SitePrivacy) -> None:
        self._task, self._privacy, self.policy = task, privacy, policy
        self._config, self._films, self._kept = task.config, task.films, task.kept

    @_refusals()
    def train(self, model: Classifier) -> Trained:
        """Noised weights, and besides them only numbers that are the same whatever films there are.

        A request for one of the two newest rounds that was answered before gets the same weights again and costs
        nothing; one that was interrupted goes on from its last checkpoint.

        Raises:
            RefusedError: the ledger cannot be trusted, the budget does not permit the run or the round, or the
                model's gradients are not known by unit (`check_gradients`).
        """
        start, number = fingerprint(get_arrays(model)), self._task.asked.round
        with self._ledger() as ledger:
            plan = ledger.admit(self._plan())
            given = self._kept.load_update(number, start)
            if given is None:
                given = self._trained(model, plan, ledger, start)
                self._kept.save_update(number, start, *given)
            else:
                log.info("round %d: asked again; the same weights, at no cost", number)
            own = ledger.steps_of(plan.run, plan.settings)
        spent = epsilon([step.noised for step in own], plan.delta, plan.accountant)
        log.info("round %d: the run has cost ε = %.3f of %.3g", number, spent, plan.epsilon)
        metrics = {"epsilon": round(spent, 6), "noise_multiplier": plan.sigma}
        return Trained(*given, self.policy.population, labelled_counts(self._config, self.policy), metrics)

    @_refusals()
    def report(self, model: Classifier) -> ModelReport:
        """Noised AUROCs of the model on the test patients: the one release of this run.

        Raises:
            RefusedError: the ledger cannot be trusted.
        """
        if (before := self._kept.load_report()) is not None:
            return before
        test = self._films.test
        sigma = noise_multiplier(self.policy.metrics_epsilon, self.policy.delta, 1.0, 1)
        with self._ledger() as ledger:
            run = SiteRun.of(self._config)
            ledger.record_release(
                run=run.name,
                settings=run.settings,
                round=self._task.asked.round,
                sigma=sigma,
                sensitivity=math.sqrt(len(self._config.findings)),
                model=fingerprint(get_arrays(model)),
            )
        scores, _ = predict(model, test, self._config.training.batch_size, self._task.device)
        values = noised_aurocs(scores, test.labels, test.patients, sigma)
        report = noised_model(dict(zip(self._config.findings, values, strict=True)))
        self._kept.save_report(report)
        return report

    def _trained(self, model: Classifier, plan: Plan, ledger: Ledger, start: str) -> tuple[Arrays, Arrays]:
        number, proximal = self._task.asked.round, self._task.proximal(model)
        trained, films = what_trains(model, self._films, self._config, self._kept, self._task.device)
        self._check_gradients(trained)
        training = PrivateTraining(
            trained, films.train, self._config.training, self._mechanism(plan), self._task.device, proximal
        )
        set_optimizer_arrays(training.optimizer, model, self._kept.load_optimizer(before=number))
        done = self._go_on(training, number, start)
        before = (number - 1) * plan.steps_per_round
        permit = ledger.begin_round(plan, number, steps=plan.steps_per_round - done, model=start)
        steps = Steps(before + done, before + plan.steps_per_round, plan.rounds * plan.steps_per_round)
        training.run(steps, permit.record, self._checkpoints(training, number, start, before, steps.last - 1))
        return get_arrays(model), get_optimizer_arrays(training.optimizer, model)

    def _go_on(self, training: PrivateTraining, number: int, start: str) -> int:
        """Put a checkpoint of the same request in place; the steps it has behind it."""
        checkpoint = self._kept.load_private_checkpoint()
        if checkpoint is None or (checkpoint["round"], checkpoint["start"]) != (number, start):
            return 0
        training.model.load_state_dict(checkpoint["model"])
        training.optimizer.load_state_dict(checkpoint["optimizer"])
        done: int = checkpoint["steps"]
        log.info("round %d: going on after step %d", number, done)
        return done

    def _checkpoints(
        self, training: PrivateTraining, number: int, start: str, before: int, last: int
    ) -> Callable[[int], None]:
        """Of the first step, and then as often as they cost little; not of the last one, whose weights are kept."""
        due = 0.0

        def after(step: int) -> None:
            nonlocal due
            log.info("round %d: noised step %d", number, step - before + 1)
            begun = time.monotonic()
            if begun >= due and step != last:
                self._kept.save_private_checkpoint(
                    {
                        "round": number,
                        "start": start,
                        "steps": step - before + 1,
                        "model": training.model.state_dict(),
                        "optimizer": training.optimizer.state_dict(),
                    }
                )
                saved = time.monotonic()
                due = saved + (saved - begun) / _CHECKPOINT_SHARE

        return after

    def _check_gradients(self, model: Classifier) -> None:
        libraries = " ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
        training, findings = self._config.training, len(self._config.findings)
        with full_float32():
            if self._kept.load_gradient_check() != libraries:
                log.info("comparing the gradients of each unit with passes of one unit each")
                check_gradients(model, findings, training.orthogonality, training.loss)
                self._kept.save_gradient_check(libraries)
            bound = self._privacy.clipping_norm
            check_bound(model, findings, training.orthogonality, training.loss, bound)

    def _plan(self) -> Plan:
        try:
            return Plan.of(self._config, self.policy, SiteRun.of(self._config).settings)
        except ValueError as error:
            raise RefusedError(Refusal.PRIVACY, str(error)) from error

    def _mechanism(self, plan: Plan) -> Mechanism:
        return Mechanism(
            plan.unit,
            plan.sigma,
            plan.q,
            plan.clipping_norm,
            plan.expected_batch,
            self._privacy.films_per_patient,
            self._privacy.augmentations,
        )

    def _ledger(self) -> Ledger:
        return Ledger.open(
            ledger_folder(self._task.site),
            site=self._task.site.site,
            unit=self._privacy.unit,
            fingerprint=self._films.fingerprint,
            witness=self.policy.witness,
            delta=self.policy.delta,
            budget=self.policy.epsilon,
        )


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # numba, on a Python newer than it supports
        return "absent"
