"""Kernels for contiguous x, one (sample, group) slice after another: c rows of N positions, in tiles of positions.

Arrays are flat. A slice of usual size stays in the second-level cache from its first pass to its last. Scores are in
units of log 2 inside: their weights come multiplied by log2 e.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba.np.numpy_support import carray

from acm_core.ops.cpu.compilation import kernel, native
from acm_core.ops.cpu.gate import gate_backward, gate_forward
from acm_core.ops.cpu.simd import (
    LANES,
    LN_2,
    LOG2_E,
    LOWEST,
    TWO,
    ZERO,
    add,
    elements,
    exp2,
    fma,
    keep_first,
    largest,
    load,
    load_first,
    maximum,
    multiply,
    splat,
    spread,
    store,
    store_first,
    subtract,
    take,
    total,
)

_TILE = 512  # positions; a multiple of LANES


@kernel
def _scores(x, at, positions, start, count, width, weight1, at1, weight2, at2, out1, out2):
    """Two weighted sums over the slice's channels at `count` positions from `start`.

    Four vectors of each row at a time: enough sums under way to hide their latency, and whole runs of memory.
    """
    for t in range(0, count - 4 * LANES + 1, 4 * LANES):
        sum10, sum11, sum12, sum13 = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
        sum20, sum21, sum22, sum23 = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
        for j in range(width):
            row = (at + j) * positions + start + t
            scale1, scale2 = spread(weight1, at1 + j), spread(weight2, at2 + j)
            values = load(x, row)
            sum10, sum20 = fma(values, scale1, sum10), fma(values, scale2, sum20)
            values = load(x, row + LANES)
            sum11, sum21 = fma(values, scale1, sum11), fma(values, scale2, sum21)
            values = load(x, row + 2 * LANES)
            sum12, sum22 = fma(values, scale1, sum12), fma(values, scale2, sum22)
            values = load(x, row + 3 * LANES)
            sum13, sum23 = fma(values, scale1, sum13), fma(values, scale2, sum23)
        store(out1, t, sum10)
        store(out1, t + LANES, sum11)
        store(out1, t + 2 * LANES, sum12)
        store(out1, t + 3 * LANES, sum13)
        store(out2, t, sum20)
        store(out2, t + LANES, sum21)
        store(out2, t + 2 * LANES, sum22)
        store(out2, t + 3 * LANES, sum23)
    for t in range(count // (4 * LANES) * 4 * LANES, count, LANES):
        left = count - t
        sum1, sum2 = splat(ZERO), splat(ZERO)
        for j in range(width):
            values = load_first(x, (at + j) * positions + start + t, left)
            sum1 = fma(values, spread(weight1, at1 + j), sum1)
            sum2 = fma(values, spread(weight2, at2 + j), sum2)
        store(out1, t, sum1)
        store(out2, t, sum2)


@kernel
def _peak(scores, count, before):
    """The largest score, or `before` where that is larger; lanes after the last score become the lowest."""
    peaks = splat(before)
    for t in range(0, count, LANES):
        values = keep_first(load(scores, t), count - t, LOWEST)
        store(scores, t, values)
        peaks = maximum(peaks, values)
    return largest(peaks)


@kernel
def _powers(scores, count, peak):
    """scores = 2^(scores − peak), in place; their sum."""
    sums = splat(ZERO)
    for t in range(0, count, LANES):
        values = exp2(subtract(load(scores, t), splat(peak)))
        store(scores, t, values)
        sums = add(sums, values)
    return total(sums)


@kernel
def forward(
    x, key_weight, query_weight, weight1, bias1, weight2, bias2,
    y, mean, key, query, gate, hidden, log_sums, width, positions, groups, first, last,
):  # fmt: skip
    """Slices first ≤ b·G + g < last. The maps are online softmaxes: the peak may rise from tile to tile."""
    keys, queries = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    for item in range(first, last):
        sample, group = item // groups, item % groups
        at = item * width
        for j in range(width):
            mean[at + j] = ZERO
            key[at + j] = ZERO
            query[at + j] = ZERO
        key_peak, query_peak = LOWEST, LOWEST
        key_sum, query_sum = ZERO, ZERO
        for start in range(0, positions, _TILE):
            count = min(_TILE, positions - start)
            _scores(x, at, positions, start, count, width, key_weight, group * width,
                    query_weight, group * width, keys, queries)  # fmt: skip
            peak = _peak(keys, count, key_peak)
            key_shrink = np.float32(2.0 ** (key_peak - peak))
            key_peak = peak
            peak = _peak(queries, count, query_peak)
            query_shrink = np.float32(2.0 ** (query_peak - peak))
            query_peak = peak
            key_sum = key_sum * key_shrink + _powers(keys, count, key_peak)
            query_sum = query_sum * query_shrink + _powers(queries, count, query_peak)
            for j in range(0, width, 2):  # c is even
                row = (at + j) * positions + start
                mean0, key0, query0 = splat(ZERO), splat(ZERO), splat(ZERO)
                mean1, key1, query1 = splat(ZERO), splat(ZERO), splat(ZERO)
                for t in range(0, count, LANES):
                    key_map, query_map = load(keys, t), load(queries, t)
                    values = load_first(x, row + t, count - t)
                    mean0 = add(mean0, values)
                    key0 = fma(key_map, values, key0)
                    query0 = fma(query_map, values, query0)
                    values = load_first(x, row + positions + t, count - t)
                    mean1 = add(mean1, values)
                    key1 = fma(key_map, values, key1)
                    query1 = fma(query_map, values, query1)
                mean[at + j] += total(mean0)
                mean[at + j + 1] += total(mean1)
                key[at + j] = key[at + j] * key_shrink + total(key0)
                key[at + j + 1] = key[at + j + 1] * key_shrink + total(key1)
                query[at + j] = query[at + j] * query_shrink + total(query0)
                query[at + j + 1] = query[at + j + 1] * query_shrink + total(query1)
        for j in range(width):
            mean[at + j] /= np.float32(positions)
            key[at + j] /= key_sum
            query[at + j] /= query_sum
        log_sums[2 * sample * groups + group] = (key_peak + np.float32(math.log2(key_sum))) * LN_2
        log_sums[(2 * sample + 1) * groups + group] = (query_peak + np.float32(math.log2(query_sum))) * LN_2
        gate_forward(
            mean, at, item * (width // 2), group, width, weight1, bias1, weight2, bias2, hidden, gate
        )
        for j in range(width):
            row = (at + j) * positions
            scale = splat(gate[at + j])
            shift = splat((key[at + j] - query[at + j]) * gate[at + j])
            for t in range(0, positions, LANES):
                left = positions - t
                store_first(y, row + t, left, fma(load_first(x, row + t, left), scale, shift))


@kernel
def backward(
    grad_y, grad_orthogonality, x, key_weight, query_weight, weight1, weight2,
    mean, key, query, gate, hidden, log_sums,
    grad_x, grad_key_weight, grad_query_weight, gate1, gate2, width, positions, groups, first, last,
):  # fmt: skip
    """Slices first ≤ b·G + g < last; the steps and names of `derived`."""
    keys, queries = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    grad_keys, grad_queries = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    grad_gate, grad_mean = np.empty(width, np.float32), np.empty(width, np.float32)
    grad_key, grad_query = np.empty(width, np.float32), np.empty(width, np.float32)
    for item in range(first, last):
        sample, group = item // groups, item % groups
        at = item * width
        own = group * width
        gamma = grad_orthogonality[sample] / np.float32(groups * width)
        key_dot, query_dot = ZERO, ZERO
        for j in range(width):
            row = (at + j) * positions
            sums, products = splat(ZERO), splat(ZERO)
            for t in range(0, positions, LANES):
                grads = load_first(grad_y, row + t, positions - t)
                sums = add(sums, grads)
                products = fma(grads, load_first(x, row + t, positions - t), products)
            sum_j = total(sums)
            grad_gate[j] = total(products) + (key[at + j] - query[at + j]) * sum_j
            grad_difference = gate[at + j] * sum_j
            grad_key[j] = grad_difference + gamma * (query[at + j] - mean[at + j])
            grad_query[j] = gamma * (key[at + j] - mean[at + j]) - grad_difference
            key_dot += grad_key[j] * key[at + j]
            query_dot += grad_query[j] * query[at + j]
            grad_key_weight[at + j] = ZERO
            grad_query_weight[at + j] = ZERO
        gate_backward(grad_gate, gate, at, item * (width // 2), group, width, weight1, weight2, hidden, gate1, gate2,
                      grad_mean)  # fmt: skip
        for j in range(width):
            grad_mean[j] -= gamma * (key[at + j] + query[at + j] - TWO * mean[at + j])
            grad_mean[j] /= np.float32(positions)
        key_level = splat(log_sums[2 * sample * groups + group] * LOG2_E)
        query_level = splat(log_sums[(2 * sample + 1) * groups + group] * LOG2_E)
        key_dots, query_dots = splat(key_dot), splat(query_dot)
        for start in range(0, positions, _TILE):
            count = min(_TILE, positions - start)
            _scores(x, at, positions, start, count, width, key_weight, own, query_weight, own, keys, queries)
            _scores(
                x, at, positions, start, count, width, grad_key, 0, grad_query, 0, grad_keys, grad_queries
            )
            for t in range(0, count, LANES):
                maps = keep_first(exp2(subtract(load(keys, t), key_level)), count - t, ZERO)
                store(keys, t, maps)
                store(grad_keys, t, multiply(maps, subtract(load(grad_keys, t), key_dots)))
                maps = keep_first(exp2(subtract(load(queries, t), query_level)), count - t, ZERO)
                store(queries, t, maps)
                store(grad_queries, t, multiply(maps, subtract(load(grad_queries, t), query_dots)))
            for j in range(width):
                row = (at + j) * positions + start
                scale, offset = splat(gate[at + j]), splat(grad_mean[j])
                key_share, query_share = splat(grad_key[j]), splat(grad_query[j])
                key_slope = splat(key_weight[own + j] * LN_2)
                query_slope = splat(query_weight[own + j] * LN_2)
                key_sums, query_sums = splat(ZERO), splat(ZERO)
                for t in range(0, count, LANES):
                    left = count - t
                    values = load_first(x, row + t, left)
                    key_changes, query_changes = load(grad_keys, t), load(grad_queries, t)
                    key_sums = fma(key_changes, values, key_sums)
                    query_sums = fma(query_changes, values, query_sums)
                    result = fma(load_first(grad_y, row + t, left), scale, offset)
                    result = fma(load(keys, t), key_share, result)
                    result = fma(load(queries, t), query_share, result)
                    result = fma(key_changes, key_slope, result)
                    store_first(grad_x, row + t, left, fma(query_changes, query_slope, result))
                grad_key_weight[at + j] += total(key_sums)
                grad_query_weight[at + j] += total(query_sums)


@cache
def entries(narrow: int) -> tuple[Any, Any]:
    """(forward, backward) for x of float32, or of bfloat16 if `narrow`; see `team.run`.

    Tensors: the first arguments of `forward` or of `backward`, in their order.
    """

    @native
    def forward_entry(pointer):
        numbers = carray(pointer, (35,))
        items, share, width, positions, groups = numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
        first = take(numbers, share)
        while first < items:
            forward(
                elements(numbers, 7, narrow), elements(numbers, 9, 0), elements(numbers, 11, 0),
                elements(numbers, 13, 0), elements(numbers, 15, 0), elements(numbers, 17, 0),
                elements(numbers, 19, 0), elements(numbers, 21, narrow), elements(numbers, 23, 0),
                elements(numbers, 25, 0), elements(numbers, 27, 0), elements(numbers, 29, 0),
                elements(numbers, 31, 0), elements(numbers, 33, 0),
                width, positions, groups, first, min(first + share, items),
            )  # fmt: skip
            first = take(numbers, share)

    @native
    def backward_entry(pointer):
        numbers = carray(pointer, (43,))
        items, share, width, positions, groups = numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
        first = take(numbers, share)
        while first < items:
            backward(
                elements(numbers, 7, narrow), elements(numbers, 9, 0), elements(numbers, 11, narrow),
                elements(numbers, 13, 0), elements(numbers, 15, 0), elements(numbers, 17, 0),
                elements(numbers, 19, 0), elements(numbers, 21, 0), elements(numbers, 23, 0),
                elements(numbers, 25, 0), elements(numbers, 27, 0), elements(numbers, 29, 0),
                elements(numbers, 31, 0), elements(numbers, 33, narrow), elements(numbers, 35, 0),
                elements(numbers, 37, 0), elements(numbers, 39, 0), elements(numbers, 41, 0),
                width, positions, groups, first, min(first + share, items),
            )  # fmt: skip
            first = take(numbers, share)

    return forward_entry, backward_entry
