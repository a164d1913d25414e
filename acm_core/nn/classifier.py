"""The classifier: a ResNet with context modules, a score map for each finding, global pooling."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from acm_core.config.sections import ModelConfig
from acm_core.nn.attend_and_compare import AttendAndCompare, AttentionMaps
from acm_core.nn.projection import Projection
from acm_core.nn.resnet import ResNet
from acm_core.randomness import stream_seed

# Films in [0, 1] to about zero mean and unit spread. Constants: a site's own statistics would leave with the model.
FILM_MEAN, FILM_SPREAD = 0.5, 0.25
_NORMALISATION = (nn.BatchNorm2d, nn.GroupNorm)


def normalised(films: Tensor) -> Tensor:
    """Films in [0, 1] as the classifier takes them."""
    return (films - FILM_MEAN) / FILM_SPREAD


class ClassifierOutput(NamedTuple):
    """logits: B×F, one a finding. orthogonality: B, the sum over layers; zeros without attend-and-compare."""

    logits: Tensor
    orthogonality: Tensor


class Classifier(ResNet):
    """ResNet trunk, 1×1 convolution to the findings, global max or average pooling.

    The head comes before the pooling, as in Kim et al., ECCV 2020: each finding has a score map, and with max
    pooling its logit is the score of its most suspicious position. A projected head sees each film's `Projection`; its
    score maps are what each position adds to the logit, the film's length held as it is, and it pools by the mean.

    What `config.trainable` leaves out is frozen: its parameters require no gradient, and its modules stay in evaluation
    mode in training, so that a frozen batch normalisation is the affine map that its start has.

    Args:
        config: the model section of a federation file; `config.weights` is for the caller to load
            (`load_weights`).
        findings: F, at least 1.

    Raises:
        ValueError: findings < 1, or the groups do not fit the channels.
    """

    def __init__(self, config: ModelConfig, findings: int) -> None:
        super().__init__(config)
        if findings < 1:
            raise ValueError(f"expected at least one finding, got {findings}")
        self.config = config
        projected = config.head == "projected"
        self.projection = Projection(self.channels, config.dimensions) if projected else None
        self.head = nn.Conv2d(config.dimensions if projected else self.channels, findings, kernel_size=1)
        # Kaiming fan-out would give a few findings weights of std √(2/F): logits in the tens at step 0.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]  # built with a bias
        self.requires_grad_(requires_grad=False)
        for part in self._trainable_parts():
            part.requires_grad_(requires_grad=True)
        self.train()

    def _trainable_parts(self) -> list[nn.Module]:
        match self.config.trainable:
            case "all":
                return [self]
            case "head":
                return [self.head]
            case "norm":
                return [*(m for m in self.modules() if isinstance(m, _NORMALISATION)), self.head]
            case "last_stage":
                return [self.layer4, self.head]

    def train(self, mode: bool = True) -> Self:
        """Put what trains into training mode, or all into evaluation mode."""
        super().train(mode)
        if mode:
            for module in self.modules():
                parameters = list(module.parameters())
                if parameters and not any(parameter.requires_grad for parameter in parameters):
                    module.train(mode=False)
        return self

    def forward(self, x: Tensor) -> ClassifierOutput:
        """Films B×1×H×W (normalised) → logits B×F and orthogonality B."""
        features, orthogonality = self.features(x)
        return ClassifierOutput(self.pooled(self._scores(features)), orthogonality)

    def pooled(self, scores: Tensor) -> Tensor:
        """Score maps B×F×h×w → logits B×F."""
        return scores.amax((2, 3)) if self.config.head == "max" else scores.mean((2, 3))

    def score_maps(self, x: Tensor) -> Tensor:
        """Films B×1×H×W → the findings' scores before pooling, B×F×H/32×W/32."""
        return self._scores(self.features(x)[0])

    def attention_modules(self) -> list[str]:
        """Names of the attend-and-compare modules, such as `layer1.0.context`, in the order of their stages."""
        return [name for name, module in self.named_modules() if isinstance(module, AttendAndCompare)]

    @torch.no_grad()
    def attention_maps(self, x: Tensor) -> dict[str, AttentionMaps]:
        """Key and query maps of every attend-and-compare module by its name, such as `layer1.0.context`.

        x: B×1×H×W. Computed as in evaluation, without gradient; the model's modes and statistics stay as they
            are. Empty
        for a model with another context module.
        """
        maps: dict[str, AttentionMaps] = {}

        def record(name: str, module: AttendAndCompare, inputs: tuple[Tensor]) -> None:
            maps[name] = module.attention_maps(inputs[0])

        modes = {module: module.training for module in self.modules()}
        handles = [
            module.register_forward_pre_hook(partial(record, name))
            for name, module in self.named_modules()
            if isinstance(module, AttendAndCompare)
        ]
        try:
            self.eval()
            self.features(x)
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes.items():
                module.training = mode
        return maps

    def _scores(self, features: Tensor) -> Tensor:
        return _score_maps(self.head, self.projection, features)


