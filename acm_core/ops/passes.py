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


def is_channels_last(x: Tensor) -> bool:
    """Whether x: B×C×H×W lies in memory position by position; so do maps of one position in either layout."""
    return x.is_contiguous(memory_format=torch.channels_last)


def with_query_mirrored(maps: Tensor, height: int, breadth: int) -> Tensor:
    """B×2×G×N, of the key and of the query: the query's flipped left to right, the key's as it is."""
    key, query = maps.unbind(1)
    flipped = query.reshape(*query.shape[:2], height, breadth).flip(3).flatten(2)
    return torch.stack((key, flipped), 1)


def in_float32(parameters: Parameters) -> Parameters:
    """The parameters as kernels read them: float32, contiguous."""
    return Parameters(
        *(p if p.dtype is torch.float32 and p.is_contiguous() else p.float().contiguous() for p in parameters)
    )


def empty_forward(x: Tensor, groups: int) -> Forward:
    """Memory for the results of a forward pass of x: B×C×H×W."""
    batch, channels = x.shape[:2]
    dtype = sum_dtype(x)
    mean, key, query, gate = (x.new_empty((batch, channels), dtype=dtype) for _ in range(4))
    hidden = x.new_empty((batch, channels // 2), dtype=dtype)
    return Forward(
        torch.empty_like(x), mean, key, query, gate, hidden, x.new_empty((batch, 2, groups), dtype=dtype)
    )


def empty_backward(x: Tensor, groups: int) -> Backward:
    """Memory for the results of a backward pass of x: B×C×H×W."""
    batch, channels = x.shape[:2]
    dtype = sum_dtype(x)
    key, query = (x.new_empty((batch, groups, channels // groups), dtype=dtype) for _ in range(2))
    gate1, gate2 = (x.new_empty((batch, width), dtype=dtype) for width in (channels // 2, channels))
    return Backward(torch.empty_like(x), key, query, gate1, gate2)
