"""Noised AUROCs: right without noise, bounded in what one patient changes, silent where nothing is sure."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from acm_core.privacy.scores import noised_aurocs

RNG = np.random.default_rng(5)
PATIENTS = np.arange(20_000)
LABELS = (RNG.random((20_000, 2)) < 0.3).astype(np.float32)
LOGITS = RNG.normal(size=(20_000, 2)) + 1.2 * LABELS - 1
SCORES = (1 / (1 + np.exp(-LOGITS))).astype(np.float32)


def test_with_little_noise_it_is_the_auroc_up_to_the_bins() -> None:
    found = noised_aurocs(SCORES, LABELS, PATIENTS, 1e-6)
    for finding, value in enumerate(found):
        assert value == pytest.approx(roc_auc_score(LABELS[:, finding], SCORES[:, finding]), abs=0.01)


def test_the_noise_moves_it_and_does_not_bias_it() -> None:
    exact = noised_aurocs(SCORES, LABELS, PATIENTS, 1e-6)[0]
    values = [noised_aurocs(SCORES[:2000], LABELS[:2000], PATIENTS[:2000], 3.0)[0] for _ in range(100)]
    assert len(set(values)) == 100
    of_part = noised_aurocs(SCORES[:2000], LABELS[:2000], PATIENTS[:2000], 1e-6)[0]
    spread = np.std(values)
    assert abs(np.mean(values) - of_part) < 4 * spread / 10 + 0.002
    assert exact == pytest.approx(of_part, abs=0.05)


def test_a_patient_counts_once_however_many_films_there_are() -> None:
    twice = np.concatenate((PATIENTS, PATIENTS))
    again = np.concatenate((LABELS, 1 - LABELS))  # the second films would turn the AUROC round
    found = noised_aurocs(np.concatenate((SCORES, SCORES)), again, twice, 1e-6)
    assert found == pytest.approx(noised_aurocs(SCORES, LABELS, PATIENTS, 1e-6), abs=1e-3)


def test_few_patients_or_one_class_give_no_figure() -> None:
    assert noised_aurocs(SCORES[:10], LABELS[:10], PATIENTS[:10], 3.0) == [None, None]
    positive = np.ones_like(LABELS)
    assert noised_aurocs(SCORES, positive, PATIENTS, 1.0) == [None, None]
    nobody = (SCORES[:0], LABELS[:0], PATIENTS[:0])
    assert noised_aurocs(*nobody, 1.0) == [None, None]


def test_unlabelled_films_do_not_count() -> None:
    missing = LABELS.copy()
    missing[::2] = np.nan
    expected = roc_auc_score(LABELS[1::2, 0], SCORES[1::2, 0])
    assert noised_aurocs(SCORES, missing, PATIENTS, 1e-6)[0] == pytest.approx(expected, abs=0.01)
