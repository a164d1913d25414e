"""A shared model made a hospital's own without training: its normalisation measured on films without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.config.site import SiteConfig
from acm_core.data.site_films import FilmSet
from acm_core.data.source.folder import FolderSource
from acm_core.deployment import CARD, Description, load_model, write_deployment
from acm_core.files import write_text_atomically
from acm_core.training.adaptation import FEWEST_FILMS, estimate_statistics
from acm_core.training.weights import get_arrays
from client.model_use.prediction import usable_films
from client.round.delivery import delivered_folder
from client.round.device import use_device
from client.round.site_card import site_card


class AdaptationError(Exception):
    """The model has nothing to measure; the message says what to do."""


class TooFewFilmsError(AdaptationError):
    """There are too few films to measure anything on."""


def adapt(site: SiteConfig, model: Path, films: Path) -> tuple[Path, int, int]:
    """Write the model for this site into its state folder, with the statistics of these films.

    Args:
        model: folder that server.export wrote.
        films: folder of films, at any depth.

    Returns:
        Where the model is, films used, files that could not be used.

    Raises:
        AdaptationError: the model is a site's own, or has no batch statistics; TooFewFilmsError: too few films.
        DeploymentError, ModelMismatchError: the model's folder cannot be used.
        OSError: the films cannot be read or the model cannot be written.
    """
    deployment, (network, *_) = load_model(model)
    if deployment.site is not None:
        raise AdaptationError(
            f"{model}: expected the shared model that server.export wrote, got that of site {deployment.site}, which "
            "has its normalisation already"
        )
    source = FolderSource(films)
    files = source.every_file()
    answers = usable_films(site, source, files, deployment.model.image_size)
    stack = [film for _, _, film in answers if film is not None]
    if len(stack) < FEWEST_FILMS:
        raise TooFewFilmsError(
            f"{films}: expected at least {FEWEST_FILMS} frontal chest films to measure on, got {len(stack)} among "
            f"{len(files)} files"
        )
    device = use_device(site)
    network = network.to(device).to(memory_format=torch.channels_last)
    if not estimate_statistics(network, _unlabelled(stack, len(deployment.findings)), device):
        raise AdaptationError(
            f"{model}: expected batch normalisation, got a model with {deployment.model.norm} normalisation and "
            f"trainable: {deployment.model.trainable}, which has no statistics of its films: use it as it is"
        )
    folder = delivered_folder(site, deployment.run)
    folder.mkdir(parents=True, exist_ok=True)
    settings = deployment.model_dump(include=set(Description.model_fields)) | {"site": site.site}
    written = write_deployment(folder, Description.model_validate(settings), [get_arrays(network)])
    write_text_atomically(folder / CARD, site_card(written, None))
    return folder, len(stack), len(files) - len(stack)


def _unlabelled(films: list[NDArray[np.float16]], findings: int) -> FilmSet:
    count = len(films)
    return FilmSet(np.stack(films), np.full((count, findings), np.nan, np.float32), np.arange(count))
