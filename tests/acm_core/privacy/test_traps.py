"""The table of traps in the design of private training, row by row: a right result, or a plain refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from acm_core.config.sections import ModelConfig, PrivacyConfig, TrainingConfig
from acm_core.data.site_films import FilmSet
from acm_core.nn import Classifier, build_classifier, resnet
from acm_core.privacy.accounting import NoisedSteps, epsilon
from acm_core.privacy.convolution import ConvolutionUse, Geometry
from acm_core.privacy.gradients import UnitGradients
from acm_core.privacy.layers import UnknownGradientError
from acm_core.privacy.noise import GaussianNoise
from acm_core.privacy.sampling import PoissonSampler
from acm_core.privacy.training import Mechanism, PrivateTraining, Steps
from acm_core.privacy.units import Units

CPU = torch.device("cpu")
UNITS = Units((1, 2, 1))


def film_losses_of(model: nn.Module, x: Tensor) -> Tensor:
    """A loss a film, B, which no other film enters."""
    losses: Tensor = model(x).flatten(1).tanh().sum(1)
    return losses


def films(channels: int = 2, side: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(UNITS.films, channels, side, side, generator=generator, dtype=torch.float64)


def clipped(
    model: nn.Module, x: Tensor, clipping_norm: float = 1.0, *, norms_first: bool | None = None
) -> Tensor:
    """The clipped sum of all parameters as one row."""
    recorder = UnitGradients(model, norms_first=norms_first)
    with recorder.recording(UNITS):
        losses = film_losses_of(model, x)
    (losses * UNITS.film_weights(losses)).sum().backward()
    return torch.cat([values.flatten() for values in recorder.clipped_sum(clipping_norm).gradients.values()])


def by_loop(model: nn.Module, x: Tensor) -> Tensor:
    """Each unit's gradient by a backward pass of its own, by torch alone: U×P."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for start, end in UNITS.bounds:
        grads = torch.autograd.grad(film_losses_of(model, x[start:end]).mean(), parameters)
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(rows)


def expect_the_loop(model: nn.Module, x: Tensor) -> None:
    """With a bound that clips some units and not others, by norms first and by gradients, in both layouts."""
    model = model.double()
    alone = by_loop(model, x)
    norms = alone.norm(dim=1)
    bound = float(norms.median())
    expected = (bound / norms).clamp(max=1) @ alone
    for norms_first in (True, False):
        for layout in (torch.contiguous_format, torch.channels_last):
            got = clipped(model, x.contiguous(memory_format=layout), bound, norms_first=norms_first)
            assert float((got - expected).norm()) <= 1e-9 * float(expected.norm())


def expect_a_refusal(model: nn.Module, message: str, x: Tensor | None = None) -> None:
    with pytest.raises(UnknownGradientError, match=message):
        clipped(model.double(), films() if x is None else x)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return make()


# A kernel uses child.weight without calling child.forward.


class ReadsItsChild(nn.Module):
    """As a fused kernel does: the child holds the weight and is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Conv2d(2, 3, 3)
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        maps = F.conv2d(x, self.child.weight, self.child.bias, padding=1)
        return F.linear(maps.mean((2, 3)), self.linear.weight, self.linear.bias)


def test_a_weight_that_is_used_without_its_modules_forward_has_the_right_gradient() -> None:
    expect_the_loop(seeded(ReadsItsChild), films())


# A weight is used in forward and outside it.


class UsesItsWeightAgain(nn.Module):
    def __init__(self, again: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, bias=False)
        self.again = again

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.again(self.conv.weight)


@pytest.mark.parametrize(
    ("again", "used_in"),
    [
        (lambda weight: weight.sum(), "sum"),
        (lambda weight: weight.square().mean(), "square"),
        (lambda weight: 0 * weight[0, 0, 0, 0], "getitem"),
        (torch.linalg.vector_norm, "vector_norm"),
        (lambda weight: weight.view(-1)[0], "view"),
        (lambda weight: torch.stack([weight, weight]).mean(), "stack"),
        (lambda weight: 1 + weight.t().mean() if weight.ndim == 2 else weight.mean(), "mean"),
        (lambda weight: weight.clone().sum(), "clone"),
        (lambda weight: weight.data.sum(), "__get__"),
        (lambda weight: weight.detach().sum(), "detach"),
    ],
)
def test_a_weight_that_is_used_outside_its_layer_is_refused(
    again: Callable[[Tensor], Tensor], used_in: str
) -> None:
    model = seeded(lambda: UsesItsWeightAgain(again))
    expect_a_refusal(model, rf"conv\.weight: expected a use in one of .*conv2d.*got \w*{used_in}")


def test_shapes_of_a_weight_may_be_read() -> None:
    def shape(weight: Tensor) -> Tensor:
        size = weight.size(0) + weight.shape[1] + weight.dim() + weight.numel() + weight.ndim
        return torch.zeros(1, dtype=weight.dtype, device=weight.device) + size / 1000

    expect_the_loop(seeded(lambda: UsesItsWeightAgain(shape)), films())


@pytest.mark.parametrize("inside", [True, False])
def test_weight_decay_in_the_loss_is_refused(inside: bool) -> None:
    """It is no film's, and would be added unclipped: the optimiser has a weight decay of its own."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3))).double()
    recorder = UnitGradients(model)
    x = films()
    with pytest.raises(UnknownGradientError, match=r"0\.weight: expected"):
        with recorder.recording(UNITS):
            loss = film_losses_of(model, x).sum()
            if inside:
                loss = loss + model[0].weight.square().sum()
        if not inside:
            loss = loss + model[0].weight.square().sum()
        loss.backward()
        recorder.clipped_sum(1.0)


