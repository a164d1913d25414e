"""What every implementation of attend-and-compare takes and gives, forward and backward.

Shapes: B batch, C channels, G groups, c = C/G channels of a group, N = H·W positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Parameters(NamedTuple):
    """key and query: G×c. gate1_weight: C/2×c, gate1_bias: C/2. gate2_weight: C×c/2, gate2_bias: C."""

    key: Tensor
    query: Tensor
    gate1_weight: Tensor
    gate1_bias: Tensor
    gate2_weight: Tensor
    gate2_bias: Tensor


class Forward(NamedTuple):
    """Results of the forward pass; all but y in the precision of the sums (float64 for float64 x, else float32).

    Attributes:
        y: as x.
        mean, key, query, gate: B×C each; μ, K and Q not centred, and P.
        hidden: B×C/2, the gate's hidden layer after its ReLU.
        log_sums: B×2×G, log Σ exp(score) over the positions, of the key and of the query map.
    """

    y: Tensor
    mean: Tensor
    key: Tensor
    query: Tensor
    gate: Tensor
    hidden: Tensor
    log_sums: Tensor


class Backward(NamedTuple):
    """Gradients, those of the parameters for each sample; all but x's in the precision of the sums.

    Attributes:
        x: as x.
        key, query: B×G×c, of the score weights.
        gate1: B×C/2, of the gate's hidden layer before its ReLU, which is gate1_bias's own gradient.
        gate2: B×C, of the gate before its sigmoid, which is gate2_bias's own gradient.
    """

    x: Tensor
    key: Tensor
    query: Tensor
    gate1: Tensor
    gate2: Tensor


def sum_dtype(x: Tensor) -> torch.dtype:
    """The precision that sums over positions and everything of size B×C have."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32
