"""Which films a model learnt from, as far as its sites say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from acm_core.config.sections import SiteName
from acm_core.config.site import About
from acm_core.federated.report import Sha256, SiteReport

_NOT_SAID = "the site does not say which films, whose labels and what years"


class Cohort(BaseModel):
    """The films of one site that trained a model.

    Attributes:
        invented: they are phantoms, drawn by a computer.
        about: which films, whose labels, what years, in the site's words; None: it does not say.
        fingerprint: of the site's dataset, see `SiteReport`; None: withheld.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: SiteName
    invented: bool = False
    about: About | None = None
    fingerprint: Sha256 | None = None

    @property
    def films(self) -> str:
        """Which films, whose labels, what years, as far as the site says."""
        kind = "invented films, drawn by a computer" if self.invented else ""
        return "; ".join(filter(None, (kind, self.about))) or _NOT_SAID


def run_in_short(run: str, cohorts: Sequence[Cohort]) -> str:
    """`run demo`, or `run demo (invented films)`."""
    invented = [cohort.site for cohort in cohorts if cohort.invented]
    if not invented:
        return f"run {run}"
    if len(invented) == len(cohorts):
        return f"run {run} (invented films)"
    return f"run {run} (in part invented films)"


def invented_warning(cohorts: Sequence[Cohort]) -> str:
    """What must stand above a model of invented films; empty where no site's are."""
    invented = [cohort.site for cohort in cohorts if cohort.invented]
    if not invented:
        return ""
    drawn = "These are phantoms, drawn by a computer."
    if len(invented) == len(cohorts):
        return f"Trained on invented films. {drawn} What the model says of a person's film means nothing."
    part = f"Trained in part on invented films, those of {', '.join(invented)}."
    return f"{part} {drawn} Do not rely on what the model says of a person's film."


def cohorts_of(reports: Mapping[str, SiteReport]) -> tuple[Cohort, ...]:
    """Of the sites that reported, as they say."""
    return tuple(
        Cohort(site=site, invented=report.invented, about=report.about, fingerprint=report.fingerprint)
        for site, report in reports.items()
    )
