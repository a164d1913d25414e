"""A projected head: unit length, axes from public films, score maps that add up, and a bound on every gradient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acm_core.config.sections import ModelConfig
from acm_core.nn import (
    Classifier,
    DeployedClassifier,
    MeanHead,
    Projection,
    build_classifier,
    finding_rows,
    fit_projection,
    trained_names,
    unfilled_classifier,
)
from acm_core.training.loss import film_losses

pytestmark = pytest.mark.usefixtures("narrow")

FINDINGS = 3


def classifier(**changes: Any) -> Classifier:
    settings_ = {"context": "none", "head": "projected", "dimensions": 4, "trainable": "head", **changes}
    model = build_classifier(ModelConfig.model_validate(settings_), FINDINGS, seed=1)
    if model.projection is not None:
        generator = torch.Generator().manual_seed(0)
        model.projection.centre.copy_(torch.rand(model.channels, generator=generator))
    return model.eval()


def films(count: int = 5) -> Tensor:
    return torch.randn(count, 1, 64, 64, generator=torch.Generator().manual_seed(2))


def features_like(seed: int, count: int, channels: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.1, 3.0, channels)
    return (rng.standard_normal((count, channels)) * spread + rng.uniform(-2, 2, channels)).astype(np.float32)


@given(seed=st.integers(0, 10_000), channels=st.integers(2, 12), extra=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_the_axes_are_those_along_which_films_vary_most(seed: int, channels: int, extra: int) -> None:
    features = features_like(seed, channels + extra, channels)
    dimensions = 1 + seed % channels
    centre, axes = fit_projection(features, dimensions)
    assert centre.dtype == axes.dtype == np.float32
    np.testing.assert_allclose(centre, features.mean(0, dtype=np.float64), atol=1e-5)
    np.testing.assert_allclose(axes @ axes.T, np.eye(dimensions), atol=1e-5)
    variances = np.linalg.eigvalsh(np.cov(features.astype(np.float64).T, bias=True))[::-1]
    along = np.var((features - centre) @ axes.T, axis=0)
    np.testing.assert_allclose(along, np.atleast_1d(variances)[:dimensions], rtol=1e-3, atol=1e-6)


def test_the_order_of_the_films_turns_no_axis_round() -> None:
    features = features_like(3, 60, 8)
    for name, one, other in zip(
        ("centre", "axes"), fit_projection(features, 5), fit_projection(features[::-1], 5), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("films_", "channels", "dimensions"), [(5, 8, 5), (20, 4, 5), (20, 4, 0)])
def test_too_many_axes_are_refused_with_what_to_do(films_: int, channels: int, dimensions: int) -> None:
    with pytest.raises(ValueError, match=r"expected at least .* films and .* take more films, or a smaller"):
        fit_projection(features_like(0, films_, channels), dimensions)
    if dimensions > channels:
        with pytest.raises(ValueError, match=r"model\.dimensions of at most 4"):
            Projection(channels, dimensions)


def test_what_the_head_sees_has_length_one_whatever_the_film() -> None:
    model = classifier()
    assert model.projection is not None
    for scale in (1e-3, 1.0, 1e3):
        maps = model.projection(scale * model.features(films())[0])
        torch.testing.assert_close(maps.mean((2, 3)).norm(dim=1), torch.ones(5))
    nothing = model.projection(model.projection.centre[None, :, None, None].expand(2, -1, 2, 2))
    assert torch.isfinite(nothing).all()
    assert (nothing.mean((2, 3)).norm(dim=1) <= 1).all()


def test_score_maps_add_up_to_the_logit() -> None:
    model = classifier()
    scores = model.score_maps(films())
    assert scores.shape == (5, FINDINGS, 2, 2)
    torch.testing.assert_close(scores.mean((2, 3)), model(films()).logits)
    torch.testing.assert_close(model.pooled(scores), model(films()).logits)
    deployed = DeployedClassifier([classifier()], maps=True)
    probabilities, maps = deployed(films() / 4 + 0.5)[:2]
    torch.testing.assert_close(torch.sigmoid(maps.mean((2, 3))), probabilities)


@pytest.mark.parametrize("head", ["projected", "average"])
def test_the_head_on_means_is_the_model_on_films(head: str) -> None:
    model = classifier(head=head)
    alone = MeanHead(model)
    means = model.features(films())[0].mean((2, 3), keepdim=True)
    torch.testing.assert_close(alone(means).logits, model(films()).logits)
    assert {name for name, _ in alone.named_parameters()} == trained_names(model) == finding_rows(model)
    assert alone.head.weight is model.head.weight


def test_a_maximum_cannot_be_had_from_means() -> None:
    with pytest.raises(ValueError, match="average or projected, got max"):
        MeanHead(classifier(head="max"))


@pytest.mark.parametrize("kind", ["logistic", "least_squares"])
def test_no_films_gradient_is_longer_than_root_two_times_the_slope(kind: Any) -> None:
    """From a start of zeros: slopes of 1/2 (logistic) and 1, of which a film of F findings has the mean."""
    model = MeanHead(classifier())
    torch.nn.init.zeros_(model.head.weight)
    features = torch.randn(6, model.channels, 1, 1, generator=torch.Generator().manual_seed(3))
    labels = torch.randint(0, 2, (6, FINDINGS), generator=torch.Generator().manual_seed(4)).float()
    for film in range(6):
        model.zero_grad()
        output = model(features[film : film + 1])
        film_losses(output.logits, labels[film : film + 1], output.orthogonality, 0.1, kind).sum().backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        slope = 0.5 if kind == "logistic" else 1.0
        assert float(grads.norm()) == pytest.approx(slope * math.sqrt(2 / FINDINGS), rel=1e-4)


def test_the_projection_is_part_of_the_model_and_of_no_training() -> None:
    model = classifier()
    assert {"projection.centre", "projection.axes"} <= set(model.state_dict())
    assert not {"projection.centre", "projection.axes"} & trained_names(model)
    shapes = {
        name: values.shape
        for name, values in unfilled_classifier(model.config, FINDINGS).state_dict().items()
    }
    assert shapes == {name: values.shape for name, values in model.state_dict().items()}
