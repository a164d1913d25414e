"""Private steps over a site's films: what is added up, by what it is divided, and in which order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from acm_core.config.sections import ModelConfig, TrainingConfig
from acm_core.data.batches import batch_of
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier, build_classifier
from acm_core.privacy.layers import UnknownGradientError
from acm_core.privacy.noise import GaussianNoise
from acm_core.privacy.training import Mechanism, PrivateTraining, Steps
from acm_core.training.local import Proximal, learning_rate
from acm_core.training.loss import film_losses

CPU = torch.device("cpu")
PATIENTS = [0, 0, 1, 2, 2, 2, 3]
ONE_STEP = Steps(0, 1, 1)
NO_NOISE = 1e-12
NO_BOUND = 1e6
KINKS = 2e-2
"""In float32 a ReLU on the verge tips over, and with it a part of a gradient."""


pytestmark = pytest.mark.usefixtures("narrow")


def classifier(norm: str = "group", context: str = "acm") -> Classifier:
    config = ModelConfig.model_validate({"architecture": "resnet18", "context": context, "norm": norm})
    model = build_classifier(config, 2, seed=1)
    with torch.no_grad():
        # Logits as of a model that is under way: at the start the head's small weights hide the trunk.
        model.head.weight.mul_(20)
    return model


def film_set(patients: list[int] = PATIENTS) -> FilmSet:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (len(patients), 2)).astype(np.float32)
    labels[:1, 0] = np.nan
    return FilmSet(
        rng.random((len(patients), 32, 32)).astype(np.float16), labels, np.array(patients, np.int64)
    )


def training_config(**changes: Any) -> TrainingConfig:
    """Plain gradient descent with rate 1: a step moves the parameters by the gradient."""
    settings: dict[str, Any] = {
        "batch_size": 64,
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "precision": "float32",
        "augment": False,
    }
    return TrainingConfig.model_validate({**settings, **changes})


def mechanism(**changes: Any) -> Mechanism:
    settings: dict[str, Any] = {
        "unit": "patient",
        "noise_multiplier": NO_NOISE,
        "sampling_rate": 1.0,
        "clipping_norm": 1.0,
        "expected_batch": 3,
    }
    return Mechanism(**{**settings, **changes})


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


def moved(
    films: FilmSet,
    config: TrainingConfig,
    of: Mechanism,
    *,
    proximal: Proximal | None = None,
    steps: Steps = ONE_STEP,
    model: Classifier | None = None,
) -> Tensor:
    """By how much the steps move the parameters, downhill."""
    model = model or classifier()
    before = flat(model)
    PrivateTraining(model, films, config, of, CPU, proximal).run(steps, lambda: None, lambda _: None)
    return before - flat(model)


def gradient_of(films: FilmSet, rows: list[int], orthogonality: float, context: str = "acm") -> Tensor:
    """Of the mean loss of some films, by a plain backward pass."""
    model = classifier(context=context).train()
    images, labels = batch_of(films, np.array(rows, np.int64), None)
    output = model(images)
    loss = film_losses(output.logits, labels, output.orthogonality, orthogonality).mean()
    return torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, [*model.parameters()])])


def median_norm(films: FilmSet, config: TrainingConfig) -> float:
    """Of the films' gradients: as a clipping norm it clips some units and not others."""
    return float(
        np.median([gradient_of(films, [row], config.orthogonality).norm() for row in range(len(films))])
    )


