"""What a run's export consists of, and in which order it is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from acm_core.deployment import Description, OperatingPoint, write_deployment
from acm_core.files import write_text_atomically
from acm_core.nn import DeployedClassifier, unfilled_classifier
from acm_core.training.histograms import ScoreHistogram
from acm_core.training.weights import load_arrays, set_arrays
from server.export.bundle import PROGRAM, write_bundle
from server.export.formats import Traced, write_onnx, write_program
from server.model_card import model_card
from server.results import federated_histograms
from server.run_folder import FinishedRun, RunFolder


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
    for other_models in (to / "model.pt2", to / "model.onnx", to / "monai_bundle" / PROGRAM):
        other_models.unlink(missing_ok=True)  # an earlier export's: this one may be interrupted, or lack ONNX
    description = Description(
        run=run.config.name,
        version=run.metrics["software"]["acm-fed"],
        findings=run.config.findings,
        model=run.config.model.shared(),
        operating_points=_operating_points(run),
    )
    deployment = write_deployment(to, description, [arrays])
    yield to / "config.json"
    yield to / "model.safetensors"
    card = model_card(run.config, run.metrics)
    write_text_atomically(to / "model_card.md", card)
    yield to / "model_card.md"
    side = run.config.model.image_size
    plain = Traced.of(DeployedClassifier(model), side)
    traced = Traced.of(DeployedClassifier(model, maps=True), side) if attention_maps else plain
    write_program(to / "model.pt2", traced)
    yield to / "model.pt2"
    bundle = to / "monai_bundle"
    write_program(bundle / PROGRAM, plain)  # one output, whatever was asked for
    write_bundle(bundle, card, deployment)
    yield bundle
    write_onnx(to / "model.onnx", traced)
    yield to / "model.onnx"


def _operating_points(run: FinishedRun) -> dict[str, tuple[OperatingPoint, ...]]:
    """Of all sites' test films together, as far as the sites let them leave."""
    points = {}
    for finding in run.config.findings:
        merged = ScoreHistogram.merged(federated_histograms(run.metrics, finding).values())
        found = []
        for specificity in run.config.evaluation.specificities:
            if (point := merged.operating_point(specificity)) is not None:
                found.append(
                    OperatingPoint(specificity=specificity, threshold=point[0], sensitivity=point[1])
                )
        points[finding] = tuple(found)
    return points
