"""What a cell keeps of test scores: enough for every comparison, paired as if the scores had been kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_core.randomness import stream_seed
from acm_core.training.metrics import mean_auroc, paired_difference
from client.round.kept_models import KeptScores
from simulations.tables.replicates import RESAMPLES, measure, pack, unpack

FINDINGS = ["Effusion", "Mass", "Pneumothorax"]


def scores(*models: str, films: int = 80, seed: int = 0) -> KeptScores:
    """Films of about 40 patients; every model knows something."""
    random = np.random.default_rng(seed)
    labels = (random.random((films, len(FINDINGS))) < 0.3).astype(np.float32)
    patients = random.integers(films // 2, size=films)
    said = {
        model: (labels + random.normal(scale=1.5, size=labels.shape)).astype(np.float32) for model in models
    }
    return KeptScores(labels, patients, said)


@given(st.lists(st.one_of(st.floats(0, 1), st.just(np.nan)), max_size=60))
def test_packed_values_come_back_rounded(values: list[float]) -> None:
    array = np.array(values, np.float64)
    back = unpack(pack(array))
    assert back.shape == array.shape
    assert np.array_equal(np.isnan(back), np.isnan(array))
    assert np.nanmax(np.abs(back - array), initial=0) <= 0.5e-4 + 1e-12


@pytest.mark.parametrize("text", ["", "%%%", "AAAA", "eJwDAAAAAAE=x"])
def test_what_is_no_packed_value_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="expected resampled values"):
        unpack(text)


def test_figures_are_those_of_the_scores() -> None:
    kept = scores("local_only", "federated")
    measured = measure(kept, FINDINGS, 1, 7, "A")
    seed = stream_seed(7, "A", "tables")
    for model, said in kept.models.items():
        whole = mean_auroc(said, kept.labels, kept.patients, FINDINGS, resamples=RESAMPLES, seed=seed)
        assert whole is not None
        figures = measured["models"][model]
        assert figures["mean"] == pytest.approx(whole.value, abs=1e-6)
        assert np.nanstd(unpack(figures["resampled"]), ddof=1) == pytest.approx(
            whole.standard_error, abs=1e-4
        )
        assert np.mean(figures["aurocs"]) == pytest.approx(whole.value, abs=1e-4)
    assert measured["films"] == 80
    assert measured["patients"] == len(np.unique(kept.patients))
    assert measured["positives"] == (kept.labels == 1).sum(axis=0).tolist()
    assert measured["counted"] == [True] * 3


def test_a_difference_between_two_runs_is_paired_as_if_both_had_been_one() -> None:
    both = scores("one", "other")
    runs = [KeptScores(both.labels, both.patients, {"federated": said}) for said in both.models.values()]
    one, other = (
        unpack(measure(run, FINDINGS, 1, 7, "A")["models"]["federated"]["resampled"]) for run in runs
    )
    paired = paired_difference(
        both.models["one"],
        both.models["other"],
        both.labels,
        both.patients,
        FINDINGS,
        resamples=RESAMPLES,
        seed=stream_seed(7, "A", "tables"),
    )
    assert paired is not None
    assert np.nanstd(one - other, ddof=1) == pytest.approx(paired.standard_error, abs=1e-4)
    assert np.nanquantile(one - other, 0.025) == pytest.approx(paired.low, abs=2e-4)


def test_the_site_s_own_model_is_what_the_others_are_told_from() -> None:
    kept = scores("local_only", "federated", "pooled")
    models = measure(kept, FINDINGS, 1, 7, "A")["models"]
    assert "less_local_only" not in models["local_only"]
    value, error = models["federated"]["less_local_only"]
    assert value == pytest.approx(models["federated"]["mean"] - models["local_only"]["mean"], abs=2e-6)
    difference = unpack(models["federated"]["resampled"]) - unpack(models["local_only"]["resampled"])
    assert error == pytest.approx(np.nanstd(difference, ddof=1), abs=1e-4)


def test_a_finding_that_few_patients_have_enters_no_mean() -> None:
    kept = scores("federated")
    kept.labels[:, 1] = 0
    kept.labels[kept.patients < 2, 1] = 1  # two patients, however many films
    few: dict[str, Any] = measure(kept, FINDINGS, 3, 7, "A")
    enough = measure(kept, FINDINGS, 2, 7, "A")
    assert few["counted"] == [True, False, True]
    assert enough["counted"] == [True, True, True]
    figures = few["models"]["federated"]
    assert figures["aurocs"][1] is not None
    assert figures["mean"] == pytest.approx(np.mean([figures["aurocs"][0], figures["aurocs"][2]]), abs=1e-4)


def test_where_no_finding_counts_there_is_no_mean() -> None:
    kept = scores("federated", "local_only")
    kept.labels[:] = 0
    figures = measure(kept, FINDINGS, 1, 7, "A")["models"]["federated"]
    assert figures == {"aurocs": [None] * 3, "mean": None, "resampled": None}
