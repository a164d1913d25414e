"""The operation against the reference in float64: every implementation, layout and precision."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import LAYOUTS, Parameters, as_in_a_network, draw
from torch import Tensor
from torch.autograd import gradcheck

from acm_core.ops import attend_and_compare as operation
from acm_core.ops import reference
from acm_core.ops.attend_and_compare import attend_and_compare, forward_kept, sample_backward
from acm_core.ops.passes import Parameters as OpParameters

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(params=["kernels", "plain"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With numba's kernels where they cover the case, or without numba."""
    if request.param == "plain":
        monkeypatch.setattr(operation, "_is_installed", lambda library: False)
    return str(request.param)


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.empty gives NaN: what a kernel does not write shows."""
    real = {name: getattr(torch, name) for name in ("empty", "empty_like")}
    new_empty = Tensor.new_empty

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    for name, make in real.items():
        monkeypatch.setattr(torch, name, lambda *a, _make=make, **k: poison(_make(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: poison(new_empty(*a, **k)))


def everything(
    function: Callable[..., tuple[Tensor, Tensor]], x: Tensor, parameters: Parameters
) -> tuple[Tensor, ...]:
    """y, orthogonality and the gradients of x and of every parameter of one loss."""
    inputs = [tensor.detach().requires_grad_() for tensor in (x, *parameters)]
    y, orthogonality = function(*inputs)
    weights = loss_weights(y)
    loss = (y.to(weights.dtype) * weights).sum() + orthogonality.sum()
    return y, orthogonality, *torch.autograd.grad(loss, inputs)


def loss_weights(y: Tensor) -> Tensor:
    """A gradient of y that bfloat16 holds exactly, with no pattern along any axis."""
    values = (torch.arange(y.numel()) * 37 % 101 % 17 - 8) / 8
    return values.view(y.shape).to(y.dtype if y.dtype is torch.float64 else torch.float32)


def assert_near(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Within the tolerance of the largest value, or of 1: an exact zero is a difference of numbers about 1."""
    assert got.shape == expected.shape, what
    assert not got.isnan().any(), what
    if got.numel():
        error = (got.double() - expected.double()).abs().max().item()
        assert error <= tolerance * max(1.0, expected.abs().max().item()), what


NAMES = (
    "y",
    "orthogonality",
    "x",
    "key",
    "query",
    "gate1 weight",
    "gate1 bias",
    "gate2 weight",
    "gate2 bias",
)


def compare(x: Tensor, parameters: Parameters, dtype: torch.dtype, *, mirrored: bool = False) -> None:
    low = x.to(dtype)
    truth_of = partial(reference.attend_and_compare, mirrored=mirrored)
    kept = torch.float64 if dtype is torch.float64 else torch.float32
    held = tuple(p.to(kept) for p in as_in_a_network(parameters))
    expected = everything(truth_of, low.double(), tuple(parameter.double() for parameter in held))
    got = everything(partial(attend_and_compare, mirrored=mirrored), low, held)
    for name, value, truth in zip(NAMES, got, expected, strict=True):
        assert_near(value, truth, TOLERANCES[dtype], name)
    y, orthogonality, grad_x, *_ = got
    assert y.dtype == grad_x.dtype == dtype
    assert orthogonality.dtype == kept
    kept_of_pass = forward_kept(low, *held, mirrored=mirrored)[2]
    by_sample = sample_backward(loss_weights(y), torch.ones(len(x)), kept_of_pass, mirrored=mirrored)
    for name, value, truth in zip(NAMES[3:], by_sample[1:], expected[3:], strict=True):
        assert value.shape == (len(x), *truth.shape)
        assert_near(value.sum(0), truth, TOLERANCES[dtype], name)
    for sample in range(min(len(x), 2)):
        weights = loss_weights(y)[sample : sample + 1]
        alone = [tensor.double().requires_grad_() for tensor in (low[sample : sample + 1], *held)]
        y_alone, orthogonality_alone = truth_of(*alone)
        loss = (y_alone * weights).sum() + orthogonality_alone.sum()
        for name, value, truth in zip(
            NAMES[3:], by_sample[1:], torch.autograd.grad(loss, alone)[1:], strict=True
        ):
            assert_near(value[sample], truth, TOLERANCES[dtype], f"{name} of sample {sample}")


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(0, 3),
    groups=st.integers(1, 9),
    width=st.sampled_from([2, 4, 6, 8, 10, 16, 32, 48, 64]),
    height=st.integers(1, 12),
    breadth=st.integers(1, 12),
    layout=st.sampled_from(sorted(LAYOUTS)),
    dtype=st.sampled_from(list(TOLERANCES)),
    mirrored=st.booleans(),
    seed=st.integers(0, 2**31),
)
@pytest.mark.usefixtures("implementation")
def test_equals_the_reference(
    batch: int,
    groups: int,
    width: int,
    height: int,
    breadth: int,
    layout: str,
    dtype: torch.dtype,
    mirrored: bool,
    seed: int,
) -> None:
    x, parameters = draw(batch, width * groups, height, breadth, groups, seed)
    compare(LAYOUTS[layout](x.to(dtype)), parameters, dtype, mirrored=mirrored)


