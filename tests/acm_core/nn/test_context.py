"""Every context module by its name: one contract, and each paper's formula."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from acm_core.config.sections import ModelConfig
from acm_core.nn import (
    ContextModule,
    ConvolutionalBlockAttention,
    SelfAttention,
    SqueezeExcitation,
    build_context,
)
from acm_core.nn.self_attention import SUBSAMPLE_ABOVE

CONTEXTS = get_args(ModelConfig.model_fields["context"].annotation)


def build(context: str, initialisation: str = "kaiming", channels: int = 32) -> ContextModule:
    torch.manual_seed(0)
    return build_context(
        ModelConfig(context=context, groups=4, initialisation=initialisation),
        channels,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("context", CONTEXTS)
def test_keeps_shape_dtype_and_memory_format_and_reports_a_penalty_a_sample(
    context: str, autocast: bool, memory_format: torch.memory_format
) -> None:
    module = build(context)
    for dtype in (torch.float32, torch.bfloat16) if autocast else (torch.float32,):
        x = torch.randn(3, 32, 6, 5).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y, penalty = module(x)
        assert y.shape == x.shape
        assert y.dtype is dtype
        assert y.is_contiguous(memory_format=memory_format)
        assert penalty.shape == (3,)
        assert bool(penalty.any()) == (context in ("acm", "acm_mirrored"))
        (y.float().square().sum() + penalty.sum()).backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("context", CONTEXTS)
def test_identity_initialisation_keeps_the_branch(context: str) -> None:
    x = torch.randn(2, 32, 6, 5)
    y, _ = build(context, "identity")(x)
    assert ((y - x).norm() / x.norm()).item() < 0.04


@pytest.mark.parametrize("context", CONTEXTS)
def test_input_is_not_written_to_and_no_batch_statistics_are_kept(context: str) -> None:
    module = build(context)
    x = torch.randn(2, 32, 6, 5)
    before = x.clone()
    together, _ = module(x)
    assert torch.equal(x, before)
    assert not list(module.buffers())
    alone = torch.cat([module(film.unsqueeze(0))[0] for film in x])
    torch.testing.assert_close(alone, together)


@pytest.mark.parametrize("context", [name for name in CONTEXTS if name != "none"])
def test_every_parameter_learns_from_kaiming(context: str) -> None:
    module = build(context)
    if isinstance(module, SelfAttention):
        nn.init.normal_(module.out.weight)  # it starts at zero, which hides the others for one step
    y, penalty = module(torch.randn(3, 32, 6, 5))
    (y.square().sum() + penalty.sum()).backward()
    for name, value in module.named_parameters():
        if name == "phi.bias":
            continue  # adds the same to every score of a query, and cancels in the softmax
        assert value.grad is not None, name
        assert value.grad.abs().max() > 0, name


def test_squeeze_excitation_scales_channels_by_a_gate_of_their_means() -> None:
    module = build("se")
    assert isinstance(module, SqueezeExcitation)
    x = torch.randn(2, 32, 4, 4)
    y, _ = module(x)
    gate = (y / x).mean((2, 3))
    torch.testing.assert_close(y, x * gate[:, :, None, None], rtol=1e-4, atol=1e-5)
    permuted = x.flatten(2)[:, :, torch.randperm(16)].view_as(x)
    torch.testing.assert_close((module(permuted)[0] / permuted).mean((2, 3)), gate, rtol=1e-4, atol=1e-5)
    hidden = F.relu(F.linear(x.mean((2, 3)), module.squeeze.weight, module.squeeze.bias))
    torch.testing.assert_close(
        gate, F.linear(hidden, module.excite.weight, module.excite.bias).sigmoid(), rtol=1e-4, atol=1e-5
    )


def test_cbam_gates_channels_then_positions() -> None:
    module = build("cbam")
    assert isinstance(module, ConvolutionalBlockAttention)
    x = torch.randn(2, 32, 9, 8)

    def shared(pooled: torch.Tensor) -> torch.Tensor:
        return module.excite(F.relu(module.squeeze(pooled)))

    attended = x * (shared(x.mean((2, 3))) + shared(x.amax((2, 3)))).sigmoid()[:, :, None, None]
    profile = torch.stack((attended.mean(1), attended.amax(1)), 1)
    torch.testing.assert_close(module(x)[0], attended * module.spatial(profile).sigmoid())


@pytest.mark.parametrize("side", [5, 30])
def test_self_attention_is_the_embedded_gaussian_and_subsamples_many_positions(side: int) -> None:
    module = build("self_attention", channels=8)
    assert isinstance(module, SelfAttention)
    nn.init.normal_(module.out.weight)
    x = torch.randn(2, 8, side, side)
    query, key, value = module.theta(x), module.phi(x), module.g(x)
    if side * side > SUBSAMPLE_ABOVE:
        key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
    scores = torch.einsum("bcn,bcm->bnm", query.flatten(2), key.flatten(2)) / 4**0.5
    pooled = torch.einsum("bnm,bcm->bcn", scores.softmax(2), value.flatten(2)).view(2, 4, side, side)
    torch.testing.assert_close(module(x)[0], x + module.out(pooled), rtol=1e-4, atol=1e-4)
    assert (side == 30) == (side * side > SUBSAMPLE_ABOVE)
