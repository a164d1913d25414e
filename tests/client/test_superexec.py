"""What ClientApps, and a simulation's sites, are forked from."""

from __future__ import annotations

import subprocess
import sys

import pytest

from client import superexec
from simulations import engine

IMPORT = """
import importlib, sys, threading
import torch

torch._C._cuda_getDeviceCount = torch.cuda._lazy_init = lambda *_: sys.exit("asked for a GPU")
for module in sys.argv[1:]:
    importlib.import_module(module)
print(threading.active_count(), *(name for name in ("acm_core.ops.cpu.team",) if name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize("modules", [superexec.PRELOADED, engine.PRELOADED], ids=["site", "simulation"])
def test_nothing_that_does_not_outlive_a_fork_is_imported_before_it(modules: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *modules], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
