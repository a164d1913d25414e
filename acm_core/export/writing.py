"""Which files a deployment gets beside its weights, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from acm_core.deployment import BUNDLE, ONNX, PROGRAM, Deployment
from acm_core.export.bundle import BUNDLE_PROGRAM, write_bundle
from acm_core.export.formats import Traced, write_onnx, write_program
from acm_core.nn import Classifier, DeployedClassifier


def write_forms(
    folder: Path, deployment: Deployment, members: Sequence[Classifier], card: str, *, attention_maps: bool
) -> Iterator[Path]:
    """Write `model.pt2`, `monai_bundle/` and `model.onnx` beside a deployment; each path is given when it is whole.

    Args:
        members: as `load_model` gives them; they are taken over.
        card: the model card's text, for the bundle.
        attention_maps: the program and ONNX also give maps; the bundle has one output whatever is asked for.

    Raises:
        ExportError: a file does not compute what the model does, or ONNX is not installed.
        OSError: the disk does not take a file.
    """
    side = deployment.model.image_size
    plain = Traced.of(DeployedClassifier(members), side, deployment.about)
    traced = (
        Traced.of(DeployedClassifier(members, maps=True), side, deployment.about) if attention_maps else plain
    )
    write_program(folder / PROGRAM, traced)
    yield folder / PROGRAM
    bundle = folder / BUNDLE
    write_program(bundle / BUNDLE_PROGRAM, plain)
    write_bundle(bundle, card, deployment)
    yield bundle
    write_onnx(folder / ONNX, traced)
    yield folder / ONNX
