"""Inputs of the attend-and-compare operation."""

from __future__ import annotations

import torch
from torch import Tensor

Parameters = tuple[Tensor, ...]

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda x: torch.cat((x, x), 3)[..., : x.shape[3]],
}


def as_in_a_network(parameters: Parameters) -> Parameters:
    """Weights scaled by c^-½: scores of a few units, which with weights of spread 1 would grow with the root of c."""
    scale = parameters[0].shape[1] ** -0.5
    return tuple(p * scale if p.ndim > 1 else p for p in parameters)


def draw(
    batch: int, channels: int, height: int, width: int, groups: int, seed: int
) -> tuple[Tensor, Parameters]:
    """x with a mean well off zero, and parameters (key, query, gate1, gate2), in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    per_group = channels // groups
    parameters = (
        normal(groups, per_group),
        normal(groups, per_group),
        normal(channels // 2, per_group),
        normal(channels // 2),
        normal(channels, per_group // 2),
        normal(channels),
    )
    return normal(batch, channels, height, width) + 1.5, parameters
