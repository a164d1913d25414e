"""A round of training without differential privacy."""

from __future__ import annotations

from acm_core.federated.messages import Refusal
from acm_core.nn import Classifier
from acm_core.randomness import stream_seed
from acm_core.training.local import Schedule, make_optimizer, predict, train
from acm_core.training.optimizer_state import get_optimizer_arrays, set_optimizer_arrays
from acm_core.training.weights import get_arrays
from client.round.frozen_features import what_trains
from client.round.refusal import RefusedError
from client.round.site_task import SiteTask, Trained

_FEWEST_FILMS = 2


def train_openly(task: SiteTask, model: Classifier) -> Trained:
    """Train `model` with the optimiser's state of the round before.

    Raises:
        RefusedError: the site has too few labelled training films.
    """
    config, films = task.config, task.films.train
    if len(films) < _FEWEST_FILMS:
        raise RefusedError(
            Refusal.TOO_FEW_FILMS if len(films) else Refusal.NO_FILMS,
            f"expected at least {_FEWEST_FILMS} labelled training films, got {len(films)}",
        )
    proximal = task.proximal(model)
    trained, seen = what_trains(model, task.films, config, task.kept, task.device)
    metrics: dict[str, float] = {}
    if len(seen.validation):
        batch = config.training.batch_size
        metrics["validation_loss"] = predict(trained, seen.validation, batch, task.device)[1]
    epochs, number = config.training.epochs, task.asked.round
    optimizer = make_optimizer(model, config.training)
    set_optimizer_arrays(optimizer, model, task.kept.load_optimizer(before=number))
    metrics["train_loss"] = train(
        trained,
        optimizer,
        seen.train,
        config.training,
        Schedule((number - 1) * epochs, epochs, config.federation.rounds * epochs),
        seeds=lambda epoch: stream_seed(config.seed, task.site.site, epoch, "films"),
        device=task.device,
        proximal=proximal,
        workers=task.site.workers,
    )
    return Trained(
        get_arrays(model),
        get_optimizer_arrays(optimizer, model),
        len(films),
        tuple(int(count) for count in films.labelled()),
        metrics,
    )
