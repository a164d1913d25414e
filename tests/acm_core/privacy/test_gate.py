"""The gate lets every model of ours through, and nothing whose films mix or whose gradients are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from acm_core.config.sections import ModelConfig
from acm_core.nn import Classifier, MeanHead, Projection, build_classifier
from acm_core.privacy.convolution import ConvolutionUse
from acm_core.privacy.gate import check_gradients
from acm_core.privacy.layers import UnknownGradientError

pytestmark = pytest.mark.usefixtures("narrow")


def classifier(**changes: Any) -> Classifier:
    settings = {"architecture": "resnet18", "context": "none", "norm": "group", **changes}
    return build_classifier(ModelConfig.model_validate(settings), 2, seed=1)


@pytest.mark.parametrize("context", ["acm", "acm_mirrored", "se", "cbam", "self_attention", "none"])
def test_every_context_module_passes(context: str) -> None:
    check_gradients(classifier(context=context), 2, 0.1)


def test_standardised_weights_pass() -> None:
    check_gradients(classifier(standardise_weights=True), 2, 0.1)


def test_a_model_with_its_gates_open_and_another_head_passes() -> None:
    check_gradients(classifier(context="acm", initialisation="identity", head="average"), 2, 0.1)


def test_a_bottleneck_passes() -> None:
    check_gradients(classifier(context="acm", architecture="resnet50"), 2, 0.1)


@pytest.mark.parametrize("loss", ["logistic", "least_squares"])
@pytest.mark.parametrize("head", ["average", "projected"])
def test_a_head_on_means_passes(head: str, loss: Any) -> None:
    model = classifier(norm="batch", head=head, dimensions=8, trainable="head")
    check_gradients(model, 2, 0.1, loss)
    check_gradients(MeanHead(model), 2, 0.1, loss)


class MixingProjection(Projection):
    """Takes a part of its centre from the batch."""

    share = 1.0

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features - self.share * features.mean(0))


@pytest.mark.parametrize("share", [1.0, 1e-6])
def test_a_projection_that_takes_its_centre_from_the_batch_is_refused(share: float) -> None:
    model = classifier(head="projected", dimensions=8, trainable="head")
    model.projection = MixingProjection(model.channels, 8)
    model.projection.share = share
    with pytest.raises(UnknownGradientError, match="a layer mixes films"):
        check_gradients(MeanHead(model), 2, 0.1)


def test_the_model_and_the_random_state_are_as_before() -> None:
    model = classifier(context="se").eval()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    state = torch.get_rng_state()
    check_gradients(model, 2, 0.1)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("context", ["acm", "se", "cbam", "self_attention", "none"])
@pytest.mark.parametrize(
    ("trainable", "norm"), [("head", "batch"), ("head", "group"), ("norm", "group"), ("last_stage", "group")]
)
def test_a_part_passes_with_every_context_module(context: str, trainable: str, norm: str) -> None:
    check_gradients(classifier(context=context, trainable=trainable, norm=norm), 2, 0.1)


def test_a_frozen_bottleneck_with_batch_normalisation_passes() -> None:
    model = classifier(context="acm", architecture="resnet50", trainable="head", norm="batch")
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
    check_gradients(model, 2, 0.1)


@pytest.mark.parametrize("trainable", ["all", "norm", "last_stage"])
def test_batch_normalisation_that_trains_is_refused(trainable: str) -> None:
    with pytest.raises(UnknownGradientError, match=r"set model\.norm to group, or model\.trainable to head"):
        check_gradients(classifier(norm="batch", trainable=trainable), 2, 0.1)


def frozen(**changes: Any) -> Classifier:
    return classifier(norm="batch", trainable="head", **changes)


@pytest.mark.parametrize("name", ["bn1", "layer1.0.bn2", "layer4.1.bn1"])
def test_a_frozen_normalisation_in_training_mode_is_refused(name: str) -> None:
    """One layer that no call of `train` or `eval` takes out of it: its statistics are the batch's, and they move."""

    class Moving(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Moving:
            return super().train()

    model = frozen()
    model.get_submodule(name).__class__ = Moving
    with pytest.raises(UnknownGradientError, match="expected no batch normalisation but a frozen one"):
        check_gradients(model, 2, 0.1)


def test_a_model_that_puts_all_of_itself_into_training_mode_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Classifier, "train", nn.Module.train)
    with pytest.raises(UnknownGradientError, match="expected no batch normalisation but a frozen one"):
        check_gradients(frozen(), 2, 0.1)