# Each kernel's tiles are left by one position, filled, and begun again; every ResNet's c with 32 groups is here.
SHAPES = [
    (2, 64, 25, 41, 32),
    (1, 128, 16, 32, 32),
    (2, 256, 13, 5, 32),
    (1, 512, 8, 8, 32),
    (2, 1024, 3, 43, 32),
    (1, 2048, 7, 7, 32),
    (1, 512, 3, 3, 1),
    (2, 48, 9, 9, 2),
]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.usefixtures("implementation")
def test_equals_the_reference_where_tiles_begin_and_end(
    shape: tuple[int, int, int, int, int], layout: str, dtype: torch.dtype
) -> None:
    batch, channels, height, breadth, groups = shape
    x, parameters = draw(batch, channels, height, breadth, groups, seed=11)
    compare(LAYOUTS[layout](x.to(dtype)), parameters, dtype)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.usefixtures("implementation")
def test_gradients_by_finite_differences(layout: str, mirrored: bool) -> None:
    x, parameters = draw(2, 16, 2, 3, 4, seed=1)
    inputs = [LAYOUTS[layout](x).requires_grad_(), *(p.requires_grad_() for p in parameters)]
    assert gradcheck(partial(attend_and_compare, mirrored=mirrored), inputs)


def test_a_second_derivative_is_refused_with_the_way_out() -> None:
    x, parameters = draw(1, 8, 2, 2, 2, seed=1)
    x.requires_grad_()
    y, _ = attend_and_compare(x, *parameters)
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative: use acm_core\.ops\.reference"):
        torch.autograd.grad(gradient.sum(), x)


@pytest.mark.parametrize("kept", ["y", "orthogonality"])
def test_a_loss_of_one_result_alone(kept: str) -> None:
    x, parameters = draw(2, 16, 3, 3, 4, seed=2)
    gradients = []
    for function in (attend_and_compare, reference.attend_and_compare):
        inputs = [tensor.detach().requires_grad_() for tensor in (x, *parameters)]
        y, orthogonality = function(*inputs)
        loss = y.square().sum() if kept == "y" else orthogonality.square().sum()
        gradients.append(torch.autograd.grad(loss, inputs, materialize_grads=True))
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_keeps_x_and_small_vectors_for_the_backward_pass(layout: str, dtype: torch.dtype) -> None:
    x, parameters = draw(2, 32, 16, 16, 2, seed=7)
    x = LAYOUTS[layout](x.to(dtype)).requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend_and_compare(x, *(parameter.requires_grad_() for parameter in parameters))
    others = [
        tensor for tensor in kept if tensor.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    ]
    assert len(others) < len(kept)
    assert max(tensor.numel() for tensor in others) <= 512  # gate2's weights, C·c/2 here


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.usefixtures("implementation")
def test_nan_spreads_over_its_group_and_to_no_other_film(layout: str) -> None:
    x, parameters = draw(2, 64, 5, 9, 4, seed=3)
    x[1, 20, 2, 3] = float("nan")
    low = LAYOUTS[layout](x.float())
    y, orthogonality = attend_and_compare(low, *(parameter.float() for parameter in parameters))
    assert y[1, 16:32].isnan().all()
    assert y[0].isfinite().all()
    assert orthogonality.isnan().tolist() == [False, True]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.usefixtures("implementation")
def test_large_scores_neither_overflow_nor_lose_the_maximum(layout: str) -> None:
    x, parameters = draw(1, 64, 9, 9, 4, seed=4)
    x = LAYOUTS[layout]((x * 1e3).float())
    held = tuple(parameter.float() for parameter in parameters)
    got = everything(attend_and_compare, x, held)
    expected = everything(reference.attend_and_compare, x.double(), tuple(p.double() for p in held))
    for name, value, truth in zip(NAMES, got, expected, strict=True):
        assert value.isfinite().all(), name
        if name in ("y", "orthogonality", "x"):
            error = (value.double() - truth).norm() / truth.norm()
            assert error < 1e-2, name  # scores of 1e4: float32 knows them to 0.001


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_number_of_threads_changes_no_bit(layout: str, dtype: torch.dtype) -> None:
    x, parameters = draw(3, 64, 6, 7, 4, seed=5)
    x = LAYOUTS[layout](x.to(dtype))
    held = tuple(parameter.float() for parameter in parameters)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(everything(attend_and_compare, x, held))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_one_graph_under_torch_compile(layout: str, mirrored: bool) -> None:
    x, parameters = draw(2, 32, 3, 5, 2, seed=6)
    x = LAYOUTS[layout](x.float())
    held = tuple(parameter.float() for parameter in parameters)
    eager = partial(attend_and_compare, mirrored=mirrored)
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    for got, expected in zip(everything(compiled, x, held), everything(eager, x, held), strict=True):
        assert torch.equal(got, expected)
        assert got.stride() == expected.stride()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_operation_keeps_torchs_rules(
    layout: str, dtype: torch.dtype, batch: int, mirrored: bool
) -> None:
    x, parameters = draw(batch, 32, 3, 5, 2, seed=8)
    x = operation._dense(LAYOUTS[layout](x.to(dtype))).requires_grad_()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The .grad attribute")  # opcheck looks at its own copies
        torch.library.opcheck(operation._forward_op, (x, *parameters, mirrored))
    passed = operation._implementation(x, OpParameters(*parameters)).forward(x, OpParameters(*parameters))
    arguments = (x.detach(), passed.mean.new_ones(batch), x.detach(), *parameters, *passed[1:])
    detached = tuple(tensor.detach() for tensor in arguments)
    torch.library.opcheck(operation._backward_op, (*detached, mirrored))


