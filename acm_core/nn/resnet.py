"""ResNet for one-channel films with a context module in every block, after He et al., CVPR 2016 (arXiv
1512.03385).

Parameters have torchvision's names (conv1, bn1, layer1.0.conv1, …, downsample.0), so that its ImageNet
weights load; the stride of a bottleneck is in its 3×3 convolution, as there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from acm_core.config.sections import ModelConfig
from acm_core.nn.context import ContextModule
from acm_core.nn.context_choice import build_context
from acm_core.nn.standardised import StandardisedConv2d

_NORM_GROUPS = 32
_STAGE_WIDTHS = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """A residual branch, its context module, the addition and the last ReLU."""

    expansion: ClassVar[int]
    context: ContextModule
    downsample: nn.Module

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """B×C×H×W → (B×C'×H'×W', penalty of the context module: B)."""
        out, penalty = self.context(self.branch(x))
        identity = self.downsample(x)
        return torch.relu_(out.add_(identity)), penalty

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """The convolutions and norms, up to the last norm."""


class BasicBlock(ResidualBlock):
    """Two 3×3 convolutions: ResNet-18 and -34."""

    expansion = 1

    def __init__(self, config: ModelConfig, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(config, inputs, width, 3, stride)
        self.bn1 = _normalisation(config, width)
        self.conv2 = _convolution(config, width, width, 3)
        self.bn2 = _normalisation(config, width)
        self.context = build_context(config, width)
        self.downsample = _shortcut(config, inputs, width, stride)

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(torch.relu_(self.bn1(self.conv1(x)))))
        return out


class Bottleneck(ResidualBlock):
    """1×1, 3×3 and 1×1 convolutions, the last to four times the width: ResNet-50, -101 and -152."""

    expansion = 4

    def __init__(self, config: ModelConfig, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = _convolution(config, inputs, width, 1)
        self.bn1 = _normalisation(config, width)
        self.conv2 = _convolution(config, width, width, 3, stride)
        self.bn2 = _normalisation(config, width)
        self.conv3 = _convolution(config, width, outputs, 1)
        self.bn3 = _normalisation(config, outputs)
        self.context = build_context(config, outputs)
        self.downsample = _shortcut(config, inputs, outputs, stride)

    def branch(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.bn1(self.conv1(x)))
        out = torch.relu_(self.bn2(self.conv2(out)))
        closed: Tensor = self.bn3(self.conv3(out))
        return closed


_ARCHITECTURES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nn.Module):
    """The trunk, without a classifier: 7×7 stem with stride 2, max pooling, four stages.

    Weights are drawn from torch's global generator; `build_classifier` seeds and restores it.

    Args:
        config: architecture, context module, norm, groups, initialisation.

    Attributes:
        channels: C of the last stage (512 or 2048).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        block, depths = _ARCHITECTURES[config.architecture]
        self.conv1 = _convolution(config, 1, _STAGE_WIDTHS[0], 7, stride=2)
        self.bn1 = _normalisation(config, _STAGE_WIDTHS[0])
        inputs = _STAGE_WIDTHS[0]
        stages: list[nn.ModuleList] = []
        for width, depth in zip(_STAGE_WIDTHS, depths, strict=True):
            stage = nn.ModuleList()
            for index in range(depth):
                stride = 2 if index == 0 and stages else 1
                stage.append(block(config, inputs, width, stride))
                inputs = width * block.expansion
            stages.append(stage)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = inputs

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: B×1×H×W → (maps: B×C×H/32×W/32, orthogonality: B, the sum of all blocks' penalties).

        Raises:
            ValueError: x is not B×1×H×W.
        """
        if x.ndim != 4 or x.shape[1] != 1:
            raise ValueError(f"expected films of shape B×1×H×W, got {tuple(x.shape)}: give one grey channel")
        x = F.max_pool2d(torch.relu_(self.bn1(self.conv1(x))), kernel_size=3, stride=2, padding=1)
        penalties: list[Tensor] = []
        for block in self._blocks():
            x, penalty = block(x)
            penalties.append(penalty)
        return x, torch.stack(penalties).sum(0)

    def _blocks(self) -> Iterator[nn.Module]:
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            yield from stage


def _convolution(config: ModelConfig, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """k×k convolution without bias (a norm follows), Kaiming fan-out as in torchvision."""
    layer: nn.Conv2d
    if config.standardise_weights:
        layer = StandardisedConv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    else:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _normalisation(config: ModelConfig, channels: int) -> nn.Module:
    match config.norm:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(min(_NORM_GROUPS, channels), channels)


def _shortcut(config: ModelConfig, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where shapes agree, else a projection; downsample.0 and downsample.1 as in torchvision."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_convolution(config, inputs, outputs, 1, stride), _normalisation(config, outputs))
