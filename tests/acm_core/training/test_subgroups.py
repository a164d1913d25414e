"""Figures of groups: scikit-learn's where they are shown, and nothing from which a small cell can be counted."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from acm_core.groups import GROUPS, GroupName, age_band
from acm_core.training.metrics import evaluate_findings
from acm_core.training.subgroups import evaluate_groups

FINDINGS = ("Nodule", "Fracture")


def test_a_large_groups_figures_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    films = 200
    labels = random.integers(0, 2, (films, 2)).astype(np.float64)
    scores, patients = random.random((films, 2)), np.arange(films) // 2
    groups = random.choice(["F", "M"], films)
    shown = evaluate_groups(scores, labels, patients, FINDINGS, groups, smallest=10, resamples=50, seed=1)
    assert list(shown) == ["F", "M"]
    for name, group in shown.items():
        rows = groups == name
        assert (group.films, group.patients) == (rows.sum(), len(np.unique(patients[rows])))
        for column, finding in enumerate(FINDINGS):
            figures = group.findings[finding]
            assert figures.auroc is not None
            assert figures.auroc.low is not None
            assert figures.auroc.low < figures.auroc.value
            expected = roc_auc_score(labels[rows, column], scores[rows, column])
            assert figures.auroc.value == pytest.approx(expected, abs=5.1e-4)
            assert figures.positives == (labels[rows, column] == 1).sum()


def test_one_small_group_withholds_the_counts_of_all() -> None:
    labels = np.array([[1.0], [0.0]] * 20)
    groups = np.array(["F"] * 36 + ["M"] * 4)
    shown = evaluate_groups(
        labels, labels, np.arange(40), ("Nodule",), groups, smallest=3, resamples=0, seed=1
    )
    assert [(group.patients, group.films) for group in shown.values()] == [(36, 36), (4, 4)]
    assert shown["M"].findings["Nodule"].auroc is None  # two patients of either class
    assert shown["F"].findings["Nodule"].auroc is not None
    assert all(group.findings["Nodule"].positives is None for group in shown.values())
    withheld = evaluate_groups(
        labels, labels, np.arange(40), ("Nodule",), groups, smallest=5, resamples=0, seed=1
    )
    assert all(group.patients is None and group.films is None for group in withheld.values())


def test_how_many_resamples_lack_a_class_is_not_said_of_a_group() -> None:
    labels, films = np.repeat([1.0, 0.0], [2, 8])[:, None], 10
    measured = evaluate_findings(labels, labels, np.arange(films), ("Nodule",), resamples=100, seed=1)
    assert measured["Nodule"].auroc is not None
    assert measured["Nodule"].auroc.dropped > 0
    shown = evaluate_groups(
        labels,
        labels,
        np.arange(films),
        ("Nodule",),
        np.array(["F"] * films),
        smallest=2,
        resamples=100,
        seed=1,
    )
    auroc = shown["F"].findings["Nodule"].auroc
    assert auroc is not None
    assert auroc.dropped == 0


def test_a_shown_auroc_does_not_give_withheld_counts_away() -> None:
    random = np.random.default_rng(3)
    groups = np.array(["F"] * 60 + ["M"] * 6)
    labels = np.concatenate([np.repeat([1.0, 0.0], [17, 43]), np.repeat([1.0, 0.0], 3)])[:, None]
    films = len(labels)
    shown = evaluate_groups(
        random.random((films, 1)),
        labels,
        np.arange(films),
        ("Nodule",),
        groups,
        smallest=5,
        resamples=20,
        seed=1,
    )
    figures = shown["F"].findings["Nodule"]
    assert figures.positives is None
    assert figures.auroc is not None
    # Of a group that may have any of 20 positives and 46 negatives: which counts have an AUROC that reads like this?
    pairs = [(ones, noughts) for ones in range(5, 21) for noughts in range(5, 47)]
    fitting = [
        (ones, noughts)
        for ones, noughts in pairs
        if round(round(figures.auroc.value * 2 * ones * noughts) / (2 * ones * noughts), 3)
        == figures.auroc.value
    ]
    assert len(fitting) > len(pairs) / 2
    assert all(
        figure == round(figure, 3)
        for figure in (figures.auroc.low, figures.auroc.high, figures.auroc.standard_error)
        if figure is not None
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["F", "M", "unknown"]), st.sampled_from([0.0, 1.0, np.nan]), st.integers(0, 30)
        ),
        max_size=150,
    ),
    st.integers(1, 6),
)
def test_no_shown_count_is_small_or_gives_a_small_one_away(
    films: list[tuple[str, float, int]], smallest: int
) -> None:
    groups = np.array([film[0] for film in films], np.str_)
    labels = np.array([[film[1]] for film in films]).reshape(-1, 1)
    patients = np.array([film[2] for film in films], np.int64)
    scores = np.linspace(0, 1, len(films)).reshape(-1, 1)
    shown = evaluate_groups(
        scores, labels, patients, ("Nodule",), groups, smallest=smallest, resamples=0, seed=1
    )
    assert list(shown) == sorted(set(groups.tolist()))
    for counts in (
        [group.patients for group in shown.values()],
        [group.films for group in shown.values()],
        [group.findings["Nodule"].positives for group in shown.values()],
        [group.findings["Nodule"].negatives for group in shown.values()],
    ):
        # All or none, so that no count is the difference of the others to the whole.
        assert all(count is None for count in counts) or all(count is not None for count in counts)
        assert all(count is None or count >= smallest or count == 0 for count in counts)
    for name, group in shown.items():
        auroc = group.findings["Nodule"].auroc
        for label in (0, 1):
            seen = np.unique(patients[(groups == name) & (labels[:, 0] == label)])
            assert auroc is None or len(seen) >= smallest


def test_every_age_has_its_band() -> None:
    assert [age_band(age) for age in (0, 17.9, 18, 39, 40, 59, 60, 79, 80, 90)] == [
        "0–17", "0–17", "18–39", "18–39", "40–59", "40–59", "60–79", "60–79", "80 and over", "80 and over",
    ]  # fmt: skip
    assert age_band(None) == "unknown"
    assert {name for names in GROUPS.values() for name in names} == set(get_args(GroupName))
