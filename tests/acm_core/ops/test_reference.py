"""The plain op against the paper's formula written out, in any layout and precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import LAYOUTS, Parameters, draw
from torch import Tensor
from torch.nn import functional as F

from acm_core.ops.reference import attend_and_compare, attention
from simulations.benchmark.authors_formula import attend_and_compare_as_written


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 3),
    groups=st.integers(1, 4),
    half=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    layout=st.sampled_from(sorted(LAYOUTS)),
    mirrored=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_the_formula_written_out(
    batch: int, groups: int, half: int, height: int, width: int, layout: str, mirrored: bool, seed: int
) -> None:
    x, parameters = draw(batch, 2 * half * groups, height, width, groups, seed)
    x = LAYOUTS[layout](x).requires_grad_()
    inputs = [x, *(parameter.requires_grad_() for parameter in parameters)]
    results = []
    for function in (
        lambda: attend_and_compare(x, *parameters, mirrored=mirrored),
        lambda: attend_and_compare_as_written(x, *parameters, mirrored=mirrored),
    ):
        y, orthogonality = function()
        weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
        loss = (y * weights).sum() + orthogonality.sum()
        results.append((y, orthogonality, *torch.autograd.grad(loss, inputs)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-5, 5), channels_last=st.booleans(), seed=st.integers(0, 2**31))
def test_a_shift_of_the_film_leaves_attention_and_orthogonality(
    shift: float, channels_last: bool, seed: int
) -> None:
    x, parameters = draw(2, 8, 3, 4, 2, seed)
    x = LAYOUTS["channels_last" if channels_last else "contiguous"](x)
    key, query = attention(x, *parameters[:2])
    shifted_key, shifted_query = attention(x + shift, *parameters[:2])
    torch.testing.assert_close(shifted_key, key)
    torch.testing.assert_close(shifted_query, query)
    torch.testing.assert_close(
        attend_and_compare(x + shift, *parameters)[1],
        attend_and_compare(x, *parameters)[1],
        atol=1e-9,
        rtol=1e-9,
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_attention_maps_are_distributions_that_look_where_the_score_is_high(layout: str) -> None:
    x, (key_weight, query_weight, *_) = draw(2, 12, 3, 5, 3, seed=1)
    x = LAYOUTS[layout](x)
    for maps, weight in zip(attention(x, key_weight, query_weight), (key_weight, query_weight), strict=True):
        assert maps.shape == (2, 3, 3, 5)
        torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))
        scores = F.conv2d(x, weight[:, :, None, None], groups=3)
        assert torch.equal(maps.flatten(2).argmax(2), scores.flatten(2).argmax(2))


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_a_mirrored_query_attends_to_the_film_flipped_left_to_right(layout: str) -> None:
    x, parameters = draw(2, 12, 3, 5, 3, seed=1)
    x = LAYOUTS[layout](x)
    key_weight, query_weight = parameters[:2]
    key, query = attention(x, key_weight, query_weight, mirrored=True)
    plain_key, plain_query = attention(x, key_weight, query_weight)
    torch.testing.assert_close(key, plain_key)
    torch.testing.assert_close(query, plain_query.flip(3))
    assert not torch.allclose(query, plain_query)
    # Where a film is its own mirror image, there is nothing to mirror.
    even = x + x.flip(3)
    for got, expected in zip(
        attend_and_compare(even, *parameters, mirrored=True),
        attend_and_compare(even, *parameters),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
def test_keeps_dtype_and_memory_format_forward_and_backward(
    dtype: torch.dtype, memory_format: torch.memory_format, autocast: bool
) -> None:
    x, parameters = draw(2, 16, 5, 6, 4, seed=2)
    x = x.to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, orthogonality = attend_and_compare(x, *(parameter.float() for parameter in parameters))
        (gradient,) = torch.autograd.grad(y.square().sum() + orthogonality.sum(), x)
    for tensor in (y, gradient):
        assert tensor.dtype is dtype
        assert tensor.is_contiguous(memory_format=memory_format)
    assert orthogonality.dtype is (torch.float32 if dtype is torch.bfloat16 else dtype)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_keeps_no_copy_of_x_for_the_backward_pass(layout: str) -> None:
    x, parameters = draw(2, 32, 8, 8, 2, seed=7)
    x = LAYOUTS[layout](x).requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend_and_compare(x, *(parameter.requires_grad_() for parameter in parameters))
    large = {tensor.untyped_storage().data_ptr() for tensor in kept if tensor.numel() >= x.numel()}
    assert large == {x.untyped_storage().data_ptr()}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_low_precision_stays_near_float64_even_under_autocast(
    layout: str, dtype: torch.dtype, tolerance: float
) -> None:
    x, parameters = draw(4, 32, 14, 14, 8, seed=3)
    low = LAYOUTS[layout](x.to(dtype)).requires_grad_()
    inputs = [low, *(parameter.float().requires_grad_() for parameter in parameters)]
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        y, orthogonality = attend_and_compare(*inputs)
    exact_y, exact_orthogonality = attend_and_compare(*exact_inputs)
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
    gradients = torch.autograd.grad((y.float() * weights).sum() + orthogonality.sum(), inputs)
    exact_gradients = torch.autograd.grad((exact_y * weights).sum() + exact_orthogonality.sum(), exact_inputs)
    for got, expected in zip(
        (y, orthogonality, *gradients), (exact_y, exact_orthogonality, *exact_gradients), strict=True
    ):
        error = (got.double() - expected).norm() / expected.norm()
        assert error < tolerance


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_large_scores_do_not_overflow(layout: str) -> None:
    x, parameters = draw(1, 8, 4, 4, 2, seed=4)
    for dtype in (torch.float32, torch.bfloat16):
        y, orthogonality = attend_and_compare(
            LAYOUTS[layout]((x * 1e4).to(dtype)), *(parameter.float() for parameter in parameters)
        )
        assert y.isfinite().all()
        assert orthogonality.isfinite().all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_per_sample_gradients_by_vmap_sum_to_the_batch_gradient(layout: str) -> None:
    x, parameters = draw(3, 8, 3, 4, 2, seed=5)
    x = LAYOUTS[layout](x)

    def loss(given_parameters: Parameters, films: Tensor) -> Tensor:
        y, orthogonality = attend_and_compare(films, *given_parameters)
        return (y**2).sum() + orthogonality.sum()

    def sample_loss(given_parameters: Parameters, film: Tensor) -> Tensor:
        return loss(given_parameters, film.unsqueeze(0))

    whole = torch.func.grad(loss)(parameters, x)
    by_sample = torch.func.vmap(torch.func.grad(sample_loss), in_dims=(None, 0))(parameters, x)
    for summed, samples in zip(whole, by_sample, strict=True):
        assert samples.shape == (3, *summed.shape)
        torch.testing.assert_close(samples.sum(0), summed)


def test_refuses_what_does_not_fit() -> None:
    x, parameters = draw(1, 8, 3, 3, 2, seed=6)
    with pytest.raises(TypeError, match="float16"):
        attend_and_compare(x.half(), *parameters)
    with pytest.raises(ValueError, match="B×C×H×W"):
        attend_and_compare(x[0], *parameters)
    with pytest.raises(ValueError, match="H·W ≥ 1"):
        attend_and_compare(x[:, :, :0], *parameters)
    with pytest.raises(ValueError, match="divisible by 2·groups"):
        attend_and_compare(x[:, :6], *(parameter[..., :3] for parameter in parameters))
    names = ("key_weight", "query_weight", "gate1_weight", "gate1_bias", "gate2_weight", "gate2_bias")
    for position, name in enumerate(names):
        wrong = list(parameters)
        wrong[position] = wrong[position][:-1]
        with pytest.raises(ValueError, match=f"expected {name} of"):
            attend_and_compare(x, *wrong)
