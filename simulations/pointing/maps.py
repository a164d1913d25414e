"""Where a model's maps point: score maps, Grad-CAM, key and query maps.

Legend: N films, F findings, G groups of an attend-and-compare module, M groups of all such modules. Points are (y, x)
in pixels of the film, NaN where a map is flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from acm_core.data.batches import evaluation_batches
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier
from simulations.pointing.game import peaks

Points = NDArray[np.float64]

_BATCH = 16


@dataclass(frozen=True)
class Pointed:
    """Where the maps of N films point.

    Attributes:
        probabilities: N×F.
        scores: N×F×2, of the findings' score maps.
        grad_cam: stage → N×F×2.
        key, query: N×M×2; M = 0 without attend-and-compare modules.
        groups: M names, such as "layer3.1.context, group 7".
    """

    probabilities: NDArray[np.float32] = field(repr=False)
    scores: Points = field(repr=False)
    grad_cam: dict[str, Points] = field(repr=False)
    key: Points = field(repr=False)
    query: Points = field(repr=False)
    groups: list[str]


def point(network: Classifier, films: FilmSet, stages: Sequence[str]) -> Pointed:
    """Every map of every film, by a model in evaluation mode.

    Args:
        stages: of which Grad-CAM is made, such as "layer3".
    """
    network.eval()
    size = network.config.image_size
    device = next(network.parameters()).device
    modules = network.attention_modules()
    probabilities, scores, keys, queries = [], [], [], []
    cams: dict[str, list[Points]] = {stage: [] for stage in stages}
    for images, _ in evaluation_batches(films, _BATCH):
        batch = images.to(device)
        with torch.no_grad():
            maps = network.score_maps(batch)
        probabilities.append(torch.sigmoid(network.pooled(maps)).cpu().numpy())
        scores.append(_points(maps, size))
        for stage in stages:
            cams[stage].append(_points(grad_cam(network, batch, stage), size))
        looked = network.attention_maps(batch) if modules else {}
        nowhere = np.empty((len(batch), 0, 2))
        keys.append(np.concatenate([nowhere, *(_points(looked[name].key, size) for name in modules)], 1))
        queries.append(np.concatenate([nowhere, *(_points(looked[name].query, size) for name in modules)], 1))
    return Pointed(
        np.concatenate(probabilities),
        np.concatenate(scores),
        {stage: np.concatenate(parts) for stage, parts in cams.items()},
        np.concatenate(keys),
        np.concatenate(queries),
        [f"{name}, group {group}" for name in modules for group in range(network.config.groups)],
    )


def grad_cam(network: Classifier, images: Tensor, stage: str) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017) of every finding's logit at the end of a stage.

    Images B×1×H×W, normalised → B×F×h×w, at least 0. MONAI's Grad-CAM takes layers that give one tensor; a block here
    gives its maps and a penalty. At "layer4" with the average head it is the score map without its bias where that is
    positive.
    """
    last = network.get_submodule(stage).get_submodule(str(len(network.get_submodule(stage)) - 1))  # type: ignore[arg-type]
    caught: list[Tensor] = []

    def catch(_: nn.Module, __: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        caught.append(output[0])

    handle = last.register_forward_hook(catch)
    try:
        with torch.enable_grad():
            logits = network(images).logits
    finally:
        handle.remove()
    (features,) = caught
    cams = []
    for finding in range(logits.shape[1]):
        (slope,) = torch.autograd.grad(logits[:, finding].sum(), features, retain_graph=True)
        weights = slope.mean((2, 3), keepdim=True)
        cams.append(torch.relu((weights * features.detach()).sum(1)))
    return torch.stack(cams, 1)


def _points(maps: Tensor, size: int) -> Points:
    return peaks(maps.float().cpu().numpy(), size)
