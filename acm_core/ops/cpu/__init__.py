"""Attend-and-compare on the CPU by numba kernels: float32 sums, float32, bfloat16 or float16 in and out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from acm_core.ops.cpu import channels_last, contiguous
from acm_core.ops.cpu.simd import LANES, LOG2_E
from acm_core.ops.cpu.team import run
from acm_core.ops.passes import (
    Backward,
    Forward,
    Parameters,
    empty_backward,
    empty_forward,
    in_float32,
    is_channels_last,
)

_SHARES = 16  # pieces of work that many threads can share well enough


def covers(x: Tensor, parameters: Parameters) -> bool:
    """Whether the kernels compute this shape and layout; every ResNet's is.

    Contiguous x: any. channels_last: c = 2, 4, 8 or a multiple of 16, and chunks of groups that fill vectors.
    """
    if not is_channels_last(x):
        return True
    groups, width = parameters.key.shape
    return width % LANES == 0 or (LANES % width == 0 and groups % (LANES // width) == 0)


def forward(x: Tensor, parameters: Parameters) -> Forward:
    """x: contiguous or channels_last, with `covers(x, parameters)`."""
    if x.dtype is torch.float16:
        passed = forward(x.float(), parameters)
        return passed._replace(y=passed.y.half())
    passed = empty_forward(x, len(parameters.key))
    _run(0, x, parameters, (x, *_weights(parameters), *passed))
    return passed


def backward(
    grad_y: Tensor, grad_orthogonality: Tensor, x: Tensor, parameters: Parameters, passed: Forward
) -> Backward:
    """grad_y: in x's dtype and layout; see `forward`."""
    if x.dtype is torch.float16:
        gradients = backward(grad_y.float(), grad_orthogonality, x.float(), parameters, passed)
        return gradients._replace(x=gradients.x.half())
    gradients = empty_backward(x, len(parameters.key))
    key, query, weight1, _, weight2, _ = _weights(parameters)
    inputs = (grad_y, grad_orthogonality.float().contiguous(), x, key, query, weight1, weight2)
    _run(1, x, parameters, (*inputs, *passed[1:], *gradients))
    return gradients


def _run(direction: int, x: Tensor, parameters: Parameters, tensors: Sequence[Tensor]) -> None:
    batch, _, height, breadth = x.shape
    groups, width = parameters.key.shape
    narrow = int(x.dtype is torch.bfloat16)
    if is_channels_last(x):
        chunk = _chunk(groups, width, batch)
        entry = channels_last.entries(min(width, LANES), narrow)[direction]
    else:
        chunk = 1
        entry = contiguous.entries(narrow)[direction]
    run(entry, (width, height * breadth, groups, chunk), tensors, batch * (groups // chunk))


def _chunk(groups: int, width: int, batch: int) -> int:
    """Groups a chunk: the largest power of two that divides G, halved while there is too little to share.

    Whole rows are read fastest. It must not follow the number of threads: that would change the order of sums.
    """
    smallest = max(LANES // width, 1)
    chunk = groups & -groups
    while chunk > smallest and batch * (groups // chunk) < _SHARES:
        chunk //= 2
    return chunk


def _weights(parameters: Parameters) -> tuple[Tensor, ...]:
    """float32; the score weights in units of log 2."""
    key, query, *gate = in_float32(parameters)
    return *(torch.stack((key, query)) * float(LOG2_E)), *gate
