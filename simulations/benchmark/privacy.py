"""A private training step against a plain one and against Opacus' two engines: time and peak memory."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule, GradSampleModuleFastGradientClipping, register_grad_sampler
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn
from torch.nn import functional as F

from acm_core.config.sections import ModelConfig, TrainingConfig
from acm_core.nn import Classifier, MeanHead, build_classifier
from acm_core.nn.attend_and_compare import AttendAndCompare
from acm_core.nn.resnet import BasicBlock
from acm_core.ops.attend_and_compare import forward_kept, sample_backward
from acm_core.privacy.gradients import UnitGradients
from acm_core.privacy.optimizer import PrivateOptimizer
from acm_core.privacy.units import Units
from acm_core.processes import keep_freed_memory
from acm_core.training.local import make_optimizer
from acm_core.training.loss import film_losses
from simulations.benchmark.measurement import Timing, machine, peak_resident_bytes, take_turns

_PLAIN, _HOOKS, _GHOST = "plain", "Opacus hooks", "Opacus ghost"
_FILM, _PATIENT = "ours, per film", "ours, per patient"
_HEAD, _PRIVATE_HEAD = "plain, head alone", "ours, head alone"  # the private one per film
_KEPT = "ours, kept features"  # the head alone, per film, on what the trunk said of the films before
CONTENDERS = (_PLAIN, _FILM, _PATIENT, _HEAD, _PRIVATE_HEAD, _KEPT, _HOOKS, _GHOST)
_SETTINGS = ((96, 32), (224, 16))  # side of the film, films
_CONTEXTS = ("none", "acm")
_PATIENTS = (1, 2, 1, 4)  # films of one patient after another
_FINDINGS = 14
_MEBIBYTE = 2**20


def run(device: torch.device, rounds: int) -> dict[str, Any]:
    """Measure every contender, the allocator as it is and tuned; returns a JSON-ready document."""
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads()
    rows = []
    for side, films in _SETTINGS:
        for module in _CONTEXTS:
            settings = (str(device), threads, side, films, module)
            for tuned in (False, True) if device.type == "cpu" else (True,):
                with context.Pool(
                    1
                ) as pool:  # the allocator's settings cannot be taken back within a process
                    seconds = pool.apply(_time, (*settings, tuned, rounds))
                rows.append(
                    {"side": side, "films": films, "context": module, "tuned": tuned, "seconds": seconds}
                )
            memory = {}
            for name in CONTENDERS:
                with context.Pool(1) as pool:
                    memory[name] = pool.apply(_peak_memory, (*settings, name))
            rows[-1]["peak_bytes"] = memory
    return {"benchmark": "privacy", "machine": machine(device), "rows": rows}


def table(document: dict[str, Any]) -> str:
    """The document as text."""
    lines = [
        f"{document['machine']['device']}, {document['machine']['threads']} threads, float32, ResNet-18 with group "
        f"norm, channels_last, {_FINDINGS} findings: forward + backward + clipping + noise + update",
        f"{'films':14}{'context':9}{'allocator':>10}  {'step':20}{'seconds':>9}{'plain steps (quartiles)':>27}"
        f"{'peak':>10}{'over plain':>12}",
    ]
    for row in document["rows"]:
        plain = Timing(tuple(row["seconds"][_PLAIN]))
        peaks = row.get("peak_bytes", {})
        for name, seconds in row["seconds"].items():
            timing = Timing(tuple(seconds))
            middle, lower, upper = timing.ratio_to(plain)
            memory = ""
            if name in peaks:
                memory = f"{peaks[name] / _MEBIBYTE:6.0f} MiB{peaks[name] / peaks[_PLAIN]:12.2f}"
            lines.append(
                f"{row['films']} of {row['side']}²".ljust(14)
                + f"{row['context']:9}{'tuned' if row['tuned'] else 'as it is':>10}  {name:20}{timing.median:9.4f}"
                f"{f'{middle:.2f} ({lower:.2f}–{upper:.2f})':>27}{memory}"
            )
    return "\n".join(lines) + "\n"


def _time(
    device: str, threads: int, side: int, films: int, context: str, tuned: bool, rounds: int
) -> dict[str, tuple[float, ...]]:
    torch.set_num_threads(threads)
    if tuned:
        keep_freed_memory()
    works = {name: step(name, torch.device(device), side, films, context) for name in CONTENDERS}
    return {name: timing.seconds for name, timing in take_turns(works, rounds, warm_up=1).items()}


def _peak_memory(device: str, threads: int, side: int, films: int, context: str, name: str) -> int:
    torch.set_num_threads(threads)
    work = step(name, torch.device(device), side, films, context)
    for _ in range(3):
        work()
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else peak_resident_bytes()


def step(name: str, device: torch.device, side: int, films: int, context: str) -> Callable[[], None]:
    """One training step of a contender, ready to be repeated. All average the same loss a film, σ = C = 1."""
    torch.manual_seed(0)
    settings = {"architecture": "resnet18", "context": context, "norm": "group", "head": "average"}
    trainable = "head" if name in (_HEAD, _PRIVATE_HEAD, _KEPT) else "all"
    model = build_classifier(ModelConfig.model_validate({**settings, "trainable": trainable}), _FINDINGS)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    shape = (model.channels, 1, 1) if name == _KEPT else (1, side, side)
    images = torch.randn(films, *shape, device=device).contiguous(memory_format=torch.channels_last)
    network = MeanHead(model) if name == _KEPT else model
    labels = torch.randint(0, 2, (films, _FINDINGS), device=device).float()
    if name in (_HOOKS, _GHOST):
        return _opacus(name, model, images, labels)
    optimizer = make_optimizer(model, TrainingConfig(optimizer="sgd", learning_rate=1e-3))
    if name in (_PLAIN, _HEAD):

        def plain() -> None:
            optimizer.zero_grad(set_to_none=True)
            _losses(model(images), labels).mean().backward()  # type: ignore[no-untyped-call]  # as below
            optimizer.step()

        return plain
    sizes = [1] * films
    if name == _PATIENT:
        sizes = []
        while (left := films - sum(sizes)) > 0:
            sizes.append(min(left, _PATIENTS[len(sizes) % len(_PATIENTS)]))
    units = Units(tuple(sizes))
    gradients = UnitGradients(network)
    private = PrivateOptimizer(
        optimizer, gradients.parameters, noise_multiplier=1.0, clipping_norm=1.0, expected_batch=len(units)
    )

    def ours() -> None:
        private.zero_grad(set_to_none=True)
        with gradients.recording(units):
            losses = _losses(network(images), labels)
            loss = (losses * units.film_weights(losses)).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature is untyped
        private.add_sums(gradients.clipped_sum(1.0).gradients)
        private.step()

    return ours


def _losses(output: Any, labels: Tensor) -> Tensor:
    # Opacus' hooks see the first output of a module only: without the orthogonality term the rivals are right, too.
    return film_losses(output.logits, labels, output.orthogonality, 0.0)


def _opacus(name: str, model: Classifier, images: Tensor, labels: Tensor) -> Callable[[], None]:
    warnings.filterwarnings("ignore", module="opacus|torch")
    _take_inplace_operations_out(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    settings = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": len(images)}
    if name == _HOOKS:
        hooked = GradSampleModule(model)
        private = DPOptimizer(optimizer, **settings)

        def hooks() -> None:
            private.zero_grad(set_to_none=True)
            _losses(hooked(images), labels).mean().backward()  # type: ignore[no-untyped-call]  # as above
            private.step()

        return hooks
    ghostly = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0)
    fast = DPOptimizerFastGradientClipping(optimizer, **settings)
    criterion = DPLossFastGradientClipping(ghostly, fast, _Criterion())

    def ghost() -> None:
        fast.zero_grad(set_to_none=True)
        criterion(ghostly(images), labels).backward()
        fast.step()

    return ghost


class _Criterion(nn.Module):
    reduction = "mean"

    def forward(self, output: Any, labels: Tensor) -> Tensor:
        losses = _losses(output, labels)
        return losses if self.reduction == "none" else losses.mean()


def _take_inplace_operations_out(model: Classifier) -> None:
    """Opacus' backward hooks do not bear them."""
    model.__class__ = _Classifier
    for module in model.modules():
        if isinstance(module, BasicBlock):
            module.__class__ = _Block


class _Block(BasicBlock):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out, penalty = self.context(self.branch(x))
        return torch.relu(out + self.downsample(x)), penalty

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return out


class _Classifier(Classifier):
    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), kernel_size=3, stride=2, padding=1)
        penalties: list[Tensor] = []
        for block in self._blocks():
            x, penalty = block(x)
            penalties.append(penalty)
        return x, torch.stack(penalties).sum(0)


@register_grad_sampler(AttendAndCompare)  # type: ignore[untyped-decorator]  # Opacus has no types
def _attend_and_compare_sampler(
    module: AttendAndCompare, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """Gradients by film for Opacus, from the operation's own backward pass."""
    parameters = (
        module.key_weight,
        module.query_weight,
        module.gate1_weight,
        module.gate1_bias,
        module.gate2_weight,
        module.gate2_bias,
    )
    with torch.no_grad():
        _, orthogonality, kept = forward_kept(activations[0], *parameters)
        gradients = sample_backward(backprops, torch.zeros_like(orthogonality), kept)
    return dict(zip(parameters, gradients[1:], strict=True))
