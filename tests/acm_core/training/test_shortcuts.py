"""Shortcuts: no information is one half on average, all of it is 1.0, and the direction comes from training films."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from acm_core.figures import ShortcutFigures
from acm_core.shortcuts import REPORTED, Features, ReportedShortcut, Shortcut
from acm_core.training.metrics import evaluate_findings, paired_difference
from acm_core.training.rounding import rounded_outward
from acm_core.training.shortcuts import evaluate_shortcuts, measure_alone, shortcut_scores

Array = npt.NDArray[Any]
FINDINGS = ("Nodule", "Fracture")


def seen(grey: Array, size: Array, border: Array, view: Array) -> Features[ReportedShortcut]:
    return Features({"grey": grey}, {"size": size, "border": border}, {"view": view[:, None]})


def features(random: np.random.Generator, films: int) -> Features[ReportedShortcut]:
    return seen(
        random.random(films),
        random.normal(size=(films, 2)),
        random.random((films, 36)),
        random.choice(["AP", "PA", "unknown"], films),
    )


def labels_of(random: np.random.Generator, films: int) -> Array:
    """Of two findings, with gaps; both classes of both are there."""
    labels = random.integers(0, 2, (films, 2)).astype(np.float32)
    labels[random.random((films, 2)) < 0.1] = np.nan
    labels[:2] = [[0, 1], [1, 0]]
    return labels


def measured(
    train: Features, labels: Array, test: Features, truth: Array, patients: Array | None = None
) -> dict[ReportedShortcut, dict[str, float | None]]:
    """AUROC of each shortcut and finding, three digits."""
    figures = evaluate_shortcuts(
        shortcut_scores(train, labels, test),
        {},
        truth,
        np.arange(len(truth)) if patients is None else patients,
        FINDINGS,
        resamples=0,
        seed=0,
    )
    return {
        shortcut: {
            finding: None if one.auroc is None else one.auroc.value for finding, one in by_finding.items()
        }
        for shortcut, by_finding in figures.items()
    }


def test_what_carries_no_information_is_one_half_on_average_and_its_interval_says_so() -> None:
    runs, covered = 200, dict.fromkeys(REPORTED, 0)
    values: dict[ReportedShortcut, list[float]] = {shortcut: [] for shortcut in REPORTED}
    for seed in range(runs):
        random = np.random.default_rng(seed)
        scores = shortcut_scores(features(random, 80), labels_of(random, 80), features(random, 80))
        truth = labels_of(random, 80)
        for shortcut, by_finding in evaluate_shortcuts(
            scores, {}, truth, np.arange(80), FINDINGS, resamples=200, seed=seed
        ).items():
            auroc = by_finding["Nodule"].auroc
            if auroc is None:
                continue
            assert auroc.low is not None
            assert auroc.high is not None
            values[shortcut].append(auroc.value)
            covered[shortcut] += auroc.low <= 0.5 <= auroc.high
    for shortcut, found in values.items():
        assert len(found) > 0.98 * runs
        # A direction chosen on the test films would make it 0.55.
        assert abs(np.mean(found) - 0.5) < 4 * np.std(found) / np.sqrt(len(found))
        assert covered[shortcut] > 0.89 * len(found)


def test_the_direction_is_that_of_the_training_films() -> None:
    random = np.random.default_rng(1)
    train, test = features(random, 60), features(random, 60)
    labels = (train.levels["grey"][:, None] > 0.5).astype(np.float32).repeat(2, axis=1)
    against = (test.levels["grey"][:, None] < 0.5).astype(np.float32).repeat(2, axis=1)
    assert measured(train, labels, test, against)["grey"] == dict.fromkeys(FINDINGS, 0.0)
    assert measured(train, labels, test, 1 - against)["grey"] == dict.fromkeys(FINDINGS, 1.0)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shortcut", REPORTED)
def test_a_finding_that_equals_the_shortcut_reaches_one(shortcut: ReportedShortcut, turned: bool) -> None:
    random = np.random.default_rng(2)
    train, test = features(random, 400), features(random, 400)

    def truth(of: Features) -> Array:
        positive = {
            "grey": of.levels["grey"] > 0.6,
            "size": of.numbers["size"][:, 1] > 0.2,
            "border": of.numbers["border"][:, 7] > 0.5,
            "view": of.groups["view"][:, 0] == "AP",
        }[shortcut]
        return (positive != turned).astype(np.float32)[:, None].repeat(2, axis=1)

    found = measured(train, truth(train), test, truth(test))
    expected = (
        1.0 if shortcut in ("grey", "view") else 0.97
    )  # a line through noise of other features is not exact
    assert all(value is not None and value >= expected for value in found[shortcut].values())
    others = [value for name in REPORTED if name != shortcut for value in found[name].values()]
    assert all(value is not None and 0.4 < value < 0.6 for value in others)


@given(
    seed=st.integers(0, 2**32 - 1),
    films=st.integers(4, 40),
    change=st.sampled_from(
        [np.exp, np.sqrt, lambda grey: grey**3, lambda grey: 1 - grey, lambda grey: -np.exp(grey)]
    ),
)
@settings(max_examples=60, deadline=None)
def test_a_monotone_change_of_all_greys_changes_nothing(
    seed: int, films: int, change: Callable[[Array], Array]
) -> None:
    random = np.random.default_rng(seed)
    train, test = features(random, films), features(random, films)
    labels, truth = labels_of(random, films), labels_of(random, films)

    def changed(of: Features) -> Features:
        return Features({"grey": change(of.levels["grey"])}, of.numbers, of.groups)

    before, after = (
        measured(train, labels, test, truth),
        measured(changed(train), labels, changed(test), truth),
    )
    for finding in FINDINGS:
        column = FINDINGS.index(finding)
        known = ~np.isnan(labels[:, column])
        of_training = evaluate_findings(
            train.levels["grey"][known, None],
            labels[known, column][:, None],
            np.arange(known.sum()),
            ("",),
            resamples=0,
            seed=0,
        )[""].auroc
        assert of_training is not None
        if of_training.value != 0.5:  # then neither direction is the better one
            assert after["grey"][finding] == before["grey"][finding]
    assert {**after, "grey": None} == {**before, "grey": None}


@given(seed=st.integers(0, 2**32 - 1), films=st.integers(4, 40))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_films_changes_nothing(seed: int, films: int) -> None:
    """Also where many films are alike, as sizes are."""
    random = np.random.default_rng(seed)
    train, test = features(random, films), features(random, films)
    test = seen(
        np.round(test.levels["grey"], 1),
        np.round(test.numbers["size"]),
        np.round(test.numbers["border"][:, :1]) * np.ones(36),
        test.groups["view"][:, 0],
    )
    labels, truth, patients = labels_of(random, films), labels_of(random, films), np.arange(films) // 2
    order = random.permutation(films)
    before = measured(train, labels, test, truth, patients)
    assert measured(train, labels, test.rows(order), truth[order], patients[order]) == before


def test_size_and_border_are_scikit_learns_ridge() -> None:
    random = np.random.default_rng(3)
    train, test, labels = features(random, 50), features(random, 20), labels_of(random, 50)
    scores = shortcut_scores(train, labels, test)
    for shortcut in ("size", "border"):
        of_training, of_test = train.numbers[shortcut], test.numbers[shortcut]
        for column in range(2):
            known = ~np.isnan(labels[:, column])
            mean, spread = of_training[known].mean(axis=0), of_training[known].std(axis=0)
            model = Ridge(alpha=0.1 * known.sum()).fit(
                (of_training[known] - mean) / spread, labels[known, column]
            )
            expected = model.predict((of_test - mean) / spread) - model.intercept_
            assert scores[shortcut][:, column] == pytest.approx(expected, abs=1e-10)


def test_a_views_score_is_its_share_in_training() -> None:
    view = np.array(["AP"] * 4 + ["PA"] * 6)
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1, 0, np.nan])[:, None]
    rest = np.zeros((10, 2))
    train = seen(np.arange(10.0), rest, rest, view)
    test = seen(np.arange(3.0), rest[:3], rest[:3], np.array(["AP", "PA", "unknown"]))
    overall = 4 / 9
    expected = [(3 + overall) / 5, (1 + overall) / 6, overall]  # nobody in training has an unknown view
    assert shortcut_scores(train, labels, test)["view"][:, 0] == pytest.approx(expected)


def test_a_margin_is_the_paired_difference() -> None:
    random = np.random.default_rng(4)
    train, test = features(random, 60), features(random, 60)
    truth, patients = labels_of(random, 60), np.arange(60) // 2
    model = random.random((60, 2)).astype(np.float32)
    scores = shortcut_scores(train, labels_of(random, 60), test)
    figures = evaluate_shortcuts(
        scores, {"federated": model}, truth, patients, FINDINGS, resamples=100, seed=7
    )
    alone = evaluate_findings(model, truth, patients, FINDINGS, resamples=100, seed=7)
    for shortcut, by_finding in figures.items():
        for column, finding in enumerate(FINDINGS):
            one = slice(column, column + 1)
            expected = paired_difference(
                model[:, one],
                scores[shortcut][:, one],
                truth[:, one],
                patients,
                [finding],
                resamples=100,
                seed=7,
            )
            assert expected is not None
            figure, of_model = by_finding[finding], alone[finding].auroc
            assert figure.margins == {"federated": rounded_outward(expected, 3)}
            assert figure.auroc is not None
            assert of_model is not None
            assert figure.margins["federated"].value == pytest.approx(
                of_model.value - figure.auroc.value, abs=1.1e-3
            )


def nothing(films: int) -> Features:
    return features(np.random.default_rng(0), films)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (np.zeros((0, 2)), np.array([[1.0, 0], [0, 1]])),  # no training film
        (np.ones((5, 2)), np.array([[1.0, 0], [0, 1]])),  # one class
        (np.full((5, 2), np.nan), np.array([[1.0, 0], [0, 1]])),  # not labelled
        (np.array([[1.0, 0], [0, 1]]), np.zeros((0, 2))),  # no test film
        (np.array([[1.0, 0], [0, 1]]), np.ones((1, 2))),  # one test film
        (np.array([[1.0, 0], [0, 1]]), np.full((3, 2), np.nan)),
        (np.array([[1.0, 0], [0, 1]]), np.ones((3, 2))),
    ],
)
def test_where_there_is_nothing_to_say_there_is_no_figure(train: Array, test: Array) -> None:
    figures = evaluate_shortcuts(
        shortcut_scores(nothing(len(train)), train, nothing(len(test))),
        {"federated": np.zeros(test.shape)},
        test,
        np.arange(len(test)),
        FINDINGS,
        resamples=10,
        seed=0,
    )
    assert set(figures) == set(REPORTED)
    assert all(
        one == ShortcutFigures(None, {}) for by_finding in figures.values() for one in by_finding.values()
    )


def test_films_that_are_alike_have_no_figure() -> None:
    random = np.random.default_rng(5)
    train, labels, truth = features(random, 40), labels_of(random, 40), labels_of(random, 40)
    alike = seen(np.full(40, 0.3), np.full((40, 2), 0.1), np.full((40, 36), 0.1), np.full(40, "PA"))
    assert all(
        value is None for of in measured(train, labels, alike, truth).values() for value in of.values()
    )
    of_alike = measured(alike, labels, features(random, 40), truth)
    assert of_alike["size"] == of_alike["border"] == of_alike["view"] == dict.fromkeys(FINDINGS)


def test_features_show_no_films() -> None:
    assert repr(nothing(3)) == "Features()"


def site(random: np.random.Generator, patients: int) -> tuple[Features[Shortcut], Array, Array]:
    """Features, labels of three findings and patients, two films each; nothing tells anything, and some of it, like
    the findings, is the patient's."""
    films = 2 * patients
    person = np.repeat(np.arange(patients), 2)
    of_person = random.integers(0, 3, (patients, 2))[person]
    features: Features[Shortcut] = Features(
        {"grey": random.random(patients)[person] + 0.1 * random.random(films)},
        {"size": random.normal(size=(films, 2)), "border": random.random((films, 36))},
        {
            "sex": of_person[:, :1],
            "device": of_person[:, 1:],
            "view": random.integers(0, 2, (films, 1)),
            "folder": np.stack([random.integers(0, 3, films), person + 10], axis=1),
        },
    )
    labels = (random.random((patients, 3)) < [0.2, 0.4, 0.6])[person].astype(np.float32)
    labels[random.random(labels.shape) < 0.05] = np.nan
    return features, labels, person


