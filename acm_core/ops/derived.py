"""Attend-and-compare with its hand-derived backward pass in plain PyTorch: for what no kernel covers.

Any device, any number of channels a group, float64 as well; bfloat16 and float16 are computed in float32. Only x and
vectors of size B×C are kept between the passes. The derivation, with g = ∂y and γ = ∂orthogonality / C:

    S0 = Σ g, S1 = Σ g·x over positions; ∂P = S1 + (K − Q)·S0; ∂K = P·S0 + γ(Q − μ); ∂Q = −P·S0 + γ(K − μ);
    ∂μ = the gate's gradient of ∂P − γ(K + Q − 2μ); ∂l = a·(∂K·x − ∂K·K) summed over the group's channels, ∂m alike;
    ∂x = P·g + ∂K·a + ∂Q·b + w_K·∂l + w_Q·∂m + ∂μ/N; ∂w_K = Σ ∂l·x, ∂w_Q = Σ ∂m·x

with K and Q not centred, a and b the two maps, l and m their scores. With a mirrored query b is the softmax of m
flipped left to right, and what comes back to b's scores is flipped before it is ∂m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from acm_core.ops.passes import Backward, Forward, Parameters, sum_dtype, with_query_mirrored


def forward(x: Tensor, parameters: Parameters, *, mirrored: bool = False) -> Forward:
    """x: B×C×H×W, contiguous or channels_last; parameters in any precision; mirrored: the query."""
    dtype = sum_dtype(x)
    wide = x.to(dtype)
    key_weight, query_weight, weight1, bias1, weight2, bias2 = (p.to(dtype) for p in parameters)
    batch, (groups, width) = len(x), key_weight.shape
    positions = x.shape[2] * x.shape[3]
    weights = torch.stack((key_weight, query_weight)).expand(batch, 2, groups, width)
    scores = _project(wide, weights)
    if mirrored:
        scores = with_query_mirrored(scores, *x.shape[2:])
    log_sums = torch.logsumexp(scores, 3)
    pooled = _pool(wide, torch.exp(scores - log_sums[..., None]))
    # Copies: an operation's results may not share memory.
    key, query = (pool.flatten(1).clone() for pool in pooled.unbind(1))
    mean = wide.sum((2, 3)) / positions
    hidden = _grouped(weight1, mean.view(batch, groups, width)).flatten(1).add(bias1).relu()
    logits = _grouped(weight2, hidden.view(batch, groups, width // 2)).flatten(1).add(bias2)
    gate = logits.sigmoid()
    shift = (key - query) * gate
    y = torch.addcmul(shift[:, :, None, None], wide, gate[:, :, None, None]).to(x.dtype)
    return Forward(y, mean, key, query, gate, hidden, log_sums)


def backward(
    grad_y: Tensor,
    grad_orthogonality: Tensor,
    x: Tensor,
    parameters: Parameters,
    passed: Forward,
    *,
    mirrored: bool = False,
) -> Backward:
    """grad_y: as x and in its layout; grad_orthogonality: B; mirrored: as forward. `passed.y` is not read."""
    dtype = sum_dtype(x)
    wide, grad = x.to(dtype), grad_y.to(dtype)
    key_weight, query_weight, weight1, _, weight2, _ = (p.to(dtype) for p in parameters)
    _, mean, key, query, gate, hidden, log_sums = passed
    batch, channels = mean.shape
    groups, width = key_weight.shape
    positions = x.shape[2] * x.shape[3]
    gamma = grad_orthogonality.to(dtype)[:, None] / channels
    sums = grad.sum((2, 3))
    grad_gate = (grad * wide).sum((2, 3)) + (key - query) * sums
    grad_key = gate * sums + gamma * (query - mean)
    grad_query = -gate * sums + gamma * (key - mean)
    gate2 = grad_gate * gate * (1 - gate)
    back2 = weight2.view(groups, width, width // 2).transpose(1, 2)
    gate1 = _grouped(back2, gate2.view(batch, groups, width)).flatten(1) * (hidden > 0)
    back1 = weight1.view(groups, width // 2, width).transpose(1, 2)
    grad_mean = _grouped(back1, gate1.view(batch, groups, width // 2)).flatten(1)
    grad_mean = grad_mean - gamma * (key + query - 2 * mean)

    by_group = (batch, groups, width)
    own = torch.stack((key_weight, query_weight)).expand(batch, 2, groups, width)
    seen = torch.stack((grad_key.view(by_group), grad_query.view(by_group)), 1)
    projected = _project(wide, torch.cat((own, seen), 1))
    scores, changes = projected[:, :2], projected[:, 2:]
    if mirrored:
        scores = with_query_mirrored(scores, *x.shape[2:])
    maps = torch.exp(scores - log_sums[..., None])
    pooled = torch.stack((key.view(by_group), query.view(by_group)), 1)
    grad_scores = maps * (changes - (seen * pooled).sum(3)[..., None])
    if mirrored:
        grad_scores = with_query_mirrored(grad_scores, *x.shape[2:])
    # The scores' gradients sum to 0 over positions; what rounding leaves of the sum would pool K and Q once more.
    grad_weights = _pool(wide, grad_scores) - pooled * grad_scores.sum(3)[..., None]
    grad_x = _spread(torch.cat((maps, grad_scores), 1), torch.cat((seen, own), 1), wide)
    grad_x = grad_x + torch.addcmul((grad_mean / positions)[:, :, None, None], grad, gate[:, :, None, None])
    grad_keys, grad_queries = (gradient.clone() for gradient in grad_weights.unbind(1))
    # Torch forgets the layout of an empty sum.
    grad_x = grad_x.to(x.dtype) if batch else torch.empty_like(x)
    return Backward(grad_x, grad_keys, grad_queries, gate1, gate2)


def _grouped(weight: Tensor, values: Tensor) -> Tensor:
    """A grouped 1×1 convolution of vectors: weight G·o×i or G×o×i, values B×G×i → B×G×o."""
    groups, inputs = values.shape[1:]
    return torch.einsum("goi,bgi->bgo", weight.reshape(groups, -1, inputs), values)


# In channels_last a group's slice is not contiguous: there all groups share one dense product with block-diagonal
# weights, G times the multiplications and yet quicker than a product a group, which copies x.


def _is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1


def _rows(x: Tensor) -> Tensor:
    """B×N×C without a copy."""
    batch, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)


def _block_diagonal(weights: Tensor) -> Tensor:
    """B×k×G×c → B×k·G×C, the weights of other groups 0."""
    batch, kinds, groups, width = weights.shape
    diagonal = torch.eye(groups, dtype=weights.dtype, device=weights.device)
    return (weights[:, :, :, None, :] * diagonal[:, :, None]).reshape(batch, kinds * groups, groups * width)


def _project(x: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums over each group's channels: weights B×k×G×c → B×k×G×N."""
    batch, kinds, groups, width = weights.shape
    if _is_channels_last(x):
        products = torch.bmm(_rows(x), _block_diagonal(weights).transpose(1, 2))
        return products.transpose(1, 2).reshape(batch, kinds, groups, products.shape[1])
    slices = x.reshape(batch * groups, width, x.shape[2] * x.shape[3])
    stacked = weights.transpose(1, 2).reshape(batch * groups, kinds, width)
    return torch.bmm(stacked, slices).view(batch, groups, kinds, slices.shape[2]).transpose(1, 2)


