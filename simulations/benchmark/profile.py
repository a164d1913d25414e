"""Where the time of a training step goes: torch's profiler, its operations summed by what they are for."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from simulations.benchmark.measurement import machine
from simulations.benchmark.step import step

# The first name that an operation's name contains says what it is for.
_PARTS = (
    ("_AttendAndCompareBackward", "attend and compare, backward"),
    ("_AttendAndCompare", "attend and compare"),
    ("convolution_backward", "convolutions, backward"),
    ("conv2d_backward", "convolutions, backward"),
    ("convolution", "convolutions"),
    ("conv2d", "convolutions"),
    ("batch_norm_backward", "normalisation, backward"),
    ("batch_norm", "normalisation"),
    ("_fused_sgd", "optimiser"),
    ("threshold_backward", "ReLU, backward"),
    ("clamp_min", "ReLU"),
    ("relu", "ReLU"),
    ("max_pool", "max pooling"),
    ("copy_", "copies and conversions"),
    ("add", "additions"),
    ("fill_", "new memory"),
    ("empty", "new memory"),
)
_STEPS = 5


def run(
    device: torch.device, precision: str, batch: int, side: int, contenders: tuple[str, ...]
) -> dict[str, Any]:
    """Profile each contender in channels_last; returns a JSON-ready document: seconds a step by part."""
    parts = {}
    for name in contenders:
        work = step(name, device, precision, batch, side, "channels_last")
        for _ in range(2):
            work()
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities) as found:
            for _ in range(_STEPS):
                work()
        seconds: dict[str, float] = {}
        for event in found.key_averages():
            microseconds = (
                event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            )
            part = next((title for text, title in _PARTS if text in event.key), "everything else")
            seconds[part] = seconds.get(part, 0.0) + microseconds / 1e6 / _STEPS
        parts[name] = seconds
    return {
        "benchmark": "profile",
        "machine": machine(device),
        "precision": precision,
        "batch": batch,
        "side": side,
        "seconds": parts,
    }


def table(document: dict[str, Any]) -> str:
    """The document as text: milliseconds a step and shares, the parts in order of the last contender's time."""
    seconds: dict[str, dict[str, float]] = document["seconds"]
    last = list(seconds.values())[-1]
    parts = sorted(
        {part for found in seconds.values() for part in found}, key=lambda part: -last.get(part, 0.0)
    )
    lines = [
        f"{document['machine']['device']}, {document['machine']['threads']} threads, {document['precision']}, "
        f"ResNet-50, batch {document['batch']}, {document['side']}², channels_last: milliseconds a step",
        f"{'':30}" + "".join(f"{name:>28}" for name in seconds),
    ]
    for part in [*parts, "sum"]:
        cells = []
        for found in seconds.values():
            whole = sum(found.values())
            value = whole if part == "sum" else found.get(part, 0.0)
            cells.append(f"{value * 1e3:18.1f} ({value / whole:6.1%})")
        lines.append(f"{part:30}" + "".join(f"{cell:>28}" for cell in cells))
    return "\n".join(lines) + "\n"
