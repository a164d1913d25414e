"""A weight's gradients by unit, and their norms without them, for any geometry; which films make a unit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acm_core.nn.standardised import StandardisedWeight
from acm_core.privacy.convolution import ConvolutionUse, Geometry
from acm_core.privacy.units import Units


@dataclass(frozen=True)
class Case:
    """A convolution of random numbers, and how many films each unit has."""

    geometry: Geometry
    units: Units
    channels: tuple[int, int]
    kernel: tuple[int, int]
    sides: tuple[int, int]
    layout: torch.memory_format
    standardised: bool
    seed: int

    def use_and_gradients(self) -> tuple[ConvolutionUse, Tensor]:
        """What the backward pass leaves, and the parameter's gradient by film as autograd has it: B×O×(I/G)×k×k."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        inputs, outputs = self.channels
        x = (normal(self.units.films, inputs, *self.sides) + 0.3).contiguous(memory_format=self.layout)
        parameter = normal(outputs, inputs // self.geometry.groups, *self.kernel).requires_grad_()
        standardised = StandardisedWeight.of(parameter) if self.standardised else None
        weight = parameter if standardised is None else standardised.weight
        output = self.geometry.forward(x, weight, None)
        grad = normal(*output.shape).contiguous(memory_format=self.layout)
        by_film = torch.stack(
            [
                torch.autograd.grad(film, parameter, grad[index], retain_graph=True)[0]
                for index, film in enumerate(output)
            ]
        )
        if standardised is not None:
            standardised = StandardisedWeight(*(values.detach() for values in standardised))
        use = ConvolutionUse(
            self.geometry,
            x,
            grad,
            weight.detach(),
            standardised,
            output.detach() if self.standardised else None,
        )
        return use, by_film


@st.composite
def cases(draw: st.DrawFn) -> Case:
    standardised = draw(st.booleans())
    groups = 1 if standardised else draw(st.sampled_from([1, 1, 2, 3]))
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
    kernel = draw(st.one_of(st.sampled_from([(1, 1), (3, 3), (5, 5)]), pair(1, 5)))
    stride, dilation, padding = draw(pair(1, 3)), draw(pair(1, 2)), draw(pair(0, 3))
    kind = draw(st.sampled_from(["any", "same", "almost same"]))
    if kind != "any":  # as many outputs as inputs: that has a path of its own, which a dilation must leave
        kernel = (kernel[0] | 1, kernel[1] | 1)
        padding = (kernel[0] // 2, kernel[1] // 2)
        stride = (1, 1)
        dilation = (1, 1) if kind == "same" else (2, 2)
    smallest = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    rows, columns = (max(1, low) + draw(st.integers(0, 4)) for low in smallest)
    # A row of one weight is constant, and standardised to nothing.
    width = 2 if standardised else 1
    return Case(
        Geometry(stride, padding, dilation, groups),
        Units(tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))),
        (groups * draw(st.integers(width, 3)), groups * draw(st.integers(1, 3))),
        kernel,
        (rows, columns),
        draw(st.sampled_from([torch.contiguous_format, torch.channels_last])),
        standardised,
        draw(st.integers(0, 2**32)),
    )


def expect_near(got: Tensor, expected: Tensor, scale: float) -> None:
    assert got.shape == expected.shape
    assert got.dtype is torch.float64
    assert float((got - expected).abs().max()) <= 1e-10 * scale


