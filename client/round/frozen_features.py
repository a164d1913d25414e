"""Where only the head trains, on films that are not augmented: the trunk reads each film once a run."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from acm_core.arrays import fingerprint
from acm_core.config.sections import FederationConfig
from acm_core.data.prepared import FilmStack
from acm_core.data.site_films import FeatureSet, FilmSet, SiteFilms
from acm_core.nn import Classifier, MeanHead
from acm_core.training.features import pooled_features
from acm_core.training.weights import get_arrays
from client.round.kept_models import KeptModels

log = logging.getLogger("acm_fed.client")

_FILMS_AT_ONCE = 64
_BEHIND_THE_TRUNK = ("head.", "projection.")


def what_trains(
    model: Classifier, films: SiteFilms, config: FederationConfig, kept: KeptModels, device: torch.device
) -> tuple[Classifier, SiteFilms]:
    """What a round trains, and on what.

    Where `model.trainable` is head, the head begins with the mean over positions, and `training.augment` is false: a
    `MeanHead`, which shares its parameters with `model`, and the training and validation films' features. These are
    kept with the run, for these films, in their order, and this trunk. Else the model and the films as they are.

    Args:
        model: on `device`, in float32.
    """
    if config.model.trainable != "head" or config.model.head == "max" or config.training.augment:
        return model, films
    of = _digest(model, films)
    features = kept.load_features(of)
    if features is None:
        log.info("the frozen part of the model reads the films, once for the run")
        features = {
            name: pooled_features(model, split, _FILMS_AT_ONCE, device)
            for name, split in (("train", films.train), ("validation", films.validation))
        }
        kept.save_features(of, features)
    seen = replace(
        films,
        train=_feature_set(films.train, features["train"]),
        validation=_feature_set(films.validation, features["validation"]),
    )
    # Whatever trains or predicts calls it as it would the whole model.
    return cast(Classifier, MeanHead(model).to(device)), seen


def _feature_set(films: FilmSet, features: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> FeatureSet:
    return FeatureSet(features[:, :, None, None], films.labels, films.patients)


def _digest(model: Classifier, films: SiteFilms) -> str:
    trunk = {
        name: array for name, array in get_arrays(model).items() if not name.startswith(_BEHIND_THE_TRUNK)
    }
    digest = hashlib.sha256(fingerprint(trunk).encode())
    for split in (films.train, films.validation):
        digest.update(_films_digest(split).encode())
    return digest.hexdigest()


def _films_digest(films: FilmSet) -> str:
    if isinstance(films.images, FilmStack):
        return films.images.digest()
    return hashlib.sha256(np.ascontiguousarray(films.images).data).hexdigest()
