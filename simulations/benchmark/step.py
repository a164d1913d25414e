"""A training step of a ResNet-50 with each context module over torchvision's plain one, same layout and precision."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from acm_core.config.sections import ModelConfig, TrainingConfig
from acm_core.nn import AttendAndCompare, build_classifier
from acm_core.processes import keep_freed_memory
from acm_core.training.local import make_optimizer
from acm_core.training.loss import masked_bce, orthogonality_penalty
from simulations.benchmark.authors_formula import AttendAndCompareAsWritten
from simulations.benchmark.measurement import Timing, machine, peak_resident_bytes, take_turns
from simulations.benchmark.op import LAYOUTS

_PLAIN = "plain (torchvision)"
_FORMULA = "acm (formula)"
CONTENDERS = (_PLAIN, "none", "acm", _FORMULA, "se", "cbam", "self_attention")
_FINDINGS = 14
_MEBIBYTE = 2**20


def run(
    device: torch.device, precision: str, batch: int, side: int, rounds: int, contenders: tuple[str, ...]
) -> dict[str, Any]:
    """Measure every contender in both layouts, the allocator as it is and tuned; returns a JSON-ready document."""
    context = multiprocessing.get_context("spawn")
    rows = []
    settings = (str(device), precision, batch, side, torch.get_num_threads())
    tunings = (False, True) if device.type == "cpu" else (True,)
    for layout in LAYOUTS:
        for tuned in tunings:
            with context.Pool(1) as pool:  # the allocator's settings cannot be taken back within a process
                seconds = pool.apply(_time, (*settings, layout, tuned, rounds, contenders))
            rows.append({"layout": layout, "allocator_tuned": tuned, "seconds": seconds})
    memory = {}
    for name in contenders:
        with context.Pool(1) as pool:
            memory[name] = pool.apply(_peak_memory, (*settings, "channels_last", name))
    return {
        "benchmark": "step",
        "machine": machine(device),
        "precision": precision,
        "batch": batch,
        "side": side,
        "rows": rows,
        "peak_bytes": memory,
    }


def table(document: dict[str, Any]) -> str:
    """The document as text: seconds a step and how many plain steps that is."""
    lines = [
        f"{document['machine']['device']}, {document['machine']['threads']} threads, {document['precision']}, "
        f"ResNet-50, batch {document['batch']}, {document['side']}²: forward + backward + update",
        f"{'layout':14}{'allocator':>11}  {'context':22}{'seconds':>9}{'plain steps (quartiles)':>27}",
    ]
    for row in document["rows"]:
        plain = Timing(tuple(row["seconds"][_PLAIN]))
        for name, seconds in row["seconds"].items():
            timing = Timing(tuple(seconds))
            middle, lower, upper = timing.ratio_to(plain)
            tuned = "tuned" if row["allocator_tuned"] else "as it is"
            lines.append(
                f"{row['layout']:14}{tuned:>11}  {name:22}{timing.median:9.3f}"
                f"{f'{middle:.2f} ({lower:.2f}–{upper:.2f})':>27}"
            )
    plain_memory = document["peak_bytes"][_PLAIN]
    lines.append("peak memory of a process that trains, and over plain:")
    lines += [
        f"  {name:22}{peak / _MEBIBYTE:9.0f} MiB{peak / plain_memory:8.2f}"
        for name, peak in document["peak_bytes"].items()
    ]
    return "\n".join(lines) + "\n"


def _time(
    device: str,
    precision: str,
    batch: int,
    side: int,
    threads: int,
    layout: str,
    tuned: bool,
    rounds: int,
    contenders: tuple[str, ...],
) -> dict[str, tuple[float, ...]]:
    torch.set_num_threads(threads)
    if tuned:
        keep_freed_memory()
    works = {name: step(name, torch.device(device), precision, batch, side, layout) for name in contenders}
    return {name: timing.seconds for name, timing in take_turns(works, rounds, warm_up=1).items()}


def _peak_memory(
    device: str, precision: str, batch: int, side: int, threads: int, layout: str, name: str
) -> int:
    torch.set_num_threads(threads)
    work = step(name, torch.device(device), precision, batch, side, layout)
    for _ in range(3):
        work()
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else peak_resident_bytes()


def step(
    name: str, device: torch.device, precision: str, batch: int, side: int, layout: str
) -> Callable[[], None]:
    """One training step of a contender, ready to be repeated."""
    torch.manual_seed(0)
    network = model(name).to(device).to(memory_format=LAYOUTS[layout]).train()
    optimizer = make_optimizer(network, TrainingConfig(optimizer="sgd", learning_rate=1e-3))
    films = torch.randn(batch, 1, side, side, device=device).contiguous(memory_format=LAYOUTS[layout])
    labels = torch.randint(0, 2, (batch, _FINDINGS), device=device).float()

    def one() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            output = network(films)
        if isinstance(output, Tensor):
            loss = masked_bce(output.float(), labels)
        else:
            loss = masked_bce(output.logits, labels) + 0.1 * orthogonality_penalty(output.orthogonality)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature is untyped
        optimizer.step()

    return one


def model(name: str) -> nn.Module:
    """The network of a contender, for one-channel films."""
    if name == _PLAIN:
        plain: nn.Module = torchvision.models.resnet50(num_classes=_FINDINGS)
        plain.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        return plain
    context = "acm" if name == _FORMULA else name
    settings = ModelConfig.model_validate({"architecture": "resnet50", "context": context})
    network = build_classifier(settings, _FINDINGS)
    if name == _FORMULA:
        for module in network.modules():
            if isinstance(module, AttendAndCompare):
                module.__class__ = AttendAndCompareAsWritten
    return network