@settings(max_examples=120, deadline=None)
@given(case=cases())
def test_gradients_and_norms_by_unit_are_autograds(case: Case) -> None:
    use, by_film = case.use_and_gradients()
    expected = case.units.sum(by_film)
    scale = 1 + float(expected.square().sum())
    expect_near(use.unit_gradients(case.units), expected, scale)
    norms, alone = use.squared_norms(case.units)
    for unit in alone:
        norms[unit] = use.gradient_of(case.units, unit).square().sum()
    expect_near(norms, expected.square().flatten(1).sum(1), scale)


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_the_weighted_gradient_is_the_weighted_sum(case: Case) -> None:
    use, by_film = case.use_and_gradients()
    factors = torch.rand(len(by_film), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.einsum("b,boikl->oikl", factors, by_film)
    expect_near(use.weighted_gradient(factors), expected, 1 + float(by_film.square().sum()))


@settings(max_examples=40, deadline=None)
@given(case=cases(), other_seed=st.integers(0, 2**32))
def test_the_choice_is_of_shapes_alone(case: Case, other_seed: int) -> None:
    """What a unit's films show must not decide how they are computed, nor must the clock."""
    use, _ = case.use_and_gradients()
    chosen = use.prefers_norms(case.units)
    generator = torch.Generator().manual_seed(other_seed)
    for other in (torch.zeros_like(use.x), torch.randn(use.x.shape, generator=generator).double() * 1e200):
        changed = ConvolutionUse(
            use.geometry,
            other.contiguous(memory_format=case.layout),
            torch.full_like(use.grad, float("nan")),
            use.weight * 0,
            use.standardised,
            use.output,
        )
        assert changed.prefers_norms(case.units) is chosen
    assert use.prefers_norms(case.units) is chosen


def use_of_zeros(
    films: int, channels: int, outputs: int, kernel: int, side: int, groups: int = 1
) -> ConvolutionUse:
    geometry = Geometry((1, 1), (kernel // 2, kernel // 2), (1, 1), groups)
    return ConvolutionUse(
        geometry,
        torch.zeros(films, channels, side, side),
        torch.zeros(films, outputs, side, side),
        torch.zeros(outputs, channels // groups, kernel, kernel),
    )


def test_early_layers_keep_gradients_and_late_ones_norms() -> None:
    units = Units((1,) * 8)
    assert not use_of_zeros(8, 64, 64, 3, 56).prefers_norms(units)
    assert use_of_zeros(8, 512, 512, 3, 7).prefers_norms(units)


def test_gradients_of_many_units_are_never_kept_where_they_would_fill_the_memory() -> None:
    use = use_of_zeros(64, 512, 512, 3, 16)
    assert use.prefers_norms(Units((1,) * 64))


def test_without_films_zeros_are_in_their_place() -> None:
    case = Case(
        Geometry((1, 1), (1, 1), (1, 1), 1),
        Units((1, 2)),
        (2, 3),
        (3, 3),
        (4, 4),
        torch.contiguous_format,
        False,
        0,
    )
    use, by_film = case.use_and_gradients()
    use.x[1] = float("nan")
    use.grad[1] = float("inf")
    without = use.without(torch.tensor([False, True, True]))
    got = without.weighted_gradient(torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(got, by_film[0])


def test_a_standardised_use_without_its_output_is_refused() -> None:
    case = Case(
        Geometry((1, 1), (1, 1), (1, 1), 1),
        Units((1,)),
        (2, 3),
        (3, 3),
        (4, 4),
        torch.contiguous_format,
        True,
        0,
    )
    use, _ = case.use_and_gradients()
    with pytest.raises(ValueError, match="expected the output"):
        ConvolutionUse(use.geometry, use.x, use.grad, use.weight, use.standardised).squared_norms(case.units)


# Units.

sizes = st.lists(st.integers(1, 5), min_size=1, max_size=8).map(tuple)


@given(sizes=sizes)
def test_units_cover_every_film_once_and_in_order(sizes: tuple[int, ...]) -> None:
    units = Units(sizes)
    assert len(units) == len(sizes)
    assert units.films == sum(sizes)
    assert [end - start for start, end in units.bounds] == list(sizes)
    assert [film for start, end in units.bounds for film in range(start, end)] == list(range(units.films))
    assert units.films_of(range(len(units))).tolist() == list(range(units.films))


@given(sizes=sizes)
def test_units_of_a_size_are_all_of_that_size_and_each_is_found_once(sizes: tuple[int, ...]) -> None:
    units = Units(sizes)
    assert sorted(unit for chosen in units.by_size.values() for unit in chosen) == list(range(len(sizes)))
    assert all(sizes[unit] == size for size, chosen in units.by_size.items() for unit in chosen)


@given(sizes=sizes, seed=st.integers(0, 2**32))
def test_weights_of_films_make_of_a_sum_the_sum_of_means(sizes: tuple[int, ...], seed: int) -> None:
    units = Units(sizes)
    values = torch.randn(
        units.films, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    means = [values[start:end].mean(0) for start, end in units.bounds]
    weights = units.film_weights(values)
    assert weights.dtype is values.dtype
    torch.testing.assert_close((values * weights.view(-1, 1, 1)).sum(0), torch.stack(means).sum(0))
    sums = torch.stack([values[start:end].sum(0) for start, end in units.bounds])
    torch.testing.assert_close(units.sum(values), sums)


@given(sizes=sizes)
def test_a_value_a_unit_goes_to_each_of_its_films(sizes: tuple[int, ...]) -> None:
    units = Units(sizes)
    got = units.per_film(list(range(len(sizes))), torch.zeros(0))
    assert got.tolist() == [unit for unit, size in enumerate(sizes) for _ in range(size)]


@pytest.mark.parametrize("sizes", [(0,), (1, 0, 2), (-1,)])
def test_a_unit_without_films_is_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one film"):
        Units(sizes)
