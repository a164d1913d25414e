"""Triton kernels: one program a (sample, group) slice, forward and backward, in any layout given by strides.

A tile is c_pad channels by block_n positions, c rounded up to a power of two and masked. A `resident` tile is the
whole slice, read once; otherwise the slice is streamed twice, and its second reading comes from the
second-level cache. Offsets within a sample are 32-bit, between samples 64-bit. Shape and strides are known when a
kernel is compiled (once a shape): addresses held in registers would crowd out the tile.

Names and steps are those of `acm_core.ops.derived`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _slice(
    c: tl.constexpr,
    c_pad: tl.constexpr,
    groups: tl.constexpr,
    positions: tl.constexpr,
    stride_c: tl.constexpr,
):
    """(first element of the slice in x, first channel among all B·C, channels, their mask, group, sample)."""
    item = tl.program_id(0)
    sample, group = item // groups, item % groups
    channels = tl.arange(0, c_pad)
    start = sample.to(tl.int64) * (groups * c * positions) + (group * c).to(tl.int64) * stride_c
    return start, item.to(tl.int64) * c, channels, channels < c, group, sample


@triton.jit
def _tile(
    pointer,
    start,
    channels,
    inside,
    first,
    positions: tl.constexpr,
    stride_c: tl.constexpr,
    stride_n: tl.constexpr,
    block_n: tl.constexpr,
):
    """(float32 tile with 0 outside, its offsets, its mask, the positions' mask) from position `first` on."""
    n = first + tl.arange(0, block_n)
    within = n < positions
    offsets = start + (channels[:, None] * stride_c + n[None, :] * stride_n)
    mask = inside[:, None] & within[None, :]
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32), offsets, mask, within


@triton.jit
def _softmax_step(scores, within, peak, total):
    """(powers of this tile, new peak, new total, what earlier sums are worth) of an online softmax."""
    scores = tl.where(within, scores, -float("inf"))
    new_peak = tl.maximum(peak, tl.max(scores, 0))
    shrink = tl.exp(peak - new_peak)
    powers = tl.exp(scores - new_peak)
    return powers, new_peak, total * shrink + tl.sum(powers, 0), shrink