def _pool(x: Tensor, maps: Tensor) -> Tensor:
    """Weighted sums over positions: maps B×k×G×N → B×k×G×c."""
    batch, kinds, groups, positions = maps.shape
    width = x.shape[1] // groups
    if _is_channels_last(x):
        crossed = torch.bmm(maps.reshape(batch, kinds * groups, positions), _rows(x))
        return crossed.view(batch, kinds, groups, groups, width).diagonal(dim1=2, dim2=3).transpose(2, 3)
    slices = x.reshape(batch * groups, width, positions)
    stacked = maps.transpose(1, 2).reshape(batch * groups, kinds, positions)
    return torch.bmm(stacked, slices.transpose(1, 2)).view(batch, groups, kinds, width).transpose(1, 2)


def _spread(maps: Tensor, weights: Tensor, like: Tensor) -> Tensor:
    """Σ over k of weight·map: maps B×k×G×N, weights B×k×G×c → B×C×H×W in the layout of `like`."""
    batch, kinds, groups, positions = maps.shape
    if _is_channels_last(like):
        rows = torch.bmm(
            maps.reshape(batch, kinds * groups, positions).transpose(1, 2), _block_diagonal(weights)
        )
        return rows.view(batch, *like.shape[2:], like.shape[1]).permute(0, 3, 1, 2)
    stacked = weights.transpose(1, 2).reshape(batch * groups, kinds, weights.shape[3])
    columns = maps.transpose(1, 2).reshape(batch * groups, kinds, positions)
    return torch.bmm(stacked.transpose(1, 2), columns).view(like.shape)