THREE = ("Nodule", "Fracture", "Mass")


def test_where_nothing_tells_anything_hardly_a_site_has_a_sentence() -> None:
    sites, with_a_sentence, values, covered = 60, 0, [], []
    for seed in range(sites):
        random = np.random.default_rng(seed)
        found = measure_alone(
            *site(random, int(random.choice([25, 60, 150]))), THREE, resamples=100, seed=seed
        )
        alone = [one for of_finding in found.values() for one in of_finding.values()]
        with_a_sentence += any(one.far for one in alone)
        for of_finding in found.values():
            values += [one.auroc for name, one in of_finding.items() if name != "grey"]
            covered += [
                one.low is not None and one.high is not None and one.low <= 0.5 <= one.high for one in alone
            ]
        assert all(of_finding["grey"].auroc >= 0.5 for of_finding in found.values())
    assert with_a_sentence <= 6
    assert abs(np.mean(values) - 0.5) < 0.01
    assert np.mean(covered) > 0.8


@pytest.mark.parametrize("shortcut", ["grey", "border", "device", "folder"])
def test_what_tells_a_finding_is_far(shortcut: Shortcut) -> None:
    random = np.random.default_rng(2)
    features, labels, patients = site(random, 150)
    clue = {
        "grey": -features.levels["grey"] > -0.5,
        "border": features.numbers["border"][:, 3] > 0.5,
        "device": features.groups["device"][:, 0] == 1,
        "folder": features.groups["folder"][:, 0] == 1,
    }[shortcut]
    labels[:, 1] = np.where(random.random(len(labels)) < 0.2, random.integers(0, 2, len(labels)), clue)
    found = measure_alone(features, labels, patients, THREE, seed=0)
    one = found["Fracture"][shortcut]
    assert one.far
    assert one.low is not None
    assert one.high is not None
    assert 0.75 < one.low < one.auroc < one.high
    others = [
        one
        for of in found.values()
        for name, one in of.items()
        if (of, name) != (found["Fracture"], shortcut)
    ]
    assert not any(one.far for one in others)


