"""Squeeze-and-excitation: each channel is scaled by what the film's channel means say."""

from __future__ import annotations

from torch import Tensor, nn

from acm_core.nn.context import OPEN_GATE, ContextModule, Initialisation, no_penalty


class SqueezeExcitation(ContextModule):
    """y = x ⊙ sigmoid(W2·ReLU(W1·mean(x))), after Hu et al., CVPR 2018 (arXiv 1709.01507), section 3.

    Args:
        channels: C.
        initialisation: "kaiming" starts the gate near 0.5; "identity" opens it (see `OPEN_GATE`), y =
            0.982·x.
        reduction: r, the hidden layer has max(1, C/r) units; 16 as in the paper.
    """

    def __init__(
        self, channels: int, initialisation: Initialisation = "kaiming", reduction: int = 16
    ) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        for layer in (self.squeeze, self.excite):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        if initialisation == "identity":
            nn.init.zeros_(self.excite.weight)
            nn.init.constant_(self.excite.bias, OPEN_GATE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * gate.to(x.dtype)[:, :, None, None], no_penalty(x)
