"""Clipped sums against one backward pass a film, in float64; no unit above the clipping norm, in float32 too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from acm_core.config.sections import ModelConfig
from acm_core.nn import Classifier, build_classifier, resnet
from acm_core.nn.standardised import StandardisedConv2d
from acm_core.privacy.gradients import ClippedSum, UnitGradients
from acm_core.privacy.layers import UnknownGradientError
from acm_core.privacy.units import Units
from acm_core.training.loss import film_losses

CONTEXTS = ["acm", "acm_mirrored", "se", "cbam", "self_attention", "none"]
EVERY_WAY = tuple(product((torch.contiguous_format, torch.channels_last), (True, False)))
"""Memory layout, and whether weights are clipped by their norms first."""
BOTH = ((torch.contiguous_format, True), (torch.channels_last, False))
FILMS = 4
PATIENTS = Units((1, 2, 1))
SINGLE_FILMS = Units((1,) * FILMS)
SIDE = 33  # the smallest whose last maps have more than one position
WEIGHT = 0.5  # of the orthogonality term, large enough to be seen


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages as deep as ever, of an eighth of the numbers: gradients by film of float64 fill gigabytes otherwise."""
    monkeypatch.setattr(resnet, "_STAGE_WIDTHS", (64, 64, 128, 128))


def classifier(context: str, standardise: bool = False, architecture: str = "resnet18") -> Classifier:
    """In float64, with nothing at zero where training would start: no gradient is zero for that reason."""
    config = ModelConfig.model_validate(
        {
            "architecture": architecture,
            "context": context,
            "norm": "group",
            "standardise_weights": standardise,
        }
    )
    model = build_classifier(config, 3, seed=1).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.rand(parameter.shape, generator=generator), alpha=0.3)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return model


@cache
def films(count: int = FILMS) -> tuple[Tensor, Tensor]:
    """Images and labels, of which one is missing."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(count, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (count, 3), generator=generator).double()
    labels[1, 0] = math.nan
    return images, labels


def losses(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    output = model(images)
    return film_losses(output.logits, labels, output.orthogonality, WEIGHT)


def by_film(model: nn.Module, count: int = FILMS) -> Tensor:
    """The loop: a backward pass for each film alone, by torch alone; a row a film, all parameters in one."""
    images, labels = films(count)
    rows = []
    for film in range(count):
        loss = losses(model, images[film : film + 1], labels[film : film + 1]).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])]))
    return torch.stack(rows)


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([values.double().flatten() for values in gradients.values()])


def norm(got: ClippedSum) -> float:
    return float(flat(got.gradients).norm())


def distance(got: ClippedSum, expected: ClippedSum) -> float:
    return float((flat(got.gradients) - flat(expected.gradients)).norm()) / norm(expected)


def means_of_units(by_film: Tensor, units: Units) -> Tensor:
    return torch.stack([by_film[start:end].mean(0) for start, end in units.bounds])


def ours(
    model: nn.Module,
    units: Units,
    images: Tensor,
    labels: Tensor,
    clipping_norm: float,
    *,
    norms_first: bool | None = None,
    unit_weights: Tensor | None = None,
) -> ClippedSum:
    """The clipped sum of the units' mean losses, each times its weight."""
    recorder = UnitGradients(model, norms_first=norms_first)
    with recorder.recording(units):
        of_films = losses(model, images, labels) * units.film_weights(images)
        if unit_weights is not None:
            of_films = of_films * units.per_film(unit_weights, images)
    of_films.sum().backward()
    return recorder.clipped_sum(clipping_norm)


def expect_the_loop(
    model: nn.Module,
    alone: Tensor,
    units: Units,
    ways: Sequence[tuple[torch.memory_format, bool]] = EVERY_WAY,
) -> None:
    """Some units are clipped and some are not."""
    images, labels = films(units.films)
    of_units = means_of_units(alone, units)
    norms = of_units.norm(dim=1)
    clipping_norm = float(norms.quantile(0.4))
    expected = (clipping_norm / norms).clamp(max=1) @ of_units
    for layout, norms_first in ways:
        model.to(memory_format=layout)  # type: ignore[call-overload]  # torch declares it with 4-D tensors only
        laid_out = images.contiguous(memory_format=layout)
        got = ours(model, units, laid_out, labels, clipping_norm, norms_first=norms_first)
        assert float((flat(got.gradients) - expected).norm()) <= 1e-9 * float(expected.norm())
        torch.testing.assert_close(got.norms, norms, rtol=1e-9, atol=0)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("context", CONTEXTS)
