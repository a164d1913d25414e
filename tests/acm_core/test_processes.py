"""What processes that train set for themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from acm_core.processes import keep_freed_memory

MEASURE = """
import resource, sys
from acm_core.processes import keep_freed_memory
import numpy as np
if sys.argv[1] == "tuned":
    assert keep_freed_memory()
np.ones(2**23).sum()  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(2**23).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_large_blocks_are_used_again_without_new_pages() -> None:
    def faults(setting: str) -> int:
        command = [sys.executable, "-c", MEASURE, setting]
        root = Path(__file__).parents[2]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout)

    assert faults("tuned") < faults("untouched") / 10


def test_an_allocator_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_core.processes.ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
