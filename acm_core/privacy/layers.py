"""The layers whose gradients by unit are known, as autograd functions.

Their backward passes compute the input's gradient only and leave the rest with the recorder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from acm_core.nn.standardised import StandardisedWeight, standardised_conv2d
from acm_core.ops.attend_and_compare import attend_and_compare, forward_kept, sample_backward
from acm_core.ops.passes import is_channels_last
from acm_core.privacy.convolution import ConvolutionUse, Geometry


class UnknownGradientError(ValueError):
    """The model does something whose gradient by unit is not known; nothing was trained."""


class Recorder(Protocol):
    """Who gathers what backward passes leave."""

    def manages(self, tensor: object) -> bool:
        """Whether this is a parameter that training changes."""
        ...

    def claim(self, tensor: Tensor) -> str:
        """The parameter's name, once a pass."""
        ...

    def keep_use(self, name: str, use: ConvolutionUse) -> None:
        """A weight whose gradients are still to be computed."""
        ...

    def keep_films(self, name: str, gradients: Tensor) -> None:
        """Gradients by film, B×…."""
        ...


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        recorder: Recorder,
        is_standardised: bool,
    ) -> Tensor:
        ctx.recorder, ctx.geometry, ctx.standardised = recorder, geometry, None
        ctx.weight_name = recorder.claim(weight) if recorder.manages(weight) else None
        ctx.bias_name = recorder.claim(bias) if bias is not None and recorder.manages(bias) else None
        used = weight if weight.ndim == 4 else weight[:, :, None, None]
        if is_standardised:
            ctx.standardised = StandardisedWeight.of(weight)
            used = ctx.standardised.weight
        output = geometry.forward(x, used, bias)
        ctx.save_for_backward(x, used, *([output] if is_standardised else []))
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *output = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_layout(x))
        grad_x = ctx.geometry.input_gradient(grad, x, weight) if ctx.needs_input_grad[0] else None
        if ctx.bias_name is not None:
            ctx.recorder.keep_films(ctx.bias_name, grad.sum((2, 3)))
        if ctx.weight_name is not None:
            use = ConvolutionUse(ctx.geometry, x, grad, weight, ctx.standardised, *output)
            ctx.recorder.keep_use(ctx.weight_name, use)
        return grad_x, None, None, None, None, None


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        epsilon: float,
        recorder: Recorder,
    ) -> Tensor:
        x = x.contiguous(memory_format=_layout(x))
        films, channels = x.shape[:2]
        positions = math.prod(x.shape[2:])
        output, mean, scale = torch.ops.aten.native_group_norm(
            x, weight, bias, films, channels, positions, groups, epsilon
        )
        ctx.recorder, ctx.groups = recorder, groups
        ctx.names = tuple(
            recorder.claim(parameter) if recorder.manages(parameter) else None for parameter in (weight, bias)
        )
        ctx.save_for_backward(x, weight, mean, scale)
        return cast(Tensor, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_layout(x))
        grad_x, grad_weight, grad_bias = _group_norm_backward(grad, x, weight, mean, scale, ctx.groups)
        for name, gradient in zip(ctx.names, (grad_weight, grad_bias), strict=True):
            if name is not None:
                ctx.recorder.keep_films(name, gradient)
        return grad_x, None, None, None, None, None


def _group_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, and of weight and bias by film (B×C); two sums over positions serve all three.

    With h = (x − μ)·s in a group of n numbers: ∂x = s·(γg − mean(γg) − h·mean(γg·h)) = a·g + b·x + c.
    """
    films, channels = x.shape[:2]
    width = channels // groups
    flat, grad = (maps.flatten(2) if maps.ndim > 2 else maps.unsqueeze(2) for maps in (x, grad))
    count = width * flat.shape[2]
    sums = grad.sum(2)
    products = (grad * flat).sum(2)
    own_mean, own_scale = (values.repeat_interleave(width, 1) for values in (mean, scale))
    grad_weight = (products - sums * own_mean) * own_scale
    mean_of_grad, mean_of_product = (
        (values * weight).view(films, groups, width).sum(2) / count for values in (sums, grad_weight)
    )
    of_x = -scale.square() * mean_of_product
    constant = -scale * mean_of_grad - of_x * mean
    of_x, constant = (values.repeat_interleave(width, 1)[:, :, None] for values in (of_x, constant))
    grad_x = torch.addcmul(constant, flat, of_x).addcmul_(grad, (own_scale * weight)[:, :, None])
    return grad_x.view(x.shape), grad_weight, sums


class _AttendAndCompare(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, recorder: Recorder, mirrored: bool, x: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, orthogonality, kept = forward_kept(x, *parameters, mirrored=mirrored)
        ctx.recorder, ctx.mirrored = recorder, mirrored
        ctx.names = [recorder.claim(p) if recorder.manages(p) else None for p in parameters]
        ctx.save_for_backward(*kept)
        return y, orthogonality

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_orthogonality: Tensor) -> tuple[Tensor | None, ...]:
        gradients = sample_backward(grad_y, grad_orthogonality, ctx.saved_tensors, mirrored=ctx.mirrored)
        for name, gradient in zip(ctx.names, gradients[1:], strict=True):
            if name is not None:
                ctx.recorder.keep_films(name, gradient)
        return None, None, gradients.x, *[None] * len(ctx.names)


def _layout(x: Tensor) -> torch.memory_format:
    dense = x.ndim == 4 and is_channels_last(x) and not x.is_contiguous()
    layout: torch.memory_format = torch.channels_last if dense else torch.contiguous_format
    return layout


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _conv2d(
    recorder: Recorder,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Any:
    if isinstance(padding, str):
        raise UnknownGradientError(f"expected a convolution's padding in numbers, got {padding!r}")
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation), groups)
    return _Convolution.apply(x, weight, bias, geometry, recorder, False)


def _standardised_conv2d(
    recorder: Recorder,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Any:
    return _Convolution.apply(x, weight, None, Geometry(stride, padding, (1, 1), 1), recorder, True)


def _linear(recorder: Recorder, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1×1 convolution over the positions of each film: B×…×I."""
    films, inputs = x.shape[0], x.shape[-1]
    maps = x.reshape(films, -1, 1, inputs).permute(0, 3, 1, 2)
    geometry = Geometry((1, 1), (0, 0), (1, 1), 1)
    result: Tensor = _Convolution.apply(maps, weight, bias, geometry, recorder, False)
    return result.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


def _group_norm(
    recorder: Recorder,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if weight is None or bias is None:
        raise UnknownGradientError("expected a group normalisation with weight and bias or with neither")
    return _GroupNorm.apply(x, weight, bias, num_groups, eps, recorder)


def _attend_and_compare(recorder: Recorder, *inputs: Tensor, mirrored: bool = False) -> Any:
    return _AttendAndCompare.apply(recorder, mirrored, *inputs)


LAYERS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    standardised_conv2d: _standardised_conv2d,
    F.linear: _linear,
    F.group_norm: _group_norm,
    attend_and_compare: _attend_and_compare,
}
"""Torch function → the same with what its gradients need recorded; its first argument is the recorder."""
