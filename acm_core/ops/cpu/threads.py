"""One pool of threads for kernels that release Python's lock; safe beside forks (data loaders)."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A forked child has the pool's object and none of its threads."""
    global _pool  # noqa: PLW0603  # one pool a process
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def in_shares(work: Callable[[int, int], None], items: int) -> None:
    """Call work(first, last) for consecutive shares of range(items), on as many threads as torch uses."""
    global _pool  # noqa: PLW0603
    shares = min(torch.get_num_threads(), items)
    if shares <= 1:
        work(0, items)
        return
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="acm_core.ops")
    bounds = [items * share // shares for share in range(shares + 1)]
    others = [_pool.submit(work, first, last) for first, last in pairwise(bounds[1:])]
    work(bounds[0], bounds[1])
    for other in others:
        other.result()
