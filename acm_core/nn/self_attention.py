"""Self-attention over positions: the non-local block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from acm_core.nn.context import ContextModule, no_penalty

SUBSAMPLE_ABOVE = 28 * 28
"""Positions above which keys and values are max-pooled 2×2, Wang et al.'s subsampling (section 3.3)."""


class SelfAttention(ContextModule):
    """y = x + W_z·softmax(θ(x)ᵀφ(x))·g(x), the embedded-Gaussian non-local block of Wang et al., CVPR 2018
    (1711.07971).

    θ, φ and g are 1×1 convolutions to C/2 channels. The products are divided by √(C/2), as in Vaswani et al.
    (2017): without it the softmax of a deep stage is saturated at the start. W_z starts at zero (section 4.1
    of the paper), so the module starts as the identity; it needs no other initialisation.

    Args:
        channels: C, at least 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        embedded = channels // 2
        self.theta = nn.Conv2d(channels, embedded, kernel_size=1)
        self.phi = nn.Conv2d(channels, embedded, kernel_size=1)
        self.g = nn.Conv2d(channels, embedded, kernel_size=1)
        self.out = nn.Conv2d(embedded, channels, kernel_size=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]  # built with a bias

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        query, key, value = self.theta(x), self.phi(x), self.g(x)
        if x.shape[2] * x.shape[3] > SUBSAMPLE_ABOVE:
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        attended = F.scaled_dot_product_attention(_tokens(query), _tokens(key), _tokens(value))
        # B×1×N×c back to B×c×H×W. In channels_last this is a view.
        maps = attended.squeeze(1).transpose(1, 2).reshape(query.shape)
        return x + self.out(maps).to(x.dtype), no_penalty(x)


def _tokens(maps: Tensor) -> Tensor:
    """B×c×H×W as one head of N tokens: B×1×N×c."""
    return maps.flatten(2).transpose(1, 2).unsqueeze(1)
