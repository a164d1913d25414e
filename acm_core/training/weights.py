"""A model's state as named NumPy arrays, the form in which it travels and is stored."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load, load_file, save, save_file
from torch import nn

from acm_core.arrays import Arrays
from acm_core.files import read_sealed, write_atomically, write_sealed


class ModelMismatchError(ValueError):
    """Arrays that do not fit the model."""


def get_arrays(model: nn.Module, without: Collection[str] = ()) -> Arrays:
    """Copies of the state entries (parameters and buffers), except those named in `without`."""
    return {
        name: np.array(tensor.detach().cpu().numpy(), order="C")
        for name, tensor in model.state_dict().items()
        if name not in without
    }


def blank_arrays(model: nn.Module) -> Arrays:
    """Zeros of the names, shapes and dtypes of a model's state."""
    return {
        name: torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu").numpy()
        for name, tensor in model.state_dict().items()
    }


def set_arrays(model: nn.Module, arrays: Arrays) -> None:
    """Copy `arrays` into the model in place.

    Raises:
        ModelMismatchError: names, shapes or dtypes differ from the model's; nothing is copied then.
    """
    state = model.state_dict()
    expected = set(state)
    if set(arrays) != expected:
        raise ModelMismatchError(
            f"expected the {len(expected)} entries of the model, got {len(arrays)}; "
            f"missing: {sorted(expected - set(arrays))[:3]}, unexpected: {len(set(arrays) - expected)}"
        )
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape or tensor.dtype != state[name].dtype:
            raise ModelMismatchError(
                f"{name}: expected {state[name].dtype} {tuple(state[name].shape)}, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def save_arrays(path: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> None:
    """Write `arrays` as one safetensors file, atomically."""
    write_atomically(path, lambda temporary: save_file(_contiguous(arrays), temporary, metadata=metadata))


def load_arrays(path: Path) -> Arrays:
    """Read what `save_arrays` wrote.

    Raises:
        OSError: the file cannot be read.
        safetensors.SafetensorError: it is not a safetensors file.
    """
    return dict(load_file(path))


def save_sealed_arrays(path: Path, arrays: Arrays) -> None:
    """Write `arrays` so that `load_sealed_arrays` knows them again, atomically."""
    write_sealed(path, save(_contiguous(arrays)))


def load_sealed_arrays(path: Path) -> Arrays:
    """Read what `save_sealed_arrays` wrote.

    Raises:
        OSError: the file is missing or cannot be read.
        DamagedFileError: it holds anything else.
    """
    return dict(load(read_sealed(path)))


def _contiguous(arrays: Arrays) -> Arrays:
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}
