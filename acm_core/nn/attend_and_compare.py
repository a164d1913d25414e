"""The attend-and-compare module: each group of channels compares what two attention maps see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from acm_core.nn.context import OPEN_GATE, ContextModule, Initialisation
from acm_core.ops.attend_and_compare import attend_and_compare
from acm_core.ops.reference import attention

_AUTHORS_NAMES = {
    "add_mod.map_gen.0.weight": "key_weight",
    "sub_mod.map_gen.0.weight": "query_weight",
    "mul_mod.feature_gen.0.weight": "gate1_weight",
    "mul_mod.feature_gen.0.bias": "gate1_bias",
    "mul_mod.feature_gen.2.weight": "gate2_weight",
    "mul_mod.feature_gen.2.bias": "gate2_bias",
}
# Their gradient is exactly zero: a constant added to a score map cancels in the softmax.
_AUTHORS_DEAD_NAMES = frozenset({"add_mod.map_gen.0.bias", "sub_mod.map_gen.0.bias"})


class AttentionMaps(NamedTuple):
    """Where a module looked (key), and what it compared that with (query): B×G×H×W, sums of 1 over H×W."""

    key: Tensor
    query: Tensor


class AttendAndCompare(ContextModule):
    """y = (x + K − Q) ⊙ P with G groups, after Kim et al., ECCV 2020 (arXiv 2007.07506).

    The penalty is the orthogonality term of each sample, the mean over channels of K ⊙ Q.

    Args:
        channels: C, divisible by 2·groups.
        groups: G; the C/G channels of a group share one key and one query map.
        initialisation: "kaiming" is the paper's: normal, fan-out, ReLU gain, biases 0, so that the gate P
            starts near 0.5. "identity" starts at y = 0.982·x: P is open (see `OPEN_GATE`) whatever the film,
            and the query weights equal the key weights, so that K − Q = 0. Nothing is dead: the comparison K
            − Q sends key and query opposite gradients, which part them at the first step, and gate2 learns
            from there, gate1 one step later.
        mirrored: Q is taken from the other side of the film than where its scores are high, as readers compare one
            lung with the other. With equal weights K − Q is then what the two sides of one place differ by, so
            "identity" starts with key and query weights of 0 instead: both maps are even, and K − Q = 0.

    Raises:
        ValueError: channels is not divisible by 2·groups.
    """

    operation = staticmethod(attend_and_compare)

    def __init__(
        self,
        channels: int,
        groups: int = 32,
        initialisation: Initialisation = "kaiming",
        *,
        mirrored: bool = False,
    ) -> None:
        super().__init__()
        self.mirrored = mirrored
        if groups < 1 or channels < 1 or channels % (2 * groups):
            raise ValueError(
                f"expected channels divisible by 2·groups, got {channels} channels and {groups} groups: "
                "choose groups so that each has an even number of channels (32 fits every ResNet)"
            )
        slice_channels = channels // groups
        self.key_weight = nn.Parameter(torch.empty(groups, slice_channels))
        self.query_weight = nn.Parameter(torch.empty(groups, slice_channels))
        self.gate1_weight = nn.Parameter(torch.empty(channels // 2, slice_channels))
        self.gate1_bias = nn.Parameter(torch.zeros(channels // 2))
        self.gate2_weight = nn.Parameter(torch.empty(channels, slice_channels // 2))
        self.gate2_bias = nn.Parameter(torch.zeros(channels))
        for weight in (self.key_weight, self.query_weight, self.gate1_weight, self.gate2_weight):
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        if initialisation == "identity":
            with torch.no_grad():
                if mirrored:
                    self.key_weight.zero_()
                self.query_weight.copy_(self.key_weight)
            nn.init.zeros_(self.gate2_weight)
            nn.init.constant_(self.gate2_bias, OPEN_GATE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.operation(
            x,
            self.key_weight,
            self.query_weight,
            self.gate1_weight,
            self.gate1_bias,
            self.gate2_weight,
            self.gate2_bias,
            mirrored=self.mirrored,
        )

    def attention_maps(self, x: Tensor) -> AttentionMaps:
        """Key and query maps for x: B×C×H×W, the input that `forward` takes: where K and Q are taken from."""
        return AttentionMaps(*attention(x, self.key_weight, self.query_weight, mirrored=self.mirrored))


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict in which parameters by the names of the authors' code have this project's.

    There a block of the ResNet has its attend-and-compare module as `module`, its weights are kernels of 1 × 1, and so
    is the head, `classifier_conv`. Other names stay as they are.
    """
    own = {}
    for name, tensor in state.items():
        block, _, theirs = name.rpartition("module.")
        if theirs in _AUTHORS_NAMES:
            own[f"{block}context.{_AUTHORS_NAMES[theirs]}"] = tensor.flatten(1) if tensor.ndim > 1 else tensor
        elif name.startswith("classifier_conv."):
            own[name] = tensor.flatten(1) if tensor.ndim > 1 else tensor
        elif theirs not in _AUTHORS_DEAD_NAMES:
            own[name] = tensor
    return own
