"""Opacus' optimizer, given clipped sums instead of gradients by sample."""

from __future__ import annotations

import torch
from opacus.optimizers import DPOptimizerFastGradientClipping
from torch import Tensor, nn

from acm_core.privacy.noise import GaussianNoise, is_representable


class PrivateOptimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc]  # Opacus has no types
    """One step = clipped sums of any number of physical batches, noise, division by the public batch size, update.

    An empty batch adds nothing and takes the same step. Scaling, step hooks and the refusal to use a sum twice are
    Opacus'; the noise is `GaussianNoise` in place of torch's generator.

    Args:
        optimizer: what makes the update; its weight decay and momentum see the noised gradient only.
        parameters: name → parameter, as `UnitGradients.parameters`.
        noise_multiplier: σ > 0; the noise has standard deviation σ·C.
        clipping_norm: C.
        expected_batch: units a step on average, public.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: dict[str, nn.Parameter],
        *,
        noise_multiplier: float,
        clipping_norm: float,
        expected_batch: int,
    ) -> None:
        if not (noise_multiplier > 0 and clipping_norm > 0 and expected_batch > 0):
            raise ValueError(
                f"expected noise multiplier, clipping norm and expected batch > 0, got {noise_multiplier}, "
                f"{clipping_norm}, {expected_batch}"
            )
        deviation = noise_multiplier * clipping_norm
        if not is_representable(deviation):
            raise ValueError(
                f"expected noise, σ·C, that float32 holds with all its digits, got {deviation}: set a clipping norm of "
                "ordinary size"
            )
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clipping_norm,
            expected_batch_size=expected_batch,
        )
        self._by_name = parameters
        self._noise = GaussianNoise()

    @torch.no_grad()
    def add_sums(self, gradients: dict[str, Tensor]) -> None:
        """Add the clipped sums of one physical batch (parameter name → sum) to the step that comes."""
        for name, parameter in self._by_name.items():
            summed = parameter.summed_grad  # type: ignore[attr-defined]  # Opacus keeps it there
            if summed is not None:
                summed.add_(gradients[name])
            elif gradients[name].stride() == parameter.stride():
                parameter.summed_grad = gradients[name]  # type: ignore[attr-defined]
            else:  # fused optimizers take a gradient's numbers in the order in which they lie in memory
                parameter.summed_grad = torch.empty_like(parameter).copy_(gradients[name])  # type: ignore[attr-defined]

    def accumulate(self) -> None:
        """What Opacus calls first in a step: zeros where no unit was drawn."""
        for parameter in self._by_name.values():
            if parameter.summed_grad is None:  # type: ignore[attr-defined]
                parameter.summed_grad = torch.zeros_like(parameter)  # type: ignore[attr-defined]

    def add_noise(self) -> None:
        """What Opacus calls next: `grad` becomes the sum plus noise."""
        for parameter in self._by_name.values():
            self._noise.add_to(parameter.summed_grad, self.noise_multiplier * self.max_grad_norm)  # type: ignore[attr-defined]
            parameter.grad, parameter.summed_grad = parameter.summed_grad, None  # type: ignore[attr-defined]
