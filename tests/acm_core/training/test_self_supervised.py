"""Learning without labels: the loss is the paper's, views keep their side, and the head is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.config.sections import ModelConfig, TrainingConfig
from acm_core.data.batches import view_batches
from acm_core.data.site_films import FilmSet
from acm_core.nn import build_classifier
from acm_core.training.local import make_optimizer
from acm_core.training.self_supervised import SelfSupervised, train_epoch_without_labels, vicreg

CPU = torch.device("cpu")
CONFIG = TrainingConfig(batch_size=4, precision="float32")


def films(count: int, side: int = 32) -> FilmSet:
    images = np.random.default_rng(5).random((count, side, side)).astype(np.float16)
    return FilmSet(images, np.empty((count, 0), np.float32), np.arange(count, dtype=np.int64))


@settings(max_examples=30, deadline=None)
@given(
    films=st.integers(2, 9), numbers=st.integers(1, 6), scale=st.floats(0.1, 4), seed=st.integers(0, 2**31)
)
def test_the_terms_are_the_papers(films: int, numbers: int, scale: float, seed: int) -> None:
    """Equations 1 to 5 of arXiv 2105.04906, written out."""
    random = np.random.default_rng(seed)
    one, other = random.normal(0, scale, (2, films, numbers)) + random.normal(0, 3, (2, 1, numbers))
    terms = vicreg(torch.from_numpy(one), torch.from_numpy(other))
    invariance = np.mean([((a - b) ** 2).sum() for a, b in zip(one, other, strict=True)]) / numbers
    variance = covariance = 0.0
    for view in (one, other):
        spread = [np.sqrt(view[:, j].var(ddof=1) + 1e-4) for j in range(numbers)]
        variance += sum(max(0.0, 1 - s) for s in spread) / numbers / 2
        matrix = np.atleast_2d(np.cov(view.T, ddof=1))
        covariance += (
            sum(matrix[i, j] ** 2 for i in range(numbers) for j in range(numbers) if i != j) / numbers
        )
    assert [float(term) for term in terms] == pytest.approx(
        [invariance, variance, covariance], rel=1e-6, abs=1e-9
    )
    assert float(terms.loss) == pytest.approx(25 * invariance + 25 * variance + covariance, rel=1e-6)


def test_embeddings_that_say_nothing_cost_and_those_that_say_different_things_do_not() -> None:
    constant = torch.ones(8, 4)
    assert float(vicreg(constant, constant).loss) == pytest.approx(25 * 0.99)
    apart = torch.tensor(np.linalg.qr(np.c_[np.ones(8), np.random.default_rng(1).normal(size=(8, 3))])[0])
    apart = apart[:, 1:] * 8**0.5 * 1.1
    assert float(vicreg(apart, apart).loss) == pytest.approx(0, abs=1e-9)


def test_views_are_of_the_same_films_and_keep_their_side() -> None:
    images = np.zeros((9, 64, 64), np.float16)
    images[:, :, :32] = 1
    images *= np.linspace(0.6, 1, 9, dtype=np.float16)[:, None, None]
    set_ = FilmSet(images, np.empty((9, 0), np.float32), np.arange(9, dtype=np.int64))
    batches = list(view_batches(set_, 4, seed=3))
    assert [len(one) for one, _ in batches] == [4, 5]
    for one, other in batches:
        assert one.shape == other.shape == (len(one), 1, 64, 64)
        assert not torch.equal(one, other)
        for view in (one, other):
            assert (view[..., :12].mean((1, 2, 3)) > view[..., -12:].mean((1, 2, 3))).all()
    again = list(view_batches(set_, 4, seed=3))
    assert all(
        torch.equal(a, b) for x, y in zip(batches, again, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert not torch.equal(batches[0][0], next(iter(view_batches(set_, 4, seed=4)))[0])


def test_an_epoch_trains_the_trunk_and_not_the_head_and_draws_nothing_from_the_global_stream() -> None:
    model = build_classifier(ModelConfig(image_size=32), 2, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    losses = []
    learner = SelfSupervised(model, seed=1)
    optimizer = make_optimizer(learner, CONFIG)
    for epoch in range(3):
        losses.append(
            train_epoch_without_labels(
                learner, optimizer, films(9), CONFIG, epoch=epoch, total_epochs=3, seed=epoch, device=CPU
            )
        )
    assert torch.equal(torch.rand(1), expected)
    assert losses[-1] < losses[0]
    after = model.state_dict()
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert not torch.equal(after["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(after["layer4.1.bn2.running_mean"], before["layer4.1.bn2.running_mean"])


def test_one_film_does_not_vary() -> None:
    learner = SelfSupervised(build_classifier(ModelConfig(image_size=32), 1), seed=1)
    with pytest.raises(ValueError, match="at least two films"):
        train_epoch_without_labels(
            learner,
            make_optimizer(learner, CONFIG),
            films(1),
            CONFIG,
            epoch=0,
            total_epochs=1,
            seed=0,
            device=CPU,
        )
