"""AUROC of a site's test patients from histograms with noise: a figure that hides each of these patients."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from acm_core.privacy.noise import GaussianNoise

# Of the score's logit; fixed, since edges that follow the scores would tell of them.
_EDGES = np.linspace(-4, 4, 17)
_CERTAIN = 3.0  # standard errors by which a class must be there


def noised_aurocs(
    scores: NDArray[np.float32],
    labels: NDArray[np.float32],
    patients: NDArray[np.int64],
    noise_multiplier: float,
) -> list[float | None]:
    """AUROC by finding from two histograms each (present, absent) of eighteen bins with Gaussian noise.

    A patient counts with the first of the films: in one bin of each finding, so that adding or removing one changes all
    counts together by at most √F in L2 norm. One release is one step of the Gaussian mechanism with this σ and q = 1.
    Ties within a bin count half; the noise leaves the numerator and the number of pairs unbiased.

    Args:
        scores: N×F, probabilities.
        labels: N×F; 1, 0 or NaN.
        patients: N, films of one patient share a number.
        noise_multiplier: σ; the noise of a count has standard deviation σ·√F.

    Returns:
        For each finding a value in [0, 1], or None where the noised counts do not show that both classes are there.
    """
    _, first = np.unique(patients, return_index=True)
    findings = scores.shape[1]
    bins = np.digitize(_logit(scores[first]), _EDGES)
    histograms = torch.zeros((findings, 2, len(_EDGES) + 1), dtype=torch.float64)
    for finding in range(findings):
        for present in (0, 1):
            chosen = bins[labels[first, finding] == present, finding]
            histograms[finding, present] = torch.from_numpy(np.bincount(chosen, minlength=len(_EDGES) + 1))
    deviation = noise_multiplier * math.sqrt(findings)
    GaussianNoise().add_to(histograms, deviation)
    least = _CERTAIN * deviation * math.sqrt(len(_EDGES) + 1)
    return [_auroc(absent, present, least) for absent, present in histograms.numpy()]


def _auroc(absent: NDArray[np.float64], present: NDArray[np.float64], least: float) -> float | None:
    if absent.sum() < least or present.sum() < least:
        return None
    below = np.cumsum(absent) - absent / 2
    return float(np.clip((present * below).sum() / (present.sum() * absent.sum()), 0, 1))


def _logit(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    clipped = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(np.log(clipped / (1 - clipped)))