@triton.jit
def forward_kernel(
    x, y, key_weight, query_weight, weight1, bias1, weight2, bias2,
    mean_out, key_out, query_out, gate_out, hidden_out, log_sums_out,
    positions: tl.constexpr, groups: tl.constexpr, stride_c: tl.constexpr, stride_n: tl.constexpr,
    c: tl.constexpr, c_pad: tl.constexpr, h_block: tl.constexpr, block_n: tl.constexpr, resident: tl.constexpr,
):  # fmt: skip
    half: tl.constexpr = c // 2
    start, at, channels, inside, group, sample = _slice(c, c_pad, groups, positions, stride_c)
    own = group * c + channels
    weight_k = tl.load(key_weight + own, mask=inside, other=0.0)
    weight_q = tl.load(query_weight + own, mask=inside, other=0.0)
    sums = tl.zeros((c_pad,), tl.float32)
    key = tl.zeros((c_pad,), tl.float32)
    query = tl.zeros((c_pad,), tl.float32)
    # Finite: exp(−inf + inf) is NaN. Below every score that float32 products of finite x can have in practice.
    peak_k = -1e38
    peak_q = -1e38
    total_k = 0.0
    total_q = 0.0
    if resident:
        tile, offsets, mask, within = _tile(
            x, start, channels, inside, 0, positions, stride_c, stride_n, block_n
        )
        map_k, peak_k, total_k, _ = _softmax_step(
            tl.sum(tile * weight_k[:, None], 0), within, peak_k, total_k
        )
        map_q, peak_q, total_q, _ = _softmax_step(
            tl.sum(tile * weight_q[:, None], 0), within, peak_q, total_q
        )
        sums = tl.sum(tile, 1)
        key = tl.sum(tile * map_k[None, :], 1)
        query = tl.sum(tile * map_q[None, :], 1)
    else:
        for first in range(0, positions, block_n):
            tile, offsets, mask, within = _tile(
                x, start, channels, inside, first, positions, stride_c, stride_n, block_n
            )
            map_k, peak_k, total_k, shrink_k = _softmax_step(
                tl.sum(tile * weight_k[:, None], 0), within, peak_k, total_k
            )
            map_q, peak_q, total_q, shrink_q = _softmax_step(
                tl.sum(tile * weight_q[:, None], 0), within, peak_q, total_q
            )
            sums += tl.sum(tile, 1)
            key = key * shrink_k + tl.sum(tile * map_k[None, :], 1)
            query = query * shrink_q + tl.sum(tile * map_q[None, :], 1)
    mean = sums / positions
    key /= total_k
    query /= total_q
    logits = tl.load(bias2 + own, mask=inside, other=0.0)
    for row in range(0, half, h_block):
        rows = row + tl.arange(0, h_block)
        kept = rows < half
        both = kept[:, None] & inside[None, :]
        hidden_row = group * half + rows
        weights = tl.load(weight1 + hidden_row[:, None] * c + channels[None, :], mask=both, other=0.0)
        hidden = tl.sum(weights * mean[None, :], 1) + tl.load(bias1 + hidden_row, mask=kept, other=0.0)
        hidden = tl.where(hidden < 0, 0.0, hidden)  # NaN stays
        tl.store(hidden_out + (sample.to(tl.int64) * groups * half + hidden_row), hidden, mask=kept)
        weights = tl.load(weight2 + own[None, :] * half + rows[:, None], mask=both, other=0.0)
        logits += tl.sum(weights * hidden[:, None], 0)
    gate = 1 / (1 + tl.exp(-logits))
    tl.store(mean_out + at + channels, mean, mask=inside)
    tl.store(key_out + at + channels, key, mask=inside)
    tl.store(query_out + at + channels, query, mask=inside)
    tl.store(gate_out + at + channels, gate, mask=inside)
    tl.store(log_sums_out + 2 * sample * groups + group, peak_k + tl.log(total_k))
    tl.store(log_sums_out + (2 * sample + 1) * groups + group, peak_q + tl.log(total_q))
    shift = (key - query) * gate
    if resident:
        tl.store(y + offsets, (tile * gate[:, None] + shift[:, None]).to(y.dtype.element_ty), mask=mask)
    else:
        for first in range(0, positions, block_n):
            tile, offsets, mask, within = _tile(
                x, start, channels, inside, first, positions, stride_c, stride_n, block_n
            )
            tl.store(y + offsets, (tile * gate[:, None] + shift[:, None]).to(y.dtype.element_ty), mask=mask)


@triton.jit
def _grad_tile(
    tile, grads, within, weight_k, weight_q, grad_key, grad_query,
    level_k, level_q, dot_k, dot_q, gate, offset,
):  # fmt: skip
    """(gradient of x, shares of the score weights' gradients) of one tile."""
    map_k = tl.where(within, tl.exp(tl.sum(tile * weight_k[:, None], 0) - level_k), 0.0)
    map_q = tl.where(within, tl.exp(tl.sum(tile * weight_q[:, None], 0) - level_q), 0.0)
    change_k = map_k * (tl.sum(tile * grad_key[:, None], 0) - dot_k)
    change_q = map_q * (tl.sum(tile * grad_query[:, None], 0) - dot_q)
    result = gate[:, None] * grads + offset[:, None]
    result += grad_key[:, None] * map_k[None, :] + grad_query[:, None] * map_q[None, :]
    result += weight_k[:, None] * change_k[None, :] + weight_q[:, None] * change_q[None, :]
    return result, tl.sum(tile * change_k[None, :], 1), tl.sum(tile * change_q[None, :], 1)


