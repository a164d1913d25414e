"""The module against the numbers of the authors' own, and its initialisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from acm_core.nn import AttendAndCompare
from acm_core.nn.attend_and_compare import renamed

VECTORS = Path(__file__).parent / "vectors"
SHARED = Path(__file__).resolve().parents[3] / "../shared/reference"
NAMES = (
    "acm_b2_c16_1x1_g4",
    "acm_b2_c64_7x5_g32",
    "acm_b3_c128_9x11_g8",
    "acm_b1_c256_14x14_g32",
)
OWN_NAMES = {
    "add_mod.map_gen.0.weight": "key_weight",
    "sub_mod.map_gen.0.weight": "query_weight",
    "mul_mod.feature_gen.0.weight": "gate1_weight",
    "mul_mod.feature_gen.0.bias": "gate1_bias",
    "mul_mod.feature_gen.2.weight": "gate2_weight",
    "mul_mod.feature_gen.2.bias": "gate2_bias",
}


def read(name: str) -> dict[str, Tensor]:
    path = VECTORS / f"{name}.npz"
    if not path.exists():
        path = SHARED / f"{name}.npz"
    if not path.exists():
        pytest.skip(
            "the large vectors lie outside the repository; the small ones of this folder cover the same"
        )
    with np.load(path) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def authors_state(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("param/"): value for key, value in vectors.items() if key.startswith("param/")}


def module_of(vectors: dict[str, Tensor]) -> AttendAndCompare:
    module = AttendAndCompare(vectors["x"].shape[1], int(vectors["groups"])).double()
    module.load_state_dict(
        {name.removeprefix("context."): value for name, value in renamed(authors_state(vectors)).items()}
    )
    return module


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_authors_module(name: str, memory_format: torch.memory_format) -> None:
    vectors = read(name)
    module = module_of(vectors)
    x = vectors["x"].contiguous(memory_format=memory_format).requires_grad_()
    y, orthogonality = module(x)
    grad_y = vectors["grad_y"].contiguous(memory_format=memory_format)
    torch.autograd.backward([y, orthogonality], [grad_y, vectors["grad_orthogonality"].flatten()])
    compared = {
        "y": (y, vectors["y"]),
        "orthogonality": (orthogonality, vectors["orthogonality"].flatten()),
        "grad_x": (x.grad, vectors["grad_x"]),
    }
    for authors_name, own_name in OWN_NAMES.items():
        gradient = module.get_parameter(own_name).grad
        assert gradient is not None
        compared[own_name] = (gradient, vectors[f"grad/{authors_name}"].reshape(gradient.shape))
    assert {own_name for own_name, _ in module.named_parameters()} == set(OWN_NAMES.values())
    for got, expected in compared.values():
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_the_authors_score_biases_are_dead() -> None:
    vectors = read("acm_b2_c64_7x5_g32")
    for branch in ("add_mod", "sub_mod"):
        assert vectors[f"param/{branch}.map_gen.0.bias"].abs().max() > 0
        assert vectors[f"grad/{branch}.map_gen.0.bias"].abs().max() < 1e-12


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attention_maps_pool_what_the_output_compares(
    memory_format: torch.memory_format, mirrored: bool
) -> None:
    vectors = read("acm_b2_c64_7x5_g32")
    module = module_of(vectors)
    module.mirrored = mirrored
    x = vectors["x"].contiguous(memory_format=memory_format)
    maps = module.attention_maps(x)
    assert maps.key.shape == maps.query.shape == (2, 32, 7, 5)
    by_group = (x - x.mean((2, 3), keepdim=True)).unflatten(1, (32, 2))
    key, query = ((by_group * weights[:, :, None]).sum((3, 4)).flatten(1) for weights in maps)
    torch.testing.assert_close((key * query).mean(1), module(x)[1])
    assert torch.allclose(module(x)[1], vectors["orthogonality"].flatten()) is not mirrored


@pytest.mark.parametrize(("channels", "groups"), [(48, 32), (32, 32), (16, 0)])
def test_groups_that_do_not_fit_are_refused(channels: int, groups: int) -> None:
    with pytest.raises(ValueError, match="divisible by 2·groups"):
        AttendAndCompare(channels, groups)


def test_kaiming_has_the_papers_scales() -> None:
    torch.manual_seed(0)
    module = AttendAndCompare(4096, 32)
    for weight, fan_out in (
        (module.key_weight, 32),
        (module.query_weight, 32),
        (module.gate1_weight, 2048),
        (module.gate2_weight, 4096),
    ):
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert not module.gate1_bias.any()
    assert not module.gate2_bias.any()


@pytest.mark.parametrize("mirrored", [False, True])
def test_identity_starts_near_x_and_every_parameter_learns_within_two_steps(mirrored: bool) -> None:
    torch.manual_seed(0)
    module = AttendAndCompare(64, 8, "identity", mirrored=mirrored)
    x = torch.randn(4, 64, 6, 6)
    y, _ = module(x)
    assert ((y - x).norm() / x.norm()).item() < 0.02
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    target = torch.randn_like(x)
    first: set[str] = set()
    for step in range(2):
        optimizer.zero_grad()
        output, orthogonality = module(x)
        ((output * target).mean() + orthogonality.mean().abs()).backward()
        alive = {
            name for name, value in module.named_parameters() if value.grad is not None and value.grad.any()
        }
        if step == 0:
            first = alive
        optimizer.step()
    assert first == {"key_weight", "query_weight", "gate2_weight", "gate2_bias"}
    assert alive == set(dict(module.named_parameters()))
    assert not torch.equal(module.key_weight, module.query_weight)