def test_who_a_patient_is_tells_nothing() -> None:
    """A folder or a device a patient would tell every film's finding by the patient's other film."""
    random = np.random.default_rng(3)
    features, labels, patients = site(random, 100)
    own = Features(
        {}, {}, {"folder": patients[:, None], "device": np.stack([patients * 0, patients], axis=1)}
    )
    assert measure_alone(own, labels, patients, THREE, seed=0) == {}
    with_others = measure_alone(features, labels, patients, THREE, seed=0)
    assert all(abs(of_finding["folder"].auroc - 0.5) < 0.15 for of_finding in with_others.values())


def test_the_folders_in_a_folder_count_within_its_share() -> None:
    folders = np.array([[0, 10], [0, 10], [0, 11], [1, 12], [1, 12], [1, 12]])
    labels = np.array([1.0, 1, 0, 0, 0, 1])[:, None]
    scored = np.array([[0, 10], [0, 99], [1, 12], [7, 98]])
    scores = shortcut_scores(
        Features({}, {}, {"folder": folders}), labels, Features({}, {}, {"folder": scored})
    )
    first, second = (2 + 0.5) / 4, (1 + 0.5) / 4
    expected = [(2 + first) / 3, first, (1 + second) / 4, 0.5]
    assert scores["folder"][:, 0] == pytest.approx(expected)