class MeanHead(nn.Module):
    """What a classifier computes after its trunk, where it begins with the mean over positions.

    It shares the classifier's head, under the same names, so that training it trains the classifier.

    Args:
        model: whose head is `average` or `projected`.

    Raises:
        ValueError: the head pools otherwise.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        if model.config.head == "max":
            raise ValueError(
                "expected model.head: average or projected, got max: its maximum needs whole maps"
            )
        self.channels = model.channels
        self.head, self.projection = model.head, model.projection

    def forward(self, features: Tensor) -> ClassifierOutput:
        """Means of the last stage B×C×1×1 → logits B×F; orthogonality is the trunk's, and 0 here."""
        scores = _score_maps(self.head, self.projection, features)
        return ClassifierOutput(scores.mean((2, 3)), scores.new_zeros(len(scores)))


def _score_maps(head: nn.Conv2d, projection: Projection | None, features: Tensor) -> Tensor:
    # In the head's own precision even under autocast: bfloat16 logits would tie and blur an AUROC.
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(head.weight.dtype)
        scores: Tensor = head(features if projection is None else projection(features))
    return scores


def build_classifier(config: ModelConfig, findings: int, *, seed: int = 0) -> Classifier:
    """A freshly initialised classifier on the CPU; the same arguments give the same weights.

    Torch's global random state is left as it was.

    Args:
        config: the model section of a federation file.
        findings: F, the number of outputs.
        seed: of the run.

    Raises:
        ValueError: see `Classifier`.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: it would also reseed every GPU, which fork_rng(devices=[]) does not restore.
        torch.default_generator.manual_seed(stream_seed(seed, "model", "initialisation"))
        return Classifier(config, findings)


def unfilled_classifier(config: ModelConfig, findings: int) -> Classifier:
    """A classifier on the CPU whose parameters and buffers hold nothing meaningful until they are loaded.

    Saves drawing the millions of numbers that `build_classifier` draws.

    Raises:
        ValueError: see `Classifier`.
    """
    with torch.device("meta"):
        model = Classifier(config, findings)
    return model.to_empty(device="cpu")


def trained_names(model: nn.Module) -> frozenset[str]:
    """state_dict names that training changes: parameters that require gradients, and the buffers beside them."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        trained = [name for name, p in module.named_parameters(recurse=False) if p.requires_grad]
        beside = [name for name, _ in module.named_buffers(recurse=False)] if trained else []
        names.update(f"{prefix}.{name}".removeprefix(".") for name in (*trained, *beside))
    return frozenset(names)


def finding_rows(model: Classifier) -> frozenset[str]:
    """state_dict names whose first axis is the finding: row f learns from films labelled for finding f."""
    return frozenset(f"head.{name}" for name in model.head.state_dict())
