"""A process that dies, as `kill -9` has it, just before one of its changes to the disk takes effect."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

_DIED = 99


def dies_at_change(number: int, act: Callable[[], object]) -> bool:
    """Run `act` in a forked process that ends at its change `number` (0 the first); False where there are fewer.

    Changes are those that give a file its name: rename and link, and the removal of a file.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _arm(number)
            act()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, _DIED):
        raise AssertionError(f"expected an end in order or death, got exit code {code}")
    return code == _DIED


def _arm(number: int) -> None:
    left = number

    def dying(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                os._exit(_DIED)
            left -= 1
            return change(*arguments, **named)

        return changed

    for name in ("replace", "link", "unlink"):
        setattr(os, name, dying(getattr(os, name)))