def in_a_process_of_its_own(code: str, **environment: str) -> str:
    here = Path(__file__).parent
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1] / 'support'}", **environment},
        cwd=here.parents[2],
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def scratch_cases() -> list[str]:
    """Results over every kernel, to the last digit."""
    found = []
    for width in (2, 8, 16):
        for layout in ("contiguous", "channels_last"):
            x, parameters = draw(2, 8 * width, 5, 9, 8, 1)
            held = tuple(parameter.float() for parameter in parameters)
            results = everything(attend_and_compare, LAYOUTS[layout](x.float()), held)
            found += [tensor.double().sum().item().hex() for tensor in results]
    return found


def test_kernels_read_no_scratch_memory_that_they_have_not_written() -> None:
    """glibc fills every fresh block with 0x7f bytes (3.4e38 as float32) in the other process."""
    code = "from test_attend_and_compare import scratch_cases; print(*scratch_cases())"
    assert in_a_process_of_its_own(code, MALLOC_PERTURB_="128").split() == scratch_cases()


def test_forked_children_compute_after_and_beside_their_parent() -> None:
    """What a data loader's worker does: the parent's threads do not exist there."""
    code = """
import os, torch
from op_cases import draw
from acm_core.ops.attend_and_compare import attend_and_compare
torch.set_num_threads(3)
x, parameters = draw(4, 32, 6, 6, 2, 1)
x, parameters = x.float(), [p.float() for p in parameters]
expected = attend_and_compare(x, *parameters)[0]
child = os.fork()
same = torch.equal(attend_and_compare(x, *parameters)[0], expected)
if child == 0:
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0 and same
"""
    in_a_process_of_its_own(code, OMP_NUM_THREADS="1")


def test_without_numba_and_triton_plain_pytorch_computes() -> None:
    code = """
import sys
for library in ("numba", "triton"):
    sys.modules[library] = None
import torch
from op_cases import draw
from acm_core.ops.attend_and_compare import attend_and_compare
x, parameters = draw(2, 32, 3, 3, 2, 1)
y, _ = attend_and_compare(x.float().requires_grad_(), *(p.float() for p in parameters))
y.sum().backward()
print(*sorted(name for name in sys.modules if name.startswith("acm_core.ops.")))
"""
    plain = {"acm_core.ops.attend_and_compare", "acm_core.ops.derived", "acm_core.ops.passes"}
    assert set(in_a_process_of_its_own(code).split()) == plain | {"acm_core.ops.reference"}


def test_a_cpu_never_needs_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import torch
from op_cases import draw
from acm_core.ops.attend_and_compare import attend_and_compare
x, parameters = draw(2, 32, 3, 3, 2, 1)
attend_and_compare(x.float(), *(p.float() for p in parameters))
print("acm_core.ops.cpu" in sys.modules, "acm_core.ops.gpu" in sys.modules)
"""
    assert in_a_process_of_its_own(code).split() == ["True", "False"]


def test_refuses_what_does_not_fit() -> None:
    x, parameters = draw(1, 8, 3, 3, 2, seed=6)
    with pytest.raises(TypeError, match=r"float32, float64, bfloat16, float16, got torch\.int64"):
        attend_and_compare(x.long(), *parameters)
    with pytest.raises(ValueError, match="H·W ≥ 1"):
        attend_and_compare(x[:, :, :0], *parameters)
    with pytest.raises(ValueError, match="divisible by 2·groups"):
        attend_and_compare(x[:, :6], *(parameter[..., :3] for parameter in parameters))
    for position in range(6):
        wrong = list(parameters)
        wrong[position] = wrong[position][:-1]
        with pytest.raises(ValueError, match=r"expected .*_(weight|bias) of"):
            attend_and_compare(x, *wrong)
