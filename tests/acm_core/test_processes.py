"""What processes that train set for themselves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from acm_core import files
from acm_core.files import LineTail
from acm_core.processes import KeptChild, give_freed_memory_back, keep_freed_memory

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


ORPHAN = """
import os, subprocess, sys, threading, time
from acm_core.processes import end_with_parent
if sys.argv[1:] == ["parent"]:
    child = subprocess.Popen([sys.executable, "-c", os.environ["ORPHAN"]], stdout=subprocess.PIPE)
    print(child.pid, child.stdout.readline().decode(), flush=True)
    time.sleep(60)
end_with_parent(1)
print("waiting", flush=True)
threading.Event().wait()
"""


def test_a_process_whose_main_thread_waits_ends_with_the_one_that_started_it() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", ORPHAN, "parent"]
    environment = {**os.environ, "ORPHAN": ORPHAN}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline().split()[0]))
        time.sleep(2)
        assert orphan.is_running()
        parent.kill()
        parent.stdout.close()
    with contextlib.suppress(psutil.NoSuchProcess):
        orphan.wait(10)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_large_blocks_are_used_again_without_new_pages() -> None:
    def faults(setting: str) -> int:
        command = [sys.executable, "-c", MEASURE, setting]
        root = Path(__file__).parents[2]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout)

    assert faults("tuned") < faults("untouched") / 10


KEEP = """
import psutil
from acm_core import files
from acm_core.files import LineTail
from acm_core.processes import KeptChild, give_freed_memory_back, keep_freed_memory
import numpy as np
assert keep_freed_memory()
np.ones(2**25).sum()  # 256 MiB
before = psutil.Process().memory_info().rss
assert give_freed_memory_back()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_what_was_kept_goes_back_when_it_is_not_needed() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KEEP], capture_output=True, text=True, check=True, cwd=root)
    assert int(done.stdout) > 200 * 2**20


def test_an_allocator_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acm_core.processes.ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
    assert give_freed_memory_back() is False


def test_a_log_that_a_process_writes_stays_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_MOST_LOG_BYTES", 10_000)
    program = "import itertools, time\nfor n in itertools.count(): print(n, flush=True); time.sleep(0.0001)"
    log = tmp_path / "program.log"
    tail, seen = LineTail(log), list[int]()
    kept = KeptChild("program", [sys.executable, "-c", program], log, {})
    ends = time.monotonic() + 30
    try:
        while not seen or seen[-1] < 20_000:
            kept.tend()
            seen += map(int, tail.read())
            assert log.stat().st_size < 100_000
            assert time.monotonic() < ends
    finally:
        kept.stop()
    assert seen == sorted(set(seen))
    assert len((tmp_path / "program.log.1").read_text().splitlines()) > 100
