"""The site's model without the federation: as many epochs, the same start, its own films only."""

from __future__ import annotations

import logging
import time

import torch

from acm_core.config.sections import FederationConfig
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier
from acm_core.randomness import stream_seed
from acm_core.training.local import make_optimizer, train_epoch
from acm_core.training.weights import get_arrays
from client.round.kept_models import KeptModels

log = logging.getLogger("acm_fed.client")

_CHECKPOINT_SECONDS = 30.0  # a checkpoint is three models on disk: not after every short epoch


def train_local_only(
    model: Classifier,
    config: FederationConfig,
    site: str,
    films: FilmSet,
    fingerprint: str,
    kept: KeptModels,
    device: torch.device,
    workers: int = 0,
    trained: Classifier | None = None,
) -> None:
    """Train `model` to the end, going on from the last epoch saved; does nothing where it is finished already.

    Args:
        fingerprint: of the dataset; where it differs from that of what is kept, training begins anew.
        trained: the part of `model` that `films` are for; None: all of it.
    """
    trained = trained or model
    if kept.load_local_only(fingerprint) is not None or len(films) == 0:
        return
    optimizer = make_optimizer(trained, config.training)
    first, epochs = 0, config.federation.rounds * config.training.epochs
    if (checkpoint := kept.load_checkpoint(fingerprint)) is not None:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        first = checkpoint["epochs"]
    saved = time.monotonic()
    for epoch in range(first, epochs):
        loss = train_epoch(
            trained,
            optimizer,
            films,
            config.training,
            epoch=epoch,
            total_epochs=epochs,
            seed=stream_seed(config.seed, site, epoch, "films"),
            device=device,
            workers=workers,
        )
        log.info("local-only: epoch %d of %d, loss %.4f", epoch + 1, epochs, loss)
        if time.monotonic() - saved > _CHECKPOINT_SECONDS:
            kept.save_checkpoint(
                fingerprint,
                {"epochs": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()},
            )
            saved = time.monotonic()
    kept.save_local_only(fingerprint, get_arrays(model))