def test_clipped_sums_are_those_of_a_loop_over_films_and_over_patients(
    narrow: None, context: str, standardise: bool
) -> None:
    model = classifier(context, standardise)
    alone = by_film(model)
    expect_gradients_everywhere(model, alone)
    expect_the_loop(model, alone, SINGLE_FILMS, BOTH)
    expect_the_loop(model, alone, PATIENTS)


def expect_gradients_everywhere(model: nn.Module, alone: Tensor) -> None:
    """A parameter without a gradient would prove nothing. That of φ's bias is a constant in a softmax, and cancels."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    largest = [float(values.abs().max()) for values in alone.split([p.numel() for p in parameters], 1)]
    silent = {name for name, value in zip(names, largest, strict=True) if value < 1e-12}
    assert all(name.endswith("phi.bias") for name in silent), silent


@pytest.mark.parametrize("standardise", [False, True])
def test_clipped_sums_of_bottlenecks_are_those_of_a_loop(narrow: None, standardise: bool) -> None:
    model = classifier("acm", standardise, "resnet50")
    expect_the_loop(model, by_film(model), PATIENTS)


def test_clipped_sums_of_a_whole_acm_resnet18_are_those_of_a_loop() -> None:
    model = classifier("acm")
    expect_the_loop(model, by_film(model), PATIENTS, BOTH)


@pytest.mark.slow
def test_clipped_sums_of_a_whole_acm_resnet50_with_standardised_weights_are_those_of_a_loop() -> None:
    model = classifier("acm", True, "resnet50")
    expect_the_loop(model, by_film(model, 3), Units((1, 2)), BOTH)


def test_unclipped_sums_are_the_gradient_of_one_plain_backward_pass(narrow: None) -> None:
    model = classifier("acm", True)
    images, labels = films()
    got = flat(ours(model, PATIENTS, images, labels, math.inf).gradients)
    loss = (losses(model, images, labels) * PATIENTS.film_weights(images)).sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])
    assert float((got - expected).norm()) <= 1e-9 * float(expected.norm())


# Clipping in float32.


def difficult_films() -> Tensor:
    """Noise, nothing at all, one bright pixel, an overexposed film, a faint one, large numbers on a large mean."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(1, 1, SIDE, SIDE, generator=generator)
    black = torch.full_like(noise, -2)
    pixel = black.clone()
    pixel[..., 7, 9] = 2
    return torch.cat((noise, black, pixel, noise * 1e4, noise * 1e-4, 1e4 + noise))


@pytest.mark.parametrize("norms_first", [None, True, False])
@pytest.mark.parametrize("standardise", [False, True])
def test_no_unit_adds_more_than_the_clipping_norm_in_float32(
    narrow: None, standardise: bool, norms_first: bool | None
) -> None:
    """One unit a batch, so that what is added is what the unit adds; gradients from 1e-6 to 1e9 times C."""
    model = build_classifier(
        ModelConfig(architecture="resnet18", context="acm", norm="group", standardise_weights=standardise), 3
    ).to(memory_format=torch.channels_last)
    clipping_norm = 0.3
    images = difficult_films().contiguous(memory_format=torch.channels_last)
    for index, scale in enumerate((1.0, 1.0, 1.0, 1e9, 1e-6, 1e3)):
        labels = torch.tensor([[1.0, 0.0, math.nan]])
        weights = torch.tensor([scale])
        got = ours(
            model,
            Units((1,)),
            images[index : index + 1],
            labels,
            clipping_norm,
            norms_first=norms_first,
            unit_weights=weights,
        )
        assert norm(got) <= clipping_norm * (1 + 1e-5)
        is_clipped = bool(got.norms > clipping_norm)
        assert is_clipped == (scale > 1e-6)
        if is_clipped:
            # A squared norm made of products is raised by the rounding that may be in it, by 5 % at most.
            least = 0.975 if norms_first else 1 - 1e-3
            assert norm(got) >= clipping_norm * least, "clipped too much"


