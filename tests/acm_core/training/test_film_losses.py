"""A loss a film: what the others of a batch are does not enter."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acm_core.training.loss import film_losses, masked_bce, masked_loss

NAN = float("nan")


def batch(seed: int, films: int, findings: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels of which a third is missing, orthogonality."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(films, findings, generator=generator, dtype=torch.float64) * 3
    labels = torch.tensor([0.0, 1.0, NAN], dtype=torch.float64)[
        torch.randint(0, 3, (films, findings), generator=generator)
    ]
    return logits, labels, torch.randn(films, generator=generator, dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), films=st.integers(1, 5), findings=st.integers(1, 4), weight=st.floats(0, 2)
)
def test_a_films_loss_is_the_same_alone_and_in_any_company(
    seed: int, films: int, findings: int, weight: float
) -> None:
    logits, labels, orthogonality = batch(seed, films, findings)
    together = film_losses(logits, labels, orthogonality, weight)
    assert together.shape == (films,)
    for film in range(films):
        one = slice(film, film + 1)
        alone = film_losses(logits[one], labels[one], orthogonality[one], weight)
        torch.testing.assert_close(alone, together[one], rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_films_loss_depends_on_another_film(seed: int) -> None:
    logits, labels, orthogonality = batch(seed, 4, 3)
    logits, orthogonality = logits.requires_grad_(), orthogonality.requires_grad_()
    losses = film_losses(logits, labels, orthogonality, 0.3)
    for film in range(4):
        of_logits, of_orthogonality = torch.autograd.grad(
            losses[film], (logits, orthogonality), retain_graph=True
        )
        others = [other for other in range(4) if other != film]
        assert not of_logits[others].any()
        assert not of_orthogonality[others].any()


def test_one_film_alone_has_the_loss_that_training_without_privacy_has() -> None:
    logits, labels, orthogonality = batch(1, 5, 4)
    losses = film_losses(logits, labels, orthogonality, 0.0)
    expected = [masked_bce(logits[film : film + 1], labels[film : film + 1]) for film in range(5)]
    torch.testing.assert_close(losses, torch.stack(expected).double(), rtol=1e-6, atol=1e-7)


def test_a_film_without_labels_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    labels = torch.tensor([[NAN, NAN, NAN], [1.0, 0.0, NAN]])
    losses = film_losses(logits, labels, torch.zeros(2), 1.0)
    losses.sum().backward()
    assert losses[0] == 0 < losses[1]
    assert logits.grad is not None
    assert torch.equal(logits.grad[0], torch.zeros(3))


def test_a_missing_label_has_no_gradient_even_where_the_logit_is_infinite() -> None:
    logits = torch.tensor([[2.0, -math.inf, math.inf]], requires_grad=True)
    losses = film_losses(logits, torch.tensor([[0.0, NAN, NAN]]), torch.zeros(1), 1.0)
    losses.sum().backward()
    assert float(losses.detach()) == pytest.approx(math.log1p(math.exp(2)))
    assert logits.grad is not None
    assert logits.grad[0].isfinite().tolist() == [True, True, True]
    assert torch.equal(logits.grad[0, 1:], torch.zeros(2))


def test_orthogonality_counts_by_its_size_for_each_film() -> None:
    """Not the size of the mean, in which one film's −3 would hide another's 3."""
    unlabelled = torch.full((2, 1), NAN)
    losses = film_losses(torch.zeros(2, 1), unlabelled, torch.tensor([3.0, -3.0]), 0.5)
    assert losses.tolist() == [1.5, 1.5]


def test_it_keeps_float64() -> None:
    assert film_losses(*batch(0, 2, 2), 0.1).dtype is torch.float64


def test_least_squares_is_half_the_squared_distance_from_one_or_minus_one() -> None:
    logits = torch.tensor([[0.5, -3.0, 2.0], [1.0, -1.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0, NAN], [1.0, 0.0, 1.0]])
    losses = film_losses(logits, labels, torch.zeros(2), 0.0, "least_squares")
    expected = torch.tensor([(0.125 + 2.0) / 2, (0.0 + 0.0 + 0.5) / 3])
    torch.testing.assert_close(losses, expected)
    together = masked_loss(logits, labels, "least_squares")
    torch.testing.assert_close(together, torch.tensor((0.125 + 2.0 + 0.5) / 5))
    assert float(masked_loss(logits, torch.full((2, 3), NAN), "least_squares")) == 0.0