def by_hand(
    films: FilmSet,
    clipping_norm: float,
    config: TrainingConfig,
    unit: str = "patient",
    context: str = "acm",
) -> Tensor:
    """Σ over units of the clipped gradient, one unit after the other."""
    units = films.patients.tolist() if unit == "patient" else list(range(len(films)))
    total = torch.zeros(1, dtype=torch.float64)
    for number in sorted(set(units)):
        rows = [row for row, of_row in enumerate(units) if of_row == number]
        gradient = gradient_of(films, rows, config.orthogonality, context)
        total = total + min(1.0, clipping_norm / float(gradient.norm())) * gradient
    return total


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("unit", ["patient", "film"])
@pytest.mark.parametrize("expected_batch", [1, 50])
def test_a_step_is_the_clipped_sum_over_the_expected_batch(unit: str, expected_batch: int) -> None:
    """Whatever number of units was drawn; here all of them."""
    films, config = film_set(), training_config()
    clipping_norm = median_norm(films, config)
    got = moved(
        films, config, mechanism(unit=unit, clipping_norm=clipping_norm, expected_batch=expected_batch)
    )
    assert relative(got, by_hand(films, clipping_norm, config, unit) / expected_batch) < KINKS


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("context", ["cbam", "self_attention"])
def test_each_weight_gets_its_own_gradient_whatever_its_place_in_memory(
    context: str, layout: torch.memory_format
) -> None:
    films, config = film_set([0, 1]), training_config()
    model = classifier(context=context).to(memory_format=layout)  # type: ignore[call-overload]  # torch's own types
    got = moved(films, config, mechanism(clipping_norm=NO_BOUND, expected_batch=1), model=model)
    expected = by_hand(films, NO_BOUND, config, context=context)
    sizes = [parameter.numel() for parameter in model.parameters()]
    for name, ours, plain in zip(
        dict(model.named_parameters()), got.split(sizes), expected.split(sizes), strict=True
    ):
        error = float((ours - plain).norm())
        assert error <= 0.1 * float(plain.norm()) + 1e-3 * float(expected.norm()), name


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_physical_batches_of_any_size_make_the_same_step(batch_size: int) -> None:
    films = film_set()
    whole = moved(films, training_config(), mechanism())
    assert relative(moved(films, training_config(batch_size=batch_size), mechanism()), whole) < KINKS


def test_no_patient_moves_the_model_by_more_than_the_clipping_norm() -> None:
    films = film_set([5] * 6)
    got = moved(films, training_config(), mechanism(clipping_norm=0.1, expected_batch=1))
    assert float(got.norm()) == pytest.approx(0.1, rel=1e-4)


def test_films_above_the_cap_stay_out_of_a_step() -> None:
    films = film_set([0] * 5)
    model, seen = classifier(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    moved(films, training_config(), mechanism(films_per_patient=2), model=model)
    assert seen == [2]


def watch_inputs(model: Classifier) -> list[Tensor]:
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def test_views_of_a_film_are_averaged_before_clipping() -> None:
    films, config = film_set([0, 0]), training_config(augment=True)
    model = classifier()
    seen = watch_inputs(model)
    got = moved(
        films, config, mechanism(clipping_norm=NO_BOUND, expected_batch=1, augmentations=3), model=model
    )
    (views,) = seen
    assert len(views) == 6
    assert all(not torch.equal(a, b) for i, a in enumerate(views) for b in views[:i]), "a view comes twice"
    plain = classifier().train()
    output = plain(views)
    labels = torch.from_numpy(films.labels).repeat_interleave(3, 0)
    loss = film_losses(output.logits, labels, output.orthogonality, config.orthogonality).mean()
    expected = torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, [*plain.parameters()])])
    assert relative(got, expected) < KINKS


def test_no_view_comes_again_in_another_step_or_another_round() -> None:
    films, seen = film_set([0]), []
    for _ in range(2):
        np.random.seed(1)
        torch.manual_seed(1)
        model = classifier()
        views = watch_inputs(model)
        moved(films, training_config(augment=True), mechanism(), steps=Steps(0, 2, 2), model=model)
        seen += views
    assert len(seen) == 4
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("views", [1, 3])
def test_views_do_not_raise_what_a_patient_adds(views: int) -> None:
    films, config = film_set([0, 0, 1]), training_config(augment=True)
    one = moved(film_set([0, 0]), config, mechanism(clipping_norm=0.1, expected_batch=1, augmentations=views))
    assert float(one.norm()) == pytest.approx(0.1, rel=1e-4)
    two = moved(films, config, mechanism(clipping_norm=0.1, expected_batch=1, augmentations=views))
    assert float(two.norm()) <= 0.2 * (1 + 1e-4)


