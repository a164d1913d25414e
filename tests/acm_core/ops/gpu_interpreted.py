"""The Triton kernels run by Triton's interpreter on the CPU; `test_gpu` runs this file with TRITON_INTERPRET=1."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import LAYOUTS, as_in_a_network, draw

from acm_core.ops import derived, gpu
from acm_core.ops.passes import Parameters

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def compare(shape: tuple[int, int, int, int, int], layout: str, dtype: torch.dtype, seed: int) -> None:
    x, drawn = draw(*shape, seed=seed)
    held = Parameters(*(p.float() for p in as_in_a_network(drawn)))
    exact = Parameters(*(p.double() for p in held))
    low = LAYOUTS[layout](x.to(dtype))
    grad_y = LAYOUTS[layout]((draw(*shape, seed=seed + 1)[0] - 1.5).to(dtype))
    grad_orthogonality = torch.linspace(-1, 1, len(x)) * shape[1]
    # What a kernel does not write shows: memory is poisoned.
    torch.use_deterministic_algorithms(True)
    try:
        passed = gpu.forward(low, held)
        gradients = gpu.backward(grad_y, grad_orthogonality, low, held, passed)
    finally:
        torch.use_deterministic_algorithms(False)
    expected = derived.forward(low.double(), exact)
    expected_gradients = derived.backward(
        grad_y.double(), grad_orthogonality.double(), low.double(), exact, expected
    )
    names = [*passed._fields, *(f"gradient of {name}" for name in gradients._fields)]
    for name, got, truth in zip(names, (*passed, *gradients), (*expected, *expected_gradients), strict=True):
        assert got.shape == truth.shape, name
        if got.numel():
            error = (got.double() - truth).abs().max().item()
            assert error <= TOLERANCES[dtype] * max(1.0, truth.abs().max().item()), name
    assert passed.y.dtype == gradients.x.dtype == dtype
    assert passed.y.stride() == gradients.x.stride() == low.stride()


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(0, 2),
    groups=st.integers(1, 3),
    half=st.integers(1, 20),
    height=st.integers(1, 9),
    breadth=st.integers(1, 9),
    layout=st.sampled_from(["contiguous", "channels_last"]),
    dtype=st.sampled_from(list(TOLERANCES)),
    seed=st.integers(0, 2**31),
)
def test_equals_the_derived_passes(
    batch: int,
    groups: int,
    half: int,
    height: int,
    breadth: int,
    layout: str,
    dtype: torch.dtype,
    seed: int,
) -> None:
    compare((batch, 2 * half * groups, height, breadth, groups), layout, dtype, seed)


# Resident and streamed in either pass, with a last tile that is not full.
SHAPES = [(1, 8, 65, 65, 1), (1, 16, 30, 40, 1), (1, 128, 9, 11, 1), (1, 256, 5, 7, 1), (1, 128, 7, 7, 2)]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_derived_passes_resident_and_streamed(
    shape: tuple[int, int, int, int, int], layout: str, dtype: torch.dtype
) -> None:
    compare(shape, layout, dtype, seed=5)


def test_the_shapes_above_are_resident_and_streamed() -> None:
    plans = {
        (backward, gpu.plan(channels // groups, height * breadth, backward=backward).resident)
        for _, channels, height, breadth, groups in SHAPES
        for backward in (False, True)
    }
    assert plans == {(False, False), (False, True), (True, False), (True, True)}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nan_spreads_over_its_group_and_to_no_other_film(layout: str) -> None:
    x, drawn = draw(2, 32, 5, 9, 4, seed=3)
    x[1, 20, 2, 3] = float("nan")
    y = gpu.forward(LAYOUTS[layout](x.float()), Parameters(*(p.float() for p in drawn))).y
    assert y[1, 16:24].isnan().all()
    assert y[0].isfinite().all()


def test_what_is_too_large_is_left_to_plain_pytorch() -> None:
    _, drawn = draw(1, 512, 1, 1, 1, seed=1)
    assert not gpu.covers(torch.empty(1, 512, 1, 1), Parameters(*drawn))
    _, drawn = draw(1, 8, 1, 1, 1, seed=1)
    assert gpu.covers(torch.empty(4, 8, 2**13, 2**13, device="meta"), Parameters(*drawn))
    assert not gpu.covers(torch.empty(1, 8, 2**14, 2**14, device="meta"), Parameters(*drawn))
