"""Before any film is touched: are this model's gradients by unit what one backward pass a unit gives, and does training
change nothing besides?
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from acm_core.config.sections import Loss
from acm_core.nn import Classifier, MeanHead
from acm_core.privacy.gradients import UnitGradients, clipped_sum_of_films
from acm_core.privacy.layers import UnknownGradientError
from acm_core.privacy.units import Units
from acm_core.training.loss import film_losses

_UNITS = Units((1, 2))
_SIDE = 40  # the layers are those of a large film, which would take minutes in float64
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-2}
"""Of a gradient's norm. In float32 a ReLU or a maximum on the verge tips over: up to 4e-3 without any fault."""
_PERMITTED = 1 + 1e-5
"""Of C, that a unit may add: what rounding costs."""


def check_gradients(
    model: Classifier | MeanHead, findings: int, orthogonality: float, loss: Loss = "logistic"
) -> None:
    """Compare clipped sums of random films with passes of one unit each, and unclipped ones with the summed gradient.

    In float64 both ways of clipping, then as training goes: in float32, its layout and whichever way is cheaper. The
    model is not changed. What is frozen is seen to be so by running it: no buffer moves, and a batch normalisation is
    refused that is in training mode or trains (`UnitGradients`).

    Args:
        model: as it is trained; what does not require gradients is frozen. Of a `MeanHead` the features are random.
        findings: F.
        orthogonality: weight of the orthogonality term in the loss.
        loss: `training.loss`.

    Raises:
        UnknownGradientError: they differ, films are mixed, a buffer moves, or a layer is not known: such a model must
            not be trained.
    """
    images, labels = _random_films(model, findings)
    device = next(model.parameters()).device
    ways = (
        (torch.float64, torch.contiguous_format, (True, False)),
        (torch.float32, torch.channels_last, (None,)),
    )
    for dtype, layout, choices in ways:
        copy = deepcopy(model).to(device, dtype).to(memory_format=layout).train()
        films = images.to(device, dtype, memory_format=layout)
        check = _Check(copy, films, labels.to(device, dtype), orthogonality, loss)
        for norms_first in choices:
            check.run(norms_first)
        check.expect_still()


def check_bound(
    model: Classifier | MeanHead,
    findings: int,
    orthogonality: float,
    loss: Loss,
    clipping_norm: float,
) -> None:
    """With these very weights, add no unit of random films more than C(1 + 1e-5), as training computes it.

    It takes two passes of a few small films: cheap enough for each round, whose weights the server chose.

    Args:
        model: as it is trained in this round; it is not changed.
        findings, orthogonality, loss: as of `check_gradients`.
        clipping_norm: C.

    Raises:
        UnknownGradientError: one adds more.
    """
    images, labels = _random_films(model, findings)
    device = next(model.parameters()).device
    copy = deepcopy(model).to(memory_format=torch.channels_last).train()
    recorder = UnitGradients(copy)
    for start, end in _UNITS.bounds:
        unit = Units((end - start,))
        films = images[start:end].to(device, torch.float32, memory_format=torch.channels_last)
        summed = clipped_sum_of_films(
            recorder, copy, films, labels[start:end].to(device), unit, orthogonality, loss, clipping_norm
        )
        added = float(_norm(summed.gradients))
        if not added <= clipping_norm * _PERMITTED:
            raise UnknownGradientError(
                f"expected at most {clipping_norm:g} of a unit's gradient, got {added:g}: these weights are such that "
                "clipping does not hold; nothing was trained"
            )


def _random_films(model: Classifier | MeanHead, findings: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (model.channels, 1, 1) if isinstance(model, MeanHead) else (1, _SIDE, _SIDE)
    images = torch.rand(_UNITS.films, *shape, generator=generator) * 4 - 2
    return images, torch.randint(0, 2, (_UNITS.films, findings), generator=generator).double()


class _Check:
    def __init__(
        self, model: nn.Module, films: Tensor, labels: Tensor, orthogonality: float, loss: Loss
    ) -> None:
        self._model, self._films, self._labels = model, films, labels
        self._weight, self._loss = orthogonality, loss
        self._tolerance = _TOLERANCE[films.dtype]
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        self._alone = [self._gradient(slice(start, end)) for start, end in _UNITS.bounds]
        self._norms = torch.stack([_norm(gradient) for gradient in self._alone])

    def run(self, norms_first: bool | None) -> None:
        clipping_norm = float(self._norms.mean())  # clips one and not the other
        factors = (clipping_norm / self._norms).clamp(max=1)
        self._expect(
            clipping_norm,
            norms_first,
            {
                name: sum((f * g[name] for f, g in zip(factors, self._alone, strict=True)), torch.zeros(()))
                for name in self._alone[0]
            },
        )
        self._expect(math.inf, norms_first, self._gradient(slice(None)))

    def expect_still(self) -> None:
        """Whatever was run, every buffer is as it was."""
        for name, buffer in self._model.named_buffers():
            if not torch.equal(buffer, self._buffers[name]):
                raise UnknownGradientError(
                    f"{name}: expected a buffer that stays as it is, got one that moves in training: what a film "
                    "changes there is not bounded; nothing was trained"
                )

    def _expect(self, clipping_norm: float, norms_first: bool | None, expected: dict[str, Tensor]) -> None:
        recorder = UnitGradients(self._model, norms_first=norms_first)
        self._model.zero_grad(set_to_none=True)
        got = clipped_sum_of_films(
            recorder,
            self._model,
            self._films,
            self._labels,
            _UNITS,
            self._weight,
            self._loss,
            clipping_norm,
        )
        error = _norm({name: got.gradients[name] - gradient for name, gradient in expected.items()})
        relative = float(error / _norm(expected))
        norms = float(((got.norms - self._norms) / self._norms).abs().max())
        if not max(relative, norms) <= self._tolerance:
            raise UnknownGradientError(
                f"expected gradients by unit within {self._tolerance:.0e} of one pass a unit, got {relative:.1e} apart "
                f"(norms {norms:.1e}): a layer mixes films or is not known; nothing was trained"
            )

    def _losses(self, films: slice) -> Tensor:
        output = self._model(self._films[films])
        return film_losses(output.logits, self._labels[films], output.orthogonality, self._weight, self._loss)

    def _gradient(self, films: slice) -> dict[str, Tensor]:
        """Of the units' mean losses, added up."""
        self._model.zero_grad(set_to_none=True)
        losses = self._losses(films)
        whole = films == slice(None)
        loss = (losses * _UNITS.film_weights(losses)).sum() if whole else losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature is untyped
        gradient = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in self._model.named_parameters()
            if p.requires_grad
        }
        self._model.zero_grad(set_to_none=True)
        return gradient


def _norm(gradient: dict[str, Tensor]) -> Tensor:
    return torch.stack([values.double().square().sum() for values in gradient.values()]).sum().sqrt()
