"""What a cell keeps of a site's test scores: AUROCs, and resampled means by which any two models can be compared.

The resamples depend on the seed and the site's name alone, as the split into test films does: those of two runs with
the same seed are of the same patients, and a difference of theirs is paired.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from acm_core.randomness import stream_seed
from acm_core.training.metrics import resampled_aurocs, summarised
from client.round.kept_models import KeptScores

Floats = npt.NDArray[np.float64]

RESAMPLES = 500
_ALONE = "local_only"
_STEP = 1e-4  # to which a resampled mean AUROC is rounded: a hundredth of its spread
_NOT_DEFINED = 2**16 - 1


def measure(
    scores: KeptScores, findings: Sequence[str], least_patients: int, seed: int, site: str
) -> dict[str, Any]:
    """A site's part of a cell, JSON-ready.

    Args:
        least_patients: a finding enters the mean where so many test patients have it, and as many have not.

    Returns:
        `films`, `patients`; `positives`, `negatives` (films) and `counted` of each finding; `models`: name → `aurocs`
        of the findings (None where a class is missing), `mean` of those counted (None where none is), its `resampled`
        values, and `less_local_only`: the difference to the site's own model and its standard error.
    """
    counted = [
        min(_patients(scores, column, value) for value in (0, 1)) >= least_patients
        for column in range(len(findings))
    ]
    chosen = [finding for finding, counts in zip(findings, counted, strict=True) if counts]
    models: dict[str, Any] = {}
    means: dict[str, Floats] = {}
    for name, said in scores.models.items():
        aurocs = resampled_aurocs(
            said,
            scores.labels,
            scores.patients,
            findings,
            resamples=RESAMPLES,
            seed=stream_seed(seed, site, "tables"),
        )
        models[name] = {
            "aurocs": [
                round(float(aurocs[finding][0]), 4) if finding in aurocs else None for finding in findings
            ],
            "mean": None,
            "resampled": None,
        }
        if chosen:
            means[name] = np.mean([aurocs[finding] for finding in chosen], axis=0)
            models[name] |= {"mean": _rounded(means[name][0]), "resampled": pack(means[name][1:])}
    for name, of_model in means.items():
        if name != _ALONE and _ALONE in means:
            difference = summarised(of_model - means[_ALONE])
            models[name]["less_local_only"] = _rounded(difference.value), _rounded(difference.standard_error)
    return {
        "films": len(scores.labels),
        "patients": len(np.unique(scores.patients)),
        "positives": (scores.labels == 1).sum(axis=0).tolist(),
        "negatives": (scores.labels == 0).sum(axis=0).tolist(),
        "counted": counted,
        "models": models,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _patients(scores: KeptScores, column: int, value: int) -> int:
    return len(np.unique(scores.patients[scores.labels[:, column] == value]))


def pack(means: Floats) -> str:
    """Resampled mean AUROCs as text, rounded to 0.0001; NaN stays NaN."""
    steps = np.where(np.isnan(means), _NOT_DEFINED, np.round(np.nan_to_num(means) / _STEP))
    # High bytes first, then low ones: the high ones are nearly the same.
    planes = steps.astype("<u2").view(np.uint8).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")


def unpack(text: str) -> Floats:
    """What `pack` was given.

    Raises:
        ValueError: the text is not of `pack`.
    """
    try:
        planes = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), np.uint8).reshape(
            2, -1
        )
    except (ValueError, zlib.error) as error:
        raise ValueError(f"expected resampled values as `pack` writes them: {error}") from None
    steps = np.ascontiguousarray(planes.T).view("<u2").ravel()
    return np.where(steps == _NOT_DEFINED, np.nan, steps * _STEP)
