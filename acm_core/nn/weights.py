"""Starting weights from a local file: a model of this project, torchvision's, the ACM authors', or a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acm_core.config.sections import ModelConfig
from acm_core.nn.attend_and_compare import renamed
from acm_core.nn.classifier import FILM_MEAN, FILM_SPREAD, Classifier, finding_rows
from acm_core.nn.weight_file import WeightFile, WeightsError, read_weight_file
from acm_core.vocabulary import canonical, plain

_SHOWN = 4
_SHORT = 12
# Of red, green and blue, as torchvision's models take their pictures.
_IMAGENET_MEAN, _IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CENTRE, _AXES = "projection.centre", "projection.axes"
_OF_THE_TRUNK = ("context", "norm", "standardise_weights")


@dataclass(frozen=True)
class LoadReport:
    """What a weight file gave to a model. Names are those of the state_dict without the head's, sorted.

    Attributes:
        file, sha256: the file's name and its content's hash.
        made_from: what the file says it was made from; None where it does not say.
        loaded: taken from the file, the folded ones included.
        missing: the model has it, the file does not; it keeps its initial value.
        unexpected: the file has it, the model does not (a classifier of ImageNet's classes, say).
        mismatched: both have it, but in another shape or kind of number; the model keeps its initial value.
        folded: recomputed for one grey channel in place of three.
        rows: the run's findings whose rows of the head came from the file, by their names.
        new_rows: the others, whose rows keep their initial values.
        unnamed_head: the file has a head and does not say whose rows they are, so that none was taken.
        differing: settings of the trunk that are others in the file: `context none, here acm`.
    """

    file: str
    sha256: str
    made_from: str | None
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    folded: tuple[str, ...]
    rows: tuple[str, ...]
    new_rows: tuple[str, ...]
    unnamed_head: bool
    differing: tuple[str, ...]

    @property
    def summary(self) -> str:
        """What came from where, in a line: `start.safetensors (sha256 …), made from …: 122 of 122 arrays; …`."""
        left = sorted((*self.missing, *self.mismatched))
        arrays = f"{len(self.loaded)} of {len(self.loaded) + len(left)} arrays"
        parts = [f"{arrays}, not {_some(left)}" if left else arrays]
        if self.folded:
            parts.append("three colours folded to one grey, for pictures normalised as ImageNet's")
        if self.rows:
            parts.append(
                f"head: {', '.join(self.rows)} from the start, {', '.join(self.new_rows) or 'none'} new"
            )
        elif self.unnamed_head:
            parts.append("head: new, since the file does not say whose findings its rows are")
        else:
            parts.append("head: new")
        if self.unexpected:
            parts.append(f"not taken: {_some(self.unexpected)}")
        if self.differing:
            parts.append(f"made with {', '.join(self.differing)}")
        made = f", made from {self.made_from}" if self.made_from else ""
        return f"{self.file} (sha256 {self.sha256[:_SHORT]}…){made}: {'; '.join(parts)}"


def load_weights(
    model: Classifier, path: Path, findings: Sequence[str], sha256: str | None = None
) -> LoadReport:
    """Load the trunk from `path` into `model`, in place, and of the head what is known to be the same findings'.

    A file of this project names its head's findings. The rows of those that the run has too are copied, whatever
    their order; names are compared by the vocabulary, so that `Effusion` is `Pleural Effusion`. No row comes from a
    file that names none: a head of the same shape may be another model's.

    Of a start's projection a projected head takes the first axes, as many as `model.dimensions`.

    Convolutions for three colours are recomputed for one grey channel as `_grey` says. Numbers are converted to the
    model's dtype.

    Args:
        findings: the model's, in the order of its outputs.
        sha256: that the file's content must have; None: any.

    Raises:
        WeightsError: see `read_weight_file`; or the file holds nothing for this model, another architecture's trunk, or
            no projection for a projected head. The model is unchanged.
    """
    file = read_weight_file(path, sha256)
    target, head = model.state_dict(), finding_rows(model)
    own = {name: tensor for name, tensor in target.items() if name not in head}
    source = {name: tensor for name, tensor in renamed(file.tensors).items() if name not in head}
    _expect_same_trunk(file, source, own)
    grey = _grey(source, own)
    source |= grey
    _cut_projection(file, source, own)
    fitting = {
        name: tensor
        for name, tensor in source.items()
        if name in own
        and tensor.shape == own[name].shape
        and tensor.is_floating_point() == own[name].is_floating_point()
    }
    rows = _matched(file, findings) if _is_same_head(file, model.config) else {}
    model.load_state_dict(
        {**fitting, **_head(file, rows, {name: target[name] for name in head})}, strict=False
    )
    return LoadReport(
        file=file.name,
        sha256=file.sha256,
        made_from=None if file.origin is None else file.origin.made_from,
        loaded=tuple(sorted(fitting)),
        missing=tuple(sorted(own.keys() - source.keys())),
        unexpected=tuple(sorted(source.keys() - own.keys())),
        mismatched=tuple(sorted((source.keys() & own.keys()) - fitting.keys())),
        folded=tuple(sorted(grey)),
        rows=tuple(findings[row] for row in rows),
        new_rows=tuple(finding for row, finding in enumerate(findings) if row not in rows),
        unnamed_head=file.origin is None and not head.isdisjoint(file.tensors),
        differing=_differing(file, model.config),
    )


def _expect_same_trunk(file: WeightFile, source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """A part of another network's trunk would fit by its names, and would be no start."""
    theirs, ours = _kernels(source), _kernels(own)
    if not theirs & ours:
        raise WeightsError(
            f"expected weights with names such as {', '.join(list(own)[:3])} in {file.name}, got "
            f"{', '.join(list(file.tensors)[:3]) or 'none'}: nothing fits this model"
        )
    shapes = {name for name in theirs & ours if source[name].shape != own[name].shape}
    if _has_colours(source, own):
        shapes.discard("conv1.weight")
    if others := sorted((theirs ^ ours) | shapes):
        raise WeightsError(
            f"expected the trunk of this model in {file.name}, got that of another architecture ({_some(others)}): "
            "set model.architecture to the file's, or take another start"
        )


def _kernels(tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of the trunk's convolutions, context modules left out."""
    return {name for name, tensor in tensors.items() if tensor.ndim == 4 and ".context." not in name}


def _has_colours(source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """The first convolution is O×3×k×k where the model's own is O×1×k×k."""
    outputs, _, *kernel = own["conv1.weight"].shape
    return source["conv1.weight"].shape == (outputs, 3, *kernel)


def _grey(source: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution, and the mean that its norm expects, for this project's grey films in place of colours.

    A model trained on ImageNet takes colour c as (x − m_c)/s_c, this project's take the film as n = (x − m)/s. With
    the film in all three colours the response of kernel W is, where the kernel lies within the film,

        Σ_c W_c * (x − m_c)/s_c = (Σ_c W_c·s/s_c) * n + Σ_c (m − m_c)/s_c · ΣW_c.

    The first term is a kernel for n; the second, one number a channel, is taken off the running mean of the batch norm
    behind it. In training mode batch norm subtracts it by itself. Where the kernel reaches over the film's edge, the
    padding stands for the grey m in place of the colours' means, and the outermost two rows and columns of the
    responses differ. Group norm has no running mean, and no such model comes with these weights: there the kernel
    alone is recomputed.
    """
    if not _has_colours(source, own):
        return {}
    weight = source["conv1.weight"]
    colours = weight.double()
    mean, spread = torch.tensor([_IMAGENET_MEAN, _IMAGENET_SPREAD], dtype=torch.float64)[
        :, None, :, None, None
    ]
    folded = {"conv1.weight": (colours * (FILM_SPREAD / spread)).sum(1, keepdim=True).to(weight.dtype)}
    running = source.get("bn1.running_mean")
    if running is not None and "bn1.running_mean" in own:
        constant = (colours * ((FILM_MEAN - mean) / spread)).sum((1, 2, 3))
        folded["bn1.running_mean"] = (running.double() - constant).to(running.dtype)
    return folded


def _cut_projection(file: WeightFile, source: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Leave the first axes of the file's projection, as many as the model has; all are dropped where it has none."""
    axes = own.get(_AXES)
    if axes is None:
        for name in (_AXES, _CENTRE):
            source.pop(name, None)
        return
    theirs = source.get(_AXES)
    if theirs is None or _CENTRE not in source or theirs.ndim != 2 or len(theirs) < len(axes):
        found = "none" if theirs is None else f"{len(theirs)}"
        raise WeightsError(
            f"expected a centre and at least {len(axes)} axes for model.head: projected in {file.name}, got {found}: "
            "make the start with simulations.pretrain, which finds them in its films, or take a smaller "
            "model.dimensions or model.head: average"
        )
    source[_AXES] = theirs[: len(axes)]


def _is_same_head(file: WeightFile, config: ModelConfig) -> bool:
    """A head on pooled features and one on a projection have nothing in common."""

    def projected(model: ModelConfig) -> int | None:
        return model.dimensions if model.head == "projected" else None

    return file.origin is None or projected(file.origin.model) == projected(config)


def _matched(file: WeightFile, findings: Sequence[str]) -> dict[int, int]:
    """Row of the run's head → row of the file's: of the exact name, else of the only one that means the same."""
    theirs = () if file.origin is None else file.origin.findings
    exact = {finding: row for row, finding in enumerate(theirs)}
    known = {_key(finding): row for row, finding in enumerate(theirs)}
    ambiguous = {key for key, count in Counter(map(_key, theirs)).items() if count > 1}
    rows = {}
    for row, finding in enumerate(findings):
        found = exact.get(finding, None if _key(finding) in ambiguous else known.get(_key(finding)))
        if found is not None:
            rows[row] = found
    return rows


def _key(finding: str) -> str:
    return canonical(finding) or plain(finding)


def _head(file: WeightFile, rows: Mapping[int, int], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's head with the rows that the file gives."""
    if file.origin is None or not rows:
        return {}
    head = {}
    for name, tensor in own.items():
        theirs = file.tensors.get(name)
        if theirs is None or theirs.shape != (len(file.origin.findings), *tensor.shape[1:]):
            raise WeightsError(
                f"expected {name} of {len(file.origin.findings)} findings in {file.name}, as it says of itself, got "
                f"{'none' if theirs is None else tuple(theirs.shape)}: the file is not whole; make it anew"
            )
        head[name] = tensor.clone()
        head[name][list(rows)] = theirs[list(rows.values())].to(tensor.dtype)
    return head


def _differing(file: WeightFile, config: ModelConfig) -> tuple[str, ...]:
    if file.origin is None:
        return ()
    theirs = {name: getattr(file.origin.model, name) for name in _OF_THE_TRUNK}
    ours = {name: getattr(config, name) for name in _OF_THE_TRUNK}
    return tuple(
        f"{name} {value}, here {ours[name]}" for name, value in theirs.items() if value != ours[name]
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
