"""What ClientApps are forked from."""

from __future__ import annotations

import subprocess
import sys

from client.superexec import PRELOADED

IMPORT = """
import importlib, sys, threading
import torch

torch._C._cuda_getDeviceCount = torch.cuda._lazy_init = lambda *_: sys.exit("asked for a GPU")
for module in sys.argv[1:]:
    importlib.import_module(module)
print(threading.active_count(), *(name for name in ("acm_core.ops.cpu.team",) if name in sys.modules))
"""


def test_nothing_that_does_not_outlive_a_fork_is_imported_before_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, *PRELOADED], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
