"""Weight standardisation: each output channel's weights with mean 0 and variance 1 (Qiao et al., arXiv 1903.10520)."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_variadic

_EPSILON = 1e-10  # added to the variance, as in BiT (arXiv 1912.11370)

Pair = tuple[int, int]


class StandardisedWeight(NamedTuple):
    """A standardised weight and its derivative. K = I·k² numbers a row.

    Attributes:
        weight: O×I×k×k, rows of mean 0 and variance `variance`.
        scale: O, 1/√(var + ε) of each row of the parameter.
        variance: O, var/(var + ε): 1 but for rows that are almost constant.
    """

    weight: Tensor
    scale: Tensor
    variance: Tensor

    @classmethod
    def of(cls, parameter: Tensor) -> Self:
        """Standardise O×I×k×k."""
        variance, mean = torch.var_mean(parameter, (1, 2, 3), keepdim=True, correction=0)
        scale = (variance + _EPSILON).rsqrt()
        return cls((parameter - mean) * scale, scale.flatten(), (variance * scale.square()).flatten())

    def gradient(self, gradient: Tensor) -> Tensor:
        """Gradients with respect to `weight` (U×O×I×k×k) → with respect to the parameter."""
        axes = (2, 3, 4)
        along = (gradient * self.weight).mean(axes, keepdim=True)
        centred = gradient - gradient.mean(axes, keepdim=True) - self.weight * along
        return centred * self.scale.view(-1, 1, 1, 1)

    def removed(self, constant: Tensor, along_weight: Tensor) -> Tensor:
        """What `gradient` takes from the squared norm of a gradient whose rows are multiplied by `scale` already.

        With P = 1 − 11ᵀ/K − ŵŵᵀ/K, ŵᵀ1 = 0 and ŵᵀŵ = K·v: ‖Pg‖² = ‖g‖² − (1ᵀg)²/K − (2 − v)(ŵᵀg)²/K.

        Args:
            constant: U×O, 1ᵀg of each row.
            along_weight: U×O, ŵᵀg of each row.
        """
        width = self.weight[0].numel()
        lost = constant.square() + (2 - self.variance) * along_weight.square()
        return lost.sum(1) / width


def standardised_conv2d(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """conv2d of x: B×I×H×W with the standardised weight: O×I×k×k."""
    if has_torch_function_variadic(x, weight):
        result: Tensor = handle_torch_function(
            standardised_conv2d, (x, weight), x, weight, stride=stride, padding=padding
        )
        return result
    return F.conv2d(x, StandardisedWeight.of(weight).weight, None, stride, padding)


class StandardisedConv2d(nn.Conv2d):
    """nn.Conv2d without bias whose weight is standardised in every forward pass; the parameter is as stored."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """B×I×H×W → B×O×H'×W'."""
        stride, padding = (self.stride[0], self.stride[1]), (int(self.padding[0]), int(self.padding[1]))
        return standardised_conv2d(x, self.weight, stride, padding)
