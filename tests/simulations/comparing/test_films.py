"""What the films of the two tasks tell: nothing from one region, everything from two, and only where they should."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acm_core.data.shrink import shrink
from acm_core.figures import Estimate
from acm_core.training.metrics import mean_auroc
from simulations.comparing.films import STEPS, TASKS, Compared, Task, compared_films, pair

SIZE = 48
Features = NDArray[np.float64]


@cache
def drawn(task: Task, count: int) -> Compared:
    return compared_films(task, count, SIZE, 9, "test")


def auroc(scores: Features, films: Compared) -> Estimate:
    found = mean_auroc(scores[:, None], films.films.labels, films.films.patients, ["unlike"], seed=1)
    assert found is not None
    return found


def half(films: Compared, side: str) -> Features:
    """The film's half with the patient's right or left lung, as 12×6 means."""
    images = np.asarray(films.films.images, np.float32)
    halves = images[:, :, : SIZE // 2] if side == "right" else images[:, :, SIZE // 2 :]
    return np.stack([shrink(np.ascontiguousarray(one), 12, 6).ravel() for one in halves]).astype(np.float64)


def learnt(features: Features, films: Compared) -> list[Features]:
    """What a linear model and a forest say of films that they have not seen."""
    labels = films.films.labels[:, 0]
    models = (
        make_pipeline(StandardScaler(), LogisticRegression(C=0.01)),
        RandomForestClassifier(200, random_state=0),
    )
    return [
        cross_val_predict(model, features, labels, cv=5, method="predict_proba")[:, 1] for model in models
    ]


def air(features: Features, truth: list[float]) -> Features:
    """A region's air as a linear model reads it from films that it has not seen."""
    model = make_pipeline(StandardScaler(), Ridge(10))
    return np.asarray(cross_val_predict(model, features, truth, cv=5))


def test_each_regions_air_has_one_distribution_under_both_labels() -> None:
    pairs = [
        [pair(step, end, differ=differ) for step in range(STEPS) for end in (0, 1)]
        for differ in (False, True)
    ]
    for region in (0, 1):
        alike, unlike = (Counter(one[region] for one in of_label) for of_label in pairs)
        assert alike == unlike
    assert all(one == two for one, two in pairs[0])
    assert all(abs(one - two) == 1 for one, two in pairs[1])
    assert Counter(one - two for one, two in pairs[1]) == {1: STEPS, -1: STEPS}


@pytest.mark.slow
def test_one_lung_says_nothing_and_two_say_all_of_sides() -> None:
    films = drawn("sides", 600)
    best = []
    for side in ("right", "left"):
        features = half(films, side)
        scores = [features.mean(1), features.std(1), features.min(1), *learnt(features, films)]
        for score in scores:
            found = auroc(score, films)
            assert found.low is not None
            assert found.high is not None
            assert found.low < 0.5 < found.high
            best.append(found.value)
    right = air(half(films, "right"), [chest.upper for chest in films.chests])
    left = air(half(films, "left"), [chest.other for chest in films.chests])
    assert auroc(np.abs(right - left), films).value > 0.8 > max(best)


@pytest.mark.slow
def test_the_other_lung_says_nothing_of_a_step_and_the_lung_itself_does() -> None:
    films = drawn("step", 600)
    for score in learnt(half(films, "left"), films):
        found = auroc(score, films)
        assert found.low is not None
        assert found.high is not None
        assert found.low < 0.5 < found.high
    lung = half(films, "right")
    upper = air(lung, [chest.upper for chest in films.chests])
    lower = air(lung, [chest.lower for chest in films.chests])
    assert auroc(np.abs(upper - lower), films).value > 0.7


@pytest.mark.parametrize("task", TASKS)
def test_another_lung_is_pasted_on_one_side_and_nothing_else(task: Task) -> None:
    films = drawn(task, 12)
    before, after = (np.asarray(part.images, np.float64) for part in (films.films, films.pasted))
    changed = np.abs(after - before)
    # The patient's left lung, on the viewer's right; the midline is up to 1.5 cm, 2 pixels, off the film's.
    assert changed[:, :, : SIZE // 2 - 3].max() < 0.02
    assert (changed[:, :, SIZE // 2 + 3 :].max((1, 2)) > 0.1).all()
    flipped = films.pasted.labels != films.films.labels
    assert flipped.all() if task == "sides" else not flipped.any()
    assert films.films.labels.mean() == 0.5


@pytest.mark.parametrize("task", TASKS)
def test_fewer_films_are_the_first_ones_and_other_seeds_and_splits_are_other_films(task: Task) -> None:
    films, fewer = drawn(task, 12), compared_films(task, 4, SIZE, 9, "test")
    np.testing.assert_array_equal(fewer.films.images, np.asarray(films.films.images)[:4])
    np.testing.assert_array_equal(fewer.pasted.images, np.asarray(films.pasted.images)[:4])
    for other in (compared_films(task, 4, SIZE, 9, "training"), compared_films(task, 4, SIZE, 8, "test")):
        assert not np.array_equal(other.films.images, fewer.films.images)


def test_chests_are_what_their_labels_say() -> None:
    for task in TASKS:
        for chest, label in zip(drawn(task, 12).chests, drawn(task, 12).films.labels[:, 0], strict=True):
            one, two = (chest.upper, chest.other) if task == "sides" else (chest.upper, chest.lower)
            assert abs(one - two) == pytest.approx(label)
            assert all(0 <= air <= STEPS + 1 for air in (chest.upper, chest.lower, chest.other))
            if task == "sides":
                assert chest.upper == chest.lower
