"""The attend-and-compare module as one operation, with its hand-derived backward pass.

Source: Kim et al., "Learning Visual Context by Comparison", ECCV 2020 (arXiv 2007.07506), section 3.
Shapes: B batch, C channels, G groups, c = C/G channels of a group, N = H·W positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from acm_core.ops import derived
from acm_core.ops.passes import (
    Backward,
    Forward,
    Parameters,
    empty_backward,
    empty_forward,
    is_channels_last,
    sum_dtype,
)
from acm_core.ops.reference import check_arguments

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def attend_and_compare(
    x: Tensor,
    key_weight: Tensor,
    query_weight: Tensor,
    gate1_weight: Tensor,
    gate1_bias: Tensor,
    gate2_weight: Tensor,
    gate2_bias: Tensor,
    *,
    mirrored: bool = False,
) -> tuple[Tensor, Tensor]:
    """y = (x + K − Q) ⊙ P, and how far K and Q are from orthogonal.

    What computes it follows from x alone, and changes no result beyond rounding:

    - float32, bfloat16 or float16 on the CPU: numba kernels, where numba is installed (float16 by way of float32);
    - the same on a GPU: Triton kernels, where Triton is installed;
    - everything else (float64; groups of unusual sizes, see `covers` of either; a mirrored query): plain PyTorch with
      the same hand-derived backward pass.

    Sums over positions and everything of size B×C are float32 (float64 for float64 x), autocast or not.
    For the backward pass x and vectors of size B×C are kept. The operation works under torch.compile without a graph
    break. It has no second derivative: `acm_core.ops.reference` does.

    Args:
        x: B×C×H×W, float32, float64, bfloat16 or float16. H·W ≥ 1; B may be 0. Contiguous or channels_last as it
            is; any other layout is copied first.
        key_weight: G×c, weights of the score map that pools K. G is read from here; c is even.
        query_weight: G×c, the same for Q.
        gate1_weight: C/2×c, first grouped 1×1 convolution of the gate P.
        gate1_bias: C/2.
        gate2_weight: C×c/2, second grouped 1×1 convolution of the gate.
        gate2_bias: C.
        mirrored: the query's scores are those of x flipped left to right: Q is taken from the other side of where they
            are high.

    Returns:
        y: B×C×H×W in x's dtype, channels_last if x is, else contiguous.
        orthogonality: B, the mean over channels of K ⊙ Q (both centred); float64 for float64 x, else float32.

    Raises:
        TypeError: x has another dtype.
        ValueError: x is not B×C×H×W with positions, or a parameter's shape does not fit it.
        RuntimeError: a second derivative is asked for.
    """
    inputs = (x, key_weight, query_weight, gate1_weight, gate1_bias, gate2_weight, gate2_bias)
    if has_torch_function_variadic(*inputs):
        overridden: tuple[Tensor, Tensor] = handle_torch_function(
            attend_and_compare, inputs, *inputs, mirrored=mirrored
        )
        return overridden
    check_arguments(*inputs, dtypes=_DTYPES)
    # The registered operation is what torch.compile sees; called by hand, it takes 0.3 ms longer than the function.
    operation = _forward_op if torch.compiler.is_compiling() else _AttendAndCompare.apply
    outputs = operation(_dense(x), *inputs[1:], mirrored)
    return outputs[0], outputs[1]


class SampleGradients(NamedTuple):
    """Gradients of one loss a sample: x as x; each parameter's B×(its shape), not summed over the batch."""

    x: Tensor
    key_weight: Tensor
    query_weight: Tensor
    gate1_weight: Tensor
    gate1_bias: Tensor
    gate2_weight: Tensor
    gate2_bias: Tensor


