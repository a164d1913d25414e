"""The gate P = sigmoid(w2·ReLU(w1·μ + b1) + b2) of one group of one sample, and its gradient.

Arrays are flat; `at` and `hidden_at` are the first elements of the slice in arrays of B·C and of B·C/2, `group` its
group, `width` its c channels.
"""

from __future__ import annotations

from acm_core.ops.cpu.compilation import kernel
from acm_core.ops.cpu.simd import (
    LANES,
    LOG2_E,
    ONE,
    ZERO,
    add,
    divide,
    exp2,
    fma,
    load_first,
    splat,
    spread,
    store_first,
    total,
)


@kernel
def _dot(weights, row, values, at, count):
    """Σ weights[row + j]·values[at + j] over j < count."""
    sums = splat(ZERO)
    for j in range(0, count, LANES):
        sums = fma(load_first(weights, row + j, count - j), load_first(values, at + j, count - j), sums)
    return total(sums)


@kernel
def _combine(values, at, rows, weights, row, count, result, result_at):
    """result[result_at + j] = Σ values[at + i]·weights[row + i·count + j] over i < rows, for j < count."""
    for j in range(0, count, LANES):
        sums = splat(ZERO)
        for i in range(rows):
            sums = fma(load_first(weights, row + i * count + j, count - j), spread(values, at + i), sums)
        store_first(result, result_at + j, count - j, sums)


@kernel
def gate_forward(mean, at, hidden_at, group, width, weight1, bias1, weight2, bias2, hidden, gate):
    """Fill `hidden` and `gate` of one slice."""
    half = width // 2
    for i in range(half):
        row = group * half + i
        value = bias1[row] + _dot(weight1, row * width, mean, at, width)
        hidden[hidden_at + i] = ZERO if value < ZERO else value
    for i in range(width):
        row = group * width + i
        gate[at + i] = -LOG2_E * (bias2[row] + _dot(weight2, row * half, hidden, hidden_at, half))
    for i in range(0, width, LANES):
        power = exp2(load_first(gate, at + i, width - i))
        store_first(gate, at + i, width - i, divide(splat(ONE), add(splat(ONE), power)))


@kernel
def gate_backward(
    grad_gate, gate, at, hidden_at, group, width, weight1, weight2, hidden, gate1, gate2, grad_mean
):
    """Fill `gate1` and `gate2` (see `Backward`) of one slice and `grad_mean` (c) from `grad_gate` (c)."""
    half = width // 2
    for i in range(width):
        value = gate[at + i]
        gate2[at + i] = grad_gate[i] * value * (ONE - value)
    _combine(gate2, at, width, weight2, group * width * half, half, gate1, hidden_at)
    for j in range(half):
        if hidden[hidden_at + j] <= ZERO:
            gate1[hidden_at + j] = ZERO
    _combine(gate1, hidden_at, half, weight1, group * half * width, width, grad_mean, 0)
