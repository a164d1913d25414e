"""How the kernels are compiled: once a machine, for one thread each, without Python's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from acm_core.ops.cpu.simd import FAST

_SETTINGS: dict[str, Any] = {
    "fastmath": set(FAST),
    "error_model": "numpy",
    "nogil": True,
}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile with numba when first called; kept on disk where a folder for it can be written."""
    try:
        return njit(cache=True, **_SETTINGS)(function)
    except RuntimeError:  # numba found no folder for its cache: the code is read-only and so is the home
        return njit(**_SETTINGS)(function)