@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_a_frozen_normalisation_whose_affine_map_trains_is_refused(parameter: str) -> None:
    model = frozen()
    getattr(model.layer4[1].bn2, parameter).requires_grad_()

    def stays_in_evaluation(module: nn.Module, _: object) -> None:
        module.eval()

    model.layer4[1].bn2.register_forward_pre_hook(stays_in_evaluation)
    with pytest.raises(UnknownGradientError, match="expected no batch normalisation but a frozen one"):
        check_gradients(model, 2, 0.1)


class Drifting(nn.BatchNorm2d):
    """Normalises by fixed statistics as a frozen layer does, and lets them follow the films behind autograd's back."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.running_mean += 1e-12 * x.detach().mean((0, 2, 3))
        return y


def test_a_frozen_normalisation_that_moves_is_refused() -> None:
    """By too little for any gradient to tell."""
    model = frozen()
    model.layer3[0].bn1.__class__ = Drifting
    with pytest.raises(
        UnknownGradientError, match=r"layer3\.0\.bn1\.running_mean: expected a buffer that stays as it is"
    ):
        check_gradients(model, 2, 0.1)


def test_films_mixed_in_a_frozen_trunk_are_refused() -> None:
    class Mixing(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y + 1e-3 * y.mean(0, keepdim=True)

    model = frozen()
    model.layer2[1].bn2.__class__ = Mixing
    with pytest.raises(UnknownGradientError, match="a layer mixes films or is not known"):
        check_gradients(model, 2, 0.1)


class MixingHead(nn.Conv2d):
    """Takes a share of the batch's mean from every film's scores: no parameter, no layer of its own."""

    share = 1.0

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        return scores - self.share * scores.mean(0, keepdim=True)


@pytest.mark.parametrize("share", [1.0, 1e-2, 1e-6])
def test_a_head_that_mixes_films_is_refused(share: float) -> None:
    model = classifier()
    head = MixingHead(model.channels, 2, 1)
    head.load_state_dict(model.head.state_dict())
    head.share = share
    model.head = head
    with pytest.raises(
        UnknownGradientError, match="a layer mixes films or is not known; nothing was trained"
    ):
        check_gradients(model, 2, 0.1)


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"track_running_stats": False}])
def test_batch_normalisation_of_any_kind_is_refused(settings: dict[str, bool]) -> None:
    model = classifier()
    model.bn1 = nn.BatchNorm2d(64, **settings)
    with pytest.raises(UnknownGradientError, match=r"set model\.norm to group"):
        check_gradients(model, 2, 0.1)


def test_dropout_is_refused() -> None:
    """Its draws differ from pass to pass, so that nothing can be compared."""
    model = classifier()
    model.bn1 = nn.Sequential(model.bn1, nn.Dropout(0.5))
    with pytest.raises(UnknownGradientError, match="expected gradients by unit within"):
        check_gradients(model, 2, 0.1)


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "a millionth too large": lambda values: values * (1 + 1e-6),
    "of the unit beside it": lambda values: values.roll(1, 0),
}


@pytest.mark.parametrize("method", ["squared_norms", "unit_gradients"])
@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_gradients_and_wrong_norms_are_refused(
    method: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(ConvolutionUse, method)

    def wrong(self: ConvolutionUse, units: Any) -> Any:
        found = right(self, units)
        return (FAULTS[fault](found[0]), *found[1:]) if isinstance(found, tuple) else FAULTS[fault](found)

    monkeypatch.setattr(ConvolutionUse, method, wrong)
    with pytest.raises(UnknownGradientError, match="expected gradients by unit within"):
        check_gradients(classifier(), 2, 0.1)


def test_a_wrong_sum_with_right_norms_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ConvolutionUse.weighted_gradient
    monkeypatch.setattr(
        ConvolutionUse, "weighted_gradient", lambda self, factors: right(self, torch.ones_like(factors))
    )
    with pytest.raises(UnknownGradientError, match="expected gradients by unit within"):
        check_gradients(classifier(), 2, 0.1)


def test_a_fault_in_float32_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels that train are not those of float64."""
    right = ConvolutionUse.squared_norms

    def wrong(self: ConvolutionUse, units: Any) -> tuple[Tensor, list[int]]:
        norms, alone = right(self, units)
        return norms * (1.2 if self.x.dtype is torch.float32 else 1.0), alone

    monkeypatch.setattr(ConvolutionUse, "squared_norms", wrong)
    with pytest.raises(UnknownGradientError, match="expected gradients by unit within 2e-02"):
        check_gradients(classifier(), 2, 0.1)
