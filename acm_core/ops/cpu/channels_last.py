"""Kernels for channels_last x: a sample's N rows of C channels, in chunks of neighbouring groups, in tiles of rows.

Arrays are flat. A chunk is a power of two of groups, at least 16 channels. A vector holds 16 / `lanes` groups of 2, 4
or 8 channels, or a part of one group; `lanes` is known when a kernel is compiled. Scores are in units of log 2 inside,
as in `contiguous`, and lie row by row, a value a group of the chunk.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numba.misc.special import literally
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
    load,
    load_spread,
    multiply,
    splat,
    store,
    store_group_totals,
    subtract,
    take,
)

_TILE = 32  # rows
_BLOCK = 8  # rows read side by side: as many streams as a processor prefetches


@kernel
def _peaks(scores, count, chunk, peaks, shrink):
    """Raise each group's peak to its largest score; `shrink` is what earlier sums are worth then."""
    for g in range(chunk):
        shrink[g] = peaks[g]
    for row in range(count):
        for g in range(chunk):
            value = scores[row * chunk + g]
            peaks[g] = value if value > peaks[g] else peaks[g]
    for g in range(chunk):
        shrink[g] = np.float32(2.0 ** (shrink[g] - peaks[g]))


@kernel
def _repeat(values, chunk, repeated):
    """A value a group, repeated to whole vectors: the pattern of neighbouring scores. Chunks are powers of two."""
    for i in range(max(chunk, LANES)):
        repeated[i] = values[i % chunk]