def test_films_that_are_alike_and_patients_too_few_have_no_figure() -> None:
    features, labels, patients = site(np.random.default_rng(4), 60)
    alike = features.rows(np.zeros(120, np.int64))
    assert measure_alone(alike, labels, patients, THREE, seed=0) == {}
    assert measure_alone(features, labels, np.zeros(120, np.int64), THREE, seed=0) == {}
    assert measure_alone(features, np.full_like(labels, np.nan), patients, THREE, seed=0) == {}
    few = np.where(patients < 9, 1.0, 0.0)[:, None]
    assert measure_alone(features, few, patients, ["Nodule"], seed=0) == {}
    assert (
        measure_alone(features, np.where(patients < 10, 1.0, 0.0)[:, None], patients, ["Nodule"], seed=0)
        != {}
    )
    assert measure_alone(features.rows(np.arange(0)), labels[:0], patients[:0], THREE, seed=0) == {}


def test_of_very_many_films_some_of_each_class_are_looked_at() -> None:
    random = np.random.default_rng(5)
    features, labels, patients = site(random, 4000)
    labels[:, 0] = random.random(len(labels)) < 0.01
    found = measure_alone(features, labels, patients, THREE, resamples=50, seed=0)
    again = measure_alone(features, labels, patients, THREE, resamples=50, seed=0)
    assert found == again
    for finding, films in (("Nodule", 80), ("Mass", 1000)):
        of_view = found[finding]["view"]
        assert of_view.low is not None
        assert of_view.high is not None
        error = 1 / np.sqrt(12 * films)  # the smaller class's, an AUROC of many films against few
        assert 1.5 * error < of_view.high - of_view.low < 6 * error