@pytest.mark.parametrize("norms_first", [None, True, False])
def test_no_unit_of_a_batch_adds_more_than_the_clipping_norm(narrow: None, norms_first: bool | None) -> None:
    """The others' losses are multiplied by zero: what is left is one unit's share of the same batch."""
    model = build_classifier(ModelConfig(architecture="resnet18", context="se", norm="group"), 3)
    images = difficult_films()[2:]
    labels = torch.randint(0, 2, (len(images), 3), generator=torch.Generator().manual_seed(0)).float()
    for unit in range(len(PATIENTS)):
        weights = torch.zeros(len(PATIENTS))
        weights[unit] = 1e4
        got = ours(model, PATIENTS, images, labels, 0.1, norms_first=norms_first, unit_weights=weights)
        assert (got.norms > 0.1).tolist() == (weights > 0).tolist()
        assert 0.1 * (1 - 1e-3) <= norm(got) <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("norms_first", [True, False])
def test_a_large_weights_norm_is_not_understated(norms_first: bool) -> None:
    """Two million numbers a unit, as the last stage has: a sum in float32, one after another, loses 4e-5 of them."""
    torch.manual_seed(0)
    layer = nn.Conv2d(512, 512, 3, padding=1, bias=False)
    recorder = UnitGradients(layer, norms_first=norms_first)
    x = torch.randn(2, 512, 4, 4)
    with recorder.recording(Units((2,))):
        loss = (layer(x) * torch.randn(2, 512, 4, 4)).sum()
    loss.backward()
    got = recorder.clipped_sum(1.0)
    assert norm(got) <= 1 + 1e-5


@pytest.mark.parametrize("norms_first", [None, True, False])
@pytest.mark.parametrize("mean", [10.0, 100.0, 1e4])
@pytest.mark.parametrize("standardise", [False, True])
def test_a_norm_that_is_a_small_rest_of_large_numbers_is_not_understated(
    standardise: bool, mean: float, norms_first: bool | None
) -> None:
    """Inputs far from zero that the layer's gradient hardly depends on: the norm by products of inputs cancels."""
    torch.manual_seed(0)
    layer = StandardisedConv2d(64, 128, 1) if standardise else nn.Conv2d(64, 128, 1, bias=False)
    output_gradient = torch.randn(1, 128, 5, 5)
    output_gradient -= output_gradient.mean((2, 3), keepdim=True)
    recorder = UnitGradients(layer, norms_first=norms_first)
    with recorder.recording(Units((1,))):
        loss = (layer(mean + torch.randn(1, 64, 5, 5)) * output_gradient).sum()
    loss.backward()
    assert norm(recorder.clipped_sum(1.0)) <= 1 + 1e-5


# What is not a number.


@pytest.mark.parametrize("norms_first", [None, True, False])
@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_film_that_is_not_a_number_adds_nothing_and_spoils_nothing(
    narrow: None, bad: float, standardise: bool, norms_first: bool | None
) -> None:
    model = classifier("acm", standardise)
    images, labels = films()
    broken = images.clone()
    broken[2, 0, 4, 4] = bad  # of the second patient, who has a good film as well
    got = ours(model, PATIENTS, broken, labels, 2.0, norms_first=norms_first)
    assert torch.isfinite(got.norms).tolist() == [True, False, True]
    others = [0, 3]
    expected = ours(model, Units((1, 1)), images[others], labels[others], 2.0, norms_first=norms_first)
    assert all(bool(values.isfinite().all()) for values in got.gradients.values())
    assert distance(got, expected) <= 1e-9


@pytest.mark.parametrize("norms_first", [None, True, False])
@pytest.mark.parametrize("scale", [math.inf, math.nan])
def test_a_loss_that_overflows_adds_nothing_and_spoils_nothing(
    narrow: None, scale: float, norms_first: bool | None
) -> None:
    model = build_classifier(ModelConfig(architecture="resnet18", context="cbam", norm="group"), 3)
    images, labels = (values.float() for values in films())
    weights = torch.tensor([1.0, scale, 1.0])
    got = ours(model, PATIENTS, images, labels, 0.5, norms_first=norms_first, unit_weights=weights)
    assert torch.isfinite(got.norms).tolist() == [True, False, True]
    others = [0, 3]
    expected = ours(model, Units((1, 1)), images[others], labels[others], 0.5, norms_first=norms_first)
    assert distance(got, expected) <= 2e-2  # in float32 a ReLU on the verge tips over


