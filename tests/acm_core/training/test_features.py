"""Pooled features: what the trunk says of a film does not depend on the films beside it or on the model's mode."""

from __future__ import annotations

import numpy as np
import torch

from acm_core.config.sections import ModelConfig
from acm_core.data.site_films import FilmSet
from acm_core.nn import build_classifier, normalised
from acm_core.training.features import pooled_features

CPU = torch.device("cpu")


def films(count: int) -> FilmSet:
    images = np.random.default_rng(5).random((count, 32, 32)).astype(np.float16)
    return FilmSet(images, np.full((count, 1), np.nan, np.float32), np.arange(count, dtype=np.int64))


def test_features_are_the_last_stage_averaged_over_positions_film_by_film() -> None:
    model = build_classifier(ModelConfig(image_size=32), 1, seed=2)
    model.bn1.running_mean.fill_(0.3)  # type: ignore[union-attr, operator]
    model.train()
    model.layer4.eval()
    shown = films(5)
    found = pooled_features(model, shown, 2, CPU)
    assert found.dtype == np.float32
    assert found.shape == (5, model.channels)
    assert model.training
    assert model.bn1.training
    assert not model.layer4.training
    model.eval()
    with torch.no_grad():
        for row in range(5):
            film = normalised(torch.from_numpy(shown.images[row : row + 1]).float()[:, None])
            alone = model.features(film)[0].mean((2, 3))[0].numpy()
            np.testing.assert_allclose(found[row], alone, rtol=1e-4, atol=1e-5)


def test_no_films_have_no_features() -> None:
    model = build_classifier(ModelConfig(image_size=32), 1)
    assert pooled_features(model, films(0), 4, CPU).shape == (0, model.channels)
