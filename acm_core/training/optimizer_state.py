"""An optimiser's state as named NumPy arrays, the form in which a site keeps it between rounds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from acm_core.arrays import Arrays


def get_optimizer_arrays(optimizer: torch.optim.Optimizer, model: nn.Module) -> Arrays:
    """Copies of what the optimiser knows of each parameter, named `KIND/PARAMETER`, such as `exp_avg/conv1.weight`."""
    return {
        f"{kind}/{name}": np.array(value.detach().cpu().numpy(), order="C")
        for name, parameter in _parameters(optimizer, model)
        for kind, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def set_optimizer_arrays(optimizer: torch.optim.Optimizer, model: nn.Module, arrays: Arrays) -> None:
    """Give a fresh optimiser the state that `get_optimizer_arrays` took from one like it.

    A parameter that `arrays` do not name begins anew. The step count stays where torch wants it: with the parameter
    for a fused optimiser.
    """
    named = dict(_parameters(optimizer, model))
    for entry, array in arrays.items():
        kind, _, name = entry.partition("/")
        if name in named:
            parameter = named[name]
            value = torch.from_numpy(np.array(array))
            if value.shape == parameter.shape:
                value = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(value)
            optimizer.state[parameter][kind] = value.to(parameter.device)


def _parameters(optimizer: torch.optim.Optimizer, model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that the optimiser steps, by name."""
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return ((name, parameter) for name, parameter in model.named_parameters() if id(parameter) in stepped)
