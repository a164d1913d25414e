"""The page of cases: films with what the model looked at, for a reading room's screen. It stays at the site."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from acm_core.config.site import SiteConfig
from acm_core.data.film import read_film
from acm_core.data.shrink import square_film
from acm_core.data.site_films import FilmSet, load_site
from acm_core.deployment import Deployment, DeploymentError, load_model, read_description
from acm_core.files import write_atomically, write_private
from acm_core.nn import Classifier
from acm_core.training.local import predict
from client.model_use.explanation import Case, chosen_groups, chosen_modules, explain, telling_cases
from client.round.delivery import delivered_folder
from client.round.device import use_device

_BATCH = 16


class NoFilmsError(Exception):
    """There is no film to show."""


def write_page(
    site: SiteConfig,
    model: Path,
    film: Path | None,
    findings: Sequence[str],
    modules: Sequence[str],
    groups: Sequence[int],
    each: int,
) -> Path:
    """Write the page of one film, or of telling test films; returns where it lies, in the site's state folder.

    Args:
        findings: that are shown; all where there is none.
        modules, groups: that are shown; see `explain`.
        each: films of each kind and finding, without `film`.

    Raises:
        ValueError: a finding, module or group that the model does not have.
        FilmSetAside: the film cannot be used.
        NoFilmsError: the site has no test film that is labelled for these findings.
        DeploymentError, ModelMismatchError, LabelError, OSError: as the functions that read these.
    """
    deployment, (network, *_) = load_model(model)
    if unknown := [name for name in findings if name not in deployment.findings]:
        raise ValueError(f"--finding: expected some of {', '.join(deployment.findings)}, got {unknown[0]}")
    shown = list(findings or deployment.findings)
    network = network.to(use_device(site))
    names = chosen_modules(network, modules)
    numbers = chosen_groups(deployment.model.groups, groups)
    if film is not None:
        cases = [_of_file(network, film, deployment, shown, names, numbers)]
        doubt = ""
    else:
        films = load_site(site, deployment.findings, deployment.model.image_size)
        doubt = training_doubt(deployment, site, films.fingerprint)
        cases = _of_test_films(network, site, films.test, deployment, shown, names, numbers, each)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    text = environment.get_template("explain.html").render(
        site=site.site,
        deployment=deployment,
        cases=cases,
        modules=names,
        groups=numbers,
        whole=film is not None,
        doubt=doubt,
    )
    path = site.state / "explanations" / f"{deployment.run}-{'film' if film is not None else 'test'}.html"
    write_atomically(path, lambda temporary: write_private(temporary, text.encode()))
    return path


def training_doubt(deployment: Deployment, site: SiteConfig, fingerprint: str) -> str:
    """Why the model may have been trained on what the site takes for test films; empty where it was not.

    Patients are parted by the salt in the site's state folder: with another one training films look like test films.

    Args:
        fingerprint: of the site's dataset as it is now.
    """
    cohorts = list(deployment.cohorts)
    with suppress(DeploymentError):
        # What a site withholds from the run it knows of the model that it got.
        cohorts += read_description(delivered_folder(site, deployment.run)).cohorts
    of_site = [cohort for cohort in cohorts if cohort.site == site.site]
    if fingerprint in [cohort.fingerprint for cohort in of_site]:
        return ""
    if not cohorts:
        why = f"The model does not say which sites took part in run {deployment.run}."
    elif not of_site:
        why = f"Site {site.site} took no part in run {deployment.run}, as far as the model says."
    else:
        why = f"The films, labels or split of site {site.site} are not those of run {deployment.run}."
    return (
        f"These may be training films. {why} A model remembers films that it was trained on. Use the site file, with "
        "its state folder, that took part in the run."
    )


def _of_file(
    network: Classifier,
    file: Path,
    deployment: Deployment,
    findings: Sequence[str],
    modules: Sequence[str],
    groups: Sequence[int],
) -> Case:
    film = read_film(file).pixels
    prepared, shown = (
        square_film(film, side).astype(np.float32) for side in (deployment.model.image_size, max(film.shape))
    )
    return explain(network, prepared, shown, deployment.findings, findings, modules, groups, "The film")


def _of_test_films(
    network: Classifier,
    site: SiteConfig,
    films: FilmSet,
    deployment: Deployment,
    findings: Sequence[str],
    modules: Sequence[str],
    groups: Sequence[int],
    each: int,
) -> list[Case]:
    if not len(films):
        raise NoFilmsError(
            f"expected test films labelled for {', '.join(deployment.findings)} at site {site.site}, got none"
        )
    scores, _ = predict(network, films, _BATCH, next(network.parameters()).device)
    cases = []
    for finding in findings:
        column = deployment.findings.index(finding)
        for verdict, row in telling_cases(scores, films, column, each):
            (prepared,) = np.asarray(films.images[np.array([row])], np.float32)
            called = _outcomes(deployment, finding, verdict.startswith("present"), float(scores[row, column]))
            title = ": ".join(filter(None, (f"{finding} {verdict}", called)))
            cases.append(
                explain(network, prepared, prepared, deployment.findings, [finding], modules, groups, title)
            )
    if not cases:
        raise NoFilmsError(f"expected test films labelled for {', '.join(findings)}, got none")
    return cases


def _outcomes(deployment: Deployment, finding: str, present: bool, score: float) -> str:
    """What the model's thresholds make of a film, as `client.predict` does; "" where it has none."""
    outcomes = []
    for point in deployment.operating_points.get(finding, ()):
        positive = point.calls_positive(score)
        right = "true" if positive == present else "false"
        outcomes.append(
            f"{right} {'positive' if positive else 'negative'} at specificity {point.specificity:g}"
        )
    return ", ".join(outcomes)
