"""The gate P = sigmoid(w2·ReLU(w1·μ + b1) + b2) of one group of one sample, and its gradient.

Arrays are flat; `at` and `hidden_at` are the first elements of the slice in arrays of B·C and of B·C/2, `group` its
group, `width` its c channels.
"""

from __future__ import annotations

import numpy as np

from acm_core.ops.cpu.compilation import kernel
from acm_core.ops.cpu.simd import add, divide, exp2, load_first, splat, store_first

_ZERO, _ONE = np.float32(0), np.float32(1)
_LOG2_E = np.float32(1.4426950408889634)


@kernel
def gate_forward(mean, at, hidden_at, group, width, weight1, bias1, weight2, bias2, hidden, gate):  # type: ignore[no-untyped-def]
    """Fill `hidden` and `gate` of one slice."""
    half = width // 2
    for i in range(half):
        value = bias1[group * half + i]
        row = (group * half + i) * width
        for j in range(width):
            value += weight1[row + j] * mean[at + j]
        hidden[hidden_at + i] = _ZERO if value < _ZERO else value
    for i in range(width):
        value = bias2[group * width + i]
        row = (group * width + i) * half
        for j in range(half):
            value += weight2[row + j] * hidden[hidden_at + j]
        gate[at + i] = -value * _LOG2_E
    for i in range(0, width, 16):
        power = exp2(load_first(gate, at + i, width - i))
        store_first(gate, at + i, width - i, divide(splat(_ONE), add(splat(_ONE), power)))


@kernel
def gate_backward(  # type: ignore[no-untyped-def]
    grad_gate, gate, at, hidden_at, group, width, weight1, weight2, hidden, gate1, gate2, grad_mean
):
    """Fill `gate1` and `gate2` (see `Backward`) of one slice and `grad_mean` (c) from `grad_gate` (c)."""
    half = width // 2
    for j in range(half):
        gate1[hidden_at + j] = _ZERO
    for i in range(width):
        value = gate[at + i]
        change = grad_gate[i] * value * (_ONE - value)
        gate2[at + i] = change
        row = (group * width + i) * half
        for j in range(half):
            gate1[hidden_at + j] += change * weight2[row + j]
    for i in range(width):
        grad_mean[i] = _ZERO
    for j in range(half):
        if hidden[hidden_at + j] <= _ZERO:
            gate1[hidden_at + j] = _ZERO
        change = gate1[hidden_at + j]
        row = (group * half + j) * width
        for i in range(width):
            grad_mean[i] += change * weight1[row + i]