def test_equal_views_are_as_good_as_one() -> None:
    films = film_set()
    one = moved(films, training_config(), mechanism())
    assert relative(moved(films, training_config(), mechanism(augmentations=2)), one) < KINKS


def test_views_count_as_films_in_memory() -> None:
    """Nine films at once and three views of each film: three films at once, the third patient's four films alone."""
    films = film_set([0, 0, 1, 2, 2, 2, 2, 3])
    model, seen = classifier(), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    moved(films, training_config(batch_size=9), mechanism(augmentations=3), model=model)
    assert seen == [9, 12, 3]


# The ledger's row, and what comes before and after it.


def events_of(
    training: PrivateTraining, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], Callable[[], None], Callable[[int], None]]:
    events: list[str] = []
    add_to = GaussianNoise.add_to

    def noted(self: GaussianNoise, values: Tensor, standard_deviation: float) -> None:
        if events[-1] != "noise":
            events.append("noise")
        add_to(self, values, standard_deviation)

    monkeypatch.setattr(GaussianNoise, "add_to", noted)
    training.model.register_forward_pre_hook(lambda *_: events.append("sum"))
    return events, lambda: events.append("record"), lambda step: events.append(f"after {step}")


def test_each_step_is_recorded_after_its_sum_and_before_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    training = PrivateTraining(
        classifier(), film_set([0, 1, 2]), training_config(batch_size=2), mechanism(), CPU
    )
    events, record, after = events_of(training, monkeypatch)
    training.run(Steps(4, 6, 10), record, after)
    assert events == [
        *("sum", "sum", "record", "noise", "after 4"),
        *("sum", "sum", "record", "noise", "after 5"),
    ]


def test_a_step_without_units_is_recorded_and_noised_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    training = PrivateTraining(
        classifier(), film_set(), training_config(), mechanism(sampling_rate=1e-12), CPU
    )
    events, record, after = events_of(training, monkeypatch)
    training.run(Steps(0, 3, 3), record, after)
    assert events == [event for step in range(3) for event in ("record", "noise", f"after {step}")]


class FullDiskError(Exception):
    """The ledger cannot write."""


