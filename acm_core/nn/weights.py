"""Starting weights from a local file: torchvision's ImageNet weights or a site's own checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

_SHOWN = 4


class WeightsError(ValueError):
    """A weight file that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class LoadReport:
    """What a weight file gave to a model, by state_dict name, sorted.

    Attributes:
        loaded: taken from the file, the folded ones included.
        missing: the model has it, the file does not; it keeps its initial value.
        unexpected: the file has it, the model does not (a classifier for other classes, say).
        mismatched: both have it, but in another shape or kind of number; the model keeps its initial value.
        folded: three input channels summed to one.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    folded: tuple[str, ...]

    @property
    def summary(self) -> str:
        """How much of the model came from the file, and what did not: `120 of 122 arrays; not head.bias, …`."""
        left = sorted((*self.missing, *self.mismatched))
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        names = f"; not {', '.join(left[:_SHOWN])}{more}" if left else ""
        return f"{len(self.loaded)} of {len(self.loaded) + len(left)} arrays{names}"


def load_weights(model: nn.Module, path: Path) -> LoadReport:
    """Load what fits from `path` into `model`, in place, and report the rest.

    Read as safetensors if the name ends so, else with `torch.load(weights_only=True)`: a state_dict, or a
    dictionary that has one under "state_dict"; a common prefix "module." (DataParallel) is dropped. Numbers
    are converted to the model's dtype. A convolution for three input channels is folded to one by summing
    over them: on a grey film the three channels are equal, so the sum gives exactly the response that the
    original gives to the film repeated three times.

    Raises:
        WeightsError: the file is absent, unreadable, holds no state_dict, or nothing in it fits; the model is
            unchanged.
    """
    path = Path(path)
    source = _without_prefix(_read(path))
    target = model.state_dict()
    fitting: dict[str, Tensor] = {}
    mismatched: list[str] = []
    folded: list[str] = []
    for name in sorted(source.keys() & target.keys()):
        tensor, own = source[name], target[name]
        if _is_foldable(tensor, own):
            tensor = tensor.sum(1, keepdim=True)
            folded.append(name)
        if tensor.shape == own.shape and tensor.is_floating_point() == own.is_floating_point():
            fitting[name] = tensor
        else:
            mismatched.append(name)
    if not fitting:
        raise WeightsError(
            f"expected weights with names such as {', '.join(list(target)[:3])} in {path.name}, got "
            f"{', '.join(list(source)[:3]) or 'none'}: nothing fits this model"
        )
    model.load_state_dict(fitting, strict=False)
    return LoadReport(
        loaded=tuple(fitting),
        missing=tuple(sorted(target.keys() - source.keys())),
        unexpected=tuple(sorted(source.keys() - target.keys())),
        mismatched=tuple(mismatched),
        folded=tuple(folded),
    )


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(
            f"expected a weight file {path.name}, found none there: check the model's weights setting"
        )
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise WeightsError(
                f"expected {path.name} in safetensors format, but it is damaged: {error}"
            ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        # Not chained: torch's message advises weights_only=False, which runs code from the file.
        raise WeightsError(
            f"expected {path.name} to hold tensors only, but torch could not read it so "
            f"({type(error).__name__}): save model.state_dict() with torch.save, or use safetensors"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise WeightsError(f"expected a state_dict in {path.name}, got {type(content).__name__}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"expected a state_dict in {path.name}, names and tensors only, got {type(value).__name__} "
                f"under {name!r}: save model.state_dict(), alone or under the key state_dict"
            )
    return dict(content)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _is_foldable(tensor: Tensor, own: Tensor) -> bool:
    """tensor is O×3×k×k and the model's own O×1×k×k."""
    return tensor.ndim == own.ndim == 4 and tensor.shape[1] == 3 and own.shape[1] == 1