@pytest.mark.parametrize("norms_first", [None, True, False])
def test_a_gradient_whose_square_overflows_is_clipped_and_spoils_nothing(
    narrow: None, norms_first: bool | None
) -> None:
    model = build_classifier(ModelConfig(architecture="resnet18", context="cbam", norm="group"), 3)
    images, labels = (values.float() for values in films())
    weights = torch.tensor([1.0, 1e32, 1.0])
    got = ours(model, PATIENTS, images, labels, 0.5, norms_first=norms_first, unit_weights=weights)
    assert float(got.norms[1]) > 1e30
    others = [0, 3]
    expected = ours(model, Units((1, 1)), images[others], labels[others], 0.5, norms_first=norms_first)
    added = {name: values - expected.gradients[name] for name, values in got.gradients.items()}
    assert norm(ClippedSum(added, got.norms)) == pytest.approx(0.5, rel=0.05)  # a ReLU on the verge, as above


def test_a_batch_of_bad_films_alone_adds_zeros(narrow: None) -> None:
    model = classifier("acm", False)
    images, labels = films()
    got = ours(model, Units((1, 2)), torch.full_like(images[:3], math.nan), labels[:3], 1.0)
    assert norm(got) == 0
    assert not got.norms.isfinite().any()


def test_a_unit_without_a_gradient_is_not_divided_by_its_norm(narrow: None) -> None:
    model = classifier("none", False)
    images, labels = films()
    unlabelled = torch.full_like(labels, math.nan)
    got = ours(model, SINGLE_FILMS, images, unlabelled, 1.0)
    assert got.norms.tolist() == [0] * FILMS
    assert norm(got) == 0


# How a recorder is used.


def test_gradients_of_parameters_stay_none_and_nothing_is_kept_for_the_next_batch(narrow: None) -> None:
    model = classifier("se", False)
    images, labels = films()
    recorder = UnitGradients(model)
    for _ in range(2):
        with recorder.recording(PATIENTS):
            loss = losses(model, images, labels).sum()
        loss.backward()
        recorder.clipped_sum(1.0)
        assert all(parameter.grad is None for parameter in model.parameters())
        with pytest.raises(RuntimeError, match="expected a recorded forward pass"):
            recorder.clipped_sum(1.0)


def test_a_pass_starts_without_gradients() -> None:
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    with (
        pytest.raises(UnknownGradientError, match="set them to None"),
        UnitGradients(layer).recording(Units((1,))),
    ):
        pass


def test_a_second_backward_pass_is_refused() -> None:
    layer = nn.Linear(2, 2)
    recorder = UnitGradients(layer)
    with recorder.recording(Units((1,))):
        loss = layer(torch.ones(1, 2)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(UnknownGradientError, match=r"expected one backward pass, got a second"):
        loss.backward()


def test_without_a_backward_pass_there_is_no_sum() -> None:
    layer = nn.Linear(2, 2)
    recorder = UnitGradients(layer)
    with recorder.recording(Units((1,))):
        layer(torch.ones(1, 2))
    with pytest.raises(UnknownGradientError, match=r"weight: expected every parameter in the backward pass"):
        recorder.clipped_sum(1.0)


class Tokens(nn.Module):
    """A linear layer over B×T×C, and a norm of it: with and without bias, over more axes than two."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8, bias=False)
        self.norm = nn.GroupNorm(4, 8)
        self.fixed = nn.GroupNorm(2, 8, affine=False)
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x).transpose(1, 2)).relu()
        return self.out(self.fixed(x).transpose(1, 2)).tanh().flatten(1).sum(1)


@pytest.mark.parametrize("norms_first", [True, False])
@pytest.mark.parametrize("units", [Units((1, 1, 1, 1)), Units((1, 3)), Units((2, 2))])
def test_linear_layers_and_norms_over_tokens(units: Units, norms_first: bool) -> None:
    torch.manual_seed(0)
    model = Tokens().double()
    x = torch.randn(units.films, 7, 5, dtype=torch.float64)
    passes = (torch.autograd.grad(model(x[i : i + 1]).sum(), [*model.parameters()]) for i in range(len(x)))
    of_units = means_of_units(
        torch.stack([torch.cat([g.flatten() for g in grads]) for grads in passes]), units
    )
    norms = of_units.norm(dim=1)
    clipping_norm = float(norms.min()) * 1.01
    recorder = UnitGradients(model, norms_first=norms_first)
    with recorder.recording(units):
        loss = (model(x) * units.film_weights(x)).sum()
    loss.backward()
    got = flat(recorder.clipped_sum(clipping_norm).gradients)
    expected = (clipping_norm / norms).clamp(max=1) @ of_units
    assert float((got - expected).norm()) <= 1e-12 * float(expected.norm())