def test_what_cannot_be_recorded_is_not_released(monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifier()
    training = PrivateTraining(model, film_set(), training_config(), mechanism(noise_multiplier=1.0), CPU)
    before = flat(model)
    drawn: list[float] = []
    monkeypatch.setattr(GaussianNoise, "add_to", lambda *given: drawn.append(given[-1]))

    def record() -> None:
        raise FullDiskError

    with pytest.raises(FullDiskError):
        training.run(ONE_STEP, record, lambda _: pytest.fail("the step was not taken"))
    assert torch.equal(flat(model), before)
    assert drawn == []
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_sum_that_was_not_released_does_not_enter_the_next_step() -> None:
    films = film_set()
    model = classifier()
    training = PrivateTraining(model, films, training_config(), mechanism(), CPU)

    def record() -> None:
        raise FullDiskError

    with pytest.raises(FullDiskError):
        training.run(ONE_STEP, record, lambda _: None)
    before = flat(model)
    training.run(ONE_STEP, lambda: None, lambda _: None)
    assert relative(before - flat(model), moved(films, training_config(), mechanism())) < KINKS


def test_a_model_of_unknown_gradients_is_not_trained_and_nothing_is_recorded() -> None:
    model = classifier("batch")
    training = PrivateTraining(model, film_set(), training_config(), mechanism(), CPU)
    before = flat(model)
    with pytest.raises(UnknownGradientError, match=r"set model\.norm to group"):
        training.run(ONE_STEP, lambda: pytest.fail("recorded"), lambda _: None)
    assert torch.equal(flat(model), before)


def test_noise_has_the_size_of_the_mechanism() -> None:
    of = mechanism(sampling_rate=1e-12, noise_multiplier=1.5, clipping_norm=0.4, expected_batch=20)
    assert float(moved(film_set(), training_config(), of).std()) == pytest.approx(1.5 * 0.4 / 20, rel=0.01)


# FedProx and the learning rate.


def reference(model: Classifier, distance: float) -> dict[str, Tensor]:
    return {name: p.detach() - distance for name, p in model.named_parameters() if p.ndim > 1}


def test_products_have_all_their_digits_whatever_the_process_has_set() -> None:
    """A GPU's TF32 and a processor's bfloat16 products would round a gradient and its norm apart."""
    backends: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    seen: list[list[str]] = []

    def precisions() -> list[str]:
        return [backend.fp32_precision for backend in backends]

    try:
        backends[0].fp32_precision, backends[1].fp32_precision = "tf32", "bf16"
        training = PrivateTraining(classifier(), film_set(), training_config(), mechanism(), CPU)
        training.run(ONE_STEP, lambda: seen.append(precisions()), lambda _: None)
        after = precisions()
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
    assert seen == [["ieee", "ieee"]]
    assert after == ["tf32", "bf16"]


def test_the_proximal_term_is_neither_clipped_nor_divided() -> None:
    """It depends on no film: its size is no secret."""
    model = classifier()
    proximal = Proximal(reference(model, 0.5), mu=0.1)
    of = mechanism(sampling_rate=1e-12, clipping_norm=1e-3, expected_batch=100)
    got = moved(film_set(), training_config(), of, proximal=proximal, model=model)
    expected = torch.cat([torch.full((p.numel(),), 0.05 if p.ndim > 1 else 0.0) for p in model.parameters()])
    torch.testing.assert_close(got, expected.double(), rtol=0, atol=1e-6)


def test_the_proximal_term_is_added_to_the_films_gradient_and_the_noise() -> None:
    films, config = film_set(), training_config()
    without = moved(films, config, mechanism())
    model = classifier()
    pulled = moved(films, config, mechanism(), proximal=Proximal(reference(model, 0.5), mu=0.1), model=model)
    expected = torch.cat([torch.full((p.numel(),), 0.05 if p.ndim > 1 else 0.0) for p in model.parameters()])
    torch.testing.assert_close(pulled - without, expected.double(), rtol=0, atol=1e-5)


def test_the_learning_rate_goes_on_where_the_round_before_left_it() -> None:
    config = training_config(schedule="cosine", learning_rate=1e-3)

    def rates(*rounds: Steps) -> list[float]:
        found: list[float] = []
        for steps in rounds:
            training = PrivateTraining(
                classifier(), film_set([]), config, mechanism(sampling_rate=1e-12), CPU
            )
            groups = training.optimizer.param_groups
            training.run(steps, lambda: None, lambda _, of=groups: found.append(of[0]["lr"]))
            assert all(group["lr"] == found[-1] for group in groups)
        return found

    whole = rates(Steps(0, 6, 6))
    assert whole == [learning_rate(config, step / 6) for step in range(6)]
    assert whole[0] == 1e-3 > whole[1] > whole[-1] > 0
    assert rates(Steps(0, 2, 6), Steps(2, 6, 6)) == whole


def test_the_index_of_each_step_is_told_when_it_is_done() -> None:
    done: list[int] = []
    training = PrivateTraining(
        classifier(), film_set([]), training_config(), mechanism(sampling_rate=0.5), CPU
    )
    training.run(Steps(7, 10, 20), lambda: None, done.append)
    assert done == [7, 8, 9]


def test_the_model_is_trained_in_training_mode_and_left_without_gradients() -> None:
    model = classifier().eval()
    moved(film_set([0]), training_config(), mechanism(), model=model)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_film_that_is_not_a_number_does_not_stop_the_others() -> None:
    films, config = film_set(), training_config()
    films.images[2] = np.nan  # all that patient 1 has
    got = moved(films, config, mechanism())
    others = FilmSet(*(np.delete(values, 2, 0) for values in (films.images, films.labels, films.patients)))
    assert math.isfinite(float(got.norm()))
    assert relative(got, moved(others, config, mechanism())) < KINKS