def test_a_tied_weight_is_refused() -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))
        model[2].weight = model[0].weight
        return model

    expect_a_refusal(seeded(tied), r"0\.weight: expected one use a pass, got a second one \(a shared layer")


def test_a_layer_that_is_called_twice_is_refused() -> None:
    layer = nn.Conv2d(2, 2, 3, padding=1)
    expect_a_refusal(nn.Sequential(layer, nn.ReLU(), layer), r"0\.weight: .*stack what both calls get")


def test_a_forward_pass_that_is_run_again_is_refused() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 2, 3))).double()
    recorder = UnitGradients(model)
    with recorder.recording(UNITS):
        film_losses_of(model, films())
        with pytest.raises(UnknownGradientError, match=r"0\.weight: expected one use a pass"):
            film_losses_of(model, films())


# Reflected padding.


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_pixels_of_the_film_has_the_right_gradient(mode: str) -> None:
    def model() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, padding_mode=mode),
            nn.ReLU(),
            nn.Conv2d(4, 2, 5, padding=2, padding_mode=mode),
        )

    expect_the_loop(seeded(model), films())


def test_padding_by_name_is_refused() -> None:
    expect_a_refusal(nn.Sequential(nn.Conv2d(2, 2, 3, padding="same")), "padding in numbers, got 'same'")


# Operations in place after a layer.


