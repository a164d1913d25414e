"""The comparison that only a simulation can make: one model trained on all sites' films in one place."""

from __future__ import annotations

import hashlib
from typing import Final

import torch

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.data.site_films import SiteFilms, concatenate, load_site
from acm_core.federated.report import SiteReport
from acm_core.nn import build_classifier
from acm_core.randomness import stream_seed
from acm_core.training.local import predict
from acm_core.training.weights import set_arrays
from client.round.device import best_device
from client.round.evaluation import evaluate_models
from client.round.kept_models import KeptModels, SiteRun
from client.round.local_only import train_local_only
from server.round.starts import load_start

_POOL: Final = "pooled"


def evaluate_pooled(config: FederationConfig, sites: dict[str, SiteConfig]) -> dict[str, SiteReport]:
    """Train on the pooled training films, with the epochs and the start of the federated model.

    Training goes on where an interrupted call stopped. The scores stay beside those of each site's own models.

    Returns:
        site → its report (see `evaluate_models`) with the one model "pooled".
    """
    device = best_device()
    films: dict[str, SiteFilms] = {
        name: load_site(site, config.findings, config.model.image_size) for name, site in sites.items()
    }
    model = build_classifier(config.model, len(config.findings), seed=stream_seed(config.seed, "model"))
    if config.model.weights is not None:
        load_start(model, config)
    model = model.to(device).to(memory_format=torch.channels_last)
    run = SiteRun.of(config)
    kept = KeptModels(next(iter(sites.values())).state.parent / _POOL, run)
    pooled = concatenate([site.train for site in films.values()])
    fingerprint = hashlib.sha256("".join(site.fingerprint for site in films.values()).encode()).hexdigest()
    train_local_only(model, config, _POOL, pooled, fingerprint, kept, device)
    arrays = kept.load_local_only(fingerprint)
    if arrays is None:
        return {}
    set_arrays(model, arrays)
    return {
        name: evaluate_models(
            {_POOL: predict(model, films[name].test, config.training.batch_size, device)[0]},
            films[name],
            config,
            site,
            KeptModels(site.state, run),
        )
        for name, site in sites.items()
    }
