"""Attend-and-compare on a GPU by Triton kernels: float32 sums; float32, bfloat16 or float16 in and out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from acm_core.ops.gpu.kernels import backward_kernel, forward_kernel
from acm_core.ops.passes import (
    Backward,
    Forward,
    Parameters,
    empty_backward,
    empty_forward,
    in_float32,
    is_channels_last,
)

_MOST_CHANNELS = 256  # of a group: with more, a tile of 16 positions does not fit the registers
_GATE_TILE = 1024  # elements of the gate's weights held at a time


@dataclass(frozen=True)
class Launch:
    """How a kernel is specialised for a shape; see `kernels`."""

    c_pad: int
    h_block: int
    block_n: int
    resident: bool
    warps: int


def plan(width: int, positions: int, *, backward: bool) -> Launch:
    """The specialisation for c = `width` channels a group and N = `positions`.

    What a thread holds is bounded by registers: elements of a tile, and for each of its channels a dozen vectors.
    """
    c_pad = max(_power_of_two(width), 2)
    n_pad = max(_power_of_two(positions), 16)
    most = 8192 if backward else 32768
    if c_pad > 64:
        most = 4096
    resident = c_pad * n_pad <= most
    block_n = n_pad if resident else max(min(8192, most) // c_pad, 16)
    per_thread = 16 if c_pad >= 64 else 32 if backward or c_pad * block_n <= 8192 else 64
    warps = min(max(c_pad * block_n // (32 * per_thread), 1), 16)
    h_block = max(min(_power_of_two(width // 2), _GATE_TILE // c_pad), 1)
    return Launch(c_pad, h_block, block_n, resident, warps)


def covers(x: Tensor, parameters: Parameters) -> bool:
    """Whether the kernels compute this shape: up to 256 channels a group, 32-bit offsets within a sample."""
    return parameters.key.shape[1] <= _MOST_CHANNELS and x[:1].numel() < 2**31


def forward(x: Tensor, parameters: Parameters) -> Forward:
    """x: contiguous or channels_last, with `covers(x, parameters)`."""
    groups, width = parameters.key.shape
    passed = empty_forward(x, groups)
    _launch(
        forward_kernel, x, width, groups, [x, passed.y, *in_float32(parameters), *passed[1:]], backward=False
    )
    return passed


def backward(
    grad_y: Tensor, grad_orthogonality: Tensor, x: Tensor, parameters: Parameters, passed: Forward
) -> Backward:
    """grad_y: in x's dtype and layout; see `forward`."""
    groups, width = parameters.key.shape
    gradients = empty_backward(x, groups)
    key, query, weight1, _, weight2, _ = in_float32(parameters)
    arguments = [grad_y, grad_orthogonality.float().contiguous(), x, key, query, weight1, weight2]
    _launch(backward_kernel, x, width, groups, [*arguments, *passed[1:], *gradients], backward=True)
    return gradients


def _launch(
    kernel: Any, x: Tensor, width: int, groups: int, tensors: list[Tensor], *, backward: bool
) -> None:
    batch, _, height, breadth = x.shape
    if batch == 0:
        return
    kernel[(batch * groups,)](
        *tensors, **specialisation(width, height * breadth, groups, is_channels_last(x), backward=backward)
    )


def specialisation(
    width: int, positions: int, groups: int, channels_last: bool, *, backward: bool
) -> dict[str, Any]:
    """What a kernel is compiled for, by the names of its constants, and the warps it is launched with."""
    chosen = plan(width, positions, backward=backward)
    return {
        "positions": positions,
        "groups": groups,
        "stride_c": 1 if channels_last else positions,
        "stride_n": groups * width if channels_last else 1,
        "c": width,
        "c_pad": chosen.c_pad,
        "h_block": chosen.h_block,
        "block_n": chosen.block_n,
        "resident": chosen.resident,
        "num_warps": chosen.warps,
    }


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
