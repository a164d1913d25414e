"""The loss: masked where a label is missing."""

from __future__ import annotations

import pytest
import torch

from acm_core.training.loss import masked_bce, orthogonality_penalty, proximal_penalty

NAN = float("nan")


def test_unlabelled_entries_have_no_loss_and_no_gradient() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    loss = masked_bce(logits, torch.tensor([[1.0, NAN], [NAN, 0.0]]))
    expected = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log1p(torch.exp(torch.tensor(3.0)))) / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert logits.grad[1, 0] == 0
    assert logits.grad[0, 0] < 0 < logits.grad[1, 1]


def test_a_batch_without_labels_has_no_loss_and_finite_gradients() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = masked_bce(logits, torch.full((3, 2), NAN))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(3, 2))


def test_the_orthogonality_penalty_is_the_absolute_mean_not_the_mean_of_absolutes() -> None:
    assert orthogonality_penalty(torch.tensor([1.0, -3.0])) == pytest.approx(1.0)


def test_the_proximal_penalty() -> None:
    parameters = [("a", torch.tensor([1.0, 2.0])), ("b", torch.tensor([5.0]))]
    reference = {"a": torch.tensor([0.0, 0.0]), "b": torch.tensor([2.0])}
    assert proximal_penalty(parameters, reference, mu=0.5) == pytest.approx(0.25 * (1 + 4 + 9))
