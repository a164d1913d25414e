"""How well each site's own model does at the other sites: only a simulation may carry a site's model elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.data.site_films import load_site
from acm_core.nn import unfilled_classifier
from acm_core.randomness import stream_seed
from acm_core.training.local import predict
from acm_core.training.metrics import mean_auroc
from acm_core.training.weights import set_arrays
from client.round.device import best_device
from client.round.kept_models import KeptModels, SiteRun


def evaluate_crosswise(
    config: FederationConfig, sites: dict[str, SiteConfig]
) -> dict[str, dict[str, dict[str, Any] | None]]:
    """Mean AUROC of every local-only model on every site's test films, with patient-bootstrap intervals.

    Returns:
        trained at → tested at → estimate, or None where no finding has both classes. A site without a local-only model
        has no row.
    """
    device = best_device()
    films = {name: load_site(site, config.findings, config.model.image_size) for name, site in sites.items()}
    model = unfilled_classifier(config.model, len(config.findings)).to(device)
    model = model.to(memory_format=torch.channels_last)
    crosswise = {}
    for trained, site in sites.items():
        arrays = KeptModels(site.state, SiteRun.of(config)).load_local_only(films[trained].fingerprint)
        if arrays is None:
            continue
        set_arrays(model, arrays)
        row: dict[str, dict[str, Any] | None] = {}
        for tested, there in films.items():
            row[tested] = None
            if len(there.test) == 0:
                continue
            estimate = mean_auroc(
                predict(model, there.test, config.training.batch_size, device)[0],
                there.test.labels,
                there.test.patients,
                config.findings,
                resamples=config.evaluation.bootstrap,
                seed=stream_seed(config.seed, tested, "bootstrap"),
            )
            row[tested] = None if estimate is None else asdict(estimate)
        crosswise[trained] = row
    return crosswise
