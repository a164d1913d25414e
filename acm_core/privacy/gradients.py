"""Clipped sums of units' gradients from one backward pass.

Inside `UnitGradients.recording` every use of a managed parameter runs through an autograd function whose backward pass
computes the input's gradient only and leaves (input, output gradient) with the recorder. From these come, weight by
weight, either every unit's gradient or, where that is dearer, the norms alone, and then one weighted gradient
(Lee and Kifer, PoPETs 2021; Bu et al., arXiv 2210.00038). A parameter is known by its tensor, not by its module: it may
be used in any way that stands in `LAYERS`, once a pass, and in no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from acm_core.config.sections import Loss
from acm_core.nn.classifier import ClassifierOutput
from acm_core.privacy.convolution import ConvolutionUse
from acm_core.privacy.layers import LAYERS, UnknownGradientError
from acm_core.privacy.units import Units
from acm_core.training.loss import film_losses

_HARMLESS = frozenset(
    {"shape", "dtype", "device", "ndim", "layout", "is_leaf", "requires_grad", "is_cuda", "is_sparse"}
)
"""Attributes of a parameter that anybody may read."""

_HARMLESS_METHODS = frozenset(
    {Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_floating_point, Tensor.is_contiguous}
)
_MIXING = frozenset({F.batch_norm, torch.batch_norm, torch.native_batch_norm})
_BATCH_NORM = signature(F.batch_norm)

_BACKENDS: Any = torch.backends  # its own types lack these
_PRODUCTS = (
    _BACKENDS.cuda.matmul,
    _BACKENDS.cudnn.conv,
    _BACKENDS.mkldnn.matmul,
    _BACKENDS.mkldnn.conv,
)
_STRETCH = 1024
"""Numbers whose squares are added in float32."""
_LOST = 2.0**-100
"""Of a sum of squares, the mean below which squares that float32 rounds to 0 could count; far above 2⁻¹²⁶."""


@contextmanager
def full_float32() -> Iterator[None]:
    """Products of float32 numbers with all their digits inside, whatever the process has set for them."""
    before = [backend.fp32_precision for backend in _PRODUCTS]
    try:
        for backend in _PRODUCTS:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(_PRODUCTS, before, strict=True):
            backend.fp32_precision = precision


@dataclass(frozen=True)
class ClippedSum:
    """What one physical batch adds to a step.

    Attributes:
        gradients: parameter name → Σ over units of min(1, C/‖g‖)·g, in the parameter's shape.
        norms: ‖g‖ of each unit before clipping, U, float64; not finite where the gradient is not, and such a unit adds
            nothing.
    """

    gradients: dict[str, Tensor] = field(repr=False)
    norms: Tensor = field(repr=False)


class UnitGradients:
    """Computes clipped sums for a model.

    Its parameters' `grad` stays None: what a parameter gets by any other way than the known ones is an error.

    Args:
        model: layers of any nesting; the parameters that require gradients are managed.
        norms_first: whether weights are clipped by their norms or by every unit's gradient, both exact; None: the
            cheaper, weight by weight.
    """

    def __init__(self, model: nn.Module, *, norms_first: bool | None = None) -> None:
        self._norms_first = norms_first
        self._parameters = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self._names = {id(parameter): name for name, parameter in self._parameters.items()}
        self._units: Units | None = None
        self._claimed: set[str] = set()
        self._uses: dict[str, ConvolutionUse] = {}
        self._kept: dict[str, Tensor] = {}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The managed parameters by name."""
        return self._parameters

    @contextmanager
    def recording(self, units: Units) -> Iterator[None]:
        """Run the forward pass of a batch of `units` inside; the backward pass after it.

        Raises:
            UnknownGradientError: a parameter is used in an unknown way or twice, or films are mixed by a batch norm
                that is not frozen.
        """
        if any(parameter.grad is not None for parameter in self._parameters.values()):
            raise UnknownGradientError("expected no gradients before a pass: set them to None")
        self._units, self._claimed, self._uses, self._kept = units, set(), {}, {}
        with _Interception(self):
            yield

    @torch.no_grad()
    def clipped_sum(self, clipping_norm: float) -> ClippedSum:
        """The clipped sum, after the backward pass of Σ over units of their loss; what was recorded is let go.

        Args:
            clipping_norm: C > 0; math.inf does not clip.

        Raises:
            UnknownGradientError: a parameter was not used, or has got a gradient besides what was recorded.
        """
        units = self._recorded_units()
        recorded = self._uses.keys() | self._kept.keys()
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                raise UnknownGradientError(
                    f"{name}: expected its gradient from the recorded layers alone, got one by another way"
                )
            if name not in recorded:
                raise UnknownGradientError(
                    f"{name}: expected every parameter in the backward pass, got none for it: take it out of the model "
                    "or set requires_grad to False"
                )
        squares = torch.zeros(len(units), dtype=torch.float64, device=self._device())
        alone: dict[str, list[int]] = {}
        for name, use in self._uses.items():
            norms_first = use.prefers_norms(units) if self._norms_first is None else self._norms_first
            if norms_first:
                of_weight, alone[name] = use.squared_norms(units)
                for unit in alone[name]:
                    of_weight[unit] = squared_norms(_rows(use.gradient_of(units, unit))[0])[0]
                squares += of_weight
            else:
                self._kept[name] = use.unit_gradients(units)
        squares += sum(squared_norms(_rows(grads)[0]) for grads in self._kept.values())
        norms = squares.sqrt()
        finite = torch.isfinite(norms)
        factors = torch.where(finite, (clipping_norm / norms).clamp(max=1), 0.0)
        # A smaller number is none of float32's normal ones, and would be rounded up by as much as half of itself.
        factors[factors < torch.finfo(torch.float32).tiny] = 0
        gradients = self._weighted(units, factors, finite, alone)
        self._units, self._uses, self._kept = None, {}, {}
        return ClippedSum(gradients, norms)

    def _weighted(
        self, units: Units, factors: Tensor, finite: Tensor, alone: dict[str, list[int]]
    ) -> dict[str, Tensor]:
        """Σ over units of factor · gradient; of those in `alone` by the very numbers whose norm was taken."""
        bad = None if bool(finite.all()) else ~finite
        gradients: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            if name in self._kept:
                grads, restore = _rows(self._kept.pop(name))
                if bad is not None:
                    grads = grads.masked_fill(bad[:, None], 0)
                summed = restore(factors.to(grads.dtype) @ grads)
            else:
                use = whole = self._uses.pop(name)
                out = torch.zeros_like(finite) if bad is None else bad.clone()
                out[alone[name]] = True
                if bool(out.any()):
                    use = use.without(units.per_film(out, use.x.new_empty(0, dtype=torch.bool)))
                summed = use.weighted_gradient(units.per_film(factors, use.x))
                for unit in alone[name]:
                    if bool(finite[unit]):
                        summed += float(factors[unit]) * whole.gradient_of(units, unit)[0]
            gradients[name] = summed.reshape(parameter.shape)
        return gradients

    def _recorded_units(self) -> Units:
        if self._units is None:
            raise RuntimeError("expected a recorded forward pass and its backward pass first")
        return self._units

    def _device(self) -> torch.device:
        return next(iter(self._parameters.values())).device

    # What the layers call.

    def manages(self, tensor: object) -> bool:
        """Whether this is a parameter that training changes."""
        return id(tensor) in self._names

    def claim(self, tensor: Tensor) -> str:
        """The parameter's name, once a pass."""
        name = self._names[id(tensor)]
        if name in self._claimed:
            raise UnknownGradientError(
                f"{name}: expected one use a pass, got a second one (a shared layer, or one that is called twice): "
                "stack what both calls get into one call"
            )
        self._claimed.add(name)
        return name

    def refuse(self, tensor: Tensor, function: object) -> None:
        """Say that a parameter is used in a way that is not known."""
        known = ", ".join(sorted(getattr(layer, "__name__", str(layer)) for layer in LAYERS))
        raise UnknownGradientError(
            f"{self._names[id(tensor)]}: expected a use in one of {known}, got "
            f"{getattr(function, '__name__', function)}: its gradient by unit is not known"
        )

    def keep_use(self, name: str, use: ConvolutionUse) -> None:
        """A weight whose gradients are still to be computed."""
        self._check_new(name)
        self._uses[name] = use

    def keep_films(self, name: str, gradients: Tensor) -> None:
        """Gradients by film, B×…."""
        self._check_new(name)
        self._kept[name] = self._recorded_units().sum(gradients)

    def _check_new(self, name: str) -> None:
        if name in self._uses or name in self._kept:
            raise UnknownGradientError(f"{name}: expected one backward pass, got a second one")


