"""How the kernels are compiled: once a machine, for one thread each, without Python's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import cfunc, njit, types

from acm_core.ops.cpu.simd import FAST

_SETTINGS: dict[str, Any] = {
    "fastmath": set(FAST),
    "error_model": "numpy",
    "nogil": True,
}


def kernel(function: Callable[..., Any]) -> Any:
    """Compile with numba when first called; kept on disk where a folder for it can be written."""
    return _kept(njit, function)


def native(function: Callable[..., Any]) -> Any:
    """Compile a function of one array of int64 to native code that any thread may call with the array's address."""

    def compiled(**settings: Any) -> Any:
        return cfunc(types.void(types.CPointer(types.int64)), **settings)

    return _kept(compiled, function)


def _kept(compiler: Callable[..., Any], function: Callable[..., Any]) -> Any:
    try:
        return compiler(cache=True, **_SETTINGS)(function)
    except RuntimeError:  # numba found no folder for its cache: the code is read-only and so is the home
        return compiler(**_SETTINGS)(function)
