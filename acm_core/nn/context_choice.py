"""Context modules by the name that a federation file gives them."""

from __future__ import annotations

from acm_core.config.sections import ModelConfig
from acm_core.nn.attend_and_compare import AttendAndCompare
from acm_core.nn.cbam import ConvolutionalBlockAttention
from acm_core.nn.context import ContextModule, NoContext
from acm_core.nn.self_attention import SelfAttention
from acm_core.nn.squeeze_excitation import SqueezeExcitation


def build_context(config: ModelConfig, channels: int) -> ContextModule:
    """The module named by `config.context`, for maps of `channels` channels."""
    match config.context:
        case "acm" | "acm_mirrored":
            mirrored = config.context == "acm_mirrored"
            return AttendAndCompare(channels, config.groups, config.initialisation, mirrored=mirrored)
        case "se":
            return SqueezeExcitation(channels, config.initialisation)
        case "cbam":
            return ConvolutionalBlockAttention(channels, config.initialisation)
        case "self_attention":
            return SelfAttention(channels)
        case "none":
            return NoContext()
