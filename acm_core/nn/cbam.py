"""Convolutional block attention: first which channels, then which positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acm_core.nn.context import OPEN_GATE, ContextModule, Initialisation, no_penalty


class ConvolutionalBlockAttention(ContextModule):
    """Channel gate, then spatial gate, after Woo et al., ECCV 2018 (arXiv 1807.06521), section 3.

    x' = x ⊙ sigmoid(MLP(mean x) + MLP(max x)) with one shared MLP; y = x' ⊙ sigmoid(conv7×7([mean_C x'; max_C
    x'])). The spatial convolution has a bias in place of batch normalisation, so that the module also serves
    group-norm models.

    Args:
        channels: C.
        initialisation: "kaiming" starts both gates near 0.5; "identity" opens them (see `OPEN_GATE`), y =
            0.964·x.
        reduction: r of the shared MLP, which has max(1, C/r) hidden units; 16 as in the paper.
    """

    def __init__(
        self, channels: int, initialisation: Initialisation = "kaiming", reduction: int = 16
    ) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        self.spatial = nn.Conv2d(2, 1, kernel_size=7, padding=3)
        for layer in (self.squeeze, self.excite, self.spatial):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # each of the three is built with a bias
        if initialisation == "identity":
            nn.init.zeros_(self.excite.weight)
            # The MLP runs on the mean and on the maximum, and its bias counts twice.
            nn.init.constant_(self.excite.bias, OPEN_GATE / 2)
            nn.init.zeros_(self.spatial.weight)
            nn.init.constant_(self.spatial.bias, OPEN_GATE)  # type: ignore[arg-type]  # as above

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # One call for both poolings: per-sample gradient hooks see a layer once a pass. B×2×C.
        pooled = torch.stack((x.mean((2, 3)), x.amax((2, 3))), 1)
        channel_gate = self.excite(self.squeeze(pooled).relu()).sum(1).sigmoid()
        attended = x * channel_gate.to(x.dtype)[:, :, None, None]
        profile = torch.cat((attended.mean(1, keepdim=True), attended.amax(1, keepdim=True)), 1)
        return attended * self.spatial(profile).sigmoid().to(x.dtype), no_penalty(x)