def clipped_sum_of_films(
    recorder: UnitGradients,
    model: Callable[[Tensor], ClassifierOutput],
    images: Tensor,
    labels: Tensor,
    units: Units,
    orthogonality: float,
    loss: Loss,
    clipping_norm: float,
) -> ClippedSum:
    """One batch of private training: forward and backward pass of the units' mean losses, and their clipped sum.

    Args:
        model: whose gradients `recorder` has.
        images, labels: of the units' films, on the model's device.
        orthogonality, loss: as of `film_losses`.
        clipping_norm: C.

    Raises:
        UnknownGradientError: see `UnitGradients`.
    """
    with recorder.recording(units):
        output = model(images)
        losses = film_losses(output.logits, labels, output.orthogonality, orthogonality, loss)
        total = (losses * units.film_weights(losses)).sum()
    total.backward()  # type: ignore[no-untyped-call]  # torch's own signature is untyped
    return recorder.clipped_sum(clipping_norm)


def _rows(gradients: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """U×… as U×P in the order in which it lies in memory, and what makes a gradient of P numbers again."""
    order = sorted(range(1, gradients.ndim), key=gradients.stride, reverse=True)
    dense = gradients.permute(0, *order)
    axes = [order.index(axis) for axis in range(1, gradients.ndim)]
    return dense.reshape(len(gradients), -1), lambda summed: summed.view(dense.shape[1:]).permute(axes)


def squared_norms(rows: Tensor) -> Tensor:
    """U×P → U, float64: above 0 wherever a number is not 0, and finite wherever all numbers are.

    By stretches: torch's float32 sum of a million squares is too small by 4e-5. Where the sum is so small that squares
    may have been rounded to 0, or too large for float32, in float64.
    """
    whole = rows.shape[1] // _STRETCH * _STRETCH
    stretches = rows[:, :whole].view(len(rows), -1, _STRETCH)
    rest = torch.linalg.vector_norm(rows[:, whole:], dim=1).double().square()
    squares = torch.linalg.vector_norm(stretches, dim=2).double().square().sum(1) + rest
    doubtful = ~((squares > _LOST * rows.shape[1]) & torch.isfinite(squares))
    for row in torch.nonzero(doubtful).flatten().tolist():
        squares[row] = rows[row].double().square().sum()
    return cast(Tensor, squares)


class _Interception(TorchFunctionMode):
    """Sees every torch function that is called with a managed parameter."""

    def __init__(self, recorder: UnitGradients) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MIXING:
            self._expect_frozen(func, args, kwargs)
        managed = next(
            (tensor for tensor in _tensors((args, kwargs)) if self._recorder.manages(tensor)), None
        )
        if managed is None or _is_harmless(func):
            return func(*args, **kwargs)
        layer = LAYERS.get(func)
        if layer is None:
            self._recorder.refuse(managed, func)
        else:
            return layer(self._recorder, *args, **kwargs)
        return None

    def _expect_frozen(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """By fixed statistics and by parameters that do not train, it is an affine map of each film."""
        if func is F.batch_norm:
            given = _BATCH_NORM.bind(*args, **kwargs).arguments
            fixed = given["running_mean"] is not None and given["running_var"] is not None
            trains = any(self._recorder.manages(tensor) for tensor in _tensors(given))
            if fixed and not trains and not given.get("training", False):
                return
        raise UnknownGradientError(
            "expected no batch normalisation but a frozen one in evaluation mode: any other mixes the films of a "
            "batch; set model.norm to group, or model.trainable to head"
        )


def _tensors(values: object) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _is_harmless(func: Any) -> bool:
    if getattr(func, "__name__", "") == "__get__":
        return getattr(func.__self__, "__name__", "") in _HARMLESS
    return func in _HARMLESS_METHODS
