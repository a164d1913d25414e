"""Gaussian noise that nobody can draw again: AES-256 in counter mode under keys from the operating system.

Torch's own generator takes 32 bits of a seed on the CPU, and its state follows from a few thousand of its outputs;
where a unit's gradient is zero those outputs stand in the released sum. This one is as fast (see docs/SPEED.md).
"""

from __future__ import annotations

import math
import os

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from torch import Tensor

_PAIRS = 2**16  # normal numbers drawn at a time, twice: what the processor's cache holds
_ZEROS = bytes(8 * _PAIRS)
_BLOCK = 16
_NORMAL = torch.finfo(torch.float32)


def is_representable(standard_deviation: float) -> bool:
    """Whether it is above 0 and float32 holds it with all its digits."""
    return _NORMAL.tiny <= standard_deviation <= _NORMAL.max


class GaussianNoise:
    """A source of independent normal numbers, each tensor's under a key of its own.

    No key outlives a call, so that no copy of this process has it: none that is forked, into whichever PID namespace,
    and none of a machine that is set back to a snapshot, as far as its kernel mixes in that it was.

    Numbers come from two random numbers by Box and Muller (Ann. Math. Stat. 29, 1958) in float32. The radius is drawn
    with 64 bits and reaches 9.4 standard deviations; that a number had to lie beyond has a chance of 2⁻⁶⁴. Attacks on
    floating-point rounding (Mironov, CCS 2012) are not met.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(len(_ZEROS) + _BLOCK - 1)

    @torch.no_grad()
    def add_to(self, values: Tensor, standard_deviation: float) -> None:
        """Add noise to `values` in place: floating point, any shape, dense in memory in any order of its axes.

        Raises:
            ValueError: the standard deviation is not a positive number, or none that float32 holds with all its digits.
        """
        if not is_representable(standard_deviation):
            raise ValueError(
                f"expected a standard deviation > 0 among float32's normal numbers, got {standard_deviation}"
            )
        flat = values.permute(sorted(range(values.ndim), key=values.stride, reverse=True)).view(-1)
        cipher = _cipher()
        for start in range(0, flat.numel(), 2 * _PAIRS):
            parts = flat[start : start + _PAIRS], flat[start + _PAIRS : start + 2 * _PAIRS]
            for part, drawn in zip(parts, self._draw(cipher), strict=True):
                part.add_(drawn[: len(part)].to(flat.device, flat.dtype), alpha=standard_deviation)

    def _draw(self, cipher: CipherContext) -> tuple[Tensor, Tensor]:
        """Twice _PAIRS standard normal numbers."""
        cipher.update_into(_ZEROS, self._buffer)
        bits = torch.frombuffer(self._buffer, dtype=torch.int32, count=2 * _PAIRS)
        radii, angles = bits[:_PAIRS], bits[_PAIRS:]
        # (0, 1) with as many digits near 0, where the large radii come from, as elsewhere. The sum rounds up to 2^24,
        # which the factor keeps below 1; an odd angle is never 0. Either would add no noise at all.
        low = (radii & 0xFF).float().add_(0.5).mul_(1 / 256)
        high = (radii >> 8) & 0xFFFFFF
        uniform = low.add_(high).mul_(2.0**-24 - 2.0**-48)
        if int(high.min()) == 0:
            _sharpen(uniform, radii, torch.nonzero(high == 0).flatten())
        radius = uniform.log_().mul_(-2).sqrt_()
        angle = (angles | 1).float().mul_(math.pi * 2.0**-31)
        return angle.cos().mul_(radius), angle.sin_().mul_(radius)


def _cipher() -> CipherContext:
    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(_BLOCK))).encryptor()


def _sharpen(uniform: Tensor, radii: Tensor, rare: Tensor) -> None:
    """Give the smallest of the uniform numbers, which begin with 24 zeros, 32 more bits."""
    more = torch.frombuffer(bytearray(os.urandom(4 * len(rare))), dtype=torch.int32).double()
    uniform[rare] = ((radii[rare].double() + (more + 2.0**31 + 0.5) * 2.0**-32) * 2.0**-32).float()
