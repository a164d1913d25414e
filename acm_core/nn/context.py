"""What every context module is: a layer at the end of a residual branch that may also report a penalty."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from torch import Tensor, nn

Initialisation = Literal["kaiming", "identity"]

OPEN_GATE = 4.0
"""Bias of a sigmoid gate that starts open: sigmoid(4) = 0.982, slope 0.018.

A gate at 0.5, where zero biases put it, halves the branch and undoes what a pretrained trunk knows. 1 itself
lies at infinity; at 4 the branch keeps 98 % while the gate still learns (at 0 the slope is 0.25, at 8 it is
0.0003).
"""


class ContextModule(nn.Module):
    """Maps x: B×C×H×W to (y: B×C×H×W in x's dtype and memory format, penalty: B).

    The penalty is the module's orthogonality term, zeros where it has none, so that modules can be exchanged.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y and the penalty of each sample."""


class NoContext(ContextModule):
    """The plain ResNet: y is x, the penalty 0."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, no_penalty(x)


def no_penalty(x: Tensor) -> Tensor:
    """B zeros on x's device, for x: B×C×H×W."""
    return x.new_zeros(x.shape[0])
