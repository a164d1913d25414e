"""A file of weights: its tensors, its content's hash, and what it says of itself."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from acm_core.config.sections import FindingName, ModelConfig

# One key: safetensors writes several in an order of chance, and the same model would have many hashes.
_METADATA = "acm-fed"
_LONGEST = 300


class WeightsError(ValueError):
    """A weight file that cannot be used; the message says what to do."""


def _one_line(text: str) -> str:
    if not (text.isprintable() and 1 <= len(text) <= _LONGEST):
        raise ValueError(f"expected 1 to {_LONGEST} printable characters")
    return text


class Origin(BaseModel):
    """What a model of this project says of itself in its safetensors file.

    Attributes:
        findings: whose rows the head has, in their order; none: the file has no head.
        model: the section that it was built from.
        made_from: for people: `run demo`, or how many films of which folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["acm-fed.weights/1"] = "acm-fed.weights/1"
    findings: tuple[FindingName, ...]
    model: ModelConfig
    made_from: Annotated[str, AfterValidator(_one_line)]

    def metadata(self) -> dict[str, str]:
        """As safetensors takes it."""
        return {_METADATA: self.model_dump_json()}


@dataclass(frozen=True)
class WeightFile:
    """A file that was read.

    Attributes:
        name: of the file, without its folder.
        sha256: of its content.
        tensors: a state_dict; a prefix `module.` (DataParallel) is dropped.
        origin: None where the file does not say: torchvision's, a checkpoint of one's own.
    """

    name: str
    sha256: str
    tensors: dict[str, Tensor]
    origin: Origin | None


def read_weight_file(path: Path, sha256: str | None = None) -> WeightFile:
    """Read safetensors if the name ends so, else with `torch.load(weights_only=True)`.

    The latter may hold a state_dict, or a dictionary that has one under "state_dict".

    Args:
        sha256: that the content must have; None: any.

    Raises:
        WeightsError: the file is absent, another one, unreadable, holds no state_dict, or numbers that are not finite.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"expected a weight file {path.name}, found none there ({error.strerror}): check the model's weights "
            "setting. Nothing is downloaded here: python -m simulations.pretrain makes a start from public films; "
            "where torchvision's are to be had says "
            "python -c 'import torchvision; print(torchvision.models.ResNet18_Weights.DEFAULT.url)'"
        ) from error
    actual = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, actual):
        raise WeightsError(
            f"expected {path.name} with SHA-256 {sha256}, got {actual}: it is another file; take the one that was "
            "meant, or correct model.weights_sha256"
        )
    if path.suffix == ".safetensors":
        tensors, origin = _safetensors(content, path.name)
    else:
        tensors, origin = _pickled(content, path.name), None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"expected finite numbers in {path.name}, got NaN or infinity in {name}: the training that made it "
                "diverged; take another file"
            )
    return WeightFile(path.name, actual, _without_prefix(tensors), origin)


def _safetensors(content: bytes, name: str) -> tuple[dict[str, Tensor], Origin | None]:
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise WeightsError(f"expected {name} in safetensors format, but it is damaged: {error}") from error
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    said = header.get("__metadata__", {}).get(_METADATA)
    try:
        origin = None if said is None else Origin.model_validate_json(said)
    except ValidationError as error:
        raise WeightsError(
            f"expected {name} to say of itself what this version reads, got something else: it may be of a later "
            "version; update this installation, or make the file anew"
        ) from error
    return tensors, origin


def _pickled(content: bytes, name: str) -> dict[str, Tensor]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        # Not chained: torch's message advises weights_only=False, which runs code from the file.
        raise WeightsError(
            f"expected {name} to hold tensors only, but torch could not read it so "
            f"({type(error).__name__}): save model.state_dict() with torch.save, or use safetensors"
        ) from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    return _tensors(state, name)


def _tensors(state: Any, file: str) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        raise WeightsError(f"expected a state_dict in {file}, got {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"expected a state_dict in {file}, names and tensors only, got {type(value).__name__} "
                f"under {name!r}: save model.state_dict(), alone or under the key state_dict"
            )
    return dict(state)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state
