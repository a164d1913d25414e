"""Attend-and-compare in plain PyTorch: the truth that any fused version is proved against.

Source: Kim et al., "Learning Visual Context by Comparison", ECCV 2020 (arXiv 2007.07506), section 3.
Shapes: B batch, C channels, G groups, c = C/G channels of a group, N = H·W positions.

Two identities spare the centred copy of x. softmax(w·(x − μ)) = softmax(w·x), since a constant added to every
position cancels; so a bias on a score map is dead as well, and there is none here. And K − Q needs no
centring, since μ cancels in the difference; only the orthogonality term takes K and Q with μ subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from acm_core.ops.passes import with_query_mirrored

_PRECISIONS = (torch.float32, torch.float64, torch.bfloat16)


def attend_and_compare(
    x: Tensor,
    key_weight: Tensor,
    query_weight: Tensor,
    gate1_weight: Tensor,
    gate1_bias: Tensor,
    gate2_weight: Tensor,
    gate2_bias: Tensor,
    *,
    mirrored: bool = False,
) -> tuple[Tensor, Tensor]:
    """y = (x + K − Q) ⊙ P, and how far K and Q are from orthogonal.

    Args:
        x: B×C×H×W in any memory format; float32, float64 or bfloat16. H·W ≥ 1; B may be 0.
        key_weight: G×c, weights of the score map that pools K. G is read from here.
        query_weight: G×c, the same for Q.
        gate1_weight: C/2×c, first grouped 1×1 convolution of the gate P.
        gate1_bias: C/2.
        gate2_weight: C×c/2, second grouped 1×1 convolution of the gate.
        gate2_bias: C.
        mirrored: the query's scores are those of x flipped left to right: Q is taken from the other side of where they
            are high.

    Returns:
        y: B×C×H×W in x's dtype and memory format.
        orthogonality: B, the mean over channels of K ⊙ Q (both centred); float32 where x is bfloat16.

    The precision follows x alone, autocast or not: the products with x run in its dtype, softmax computes in
    float32 or better, and everything of size B×C (gate, K, Q, the orthogonality term) is float32 for bfloat16
    x.

    Raises:
        TypeError: x has another dtype (the sum over positions would overflow float16).
        ValueError: x is not B×C×H×W with positions, or a parameter's shape does not fit it.
    """
    check_arguments(
        x, key_weight, query_weight, gate1_weight, gate1_bias, gate2_weight, gate2_bias, dtypes=_PRECISIONS
    )
    vector_dtype = torch.float32 if x.dtype is torch.bfloat16 else x.dtype
    positions = x.shape[2] * x.shape[3]
    with torch.autocast(x.device.type, enabled=False):
        # sum()/N and not mean(): the gradient of mean() is a full-size division, that of sum() a view.
        mean = x.sum((2, 3)).to(vector_dtype) / positions
        pooled = _attend(x, key_weight, query_weight, mirrored)[1].to(vector_dtype)
        key, query = pooled.unbind(1)
        gate = _gate(
            mean,
            key_weight.shape[0],
            gate1_weight.to(vector_dtype),
            gate1_bias.to(vector_dtype),
            gate2_weight.to(vector_dtype),
            gate2_bias.to(vector_dtype),
        )
        shift = ((key - query) * gate).to(x.dtype)
        # One pass over x, and no copy of x + K − Q kept for the backward pass.
        y = torch.addcmul(shift[:, :, None, None], x, gate.to(x.dtype)[:, :, None, None])
        orthogonality = ((key - mean) * (query - mean)).mean(1)
    return y, orthogonality


def attention(
    x: Tensor, key_weight: Tensor, query_weight: Tensor, *, mirrored: bool = False
) -> tuple[Tensor, Tensor]:
    """The two attention maps behind K and Q.

    Args:
        x: B×C×H×W as in `attend_and_compare`.
        key_weight: G×c.
        query_weight: G×c.
        mirrored: as in `attend_and_compare`; the query map is where Q is taken from.

    Returns:
        key, query: B×G×H×W each, every map summing to 1 over its positions; x's dtype.

    Raises:
        ValueError: x is not B×C×H×W with positions, or a weight's shape does not fit it.
    """
    _check_attention(x, key_weight, query_weight)
    with torch.autocast(x.device.type, enabled=False):
        maps = _attend(x, key_weight, query_weight, mirrored)[0]
    key, query = maps.view(*maps.shape[:3], *x.shape[2:]).unbind(1)
    return key, query


def _attend(x: Tensor, key_weight: Tensor, query_weight: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Attention maps B×2×G×N (key, query) and the x they pool, B×2×C: two products in x's own layout."""
    batch, channels, height, width = x.shape
    groups, slice_channels = key_weight.shape
    positions = height * width
    weight = torch.stack((key_weight, query_weight)).to(x.dtype)
    if x.stride(1) == 1:
        # channels_last. A group's slice is not contiguous, so all groups share one dense product with a
        # block-diagonal weight: G times the multiplications, yet measured quicker than a product a group, which
        # copies x.
        flat = x.permute(0, 2, 3, 1).reshape(batch, positions, channels)
        diagonal = torch.eye(groups, dtype=x.dtype, device=x.device)[:, :, None]
        dense = (weight[:, :, None, :] * diagonal).reshape(2 * groups, channels)
        scores = (flat.reshape(batch * positions, channels) @ dense.t()).view(batch, positions, 2 * groups)
        maps = torch.softmax(scores, 1).transpose(1, 2).reshape(batch, 2, groups, positions)
        if mirrored:
            maps = with_query_mirrored(maps, height, width)
        crossed = torch.bmm(maps.flatten(1, 2), flat).view(batch, 2, groups, groups, slice_channels)
        pooled = crossed.diagonal(dim1=2, dim2=3).transpose(2, 3)
        return maps, pooled.reshape(batch, 2, channels)
    slices = x.reshape(batch * groups, slice_channels, positions)
    paired = weight.transpose(0, 1).expand(batch, groups, 2, slice_channels)
    maps = torch.softmax(torch.bmm(paired.reshape(batch * groups, 2, slice_channels), slices), 2)
    if mirrored:
        by_kind = maps.view(batch, groups, 2, positions).transpose(1, 2)
        maps = with_query_mirrored(by_kind, height, width).transpose(1, 2).reshape(maps.shape)
    pooled = torch.bmm(maps, slices.transpose(1, 2)).view(batch, groups, 2, slice_channels).transpose(1, 2)
    return maps.view(batch, groups, 2, positions).transpose(1, 2), pooled.reshape(batch, 2, channels)


