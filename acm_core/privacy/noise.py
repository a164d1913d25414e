"""Gaussian noise that nobody can draw again: AES-256 in counter mode under a key from the operating system.

Torch's own generator takes 32 bits of a seed on the CPU, and its state follows from a few thousand of its outputs;
where a unit's gradient is zero those outputs stand in the released sum. This one is as fast (see docs/SPEED.md).
"""

from __future__ import annotations

import math
import os

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

_PAIRS = 2**16  # normal numbers drawn at a time, twice: what the processor's cache holds
_ZEROS = bytes(8 * _PAIRS)
_BLOCK = 16


class GaussianNoise:
    """A stream of independent normal numbers; another process, or this one after a fork, has another stream.

    Numbers come from 33 random bits by Box and Muller (Ann. Math. Stat. 29, 1958) in float32 and reach ±6.7 standard
    deviations. Attacks on floating-point rounding (Mironov, CCS 2012) are not met.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(_BLOCK))).encryptor()
        self._buffer = bytearray(len(_ZEROS) + _BLOCK - 1)

    @torch.no_grad()
    def add_to(self, values: Tensor, standard_deviation: float) -> None:
        """Add noise to `values` in place: floating point, any shape, dense in memory in any order of its axes.

        Raises:
            ValueError: the standard deviation is not a positive number.
        """
        if not (math.isfinite(standard_deviation) and standard_deviation > 0):
            raise ValueError(f"expected a standard deviation > 0, got {standard_deviation}")
        if os.getpid() != self._process:
            self._start()
        flat = values.permute(sorted(range(values.ndim), key=values.stride, reverse=True)).view(-1)
        for start in range(0, flat.numel(), 2 * _PAIRS):
            parts = flat[start : start + _PAIRS], flat[start + _PAIRS : start + 2 * _PAIRS]
            for part, drawn in zip(parts, self._draw(), strict=True):
                part.add_(drawn[: len(part)].to(flat.device, flat.dtype), alpha=standard_deviation)

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Twice _PAIRS standard normal numbers."""
        self._cipher.update_into(_ZEROS, self._buffer)
        bits = torch.frombuffer(self._buffer, dtype=torch.int32, count=2 * _PAIRS)
        radii, angles = bits[:_PAIRS], bits[_PAIRS:]
        # (0, 1) with as many digits near 0, where the large radii come from, as elsewhere. The sum rounds up to 2^24,
        # which the factor keeps below 1; an odd angle is never 0. Either would add no noise at all.
        low = (radii & 0xFF).float().add_(0.5).mul_(1 / 256)
        uniform = low.add_((radii >> 8) & 0xFFFFFF).mul_(2.0**-24 - 2.0**-48)
        radius = uniform.log_().mul_(-2).sqrt_()
        angle = (angles | 1).float().mul_(math.pi * 2.0**-31)
        return angle.cos().mul_(radius), angle.sin_().mul_(radius)
