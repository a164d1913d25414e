"""Gradients of a convolution's weight by unit: themselves, or their norms alone and then one weighted sum.

Shapes: B films, U units, O and I output and input channels, k×k kernel, G groups, T output positions.
A linear layer is a 1×1 convolution of its positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from acm_core.nn.standardised import StandardisedWeight
from acm_core.ops.passes import is_channels_last
from acm_core.privacy.units import Units

# What a processor of 2020 does in a second on one or two cores, for the choice between two exact ways; only the ratios
# matter. A choice by the clock would differ from run to run.
_MULTIPLICATIONS = 75e9
_BYTES = 20e9
_KEPT_BYTES = 96 * 2**20  # of one weight's gradients by unit, above which memory would grow with the units
_TRUSTED = 1e6  # units of rounding by which a squared norm may be raised before it is computed the dear way
_UNDERFLOW = 1e-3  # of a squared norm that may be lost by products that are rounded to 0
_PATCH_BYTES = 16 * 2**20  # of the patches that are copied out at a time


class Geometry(NamedTuple):
    """Two numbers each, rows and columns; groups G."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """B×I×H×W → B×O×H'×W'."""
        output: Tensor = torch.ops.aten.convolution(x, weight, bias, *self._settings())
        return output

    def input_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """As x."""
        backward = torch.ops.aten.convolution_backward
        gradient: Tensor = backward(grad, x, weight, None, *self._settings(), [True, False, False])[0]
        return gradient

    def weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """As the weight, summed over the films."""
        backward = torch.ops.aten.convolution_backward
        gradient: Tensor = backward(grad, x, weight, None, *self._settings(), [False, True, False])[1]
        return gradient

    def _settings(self) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
        return list(self.stride), list(self.padding), list(self.dilation), False, [0, 0], self.groups


@dataclass(frozen=True)
class ConvolutionUse:
    """What one use of a weight in a forward and backward pass left behind.

    Attributes:
        geometry: of the convolution.
        x: B×I×H×W, its input.
        grad: B×O×H'×W', gradient of the summed loss with respect to its output, in x's layout.
        weight: O×(I/G)×k×k, that the convolution ran with.
        standardised: where `weight` was made of the parameter by standardisation; with the output, B×O×H'×W' without
            bias, of which the norms are made.
    """

    geometry: Geometry
    x: Tensor
    grad: Tensor
    weight: Tensor
    standardised: StandardisedWeight | None = None
    output: Tensor | None = None

    def prefers_norms(self, units: Units) -> bool:
        """Whether norms first and one weighted gradient then is cheaper than every unit's gradient.

        By a static model of arithmetic and memory traffic: the same for the same shapes on every machine.
        """
        outputs, inputs, *kernel = self.weight.shape
        positions = prod(self.grad.shape[2:])
        arithmetic = units.films * positions * self.weight.numel() / _MULTIPLICATIONS
        kept = 4 * len(units) * self.weight.numel()
        pairs = self.geometry.groups * sum((size * positions) ** 2 for size in units.sizes)
        whole = self._is_pointwise() or self._keeps_positions()
        patches = 2 * 4 * units.films * positions * inputs * prod(kernel) * self.geometry.groups
        every = arithmetic + ((0 if self._is_pointwise() else patches) + 3 * kept) / _BYTES
        width = inputs * (1 if whole else prod(kernel)) + outputs // self.geometry.groups
        boxes = 3 * sum(kernel) if self._keeps_positions() and not self._is_pointwise() else 0
        copies = (0 if whole else patches) + 4 * pairs * (2 + boxes) + 3 * 4 * self.grad.numel()
        norms = pairs * width / _MULTIPLICATIONS + copies / _BYTES + arithmetic
        return norms < every or kept > _KEPT_BYTES

    def unit_gradients(self, units: Units) -> Tensor:
        """Gradient of the parameter by unit: U×O×(I/G)×k×k."""
        result: Tensor | None = None
        for size, chosen in units.by_size.items():
            for some in self._portions(chosen, size):
                films = _films(units, some)
                x = _by_unit(self._patches(self.x[films]), size)
                grad = _by_unit(_tokens(self.grad[films], self.geometry.groups), size)
                products = self._as_weights(torch.matmul(grad.transpose(-1, -2), x))
                if len(some) == len(units):
                    result = products
                    break
                if result is None:
                    shape = (len(units), *products.shape[1:])
                    result = products.new_empty_strided(shape, products.stride())
                result[some] = products
        if result is None:
            raise ValueError("expected at least one unit")
        return result if self.standardised is None else self.standardised.gradient(result)

    def gradient_of(self, units: Units, unit: int) -> Tensor:
        """Gradient of the parameter by one unit: 1×O×(I/G)×k×k; the same numbers each time."""
        films = slice(*units.bounds[unit])
        output = None if self.output is None else self.output[films]
        alone = replace(self, x=self.x[films], grad=self.grad[films], output=output)
        return alone.unit_gradients(Units((units.sizes[unit],)))

    def squared_norms(self, units: Units) -> tuple[Tensor, list[int]]:
        """Squared norm of the parameter's gradient by unit, U, without that gradient: in T² instead of I·k²·O.

        ‖Σ_t g_t x_tᵀ‖² = Σ_tt' (g_t·g_t')(x_t·x_t'), over all positions of a unit's films (Goodfellow, 1510.01799).

        Returns:
            The squared norms, never too small by the rounding of what `weighted_gradient` gives, and the units of which
            that cannot be said: their gradient is the small rest of large numbers, or products leave what float32
            holds. Those have to be taken from `gradient_of`, norm and gradient alike.
        """
        grad = self.grad
        norms, lengths, largest = (self.x.new_empty(len(units), dtype=torch.float64) for _ in range(3))
        if self.standardised is not None:
            grad = grad * self.standardised.scale.view(1, -1, 1, 1)
        for size, chosen in units.by_size.items():
            films = _films(units, chosen)
            gram = self._input_gram(self.x[films], size, grad.shape[2:])
            tokens = _by_unit(_tokens(grad[films], self.geometry.groups), size)
            of_grad = torch.matmul(tokens, tokens.transpose(-1, -2))
            diagonals = _diagonal(gram), _diagonal(of_grad)
            largest[chosen] = sum(of.flatten(1).amax(1).double() for of in diagonals)
            length = (diagonals[0] * diagonals[1]).clamp_(min=0).sqrt_()
            lengths[chosen] = length.sum(-1, dtype=torch.float64).square().sum(1)
            norms[chosen] = gram.mul_(of_grad).flatten(1).sum(1, dtype=torch.float64)
        if self.standardised is not None:
            norms -= self._removed_by_standardisation(grad, units)
        rounding = self._rounding() * lengths
        trusted = rounding <= _TRUSTED * torch.finfo(grad.dtype).eps * norms
        trusted &= (norms > self._underflow(largest, units)) & torch.isfinite(norms)
        return norms + rounding, torch.nonzero(~trusted).flatten().tolist()

    def _rounding(self) -> float:
        """Error of a squared norm over (Σ_t ‖g_t‖‖x_t‖)², as if the rounding of all its products had one sign.

        It is added, so that a norm that is the small rest of large numbers is not understated and C holds: by as much
        as the products of the norm and those of the gradient itself are rounded.
        """
        terms = self.weight[0].numel() + self.weight.shape[0] // self.geometry.groups
        return 3 * math.sqrt(terms) * torch.finfo(self.x.dtype).eps * (1 if self.standardised is None else 3)

    def _underflow(self, largest: Tensor, units: Units) -> Tensor:
        """U: a squared norm below this may lack products that were rounded to 0.

        A product of two inputs or of two gradients loses at most the smallest normal number; K of them make an entry of
        a Gram matrix, which is multiplied by an entry of the other. So does the product of the entries.

        Args:
            largest: U, the largest squared length of what a position sees and of a position's gradient, added.
        """
        terms = float(max(self.weight[0].numel(), self.weight.shape[0]))
        positions = torch.tensor(units.sizes, dtype=torch.float64, device=largest.device)
        pairs = (positions * prod(self.grad.shape[2:])).square() * self.geometry.groups
        tiny = torch.finfo(self.grad.dtype).tiny / _UNDERFLOW
        return (largest * terms + 1) * pairs * tiny

    def weighted_gradient(self, factors: Tensor) -> Tensor:
        """Σ over films of factor · gradient: as the parameter. factors: B."""
        grad = self.geometry.weight_gradient(self.grad * factors.view(-1, 1, 1, 1), self.x, self.weight)
        return grad if self.standardised is None else self.standardised.gradient(grad[None])[0]

    def without(self, films: Tensor) -> ConvolutionUse:
        """Zeros in place of these films (B, true where they go)."""
        mask = films.view(-1, 1, 1, 1)
        return replace(self, x=self.x.masked_fill(mask, 0), grad=self.grad.masked_fill(mask, 0))

    def _is_pointwise(self) -> bool:
        return tuple(self.weight.shape[2:]) == (1, 1) and self.geometry.padding == (0, 0)

    def _keeps_positions(self) -> bool:
        """Stride 1 and a kernel in the middle of its padding: output position t sees the input around t."""
        kernel = self.weight.shape[2:]
        same = all(2 * pad == side - 1 for pad, side in zip(self.geometry.padding, kernel, strict=True))
        return same and self.geometry.stride == self.geometry.dilation == (1, 1)

    def _portions(self, chosen: list[int], size: int) -> Iterator[list[int]]:
        """The units, as many at a time as their patches may take memory."""
        patches = self.x.element_size() * size * prod(self.grad.shape[2:]) * self.weight[0].numel()
        at_once = max(1, _PATCH_BYTES // (patches * self.geometry.groups))
        if self._is_pointwise():
            at_once = len(chosen)
        for start in range(0, len(chosen), at_once):
            yield chosen[start : start + at_once]

    def _patches(self, x: Tensor) -> Tensor:
        """What each output position sees: b×G×T×K, K = k·k·(I/G) in channels_last, (I/G)·k·k in contiguous layout."""
        groups = self.geometry.groups
        if self._is_pointwise():
            return _tokens(self._strided(x), groups)
        kernel = (self.weight.shape[2], self.weight.shape[3])
        stride, padding, dilation = self.geometry[:3]
        if not is_channels_last(x):
            columns = F.unfold(x, kernel, dilation, padding, stride)
            return columns.view(len(x), groups, -1, columns.shape[-1]).transpose(2, 3)
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
        films, rows, columns_, channels = padded.stride()
        patches = padded.as_strided(
            (len(x), *self.grad.shape[2:], *kernel, x.shape[1]),
            (
                films,
                rows * stride[0],
                columns_ * stride[1],
                rows * dilation[0],
                columns_ * dilation[1],
                channels,
            ),
        )
        if groups == 1:
            return patches.reshape(len(x), 1, -1, self.weight[0].numel())
        by_group = patches.reshape(*patches.shape[:5], groups, -1).permute(0, 5, 1, 2, 3, 4, 6)
        return by_group.reshape(len(x), groups, -1, self.weight[0].numel())

    def _as_weights(self, products: Tensor) -> Tensor:
        """u×G×(O/G)×K → u×O×(I/G)×k×k, without a copy."""
        outputs, inputs, *kernel = self.weight.shape
        if is_channels_last(self.x) and not self._is_pointwise():
            return products.view(len(products), outputs, *kernel, inputs).permute(0, 1, 4, 2, 3)
        return products.view(len(products), outputs, inputs, *kernel)

    def _strided(self, x: Tensor) -> Tensor:
        rows, columns = self.geometry.stride
        return x if (rows, columns) == (1, 1) else x[:, :, ::rows, ::columns]

    def _input_gram(self, x: Tensor, size: int, outputs: torch.Size) -> Tensor:
        """Products of the inputs that two output positions see: u×G×mT×mT for u units of m = size films."""
        groups = self.geometry.groups
        if self._keeps_positions():
            tokens = _by_unit(_tokens(x, groups), size)
            gram = torch.matmul(tokens, tokens.transpose(-1, -2))
            box = gram.view(-1, size, *outputs, size, *outputs)
            for axis, reach in enumerate(self.geometry.padding):
                box = _diagonal_sums(box, axis + 2, axis + 5, reach)
            return box.view(gram.shape)
        tokens = _by_unit(self._patches(x), size)
        return torch.matmul(tokens, tokens.transpose(-1, -2))

    def _removed_by_standardisation(self, grad: Tensor, units: Units) -> Tensor:
        """What projecting each row off the constant and off the weight takes from the squared norms, U."""
        standardised, output = self.standardised, self.output
        if standardised is None or output is None:
            raise ValueError("expected the output of the convolution with a standardised weight")
        along_weight = units.sum((grad * output).sum((2, 3), dtype=torch.float64))
        ones = torch.ones_like(self.weight[: self.geometry.groups])
        seen = self.geometry.forward(self.x, ones, None).repeat_interleave(
            grad.shape[1] // self.geometry.groups, 1
        )
        constant = units.sum((grad * seen).sum((2, 3), dtype=torch.float64))
        return standardised.removed(constant, along_weight)


def _films(units: Units, chosen: list[int]) -> slice | Tensor:
    """What selects the chosen units' films: a slice where they lie side by side."""
    if chosen[-1] - chosen[0] + 1 == len(chosen):
        return slice(units.bounds[chosen[0]][0], units.bounds[chosen[-1]][1])
    return units.films_of(chosen)


def _tokens(maps: Tensor, groups: int) -> Tensor:
    """B×C×H×W → B×G×T×(C/G), without a copy in either layout."""
    films, channels = maps.shape[:2]
    if is_channels_last(maps):
        return maps.permute(0, 2, 3, 1).reshape(films, -1, groups, channels // groups).transpose(1, 2)
    return maps.reshape(films, groups, channels // groups, -1).transpose(2, 3)


def _diagonal(gram: Tensor) -> Tensor:
    """u×G×T×T → u×G×T."""
    return gram.diagonal(dim1=-2, dim2=-1)


def _by_unit(tokens: Tensor, size: int) -> Tensor:
    """The positions of a unit's films one after another: (u·m)×G×T×c → u×G×mT×c."""
    if size == 1:
        return tokens
    films, groups, positions, channels = tokens.shape
    split = tokens.reshape(films // size, size, groups, positions, channels)
    return split.transpose(1, 2).reshape(films // size, groups, size * positions, channels)


def _diagonal_sums(values: Tensor, first: int, second: int, reach: int) -> Tensor:
    """Σ over shifts −reach … reach of `values` moved by the shift along both axes at once, zeros from outside."""
    if reach == 0:
        return values
    result = values.clone()
    length = values.shape[first]
    for shift in range(1, min(reach, length - 1) + 1):
        later = values.narrow(first, shift, length - shift).narrow(second, shift, length - shift)
        earlier = values.narrow(first, 0, length - shift).narrow(second, 0, length - shift)
        result.narrow(first, 0, length - shift).narrow(second, 0, length - shift).add_(later)
        result.narrow(first, shift, length - shift).narrow(second, shift, length - shift).add_(earlier)
    return result