def _gate(
    mean: Tensor, groups: int, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """P = sigmoid(conv2(ReLU(conv1(μ)))), both 1×1 with G groups: B×C from the uncentred mean B×C."""
    batch, channels = mean.shape
    by_group = mean.view(batch, groups, channels // groups).transpose(0, 1)
    hidden = torch.baddbmm(
        bias1.reshape(groups, 1, -1), by_group, weight1.reshape(groups, -1, weight1.shape[1]).transpose(1, 2)
    )
    logits = torch.baddbmm(
        bias2.reshape(groups, 1, -1),
        hidden.relu(),
        weight2.reshape(groups, -1, weight2.shape[1]).transpose(1, 2),
    )
    return logits.transpose(0, 1).reshape(batch, channels).sigmoid()


def check_arguments(
    x: Tensor,
    key_weight: Tensor,
    query_weight: Tensor,
    gate1_weight: Tensor,
    gate1_bias: Tensor,
    gate2_weight: Tensor,
    gate2_bias: Tensor,
    *,
    dtypes: Sequence[torch.dtype],
) -> None:
    """Raises TypeError or ValueError with what was expected and what came, see `attend_and_compare`."""
    if x.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"expected x in one of {names}, got {x.dtype}: convert it first")
    _check_attention(x, key_weight, query_weight)
    channels, slice_channels = x.shape[1], key_weight.shape[1]
    if slice_channels % 2:
        raise ValueError(
            f"expected channels divisible by 2·groups (the gate halves each group), got {channels} channels "
            f"in {key_weight.shape[0]} groups: choose fewer groups"
        )
    expected = (
        ("gate1_weight", gate1_weight, (channels // 2, slice_channels)),
        ("gate1_bias", gate1_bias, (channels // 2,)),
        ("gate2_weight", gate2_weight, (channels, slice_channels // 2)),
        ("gate2_bias", gate2_bias, (channels,)),
    )
    for name, tensor, shape in expected:
        if tensor.shape != shape:
            raise ValueError(
                f"expected {name} of shape {shape} for x with {channels} channels, got {tuple(tensor.shape)}"
            )


def _check_attention(x: Tensor, key_weight: Tensor, query_weight: Tensor) -> None:
    if x.ndim != 4 or x.shape[2] * x.shape[3] == 0:
        raise ValueError(f"expected x of shape B×C×H×W with H·W ≥ 1, got {tuple(x.shape)}")
    if key_weight.ndim != 2 or key_weight.numel() != x.shape[1]:
        raise ValueError(
            f"expected key_weight of shape G×C/G for x with {x.shape[1]} channels, "
            f"got {tuple(key_weight.shape)}"
        )
    if query_weight.shape != key_weight.shape:
        raise ValueError(
            f"expected query_weight of key_weight's shape {tuple(key_weight.shape)}, "
            f"got {tuple(query_weight.shape)}"
        )
