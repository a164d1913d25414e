"""Private training at one site: DP-SGD steps (Abadi et al., CCS 2016) with a unit's films clipped as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acm_core.config.sections import TrainingConfig
from acm_core.data.batches import batch_of
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier
from acm_core.privacy.gradients import UnitGradients, clipped_sum_of_films, full_float32
from acm_core.privacy.optimizer import PrivateOptimizer
from acm_core.privacy.sampling import PoissonSampler, physical_batches
from acm_core.privacy.units import Units
from acm_core.training.local import Proximal, learning_rate, make_optimizer


@dataclass(frozen=True)
class Mechanism:
    """A step's Poisson-subsampled Gaussian mechanism; every number is public.

    Attributes:
        unit: whose presence is hidden.
        noise_multiplier: σ; the noise has standard deviation σ·C.
        sampling_rate: q, the probability of each unit.
        clipping_norm: C.
        expected_batch: units a step on average: the divisor.
        films_per_patient: cap on a unit's films in a step.
        augmentations: views of each film, averaged before clipping.
    """

    unit: Literal["patient", "film"]
    noise_multiplier: float
    sampling_rate: float
    clipping_norm: float
    expected_batch: int
    films_per_patient: int = 4
    augmentations: int = 1


@dataclass(frozen=True)
class Steps:
    """Which steps of the whole run are taken: `first` … `last` − 1 of `total`, over which a cosine rate falls."""

    first: int
    last: int
    total: int


class PrivateTraining:
    """Steps over a site's films.

    Args:
        model: on `device`, trained in place.
        films: the training films; they are only read.
        training: batch_size is the films held at once, whatever a step's units.
        mechanism: of every step.
        proximal: FedProx; its gradient is no film's and is added after the noise.
    """

    def __init__(
        self,
        model: Classifier,
        films: FilmSet,
        training: TrainingConfig,
        mechanism: Mechanism,
        device: torch.device,
        proximal: Proximal | None = None,
    ) -> None:
        self.model = model
        self.optimizer = make_optimizer(model, training)
        self._films, self._training, self._mechanism, self._device = films, training, mechanism, device
        self._gradients = UnitGradients(model)
        self._private = PrivateOptimizer(
            self.optimizer,
            self._gradients.parameters,
            noise_multiplier=mechanism.noise_multiplier,
            clipping_norm=mechanism.clipping_norm,
            expected_batch=mechanism.expected_batch,
        )
        if proximal is not None:
            self._private.attach_step_hook(lambda _: _pull(self._gradients, proximal))
        self._sampler = PoissonSampler(
            films.patients,
            mechanism.unit,
            sampling_rate=mechanism.sampling_rate,
            films_per_patient=mechanism.films_per_patient,
        )
        self._views = np.random.default_rng()  # from the operating system, like all that the steps draw

    def run(self, steps: Steps, record: Callable[[], None], after: Callable[[int], None]) -> None:
        """Take the steps.

        Args:
            record: called in every step after the sum is made and before its noise is drawn: the ledger's row. What it
                raises ends the run, and the sum is never released.
            after: called with the index of each step that is done.

        Raises:
            UnknownGradientError: see `UnitGradients`.
        """
        self.model.train()
        with full_float32():
            self._take(steps, record, after)
        self._private.zero_grad(set_to_none=True)

    def _take(self, steps: Steps, record: Callable[[], None], after: Callable[[int], None]) -> None:
        for step in range(steps.first, steps.last):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self._training, step / steps.total)
            self._private.zero_grad(set_to_none=True)
            at_once = max(1, self._training.batch_size // self._mechanism.augmentations)
            for batch in physical_batches(self._sampler.draw(), at_once):
                self._private.add_sums(self._clipped_sum(batch))
            record()
            self._private.step()
            after(step)

    def _clipped_sum(self, batch: list[NDArray[np.int64]]) -> dict[str, Tensor]:
        views = self._mechanism.augmentations
        units = Units(tuple(views * len(films) for films in batch))
        rows = np.concatenate(batch).repeat(views)
        images, labels = batch_of(self._films, rows, self._views if self._training.augment else None)
        images = images.to(self._device, memory_format=torch.channels_last)
        summed = clipped_sum_of_films(
            self._gradients,
            self.model,
            images,
            labels.to(self._device),
            units,
            self._training.orthogonality,
            self._training.loss,
            self._mechanism.clipping_norm,
        )
        return summed.gradients


def _pull(gradients: UnitGradients, proximal: Proximal) -> None:
    for name, parameter in gradients.parameters.items():
        if name in proximal.reference and parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - proximal.reference[name], alpha=proximal.mu)
