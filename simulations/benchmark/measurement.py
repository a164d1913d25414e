"""Times taken in turns, so that a machine that slows down slows down every contender."""

from __future__ import annotations

import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender: one a round, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def ratio_to(self, rival: Timing) -> tuple[float, float, float]:
        """This over the rival, round by round: median, lower and upper quartile."""
        ratios = sorted(own / other for own, other in zip(self.seconds, rival.seconds, strict=True))
        if len(ratios) < 2:
            return ratios[0], ratios[0], ratios[0]
        lower, middle, upper = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, lower, upper


def take_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 2
) -> dict[str, Timing]:
    """Time every contender once a round, after `warm_up` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warm_up + rounds):
        for name, work in contenders.items():
            _synchronise()
            start = time.perf_counter()
            work()
            _synchronise()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def copy_bandwidth(device: torch.device, mebibytes: int = 64) -> float:
    """Bytes read and written a second by copying a tensor that no cache holds."""
    source = torch.ones(mebibytes * 2**18, device=device)
    target = torch.empty_like(source)
    timing = take_turns({"copy": lambda: target.copy_(source)}, rounds=9)["copy"]
    return 2 * source.nbytes / timing.median


def peak_resident_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_resident_bytes_of(process: int) -> int:
    """The most memory that another living process has held (Linux); 0 where that is not known."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return max((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), default=0)


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
