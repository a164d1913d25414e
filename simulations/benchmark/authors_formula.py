"""Attend-and-compare as the paper writes it, a line a formula, with nothing rearranged: the rival in benchmarks.

Source: Kim et al., "Learning Visual Context by Comparison", ECCV 2020 (arXiv 2007.07506), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from acm_core.nn import AttendAndCompare


def attend_and_compare_as_written(
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
    """The arguments and results of `acm_core.ops.attend_and_compare.attend_and_compare`."""
    groups = key_weight.shape[0]
    mean = x.mean((2, 3), keepdim=True)
    centred = x - mean
    key = _pool(centred, centred, key_weight)
    query = _pool(centred, centred.flip(3) if mirrored else centred, query_weight)
    hidden = torch.relu(F.conv2d(mean, gate1_weight[:, :, None, None], gate1_bias, groups=groups))
    gate = torch.sigmoid(F.conv2d(hidden, gate2_weight[:, :, None, None], gate2_bias, groups=groups))
    return (x + key - query) * gate, (key * query).mean((1, 2, 3))


def _pool(centred: Tensor, scored: Tensor, weight: Tensor) -> Tensor:
    batch, channels, height, width = centred.shape
    groups = len(weight)
    scores = F.conv2d(scored, weight[:, :, None, None], groups=groups)
    maps = torch.softmax(scores.flatten(2), dim=2).view(batch, groups, 1, height * width)
    values = centred.reshape(batch, groups, channels // groups, height * width)
    return (values * maps).sum(3).view(batch, channels, 1, 1)


class AttendAndCompareAsWritten(AttendAndCompare):
    """The module with the paper's formula in place of the operation."""

    operation = staticmethod(attend_and_compare_as_written)
