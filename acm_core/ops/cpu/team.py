"""Shares of a kernel's work on torch's own threads.

torch's OpenMP threads spin for a while after each of its operations, waiting for the next one. Threads of our own
would have to share the cores with them; so kernels run on the same team, through the OpenMP library that torch itself
has loaded. Where there is none to be found, and in a forked child, whose team died with the fork, plain threads serve.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SHARES_A_THREAD = 8  # so that a thread that is held up leaves the rest to the others

_forked = False
_pool: ThreadPoolExecutor | None = None


def _after_fork() -> None:
    global _forked, _pool  # one state a process
    _forked, _pool = True, None


os.register_at_fork(after_in_child=_after_fork)


def run(entry: Any, sizes: Sequence[int], tensors: Sequence[Tensor], items: int) -> None:
    """Call a native entry (see `compilation.native`) on as many threads as torch uses, until all items are done.

    The entry takes items a share at a time; how they are shared out changes no bit, since each is computed alone.

    Args:
        sizes: width, positions, groups and chunk.
        tensors: dense, in the entry's order.
        items: pieces of work.
    """
    threads = min(torch.get_num_threads(), items)
    share = -(-items // (threads * _SHARES_A_THREAD)) if threads else 1
    numbers = [0, items, share, *sizes]
    for tensor in tensors:
        numbers += (tensor.data_ptr(), tensor.numel())
    block = np.array(numbers, np.int64)
    address = block.ctypes.data
    team = None if _forked else _team()
    if threads > 1 and team is not None:
        team(entry.address, address, threads, 0)
    else:
        _run_on_pool(_native(entry.address), address, threads)


def _run_on_pool(work: Callable[[int], None], address: int, threads: int) -> None:
    global _pool  # noqa: PLW0603
    if threads > 1 and _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="acm_core.ops")
    others = [_pool.submit(work, address) for _ in range(threads - 1)] if _pool is not None else []
    work(address)
    for other in others:
        other.result()


@cache
def _native(address: int) -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@cache
def _team() -> Any:
    """GOMP_parallel(function, its argument, threads, flags) of the library that torch's operations use."""
    for library in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        try:
            team = ctypes.CDLL(str(library)).GOMP_parallel
        except (AttributeError, OSError):
            continue
        team.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        team.restype = None
        return team
    return None