class InPlace(nn.Module):
    """Inplace ReLUs behind every layer and torchvision's `out += identity`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        identity = F.relu(self.conv1(x), inplace=True)
        out = self.norm(identity).relu_()
        out = self.conv2(out)
        out += identity
        return self.head(out.relu_().mean((2, 3))).mul_(2)


def test_operations_in_place_after_a_layer_have_the_right_gradient() -> None:
    expect_the_loop(seeded(InPlace), films())


# BatchNorm in any disguise.


@pytest.mark.parametrize(
    "settings", [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.0}]
)
@pytest.mark.parametrize("norm_trains", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_batch_normalisation_is_refused_unless_it_is_a_frozen_affine_map(
    settings: dict[str, Any], norm_trains: bool, frozen: bool
) -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, **settings))).train()
    model[1].train(norm_trains)
    for parameter in model[1].parameters():
        parameter.requires_grad_(not frozen)
    statistics = [name for name, _ in model.named_buffers() if "running" in name]
    before = {name: model.double().get_buffer(name).clone() for name in statistics}
    fixed = not norm_trains and statistics
    if fixed and (frozen or not list(model[1].parameters())):
        expect_the_loop(model, films())
    else:
        expect_a_refusal(model, r"expected no batch normalisation.*set model\.norm to group")
    assert all(torch.equal(model.get_buffer(name), values) for name, values in before.items())


class FunctionalBatchNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False)


def test_batch_normalisation_without_its_module_is_refused() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), FunctionalBatchNorm()))
    expect_a_refusal(model, r"expected no batch normalisation")


# Grouped convolutions.


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_convolution_has_the_right_gradient(groups: int, kernel: int) -> None:
    def model() -> nn.Module:
        grouped = nn.Conv2d(4, 8, kernel, padding=kernel // 2, groups=groups)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), grouped)

    expect_the_loop(seeded(model), films())


class LargestTensor(TorchDispatchMode):
    """How many numbers the largest storage holds that any operation inside returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numbers = max(self.numbers, storage)
        return result


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_grouped_convolutions_gradients_take_no_more_memory_than_they_are(
    layout: torch.memory_format, kernel: int
) -> None:
    """Opacus builds O×I instead of O×I/G."""
    units, channels, groups, side = Units((1,) * 6), 128, 16, 2
    use = ConvolutionUse(
        Geometry((1, 1), (kernel // 2, kernel // 2), (1, 1), groups),
        torch.ones(6, channels, side, side).contiguous(memory_format=layout),
        torch.ones(6, channels, side, side).contiguous(memory_format=layout),
        torch.ones(channels, channels // groups, kernel, kernel),
    )
    with LargestTensor() as largest:
        gradients = use.unit_gradients(units)
    assert gradients.shape == (6, channels, channels // groups, kernel, kernel)
    too_large = gradients.numel() * groups
    assert largest.numbers <= too_large / 4


# Parameters without a gradient, or with one too many.


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv2d(2, 3, 3)
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_an_unused_parameter_is_refused_by_name_with_what_to_do() -> None:
    """It would be noised all the same, and nobody would know why it wanders."""
    expect_a_refusal(
        seeded(Unused), r"spare\.weight: .*take it out of the model or set requires_grad to False"
    )


def test_a_frozen_parameter_is_left_alone() -> None:
    model = seeded(Unused)
    for parameter in model.spare.parameters():
        parameter.requires_grad_(False)
    expect_the_loop(model, films())
    model = seeded(InPlace)
    model.conv1.weight.requires_grad_(False)
    model.norm.bias.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    expect_the_loop(model, films())
    assert "conv1.weight" not in UnitGradients(model).parameters


def test_a_frozen_weight_may_be_used_in_any_way() -> None:
    model = seeded(lambda: UsesItsWeightAgain(lambda weight: weight.square().sum()))
    model.conv.weight.requires_grad_(False)
    expect_the_loop(nn.Sequential(model, nn.Conv2d(3, 2, 3)), films())


def test_a_gradient_by_another_way_is_refused() -> None:
    """A view taken before the pass is not the parameter, and the recorder cannot see it."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, bias=False))).double()
    doubled = model[0].weight * 2
    recorder = UnitGradients(model)
    x = films()
    with recorder.recording(UNITS):
        loss = (model(x) + F.conv2d(x, doubled)).sum()
    loss.backward()
    with pytest.raises(
        UnknownGradientError, match=r"0\.weight: .*recorded layers alone, got one by another way"
    ):
        recorder.clipped_sum(1.0)


def test_a_use_after_the_pass_is_refused() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, bias=False))).double()
    recorder = UnitGradients(model)
    x = films()
    with recorder.recording(UNITS):
        loss = film_losses_of(model, x).sum()
    (loss + film_losses_of(model, x).sum()).backward()
    with pytest.raises(UnknownGradientError, match=r"0\.weight: .*got one by another way"):
        recorder.clipped_sum(1.0)


# Sampling, empty batches and accounting: what a whole run does.


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resnet, "_STAGE_WIDTHS", (64, 64, 64, 64))


def classifier() -> Classifier:
    return build_classifier(ModelConfig(architecture="resnet18", context="none", norm="group"), 2)


def training(model: Classifier, patients: int, **changes: Any) -> PrivateTraining:
    settings: dict[str, Any] = {
        "unit": "patient",
        "noise_multiplier": 1.0,
        "sampling_rate": 0.5,
        "clipping_norm": 1.0,
        "expected_batch": 4,
    }
    rng = np.random.default_rng(0)
    films_of_site = FilmSet(
        rng.random((patients, 32, 32)).astype(np.float16),
        np.ones((patients, 2), np.float32),
        np.arange(patients),
    )
    config = TrainingConfig(
        optimizer="sgd",
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        augment=False,
    )
    return PrivateTraining(model, films_of_site, config, Mechanism(**{**settings, **changes}), CPU)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


def noised_parameters(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the sums that get noise from now on."""
    found: list[int] = []
    add_to = GaussianNoise.add_to

    def counted(self: GaussianNoise, values: Tensor, standard_deviation: float) -> None:
        found.append(values.numel())
        add_to(self, values, standard_deviation)

    monkeypatch.setattr(GaussianNoise, "add_to", counted)
    return found


def test_an_empty_batch_takes_a_noised_and_recorded_step(narrow: None) -> None:
    model, records = classifier().double(), []  # float32 rounds one small step in some hundred million away
    before = flat(model)
    private = training(model, 5, sampling_rate=1e-12, noise_multiplier=2.0, clipping_norm=0.5)
    private.run(Steps(0, 1, 1), lambda: records.append(1), lambda _: None)
    step = flat(model) - before
    assert len(records) == 1
    assert float(step.std()) == pytest.approx(2.0 * 0.5 / 4, rel=0.01)
    assert bool((step != 0).all())


@pytest.mark.parametrize("sampling_rate", [1e-12, 0.3])
def test_steps_noised_are_steps_recorded_exactly(
    narrow: None, sampling_rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two patients who each come with q = 0.3: every other batch is empty."""
    model, records, done = classifier(), [], []
    noised = noised_parameters(monkeypatch)
    training(model, 2, sampling_rate=sampling_rate).run(
        Steps(3, 19, 40), lambda: records.append(1), done.append
    )
    assert len(records) == len(done) == 16
    assert noised == [parameter.numel() for parameter in model.parameters()] * 16


@pytest.mark.parametrize("patients", [3, 40, 1000])
def test_q_is_what_is_given_however_many_patients_there_are(patients: int) -> None:
    sampler = PoissonSampler(np.arange(patients), "patient", sampling_rate=0.3, films_per_patient=4)
    draws = 60_000 // patients
    drawn = sum(len(sampler.draw()) for _ in range(draws))
    tosses = draws * patients
    assert abs(drawn / tosses - 0.3) < 5 * (0.21 / tosses) ** 0.5


@pytest.mark.parametrize("patients", [2, 6])
def test_the_divisor_is_the_public_expected_batch_and_not_the_private_number(
    narrow: None, patients: int
) -> None:
    """Equal films at q = 1: each adds C, whatever their number, and the sum is divided by four."""
    model = classifier()
    private = training(model, patients, sampling_rate=1.0, noise_multiplier=1e-12, clipping_norm=1e-3)
    private._films.images[:] = private._films.images[0]  # type: ignore[index]  # an array here
    before = flat(model)
    private.run(Steps(0, 1, 1), lambda: None, lambda _: None)
    assert float((flat(model) - before).norm()) == pytest.approx(patients * 1e-3 / 4, rel=1e-3)


def test_noise_does_not_repeat_when_a_round_is_seeded_anew(narrow: None) -> None:
    steps = []
    for _ in range(2):
        torch.manual_seed(7)
        np.random.seed(7)
        model = classifier()
        before = flat(model)
        training(model, 3, sampling_rate=1e-12).run(Steps(0, 1, 1), lambda: None, lambda _: None)
        steps.append(flat(model) - before)
    correlation = float(torch.corrcoef(torch.stack(steps))[0, 1])
    assert abs(correlation) < 4 / len(steps[0]) ** 0.5


def test_rounds_cost_what_one_run_of_as_many_steps_costs() -> None:
    """And not what the last round costs, as where every round has an engine of its own."""
    a_round = NoisedSteps(1.1, 0.02, 50)
    whole = epsilon([NoisedSteps(1.1, 0.02, 1000)], 1e-5)
    assert epsilon([a_round] * 20, 1e-5) == whole > 2 * epsilon([a_round], 1e-5)


def test_an_accountant_that_under_reports_cannot_be_chosen() -> None:
    with pytest.raises(ValidationError, match="accountant"):
        PrivacyConfig.model_validate({"epsilon": 3, "expected_batch": 8, "accountant": "gdp"})


def test_what_was_spent_follows_from_the_steps_and_from_no_state_that_could_be_replaced() -> None:
    """Nothing to load: other runs' rows between two calls change neither."""
    rows = [NoisedSteps(1.1, 0.02, 50), NoisedSteps(2.0, 0.1, 10)]
    before = epsilon(rows, 1e-5)
    epsilon([NoisedSteps(30.0, 0.5, 1)], 1e-5)
    assert epsilon(rows[::-1], 1e-5) == before
