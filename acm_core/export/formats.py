"""ONNX and torch.export files of a trained model, each compared with the model before it counts as written."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from acm_core.files import write_atomically
from acm_core.nn import DeployedClassifier

TOLERANCE = 1e-4
"""How far a runtime's outputs may lie from the model's."""

_COMPARED = (1, 3)  # films: two sizes of batch
_TRACED_FILMS = 2


class ExportError(Exception):
    """A file that does not compute what the model does, or cannot be made; the message says what to do."""


@dataclass(frozen=True)
class Traced:
    """A model and what `torch.export` made of it, for batches of any size.

    Attributes:
        side: of the films, in pixels.
        about: name → text that goes into each file.
    """

    model: DeployedClassifier
    side: int
    about: Mapping[str, str]
    program: torch.export.ExportedProgram

    @classmethod
    def of(cls, model: DeployedClassifier, side: int, about: Mapping[str, str]) -> Self:
        """Trace the model."""
        films = torch.zeros(_TRACED_FILMS, 1, side, side)
        shapes = {"films": {0: torch.export.Dim("batch")}}
        return cls(model, side, about, torch.export.export(model, (films,), dynamic_shapes=shapes))


def write_program(path: Path, traced: Traced) -> None:
    """The model as `torch.export.load` reads it; `about` are its extra files.

    Raises:
        ExportError: its outputs are not the model's.
    """
    content = io.BytesIO()  # by a file's name it asks for an ending, which an unfinished file does not have
    torch.export.save(traced.program, content, extra_files=dict(traced.about))
    write_atomically(path, lambda temporary: temporary.write_bytes(content.getvalue()))
    loaded = torch.export.load(path).module()
    _compare(path, traced, lambda films: _several(loaded(films)))


def write_onnx(path: Path, traced: Traced) -> None:
    """The model as ONNX, its outputs named as `DeployedClassifier.outputs`, `about` its metadata.

    Raises:
        ExportError: onnx or onnxruntime is not installed, or its outputs are not the model's.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        raise ExportError(
            f"{error.name}: expected it to be installed for ONNX: pip install 'acm-fed[export]'"
        ) from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own plans
        program = torch.onnx.export(
            traced.program,
            input_names=["films"],
            output_names=traced.model.outputs,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError("expected an ONNX program of the model, got none")
    program.model.metadata_props.update(traced.about)
    write_atomically(path, lambda temporary: program.save(temporary, external_data=False))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    _compare(
        path,
        traced,
        lambda films: [
            torch.from_numpy(np.asarray(one)) for one in session.run(None, {"films": films.numpy()})
        ],
    )


def _compare(path: Path, traced: Traced, computed: Callable[[Tensor], Sequence[Tensor]]) -> None:
    random = torch.Generator().manual_seed(0)
    for count in _COMPARED:
        films = torch.rand(count, 1, traced.side, traced.side, generator=random)
        with torch.no_grad():
            expected = _several(traced.model(films))
        for name, one, other in zip(traced.model.outputs, expected, computed(films), strict=True):
            if one.shape != other.shape or not torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE):
                path.unlink()
                raise ExportError(
                    f"{path}: expected {name} within {TOLERANCE:g} of the model's, got others: use model.safetensors, "
                    "and report the versions of torch and onnxruntime"
                )


def _several(outputs: Tensor | tuple[Tensor, ...]) -> Sequence[Tensor]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs
