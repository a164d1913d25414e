"""A task of the server's as it stands at this site, and what training for it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import torch
from pydantic import ValidationError

from acm_core.arrays import Arrays
from acm_core.config.sections import FederationConfig, PrivacyConfig
from acm_core.config.site import SiteConfig, SitePrivacy
from acm_core.data.site_films import SiteFilms
from acm_core.federated.messages import Refusal, Task, TaskKind
from acm_core.nn import Classifier, unfilled_classifier
from acm_core.training.local import Proximal
from acm_core.training.weights import set_arrays
from client.round.kept_models import KeptModels, SiteRun
from client.round.open_films import OpenFilms
from client.round.policy import expect_permitted, permitted_privacy
from client.round.refusal import RefusedError


@dataclass(frozen=True)
class SiteTask:
    """What is asked of which run, and what the site has for it.

    Attributes:
        privacy: what the run promises, and what the site's file says of it; None for a run without.
        kept: what the site keeps of the run.
    """

    asked: Task
    config: FederationConfig
    site: SiteConfig
    privacy: tuple[PrivacyConfig, SitePrivacy] | None
    kept: KeptModels
    films: SiteFilms
    device: torch.device

    @classmethod
    def of(cls, asked: Task, site: SiteConfig, films: OpenFilms, device: torch.device) -> SiteTask:
        """Look at a task, and open the films where the site's file permits it.

        Raises:
            RefusedError: it does not, or the task is none of a run that the site is in.
            LabelError: the label file cannot be used.
        """
        try:
            config = FederationConfig.model_validate_json(asked.config)
        except ValidationError as error:
            raise RefusedError(Refusal.POLICY, "expected a valid configuration with the task") from error
        if site.site not in config.federation.sites:
            raise RefusedError(Refusal.POLICY, f"the run is not for site {site.site}")
        first, last = int(asked.kind is TaskKind.TRAIN), config.federation.rounds
        if not first <= asked.round <= last:
            raise RefusedError(Refusal.POLICY, f"expected a round from {first} to {last}, got {asked.round}")
        kept = KeptModels(site.state, SiteRun.of(config))
        if asked.kind is TaskKind.TRAIN:
            kept.forget_rounds_from(asked.round)  # whatever comes of this one, refused or not
        expect_permitted(config, site, datetime.now())  # the site's own clock time
        privacy = permitted_privacy(config, site)
        opened = films.load(site, config.findings, config.model.image_size, apart=privacy is not None)
        return cls(asked, config, site, privacy, kept, opened, device)

    def model(self, arrays: Arrays) -> Classifier:
        """The run's model with these weights, on this site's device."""
        model = unfilled_classifier(self.config.model, len(self.config.findings))
        set_arrays(model, arrays)
        return model.to(self.device).to(memory_format=torch.channels_last)

    def proximal(self, model: Classifier) -> Proximal | None:
        """The pull towards the weights that `model` has now, where the run asks for one."""
        weight = self.config.federation.proximal_mu
        if weight == 0:
            return None
        return Proximal(
            {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, weight
        )


@dataclass(frozen=True)
class Trained:
    """What a round of training gives, openly or under differential privacy.

    Attributes:
        arrays: the model's weights.
        optimizer: its state, for the next round.
        films, labelled: what the server weighs the update by: training films, and those labelled for each finding.
        metrics: figures that leave.
    """

    arrays: Arrays = field(repr=False)
    optimizer: Arrays = field(repr=False)
    films: int
    labelled: tuple[int, ...]
    metrics: dict[str, float]
