"""A private step: sum, noise, a public divisor, and then the optimiser's own update."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from acm_core.privacy.optimizer import PrivateOptimizer

SIZE = (300, 400)


def model() -> nn.Linear:
    layer = nn.Linear(*SIZE)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def private(
    layer: nn.Module,
    *,
    sigma: float = 1e-12,
    clipping_norm: float = 1.0,
    expected_batch: int = 1,
    **settings: float,
) -> PrivateOptimizer:
    return PrivateOptimizer(
        torch.optim.SGD(layer.parameters(), lr=1.0, **settings),
        dict(layer.named_parameters()),
        noise_multiplier=sigma,
        clipping_norm=clipping_norm,
        expected_batch=expected_batch,
    )


def ones(layer: nn.Module, value: float = 1.0) -> dict[str, Tensor]:
    return {name: torch.full_like(p, value, requires_grad=False) for name, p in layer.named_parameters()}


def step(optimizer: PrivateOptimizer) -> None:
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize(("sigma", "clipping_norm", "expected_batch"), [(1.0, 1.0, 1), (0.7, 3.0, 64)])
def test_a_step_without_units_is_noise_of_sigma_times_c_over_the_expected_batch(
    sigma: float, clipping_norm: float, expected_batch: int
) -> None:
    layer = model()
    step(private(layer, sigma=sigma, clipping_norm=clipping_norm, expected_batch=expected_batch))
    moved = layer.weight.detach()
    expected = sigma * clipping_norm / expected_batch
    assert float(moved.std()) == pytest.approx(expected, rel=0.01)
    assert abs(float(moved.mean())) < 5 * expected / math.sqrt(moved.numel())
    assert float(layer.bias.detach().std()) == pytest.approx(expected, rel=0.2)


def test_sums_of_all_physical_batches_are_added_and_divided_by_the_expected_batch() -> None:
    layer = model()
    optimizer = private(layer, expected_batch=8)
    optimizer.add_sums(ones(layer, 3.0))
    optimizer.add_sums(ones(layer, 1.0))
    step(optimizer)
    for parameter in layer.parameters():
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, -0.5))


def test_a_sum_is_used_once() -> None:
    layer = model()
    optimizer = private(layer)
    optimizer.add_sums(ones(layer))
    step(optimizer)
    before = layer.weight.detach().clone()
    step(optimizer)
    torch.testing.assert_close(layer.weight.detach(), before, rtol=0, atol=1e-9)


def test_gradients_by_any_other_way_do_not_enter() -> None:
    layer = model()
    optimizer = private(layer)
    layer(torch.ones(1, SIZE[0])).sum().backward()
    optimizer.add_sums(ones(layer, 0.0))
    step(optimizer)
    assert float(layer.weight.detach().abs().max()) < 1e-9


def test_noise_differs_from_parameter_to_parameter_and_from_step_to_step() -> None:
    layers = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False))
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    optimizer = private(layers, sigma=1.0)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        before = [parameter.detach().clone() for parameter in layers.parameters()]
        step(optimizer)
        found += [(p.detach() - b).flatten() for p, b in zip(layers.parameters(), before, strict=True)]
    correlations = torch.corrcoef(torch.stack(found).double()) - torch.eye(4)
    assert float(correlations.abs().max()) < 4.5 / 100


def test_momentum_and_weight_decay_see_the_noised_gradient_only() -> None:
    layer = model()
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(2.0)
    optimizer = private(layer, expected_batch=2, weight_decay=0.1, momentum=0.5)
    for _ in range(2):
        optimizer.add_sums(ones(layer))
        step(optimizer)
    # v₁ = 1/2 + 0.1·2 = 0.7, w₁ = 1.3; v₂ = 0.5·0.7 + 1/2 + 0.13 = 0.98, w₂ = 0.32
    torch.testing.assert_close(layer.weight.detach(), torch.full_like(layer.weight, 0.32))


def test_after_a_step_neither_sum_nor_gradient_is_left() -> None:
    layer = model()
    optimizer = private(layer)
    optimizer.add_sums(ones(layer))
    step(optimizer)
    for parameter in layer.parameters():
        assert parameter.grad is None
        assert parameter.summed_grad is None  # type: ignore[attr-defined]  # Opacus keeps it there


def test_channels_last_sums_are_noised_too() -> None:
    layer = nn.Conv2d(64, 64, 3, bias=False).to(memory_format=torch.channels_last)
    nn.init.zeros_(layer.weight)
    optimizer = private(layer, sigma=2.0)
    sums = torch.zeros(64, 64, 3, 3).contiguous(memory_format=torch.channels_last)
    optimizer.add_sums({"weight": sums})
    step(optimizer)
    assert float(layer.weight.detach().std()) == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_sum_may_lie_in_memory_in_another_order_than_its_parameter(
    kind: type[torch.optim.Optimizer], fused: bool
) -> None:
    """Torch's fused optimisers read both front to back, and give each weight the gradient of another one."""
    sums = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        layer = nn.Conv2d(3, 4, (2, 5), bias=False)
        nn.init.zeros_(layer.weight)
        optimizer = PrivateOptimizer(
            kind(layer.parameters(), lr=0.1, fused=fused),  # type: ignore[call-arg]  # both have them
            dict(layer.named_parameters()),
            noise_multiplier=1e-12,
            clipping_norm=1.0,
            expected_batch=1,
        )
        optimizer.add_sums({"weight": sums.clone().contiguous(memory_format=layout)})
        optimizer.add_sums({"weight": 0.5 * sums.flip(0)})
        step(optimizer)
        found.append(layer.weight.detach().clone())
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("wrong", ["sigma", "clipping_norm", "expected_batch"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_mechanism_that_protects_nobody_is_refused(wrong: str, value: float) -> None:
    with pytest.raises(ValueError, match="expected noise multiplier, clipping norm and expected batch > 0"):
        private(model(), **{wrong: value})  # type: ignore[arg-type]  # NaN for a whole number
