"""One attend-and-compare operation at the shapes of a ResNet-50: the paper's formula, torch.compile, ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from acm_core.ops import reference
from acm_core.ops.attend_and_compare import attend_and_compare
from acm_core.processes import keep_freed_memory
from simulations.benchmark.authors_formula import attend_and_compare_as_written
from simulations.benchmark.measurement import Timing, copy_bandwidth, machine, take_turns

_GROUPS = 32
# Channels, side at 224², blocks: the four stages of a ResNet-50.
STAGES = ((256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3))
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
_FLOOR = {"forward": 2, "forward + backward": 5}  # transfers of x that no implementation can spare

Operation = Callable[..., tuple[Tensor, Tensor]]


def run(device: torch.device, dtype: torch.dtype, batch: int, rounds: int) -> dict[str, Any]:
    """Measure; returns a JSON-ready document, see `table`."""
    keep_freed_memory()  # as every process that trains
    bandwidth = copy_bandwidth(device)
    contenders: dict[str, Operation] = {
        "formula": attend_and_compare_as_written,
        "compiled": torch.compile(attend_and_compare_as_written, dynamic=False),
        "reference": reference.attend_and_compare,
        "ours": attend_and_compare,
    }
    rows = []
    for layout, memory_format in LAYOUTS.items():
        for channels, side, blocks in STAGES:
            inputs = _draw(batch, channels, side, device, dtype, memory_format)
            for direction in _FLOOR:
                works = {
                    name: _work(operation, inputs, backward=direction != "forward")
                    for name, operation in contenders.items()
                }
                timings = take_turns(works, rounds)
                floor = _FLOOR[direction] * inputs[0].nbytes
                rows.append(
                    {
                        "layout": layout,
                        "channels": channels,
                        "side": side,
                        "blocks": blocks,
                        "direction": direction,
                        "floor_bytes": floor,
                        "seconds": {name: timing.seconds for name, timing in timings.items()},
                    }
                )
    return {
        "benchmark": "op",
        "machine": machine(device),
        "dtype": str(dtype).removeprefix("torch."),
        "batch": batch,
        "copy_bytes_per_second": bandwidth,
        "rows": rows,
    }


def table(document: dict[str, Any]) -> str:
    """The document as text: a line a shape, then the sums over a ResNet-50's 16 modules."""
    names = list(document["rows"][0]["seconds"])
    lines = [
        f"{document['machine']['device']}, {document['machine']['threads']} threads, {document['dtype']}, batch "
        f"{document['batch']}; a copy moves {document['copy_bytes_per_second'] / 1e9:.1f} GB/s",
        f"{'layout':14}{'shape':>12}  {'pass':19}" + "".join(f"{name + ' ms':>14}" for name in names)
        + f"{'ours faster (quartiles)':>27}{'of the bandwidth':>18}",
    ]  # fmt: skip
    sums: dict[tuple[str, str], list[dict[str, tuple[float, ...]]]] = {}
    for row in document["rows"]:
        timings = {name: Timing(tuple(seconds)) for name, seconds in row["seconds"].items()}
        share = row["floor_bytes"] / timings["ours"].median / document["copy_bytes_per_second"]
        shape = f"{row['channels']}×{row['side']}²"
        lines.append(_line(row["layout"], shape, row["direction"], timings) + f"{share:17.0%} ")
        weighted = {
            name: tuple(second * row["blocks"] for second in timing.seconds)
            for name, timing in timings.items()
        }
        sums.setdefault((row["layout"], row["direction"]), []).append(weighted)
    for (layout, direction), stages in sums.items():
        timings = {
            name: Timing(tuple(map(sum, zip(*(stage[name] for stage in stages), strict=True))))
            for name in names
        }
        lines.append(_line(layout, "16 modules", direction, timings))
    lines.append(
        "formula: the paper's, in eager PyTorch; compiled: the same by torch.compile; faster: the formula's time over "
        "ours in the same round;\nbandwidth: 2 (forward) or 5 transfers of x, the least "
        "there can be, against a copy"
    )
    return "\n".join(lines) + "\n"


def _line(layout: str, shape: str, direction: str, timings: dict[str, Timing]) -> str:
    middle, lower, upper = timings["formula"].ratio_to(timings["ours"])
    cells = "".join(f"{timing.median * 1e3:14.2f}" for timing in timings.values())
    return f"{layout:14}{shape:>12}  {direction:19}{cells}{f'{middle:.1f} ({lower:.1f}–{upper:.1f})':>27}"


def _draw(
    batch: int,
    channels: int,
    side: int,
    device: torch.device,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    width = channels // _GROUPS
    shapes = (
        (_GROUPS, width),
        (_GROUPS, width),
        (channels // 2, width),
        (channels // 2,),
        (channels, width // 2),
        (channels,),
    )
    x = torch.randn(batch, channels, side, side, generator=generator).to(device, dtype)
    x = x.contiguous(memory_format=memory_format)
    parameters = [0.25 * torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    return [x, *parameters]


def _work(operation: Operation, inputs: list[Tensor], *, backward: bool) -> Callable[[], object]:
    if not backward:

        def forward_only() -> None:
            with torch.no_grad():
                operation(*inputs)

        return forward_only
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    grad_y = torch.randn_like(inputs[0])

    def both() -> None:
        y, orthogonality = operation(*leaves)
        torch.autograd.grad([y, orthogonality], leaves, [grad_y, torch.ones_like(orthogonality)])

    return both
