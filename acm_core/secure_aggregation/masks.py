"""Masks: keystreams that are added to integer vectors modulo 2³² and 2⁶⁴, in flat memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from acm_core.arrays import little_endian

KEY_BYTES = 32
_CHUNK = 2**18  # bytes at a time: what the processor's cache holds
_BLOCK = 16
_ZEROS = bytes(_CHUNK)


class Vector(NamedTuple):
    """What is summed, one axis each: `low` modulo 2³² (matrices and kernels), `high` modulo 2⁶⁴ (everything else)."""

    low: npt.NDArray[np.uint32]
    high: npt.NDArray[np.uint64]

    @classmethod
    def zeros(cls, low: int, high: int) -> Vector:
        """A sum of nothing yet, of so many values each."""
        return cls(np.zeros(low, np.uint32), np.zeros(high, np.uint64))

    @property
    def nbytes(self) -> int:
        return self.low.nbytes + self.high.nbytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of both, as little-endian numbers, in hex."""
        digest = hashlib.sha256(little_endian(self.low).data)
        digest.update(little_endian(self.high).data)
        return digest.hexdigest()

    def add(self, other: Vector) -> None:
        """Add another one of the same sizes, in place."""
        np.add(self.low, other.low, out=self.low)
        np.add(self.high, other.high, out=self.high)


@dataclass(frozen=True)
class Mask:
    """One keystream to be added, or `subtracted`; a key is used for this one stream and nothing else."""

    key: bytes = field(repr=False)
    subtracted: bool = False


def derive(secret: bytes, salt: bytes, *info: str) -> bytes:
    """A key of 32 bytes by HKDF-SHA256 (RFC 5869); each part of `info` goes in with its length before it."""
    encoded = [part.encode() for part in info]
    text = b"".join(len(part).to_bytes(2, "big") + part for part in encoded)
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=salt, info=text).derive(secret)


def add_masks(vector: Vector, masks: Iterable[Mask]) -> None:
    """Add each mask's stream to `vector`, in place: AES-256 in counter mode from zero (NIST SP 800-38A 6.5).

    The stream covers `low` and then `high`, as little-endian numbers. The memory it takes is that of one chunk a mask.
    """
    streams = [(np.subtract if mask.subtracted else np.add, _Stream(mask.key)) for mask in masks]
    array: npt.NDArray[Any]
    for array in vector:
        step = _CHUNK // array.itemsize
        for start in range(0, array.size, step):
            piece = array[start : start + step]
            for operation, stream in streams:
                operation(piece, stream.take(piece.size, piece.dtype), out=piece)


class _Stream:
    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(bytes(_BLOCK))).encryptor()
        self._buffer = bytearray(_CHUNK + _BLOCK - 1)

    def take(self, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The next numbers; valid until the next call."""
        self._cipher.update_into(memoryview(_ZEROS)[: count * dtype.itemsize], self._buffer)
        return np.frombuffer(self._buffer, dtype.newbyteorder("<"), count)