def forward_kept(
    x: Tensor, *parameters: Tensor, mirrored: bool = False
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """`attend_and_compare` without autograd: y, the orthogonality term, and what `sample_backward` reads: the inputs
    and vectors of size B×C.
    """
    check_arguments(x, *parameters, dtypes=_DTYPES)
    x = _dense(x)
    y, orthogonality, *vectors = _forward(x, *parameters, mirrored=mirrored)
    return y, orthogonality, (x, *parameters, *vectors)


def sample_backward(
    grad_y: Tensor, grad_orthogonality: Tensor, kept: Sequence[Tensor], *, mirrored: bool = False
) -> SampleGradients:
    """What the backward pass yields before the sum over the batch, for private training: at its cost.

    Args:
        grad_y: B×C×H×W, gradient of the summed loss with respect to y.
        grad_orthogonality: B, the same for the orthogonality term.
        kept: of `forward_kept`.
        mirrored: as there.
    """
    parameters = Parameters(*kept[1:7])
    gradients = Backward(*_backward(grad_y, grad_orthogonality, *kept, mirrored=mirrored))
    passed = Forward(kept[0], *kept[7:])
    mean, hidden = _by_group(passed.mean, parameters), _by_group(passed.hidden, parameters)
    gate1, gate2 = _by_group(gradients.gate1, parameters), _by_group(gradients.gate2, parameters)
    return SampleGradients(
        gradients.x,
        gradients.key,
        gradients.query,
        torch.einsum("bgo,bgi->bgoi", gate1, mean).flatten(1, 2),
        gradients.gate1,
        torch.einsum("bgo,bgi->bgoi", gate2, hidden).flatten(1, 2),
        gradients.gate2,
    )


def _dense(x: Tensor) -> Tensor:
    return x if is_channels_last(x) else x.contiguous()


def _as(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient in x's dtype and layout."""
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return gradient.to(x.dtype).contiguous(memory_format=layout)


def _by_group(values: Tensor, parameters: Parameters) -> Tensor:
    batch, width = values.shape
    groups = len(parameters.key)
    return values.view(batch, groups, width // groups)


class _Implementation(Protocol):
    """A module that computes both passes."""

    def forward(self, x: Tensor, parameters: Parameters) -> Forward: ...

    def backward(
        self,
        grad_y: Tensor,
        grad_orthogonality: Tensor,
        x: Tensor,
        parameters: Parameters,
        passed: Forward,
    ) -> Backward: ...


@cache
def _is_installed(library: str) -> bool:
    return find_spec(library) is not None


def _implementation(x: Tensor, parameters: Parameters) -> _Implementation:
    if x.dtype is not torch.float64:
        if x.device.type == "cpu" and _is_installed("numba"):
            from acm_core.ops import cpu

            if cpu.covers(x, parameters):
                return cpu
        elif x.device.type == "cuda" and _is_installed("triton"):
            from acm_core.ops import gpu

            if gpu.covers(x, parameters):
                return gpu
    return derived


# The operations that torch.compile and autograd see. Their outputs after the first two are what the backward pass
# needs beside x.


def _forward(x: Tensor, *tensors: Tensor, mirrored: bool) -> tuple[Tensor, ...]:
    parameters = Parameters(*tensors)
    if mirrored:
        passed = derived.forward(x, parameters, mirrored=True)
    else:
        passed = _implementation(x, parameters).forward(x, parameters)
    orthogonality = ((passed.key - passed.mean) * (passed.query - passed.mean)).mean(1)
    return passed.y, orthogonality, *passed[1:]


def _backward(
    grad_y: Tensor, grad_orthogonality: Tensor, x: Tensor, *others: Tensor, mirrored: bool
) -> tuple[Tensor, ...]:
    parameters, passed = Parameters(*others[:6]), Forward(x, *others[6:])
    grad_y = _as(grad_y, x)
    if mirrored:
        return derived.backward(grad_y, grad_orthogonality, x, parameters, passed, mirrored=True)
    return _implementation(x, parameters).backward(grad_y, grad_orthogonality, x, parameters, passed)


@torch.library.custom_op("acm_core::attend_and_compare", mutates_args=())
def _forward_op(
    x: Tensor,
    key_weight: Tensor,
    query_weight: Tensor,
    gate1_weight: Tensor,
    gate1_bias: Tensor,
    gate2_weight: Tensor,
    gate2_bias: Tensor,
    mirrored: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    parameters = (key_weight, query_weight, gate1_weight, gate1_bias, gate2_weight, gate2_bias)
    return _forward(x, *parameters, mirrored=mirrored)  # type: ignore[return-value]


@_forward_op.register_fake
def _(x: Tensor, key_weight: Tensor, *_: Tensor | bool) -> tuple[Tensor, ...]:
    y, *vectors = empty_forward(x, len(key_weight))
    return y, x.new_empty((len(x),), dtype=sum_dtype(x)), *vectors


@torch.library.custom_op("acm_core::attend_and_compare_backward", mutates_args=())
def _backward_op(
    grad_y: Tensor,
    grad_orthogonality: Tensor,
    x: Tensor,
    key_weight: Tensor,
    query_weight: Tensor,
    gate1_weight: Tensor,
    gate1_bias: Tensor,
    gate2_weight: Tensor,
    gate2_bias: Tensor,
    mean: Tensor,
    key: Tensor,
    query: Tensor,
    gate: Tensor,
    hidden: Tensor,
    log_sums: Tensor,
    mirrored: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    parameters = (key_weight, query_weight, gate1_weight, gate1_bias, gate2_weight, gate2_bias)
    vectors = (mean, key, query, gate, hidden, log_sums)
    gradients = _backward(grad_y, grad_orthogonality, x, *parameters, *vectors, mirrored=mirrored)
    return tuple(gradients)  # type: ignore[return-value]


@_backward_op.register_fake
def _(
    _y: Tensor, _orthogonality: Tensor, x: Tensor, key_weight: Tensor, *_: Tensor | bool
) -> tuple[Tensor, ...]:
    return empty_backward(x, len(key_weight))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.mirrored = inputs
    ctx.save_for_backward(*tensors, *output[2:])
    ctx.set_materialize_grads(False)


def _keep_of_op(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _keep(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[2:])


def _differentiate(
    backward: Callable[..., tuple[Tensor, ...]],
    ctx: Any,
    grad_y: Tensor | None,
    grad_orthogonality: Tensor | None,
    *_: Tensor | None,
) -> tuple[Tensor | None, ...]:
    x, *parameters_and_vectors = ctx.saved_tensors
    parameters = Parameters(*parameters_and_vectors[:6])
    mean, hidden = parameters_and_vectors[6], parameters_and_vectors[10]
    if grad_y is None:
        grad_y = torch.zeros_like(x)
    if grad_orthogonality is None:
        grad_orthogonality = mean.new_zeros(len(x))
    grad_x, key, query, gate1, gate2 = backward(
        grad_y, grad_orthogonality, x, *parameters_and_vectors, mirrored=ctx.mirrored
    )
    by_group1, by_group2 = _by_group(gate1, parameters), _by_group(gate2, parameters)
    gradients = (
        key.sum(0),
        query.sum(0),
        _outer_sum(by_group1, _by_group(mean, parameters)),
        gate1.sum(0),
        _outer_sum(by_group2, _by_group(hidden, parameters)),
        gate2.sum(0),
    )
    return grad_x, *(gradient.to(p.dtype) for gradient, p in zip(gradients, parameters, strict=True)), None


class _AttendAndCompare(torch.autograd.Function):
    """The operation outside torch.compile."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, mirrored = inputs
        outputs = _forward(*tensors, mirrored=mirrored)
        _keep(ctx, inputs, outputs)
        return outputs[0], outputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        # With create_graph the registered operation stands in, which refuses to be differentiated again.
        return _differentiate(_backward_op if torch.is_grad_enabled() else _backward, ctx, *gradients)


def _outer_sum(left: Tensor, right: Tensor) -> Tensor:
    """Σ over the batch of left ⊗ right within each group: B×G×o and B×G×i → G·o×i."""
    return torch.bmm(left.permute(1, 2, 0), right.transpose(0, 1)).flatten(0, 1)


def _refuse_second_derivative(_ctx: Any, *_: Tensor | None) -> tuple[Tensor, ...]:
    raise RuntimeError(
        "attend_and_compare has no second derivative: use acm_core.ops.reference.attend_and_compare for it"
    )


_forward_op.register_autograd(partial(_differentiate, _backward_op), setup_context=_keep_of_op)
_backward_op.register_autograd(_refuse_second_derivative)
