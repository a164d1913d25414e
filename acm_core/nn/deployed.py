"""A trained classifier as it is handed on: prepared films in, probabilities out, in operations of every runtime."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from acm_core.nn.attend_and_compare import AttendAndCompare
from acm_core.nn.classifier import Classifier, normalised
from acm_core.ops import reference


class DeployedClassifier(nn.Module):
    """Films B×1×S×S in [0, 1], dense tissue bright → probabilities B×F, and on request what they come from.

    Attend-and-compare is computed by its plain formula, so that the model can be traced, and its result differs from
    the fused operation's by rounding.

    Args:
        members: models whose probabilities are averaged, one or more. They are taken over: put into evaluation mode and
            changed to the plain formula.
        maps: also return the findings' score maps B×F×s×s and every module's key and query maps B×G×h×w, of the first.
    """

    def __init__(self, members: Sequence[Classifier], *, maps: bool = False) -> None:
        super().__init__()
        for model in members:
            for module in model.modules():
                if isinstance(module, AttendAndCompare):
                    module.operation = reference.attend_and_compare
            model.eval().requires_grad_(requires_grad=False)
        self._model, self._others, self._maps = members[0], nn.ModuleList(members[1:]), maps

    @property
    def outputs(self) -> list[str]:
        """Names of what is returned, in that order: `probabilities`, `score_maps`, `layer1.0.context.key`, …"""
        if not self._maps:
            return ["probabilities"]
        maps = [f"{name}.{map_}" for name in self._model.attention_modules() for map_ in ("key", "query")]
        return ["probabilities", "score_maps", *maps]

    def forward(self, films: Tensor) -> Tensor | tuple[Tensor, ...]:
        if not self._maps:
            return self._mean(torch.sigmoid(self._model(normalised(films)).logits), films)
        maps: list[Tensor] = []

        def record(module: AttendAndCompare, inputs: tuple[Tensor]) -> None:
            maps.extend(module.attention_maps(inputs[0]))

        handles = [
            module.register_forward_pre_hook(record)
            for module in self._model.modules()
            if isinstance(module, AttendAndCompare)
        ]
        try:
            scores = self._model.score_maps(normalised(films))
        finally:
            for handle in handles:
                handle.remove()
        return self._mean(torch.sigmoid(self._model.pooled(scores)), films), scores, *maps

    def _mean(self, first: Tensor, films: Tensor) -> Tensor:
        """The first model's probabilities averaged with the others'."""
        if not len(self._others):
            return first
        others = [torch.sigmoid(other(normalised(films)).logits) for other in self._others]
        return torch.stack([first, *others]).mean(0)
