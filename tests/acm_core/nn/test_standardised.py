"""Standardised weights: what they are, and their derivative as autograd has it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from acm_core.config.sections import ModelConfig
from acm_core.nn import build_classifier
from acm_core.nn.standardised import StandardisedConv2d, StandardisedWeight, standardised_conv2d

EPSILON = 1e-10


def naive(parameter: Tensor) -> Tensor:
    """Row by row, as in the paper."""
    rows = [(row - row.mean()) / (row.var(correction=0) + EPSILON).sqrt() for row in parameter]
    return torch.stack(rows)


@st.composite
def parameters(draw: st.DrawFn) -> Tensor:
    """Rows of usual, of tiny and of almost no spread."""
    shape = (
        draw(st.integers(1, 4)),
        draw(st.integers(2, 4)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    spread = draw(st.sampled_from([1.0, 1e-2, 1e-5, 1e-6]))
    return draw(st.sampled_from([0.0, 0.5])) + values * spread


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=100, deadline=None)
@given(parameter=parameters())
def test_rows_have_mean_zero_and_the_variance_that_is_stated(parameter: Tensor) -> None:
    made = StandardisedWeight.of(parameter)
    torch.testing.assert_close(made.weight, naive(parameter), rtol=1e-9, atol=1e-9)
    rows = made.weight.flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(len(rows), dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(rows.var(1, correction=0), made.variance, rtol=1e-6, atol=1e-12)
    assert bool((made.variance <= 1).all())


@settings(max_examples=100, deadline=None)
@given(parameter=parameters(), units=st.integers(1, 3))
def test_the_gradient_by_unit_is_autograds(parameter: Tensor, units: int) -> None:
    of_weight = normal(units, *parameter.shape)
    parameter = parameter.requires_grad_()
    weight = naive(parameter)
    expected = [torch.autograd.grad(weight, parameter, g, retain_graph=True)[0] for g in of_weight]
    got = StandardisedWeight.of(parameter.detach()).gradient(of_weight)
    scale = float(torch.stack(expected).abs().max()) + 1
    assert float((got - torch.stack(expected)).abs().max()) <= 1e-8 * scale


@settings(max_examples=100, deadline=None)
@given(parameter=parameters(), units=st.integers(1, 3))
def test_what_is_removed_is_the_difference_of_the_squared_norms(parameter: Tensor, units: int) -> None:
    made = StandardisedWeight.of(parameter)
    of_weight = normal(units, *parameter.shape, seed=1)
    scaled = (of_weight * made.scale.view(1, -1, 1, 1, 1)).flatten(2)
    after = made.gradient(of_weight).square().flatten(1).sum(1)
    constant, along = scaled.sum(2), (scaled * made.weight.flatten(1)).sum(2)
    before = scaled.square().flatten(1).sum(1)
    torch.testing.assert_close(
        before - made.removed(constant, along), after, rtol=1e-9, atol=1e-9 * float(before.max())
    )


def test_a_constant_row_gives_zeros_and_finite_gradients() -> None:
    made = StandardisedWeight.of(torch.full((2, 3, 3, 3), 0.7, dtype=torch.float64))
    assert float(made.weight.abs().max()) < 1e-9
    assert bool(made.gradient(normal(1, 2, 3, 3, 3)).isfinite().all())


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1), (2, 3)])
def test_the_layer_convolves_with_the_standardised_weight_and_keeps_its_parameter(
    stride: int, padding: int
) -> None:
    layer = StandardisedConv2d(2, 3, 3, stride, padding).double()
    kept = layer.weight.detach().clone()
    x = normal(2, 2, 7, 7)
    expected = F.conv2d(x, naive(layer.weight), None, stride, padding)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(
        standardised_conv2d(x, layer.weight, (stride, stride), (padding, padding)), expected
    )
    assert torch.equal(layer.weight, kept)
    assert layer.bias is None


def test_scale_and_offset_of_the_parameter_change_nothing() -> None:
    layer = StandardisedConv2d(2, 3, 3).double()
    x = normal(1, 2, 5, 5)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(5).add_(2)
    torch.testing.assert_close(layer(x), before)


def test_the_trunk_is_standardised_and_the_head_is_not() -> None:
    model = build_classifier(
        ModelConfig(architecture="resnet50", context="se", norm="group", standardise_weights=True), 2
    )
    plain = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d) and not isinstance(module, StandardisedConv2d)
    }
    assert plain == {"head"}
