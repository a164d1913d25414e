"""What a run's export consists of, and in which order it is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from acm_core.deployment import CARD, Description, OperatingPoint, write_deployment
from acm_core.export import write_forms
from acm_core.federated.cohort import cohorts_of
from acm_core.files import write_text_atomically
from acm_core.histograms import ScoreHistogram
from acm_core.nn import unfilled_classifier
from acm_core.training.weights import load_arrays, set_arrays
from server.round.model_card import model_card
from server.round.results import federated_histograms
from server.round.run_folder import FinishedRun, RunFolder


def export(folder: RunFolder, *, attention_maps: bool) -> Iterator[Path]:
    """Write the export of a finished run; each path is given when it is whole.

    Raises:
        NoResultsError: the folder holds no finished run.
        ExportError: a file does not compute what the model does.
        ModelMismatchError: the weights do not fit the run's configuration.
        OSError: the disk does not take a file.
    """
    run = folder.finished()
    model = unfilled_classifier(run.config.model, len(run.config.findings))
    arrays = load_arrays(folder.model)
    set_arrays(model, arrays)
    to = folder.folder / "export"
    to.mkdir(exist_ok=True)
    description = Description(
        run=run.config.name,
        version=run.metrics["software"]["acm-fed"],
        findings=run.config.findings,
        model=run.config.model.shared(),
        operating_points=_operating_points(run),
        cohorts=cohorts_of(run.sites),
    )
    deployment = write_deployment(to, description, [arrays])
    yield to / "config.json"
    yield to / "model.safetensors"
    card = model_card(run.config, run.metrics)
    write_text_atomically(to / CARD, card)
    yield to / CARD
    yield from write_forms(to, deployment, [model], card, attention_maps=attention_maps)


def _operating_points(run: FinishedRun) -> dict[str, tuple[OperatingPoint, ...]]:
    """Of all sites' test films together, as far as the sites let them leave."""
    points = {}
    for finding in run.config.findings:
        merged = ScoreHistogram.merged(federated_histograms(run.sites, finding).values())
        found = []
        for specificity in run.config.evaluation.specificities:
            if (point := merged.operating_point(specificity)) is not None:
                found.append(
                    OperatingPoint(specificity=specificity, threshold=point[0], sensitivity=point[1])
                )
        points[finding] = tuple(found)
    return points
