"""A model's state as named arrays: what sites, messages, rules and files have in common, whatever the framework."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
"""A model's state by name: parameters and buffers."""


def fingerprint(arrays: Arrays) -> str:
    """SHA-256 over names, shapes, dtypes and values, whatever the order of the names and of the bytes in memory."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(_described(name, arrays[name]))
        digest.update(np.ascontiguousarray(little_endian(arrays[name])).data)
    return digest.hexdigest()


def layout_fingerprint(arrays: Arrays) -> str:
    """SHA-256 over names, shapes and dtypes, as `fingerprint`."""
    return hashlib.sha256(b"".join(_described(name, arrays[name]) for name in sorted(arrays))).hexdigest()


def little_endian(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array itself where it is so already, else a copy."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _described(name: str, array: npt.NDArray[Any]) -> bytes:
    return repr((name, array.shape, array.dtype.newbyteorder("<").str)).encode()