@kernel
def forward(
    x, key_weight, query_weight, weight1, bias1, weight2, bias2,
    y, mean, key, query, gate, hidden, log_sums, width, positions, groups, chunk, lanes, first, last,
):  # fmt: skip
    """Chunks first ≤ b·(G / chunk) + i < last."""
    literally(lanes)
    channels, wide = groups * width, chunk * width
    parts = max(width // LANES, 1)  # vectors a unit: a group, or the groups that share a vector
    unit, pattern = parts * LANES, max(chunk, LANES)
    keys, queries = (
        np.empty(_TILE * chunk + LANES, np.float32),
        np.empty(_TILE * chunk + LANES, np.float32),
    )
    key_peaks, query_peaks = np.empty(chunk, np.float32), np.empty(chunk, np.float32)
    key_sums, query_sums = np.empty(pattern, np.float32), np.empty(pattern, np.float32)
    key_shrink, query_shrink = np.empty(chunk, np.float32), np.empty(chunk, np.float32)
    key_levels, query_levels = np.empty(pattern, np.float32), np.empty(pattern, np.float32)
    shift = np.empty(wide, np.float32)
    for item in range(first, last):
        sample, first_group = item // (groups // chunk), item % (groups // chunk) * chunk
        at = sample * channels + first_group * width
        weights = first_group * width
        rows = sample * positions * channels + weights
        for j in range(wide):
            mean[at + j] = ZERO
            key[at + j] = ZERO
            query[at + j] = ZERO
        for g in range(chunk):
            key_peaks[g] = LOWEST
            query_peaks[g] = LOWEST
        for i in range(pattern):
            key_sums[i] = ZERO
            query_sums[i] = ZERO
        for start in range(0, positions, _TILE):
            count = min(_TILE, positions - start)
            tile = rows + start * channels
            for block in range(0, count, _BLOCK):
                end = min(block + _BLOCK, count)
                for j in range(0, wide, unit):
                    score = j // width
                    for row in range(block, end):
                        sum1, sum2 = splat(ZERO), splat(ZERO)
                        for part in range(0, unit, LANES):
                            values = load(x, tile + row * channels + j + part)
                            sum1 = fma(values, load(key_weight, weights + j + part), sum1)
                            sum2 = fma(values, load(query_weight, weights + j + part), sum2)
                        store_group_totals(keys, row * chunk + score, sum1, lanes)
                        store_group_totals(queries, row * chunk + score, sum2, lanes)
            _peaks(keys, count, chunk, key_peaks, key_shrink)
            _peaks(queries, count, chunk, query_peaks, query_shrink)
            _repeat(key_peaks, chunk, key_levels)
            _repeat(query_peaks, chunk, query_levels)
            # A remainder of scores below a vector is followed by room; what falls there must not count.
            for i in range(count * chunk, (count * chunk + LANES - 1) // LANES * LANES):
                keys[i] = LOWEST
                queries[i] = LOWEST
            for i in range(pattern):
                key_sums[i] *= key_shrink[i % chunk]
                query_sums[i] *= query_shrink[i % chunk]
            for i in range(0, count * chunk, LANES):
                level = i % pattern
                powers = exp2(subtract(load(keys, i), load(key_levels, level)))
                store(keys, i, powers)
                store(key_sums, level, add(load(key_sums, level), powers))
                powers = exp2(subtract(load(queries, i), load(query_levels, level)))
                store(queries, i, powers)
                store(query_sums, level, add(load(query_sums, level), powers))
            for j in range(0, wide, LANES):
                store(key, at + j, multiply(load(key, at + j), load_spread(key_shrink, j // width, lanes)))
                store(
                    query,
                    at + j,
                    multiply(load(query, at + j), load_spread(query_shrink, j // width, lanes)),
                )
            for block in range(0, count, _BLOCK):
                end = min(block + _BLOCK, count)
                for j in range(0, wide, LANES):
                    score = j // width
                    sums = load(mean, at + j)
                    pooled1, pooled2 = load(key, at + j), load(query, at + j)
                    for row in range(block, end):
                        values = load(x, tile + row * channels + j)
                        sums = add(sums, values)
                        pooled1 = fma(load_spread(keys, row * chunk + score, lanes), values, pooled1)
                        pooled2 = fma(load_spread(queries, row * chunk + score, lanes), values, pooled2)
                    store(mean, at + j, sums)
                    store(key, at + j, pooled1)
                    store(query, at + j, pooled2)
        for g in range(chunk):
            key_sum, query_sum = ZERO, ZERO
            for i in range(g, pattern, chunk):
                key_sum += key_sums[i]
                query_sum += query_sums[i]
            for j in range(at + g * width, at + (g + 1) * width):
                mean[j] /= np.float32(positions)
                key[j] /= key_sum
                query[j] /= query_sum
            group = first_group + g
            level = key_peaks[g] + np.float32(math.log2(key_sum))
            log_sums[2 * sample * groups + group] = level * LN_2
            level = query_peaks[g] + np.float32(math.log2(query_sum))
            log_sums[(2 * sample + 1) * groups + group] = level * LN_2
            gate_forward(mean, at + g * width, (at + g * width) // 2, group, width, weight1, bias1, weight2, bias2,
                         hidden, gate)  # fmt: skip
        for j in range(wide):
            shift[j] = (key[at + j] - query[at + j]) * gate[at + j]
        for row in range(positions):
            for j in range(0, wide, LANES):
                place = rows + row * channels + j
                store(y, place, fma(load(x, place), load(gate, at + j), load(shift, j)))


@kernel
def backward(
    grad_y, grad_orthogonality, x, key_weight, query_weight, weight1, weight2,
    mean, key, query, gate, hidden, log_sums,
    grad_x, grad_key_weight, grad_query_weight, gate1, gate2, width, positions, groups, chunk, lanes, first, last,
):  # fmt: skip
    """Chunks first ≤ b·(G / chunk) + i < last; the steps and names of `derived`."""
    literally(lanes)
    channels, wide = groups * width, chunk * width
    parts = max(width // LANES, 1)
    unit, pattern = parts * LANES, max(chunk, LANES)
    scores = np.empty((4, _TILE * chunk + LANES), np.float32)
    keys, queries, grad_keys, grad_queries = scores[0], scores[1], scores[2], scores[3]
    levels = np.empty((4, pattern), np.float32)
    key_levels, query_levels, key_dots, query_dots = levels[0], levels[1], levels[2], levels[3]
    small = np.empty((4, chunk), np.float32)
    vectors = np.empty((8, wide), np.float32)
    grad_sums, grad_gate, grad_key, grad_query = vectors[0], vectors[1], vectors[2], vectors[3]
    grad_mean, key_slope, query_slope = vectors[4], vectors[5], vectors[6]
    for item in range(first, last):
        sample, first_group = item // (groups // chunk), item % (groups // chunk) * chunk
        at = sample * channels + first_group * width
        weights = first_group * width
        rows = sample * positions * channels + weights
        gamma = grad_orthogonality[sample] / np.float32(channels)
        for j in range(wide):
            grad_sums[j] = ZERO
            grad_gate[j] = ZERO
            grad_key_weight[at + j] = ZERO
            grad_query_weight[at + j] = ZERO
            key_slope[j] = key_weight[weights + j] * LN_2
            query_slope[j] = query_weight[weights + j] * LN_2
        for start in range(0, positions, _TILE):
            count = min(_TILE, positions - start)
            tile = rows + start * channels
            for block in range(0, count, _BLOCK):
                end = min(block + _BLOCK, count)
                for j in range(0, wide, LANES):
                    sums, products = load(grad_sums, j), load(grad_gate, j)
                    for row in range(block, end):
                        grads = load(grad_y, tile + row * channels + j)
                        sums = add(sums, grads)
                        products = fma(grads, load(x, tile + row * channels + j), products)
                    store(grad_sums, j, sums)
                    store(grad_gate, j, products)
        for j in range(wide):
            grad_gate[j] += (key[at + j] - query[at + j]) * grad_sums[j]
            grad_difference = gate[at + j] * grad_sums[j]
            grad_key[j] = grad_difference + gamma * (query[at + j] - mean[at + j])
            grad_query[j] = gamma * (key[at + j] - mean[at + j]) - grad_difference
        for g in range(chunk):
            group = first_group + g
            small[0, g] = log_sums[2 * sample * groups + group] * LOG2_E
            small[1, g] = log_sums[(2 * sample + 1) * groups + group] * LOG2_E
            key_dot, query_dot = ZERO, ZERO
            for j in range(g * width, (g + 1) * width):
                key_dot += grad_key[j] * key[at + j]
                query_dot += grad_query[j] * query[at + j]
            small[2, g] = key_dot
            small[3, g] = query_dot
            own = g * width
            gate_backward(grad_gate[own : own + width], gate, at + own, (at + own) // 2, group, width, weight1,
                          weight2, hidden, gate1, gate2, grad_mean[own : own + width])  # fmt: skip
        for i in range(4):
            _repeat(small[i], chunk, levels[i])
        for j in range(wide):
            grad_mean[j] -= gamma * (key[at + j] + query[at + j] - TWO * mean[at + j])
            grad_mean[j] /= np.float32(positions)
        for start in range(0, positions, _TILE):
            count = min(_TILE, positions - start)
            tile = rows + start * channels
            for block in range(0, count, _BLOCK):
                end = min(block + _BLOCK, count)
                for j in range(0, wide, unit):
                    score = j // width
                    for row in range(block, end):
                        sum1, sum2, sum3, sum4 = splat(ZERO), splat(ZERO), splat(ZERO), splat(ZERO)
                        for part in range(0, unit, LANES):
                            values = load(x, tile + row * channels + j + part)
                            sum1 = fma(values, load(key_weight, weights + j + part), sum1)
                            sum2 = fma(values, load(query_weight, weights + j + part), sum2)
                            sum3 = fma(values, load(grad_key, j + part), sum3)
                            sum4 = fma(values, load(grad_query, j + part), sum4)
                        place = row * chunk + score
                        store_group_totals(keys, place, sum1, lanes)
                        store_group_totals(queries, place, sum2, lanes)
                        store_group_totals(grad_keys, place, sum3, lanes)
                        store_group_totals(grad_queries, place, sum4, lanes)
            for i in range(0, count * chunk, LANES):
                level = i % pattern
                maps = exp2(subtract(load(keys, i), load(key_levels, level)))
                store(keys, i, maps)
                store(grad_keys, i, multiply(maps, subtract(load(grad_keys, i), load(key_dots, level))))
                maps = exp2(subtract(load(queries, i), load(query_levels, level)))
                store(queries, i, maps)
                store(
                    grad_queries,
                    i,
                    multiply(maps, subtract(load(grad_queries, i), load(query_dots, level))),
                )
            for block in range(0, count, _BLOCK):
                end = min(block + _BLOCK, count)
                for j in range(0, wide, LANES):
                    score = j // width
                    scale, offset = load(gate, at + j), load(grad_mean, j)
                    key_share, query_share = load(grad_key, j), load(grad_query, j)
                    slope1, slope2 = load(key_slope, j), load(query_slope, j)
                    sums1, sums2 = load(grad_key_weight, at + j), load(grad_query_weight, at + j)
                    for row in range(block, end):
                        place = tile + row * channels + j
                        values = load(x, place)
                        change1 = load_spread(grad_keys, row * chunk + score, lanes)
                        change2 = load_spread(grad_queries, row * chunk + score, lanes)
                        sums1 = fma(change1, values, sums1)
                        sums2 = fma(change2, values, sums2)
                        result = fma(load(grad_y, place), scale, offset)
                        result = fma(load_spread(keys, row * chunk + score, lanes), key_share, result)
                        result = fma(load_spread(queries, row * chunk + score, lanes), query_share, result)
                        result = fma(change1, slope1, result)
                        store(grad_x, place, fma(change2, slope2, result))
                    store(grad_key_weight, at + j, sums1)
                    store(grad_query_weight, at + j, sums2)


@cache
def entries(lanes: int, narrow: int) -> tuple[Any, Any]:
    """(forward, backward) for c = `lanes` of 2, 4 or 8, or any c divisible by 16 with lanes = 16.

    Otherwise as `contiguous.entries`.
    """

    @native
    def forward_entry(pointer):
        numbers = carray(pointer, (35,))
        items, share, width, positions, groups, chunk = (
            numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
        )  # fmt: skip
        first = take(numbers, share)
        while first < items:
            forward(
                elements(numbers, 7, narrow), elements(numbers, 9, 0), elements(numbers, 11, 0),
                elements(numbers, 13, 0), elements(numbers, 15, 0), elements(numbers, 17, 0),
                elements(numbers, 19, 0), elements(numbers, 21, narrow), elements(numbers, 23, 0),
                elements(numbers, 25, 0), elements(numbers, 27, 0), elements(numbers, 29, 0),
                elements(numbers, 31, 0), elements(numbers, 33, 0),
                width, positions, groups, chunk, lanes, first, min(first + share, items),
            )  # fmt: skip
            first = take(numbers, share)

    @native
    def backward_entry(pointer):
        numbers = carray(pointer, (43,))
        items, share, width, positions, groups, chunk = (
            numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
        )  # fmt: skip
        first = take(numbers, share)
        while first < items:
            backward(
                elements(numbers, 7, narrow), elements(numbers, 9, 0), elements(numbers, 11, narrow),
                elements(numbers, 13, 0), elements(numbers, 15, 0), elements(numbers, 17, 0),
                elements(numbers, 19, 0), elements(numbers, 21, 0), elements(numbers, 23, 0),
                elements(numbers, 25, 0), elements(numbers, 27, 0), elements(numbers, 29, 0),
                elements(numbers, 31, 0), elements(numbers, 33, narrow), elements(numbers, 35, 0),
                elements(numbers, 37, 0), elements(numbers, 39, 0), elements(numbers, 41, 0),
                width, positions, groups, chunk, lanes, first, min(first + share, items),
            )  # fmt: skip
            first = take(numbers, share)

    return forward_entry, backward_entry