@triton.jit
def backward_kernel(
    grad_y, grad_orthogonality, x, key_weight, query_weight, weight1, weight2,
    mean_in, key_in, query_in, gate_in, hidden_in, log_sums_in,
    grad_x, grad_key_out, grad_query_out, gate1_out, gate2_out,
    positions: tl.constexpr, groups: tl.constexpr, stride_c: tl.constexpr, stride_n: tl.constexpr,
    c: tl.constexpr, c_pad: tl.constexpr, h_block: tl.constexpr, block_n: tl.constexpr, resident: tl.constexpr,
):  # fmt: skip
    half: tl.constexpr = c // 2
    start, at, channels, inside, group, sample = _slice(c, c_pad, groups, positions, stride_c)
    own = group * c + channels
    weight_k = tl.load(key_weight + own, mask=inside, other=0.0)
    weight_q = tl.load(query_weight + own, mask=inside, other=0.0)
    mean = tl.load(mean_in + at + channels, mask=inside, other=0.0)
    key = tl.load(key_in + at + channels, mask=inside, other=0.0)
    query = tl.load(query_in + at + channels, mask=inside, other=0.0)
    gate = tl.load(gate_in + at + channels, mask=inside, other=0.0)
    gamma = tl.load(grad_orthogonality + sample) / (groups * c)
    if resident:
        tile, offsets, mask, within = _tile(
            x, start, channels, inside, 0, positions, stride_c, stride_n, block_n
        )
        grads = tl.load(grad_y + offsets, mask=mask, other=0.0).to(tl.float32)
        sums = tl.sum(grads, 1)
        products = tl.sum(grads * tile, 1)
    else:
        all_sums = tl.zeros((c_pad, block_n), tl.float32)
        all_products = tl.zeros((c_pad, block_n), tl.float32)
        for first in range(0, positions, block_n):
            tile, offsets, mask, within = _tile(
                x, start, channels, inside, first, positions, stride_c, stride_n, block_n
            )
            grads = tl.load(grad_y + offsets, mask=mask, other=0.0).to(tl.float32)
            all_sums += grads
            all_products += grads * tile
        sums = tl.sum(all_sums, 1)
        products = tl.sum(all_products, 1)
    grad_key = gate * sums + gamma * (query - mean)
    grad_query = gamma * (key - mean) - gate * sums
    gate2 = (products + (key - query) * sums) * gate * (1 - gate)
    tl.store(gate2_out + at + channels, gate2, mask=inside)
    grad_mean = -gamma * (key + query - 2 * mean)
    for row in range(0, half, h_block):
        rows = row + tl.arange(0, h_block)
        kept = rows < half
        both = kept[:, None] & inside[None, :]
        hidden_row = group * half + rows
        place = sample.to(tl.int64) * groups * half + hidden_row
        weights = tl.load(weight2 + own[None, :] * half + rows[:, None], mask=both, other=0.0)
        gate1 = tl.sum(weights * gate2[None, :], 1)
        gate1 = tl.where(tl.load(hidden_in + place, mask=kept, other=0.0) > 0, gate1, 0.0)
        tl.store(gate1_out + place, gate1, mask=kept)
        weights = tl.load(weight1 + hidden_row[:, None] * c + channels[None, :], mask=both, other=0.0)
        grad_mean += tl.sum(weights * gate1[:, None], 0)
    offset = grad_mean / positions
    level_k = tl.load(log_sums_in + 2 * sample * groups + group)
    level_q = tl.load(log_sums_in + (2 * sample + 1) * groups + group)
    dot_k = tl.sum(grad_key * key, 0)
    dot_q = tl.sum(grad_query * query, 0)
    sums_k = tl.zeros((c_pad,), tl.float32)
    sums_q = tl.zeros((c_pad,), tl.float32)
    if resident:
        result, sums_k, sums_q = _grad_tile(
            tile, grads, within, weight_k, weight_q, grad_key, grad_query,
            level_k, level_q, dot_k, dot_q, gate, offset,
        )  # fmt: skip
        tl.store(grad_x + offsets, result.to(grad_x.dtype.element_ty), mask=mask)
    else:
        for first in range(0, positions, block_n):
            tile, offsets, mask, within = _tile(
                x, start, channels, inside, first, positions, stride_c, stride_n, block_n
            )
            grads = tl.load(grad_y + offsets, mask=mask, other=0.0).to(tl.float32)
            result, share_k, share_q = _grad_tile(
                tile, grads, within, weight_k, weight_q, grad_key, grad_query,
                level_k, level_q, dot_k, dot_q, gate, offset,
            )  # fmt: skip
            tl.store(grad_x + offsets, result.to(grad_x.dtype.element_ty), mask=mask)
            sums_k += share_k
            sums_q += share_q
    tl.store(grad_key_out + at + channels, sums_k, mask=inside)
    tl.store(grad_query_out + at + channels, sums_q, mask=inside)
