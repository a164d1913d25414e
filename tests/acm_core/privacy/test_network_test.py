"""A sound loop passes with a whole network; each fault that the canaries' small model does not show is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from acm_core.config.sections import ModelConfig, TrainingConfig
from acm_core.nn import Classifier, build_classifier, resnet
from acm_core.privacy.measurement import Check
from acm_core.privacy.network_test import check_network
from acm_core.privacy.noise import GaussianNoise
from acm_core.privacy.training import Mechanism, PrivateTraining, Steps

MECHANISM = Mechanism("patient", 1.3, 0.1, 1.0, 50)
LARGE = 2**18


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one convolution of more than 2¹⁸ weights left."""
    monkeypatch.setattr(resnet, "_STAGE_WIDTHS", (64, 64, 64, 192))


def network(**changes: Any) -> Classifier:
    settings = {"norm": "group", "image_size": 64, **changes}
    model = build_classifier(ModelConfig.model_validate(settings), 2)
    return model


def checked(loop: type[PrivateTraining] = PrivateTraining, **changes: Any) -> tuple[Check, ...]:
    return check_network(network(**changes), 2, TrainingConfig(), MECHANISM, loop)


def failed(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.meaning for check in checks if check.meaning}


@pytest.mark.parametrize(
    "changes",
    [{}, {"standardise_weights": True}, {"norm": "batch", "head": "projected", "trainable": "head"}],
    ids=str,
)
def test_a_sound_loop_passes(changes: dict[str, Any]) -> None:
    assert any(parameter.numel() > LARGE for parameter in network(**changes).parameters())
    # By chance once in a thousand times; twice, once in a million.
    assert any(not failed(checked(**changes)) for _ in range(2))


class _NoiseOf(GaussianNoise):
    """Noise that a fault changes by what it is added to."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._change = change

    def add_to(self, values: Tensor, standard_deviation: float) -> None:
        noise = torch.zeros_like(values)
        super().add_to(noise, standard_deviation)
        values.add_(self._change(values, noise))


def noise(change: Callable[[Tensor, Tensor], Tensor]) -> type[PrivateTraining]:
    class Faulty(PrivateTraining):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._private._noise = _NoiseOf(change)

    return Faulty


def periodic(values: Tensor, noise: Tensor) -> Tensor:
    period = 131_072
    if values.numel() <= period:
        return noise
    flat = noise.flatten()
    return flat[:period].repeat(-(-len(flat) // period))[: len(flat)].view(values.shape)


def half_of_each_chunk(values: Tensor, noise: Tensor) -> Tensor:
    flat = noise.flatten().clone()
    for start in range(0, len(flat), 2**17):
        flat[start + 2**16 : start + 2**17] = 0
    return flat.view(values.shape)


class FourOfFiveRows(PrivateTraining):
    def run(self, steps: Steps, record: Callable[[], None], after: Callable[[int], None]) -> None:
        self.taken = getattr(self, "taken", 0) + 1
        super().run(steps, (lambda: None) if self.taken % 5 == 0 else record, after)


class TwiceTheNormOfOneFilm(PrivateTraining):
    def _clipped_sum(self, batch: list[Any]) -> dict[str, Tensor]:
        summed = super()._clipped_sum(batch)
        alone = len(batch) == 1 and len(batch[0]) == 1
        return {name: values * 2 if alone else values for name, values in summed.items()}


class EachFilmOfAPatientClipped(PrivateTraining):
    def _clipped_sum(self, batch: list[Any]) -> dict[str, Tensor]:
        return super()._clipped_sum([np.array([film]) for films in batch for film in films])


class NoNoiseInAnEmptyStep(PrivateTraining):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        add_noise, parameters = self._private.add_noise, self._gradients.parameters

        def only_if_drawn() -> None:
            if any(bool(p.summed_grad.any()) for p in parameters.values()):  # type: ignore[attr-defined]
                add_noise()
            for p in parameters.values():
                if p.grad is None:
                    p.grad, p.summed_grad = p.summed_grad, None  # type: ignore[attr-defined]

        self._private.add_noise = only_if_drawn  # type: ignore[method-assign]


class OneKeyForEver(PrivateTraining):
    """A fork has it as well."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

        def add(values: Tensor, standard_deviation: float) -> None:
            values.add_(torch.randn(values.shape, generator=generator), alpha=standard_deviation)

        self._private._noise.add_to = add  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "named", "means"),
    [
        (noise(lambda v, n: n / 4 if v.numel() > LARGE else n), "noise of each layer", "protected less"),
        (noise(lambda v, n: n / 4 if v.ndim == 4 else n), "noise of each layer", "protected less"),
        (noise(lambda v, n: n * 0 if v.numel() <= 2 else n), "noise of each layer", "head.bias"),
        (noise(half_of_each_chunk), "noise of each layer", "protected less"),
        (noise(periodic), "repetition", "used again"),
        (OneKeyForEver, "repetition", "used again"),
        (FourOfFiveRows, "rows", "20 steps were planned, 20 taken and 16 written"),
        (TwiceTheNormOfOneFilm, "clipping of each unit", "of one film adds 2 times the clipping norm"),
        (EachFilmOfAPatientClipped, "clipping of each unit", "of 3 films adds"),
        (NoNoiseInAnEmptyStep, "noise of each layer", "protected less"),
    ],
    ids=[
        "a quarter on large weights",
        "a quarter on convolutions",
        "none on biases",
        "half-chunks",
        "period 131,072",
        "one key for ever",
        "four of five rows",
        "2C of one film",
        "each film clipped",
        "none in an empty step",
    ],
)
def test_a_planted_fault_is_named(fault: type[PrivateTraining], named: str, means: str) -> None:
    assert means in failed(checked(fault)).get(named, "")
