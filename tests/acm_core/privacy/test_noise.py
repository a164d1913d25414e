"""The noise is normal, of the size that is asked for, and never the same twice."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from acm_core.privacy.noise import GaussianNoise

DRAWS = 10**6


def noise(count: int, standard_deviation: float = 1.0, source: GaussianNoise | None = None) -> Tensor:
    values = torch.zeros(count)
    (source or GaussianNoise()).add_to(values, standard_deviation)
    return values


def correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((first, second)).double().flatten(1))[0, 1])


@pytest.mark.parametrize("standard_deviation", [1e-3, 1.0, 37.5])
def test_the_standard_deviation_is_within_one_percent(standard_deviation: float) -> None:
    values = noise(DRAWS, standard_deviation).double() / standard_deviation
    assert float(values.std()) == pytest.approx(1, rel=0.01)
    assert abs(float(values.mean())) < 5 / math.sqrt(DRAWS)


def test_the_shape_is_that_of_a_normal_distribution() -> None:
    values = noise(DRAWS).double().numpy()
    assert stats.skew(values) == pytest.approx(0, abs=5 * math.sqrt(6 / DRAWS))
    assert stats.kurtosis(values, fisher=False) == pytest.approx(3, abs=5 * math.sqrt(24 / DRAWS))
    assert stats.kstest(values, "norm").pvalue > 1e-6


@pytest.mark.parametrize("beyond", [1.0, 2.0, 3.0, 4.0])
def test_the_tails_are_as_heavy_as_they_should_be_on_both_sides(beyond: float) -> None:
    values = noise(4 * DRAWS).numpy()
    expected = 4 * DRAWS * stats.norm.sf(beyond)
    for count in ((values > beyond).sum(), (values < -beyond).sum()):
        assert abs(int(count) - expected) < 5 * math.sqrt(expected)


def test_the_largest_of_many_draws_is_neither_cut_off_nor_infinite() -> None:
    largest = float(noise(4 * DRAWS).abs().max())
    assert 4.2 < largest < 6.8
    assert math.isfinite(largest)


class SameBytes:
    """In the cipher's place."""

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def update_into(self, data: bytes, buffer: bytearray) -> int:
        buffer[: len(data)] = bytes([self._byte]) * len(data)
        return len(data)


@pytest.mark.parametrize(("byte", "more", "expected"), [(0x00, 0x80, 9.45), (0x00, 0x7F, 6.66), (0xFF, 0, 0)])
def test_the_rarest_bits_give_the_largest_number_and_none_that_is_infinite_or_zero(
    monkeypatch: pytest.MonkeyPatch, byte: int, more: int, expected: float
) -> None:
    monkeypatch.setattr("acm_core.privacy.noise._cipher", lambda: SameBytes(byte))
    # As a signed number 0x80000000 is the smallest, to which 2^31 is added.
    word = bytes([0, 0, 0, more] if more == 0x80 else [more] * 4)
    monkeypatch.setattr(os, "urandom", lambda count: word * (count // 4))
    drawn = noise(2**17)
    assert float(drawn.abs().max()) == pytest.approx(expected, abs=0.05)
    assert bool((drawn != 0).all())


def test_the_smallest_numbers_are_as_evenly_spread_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2^16 radii whose first 24 bits are 0, which no test could wait for."""

    class FirstBitsZero:
        def update_into(self, data: bytes, buffer: bytearray) -> int:
            words = np.frombuffer(os.urandom(len(data)), np.uint32).copy()
            words[: len(words) // 2] &= 0xFF
            buffer[: len(data)] = words.tobytes()
            return len(data)

    monkeypatch.setattr("acm_core.privacy.noise._cipher", FirstBitsZero)
    first, second = noise(2**17).double().view(2, -1)
    # u·2^24 is uniform where exp(−r²/2) = u.
    uniform = np.exp(-(first.square() + second.square()).numpy() / 2) * 2.0**24
    assert stats.kstest(uniform, "uniform").pvalue > 1e-6
    assert len(np.unique(uniform)) > 2**15


def test_no_number_is_drawn_with_its_neighbour() -> None:
    """Box and Muller make two numbers of two: neither the pairs nor the numbers in a row may hang together."""
    values = noise(2 * 2**17).double()
    for lag in (1, 2, 2**16, 2**17):
        limit = 5 / math.sqrt(len(values) - lag)
        assert abs(correlation(values[lag:], values[:-lag])) < limit
        assert abs(correlation(values[lag:].square(), values[:-lag].square())) < limit


@pytest.mark.parametrize("same_object", [True, False])
def test_two_rounds_have_nothing_in_common_whatever_torch_is_seeded_with(same_object: bool) -> None:
    source = GaussianNoise()
    torch.manual_seed(3)
    first = noise(DRAWS, source=source)
    torch.manual_seed(3)
    np.random.seed(3)
    second = noise(DRAWS, source=source if same_object else None)
    assert abs(correlation(first, second)) < 4 / math.sqrt(DRAWS)


def test_a_forked_process_has_another_stream() -> None:
    source = GaussianNoise()
    noise(8, source=source)  # so that parent and child stand at the same place in the stream
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, noise(2**13, source=source).numpy().tobytes())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        of_child = torch.frombuffer(bytearray(pipe.read()), dtype=torch.float32)
    os.waitpid(child, 0)
    of_parent = noise(2**13, source=source)
    assert len(of_child) == 2**13
    assert float(of_child.std()) == pytest.approx(1, rel=0.05)
    assert abs(correlation(of_parent, of_child)) < 5 / math.sqrt(2**13)


def test_each_tensor_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is copied between two of them, however that is done, repeats none."""
    keys: list[bytes] = []
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda count: keys.append(real(count)) or keys[-1])
    source = GaussianNoise()
    for _ in range(20):
        noise(8, source=source)
    assert len({key for key in keys if len(key) == 32}) == 20


def test_a_process_forked_into_another_pid_namespace_has_another_stream() -> None:
    """There both have the process number 1."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        with contextlib.suppress(OSError):
            _in_new_namespace(lambda: _write_twice(writing), _NEW_USER | _NEW_PIDS)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        streams = pipe.read()
    os.waitpid(child, 0)
    if not streams:
        pytest.skip("this system permits no PID namespaces")
    of_child, of_parent = streams[: len(streams) // 2], streams[len(streams) // 2 :]
    assert len(of_child) == len(of_parent) == 4 * 64
    assert of_child != of_parent


def _write_twice(writing: int) -> None:
    assert os.getpid() == 1
    torch.set_num_threads(1)  # others would be lost by the next fork, and waited for
    source = GaussianNoise()
    noise(64, source=source)

    def write() -> None:
        os.write(writing, noise(64, source=source).numpy().tobytes())

    _in_new_namespace(write, _NEW_PIDS)
    write()


_NEW_USER, _NEW_PIDS = 0x10000000, 0x20000000  # linux/sched.h


def _in_new_namespace(run: Callable[[], None], flags: int) -> None:
    """Run in a process that has the number 1."""
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if (child := os.fork()) == 0:
        try:
            run()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


LAYOUTS = {
    "contiguous": torch.zeros(40, 30, 9, 11),
    "channels_last": torch.zeros(40, 30, 9, 11).contiguous(memory_format=torch.channels_last),
    "transposed": torch.zeros(11, 9, 30, 40).permute(3, 1, 2, 0),
    "one axis of one": torch.zeros(40, 1, 1, 2970).contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_number_of_a_tensor_gets_its_own_noise(layout: str, dtype: torch.dtype) -> None:
    values = LAYOUTS[layout].to(dtype).clone(memory_format=torch.preserve_format)
    values.fill_(5)
    strides = values.stride()
    GaussianNoise().add_to(values, 2.0)
    assert values.stride() == strides
    assert values.dtype is dtype
    added = (values.double() - 5).flatten()
    assert float(added.std()) == pytest.approx(2, rel=0.02)
    # In float32 two of so many numbers are equal by chance.
    assert len(added.unique()) > 0.98 * added.numel()


def test_a_scalar_and_an_empty_tensor() -> None:
    scalar, empty = torch.zeros(()), torch.zeros(0, 3)
    GaussianNoise().add_to(scalar, 1.0)
    GaussianNoise().add_to(empty, 1.0)
    assert scalar != 0
    assert empty.shape == (0, 3)


def test_a_tensor_with_gaps_is_refused_and_not_half_noised() -> None:
    whole = torch.zeros(6, 8)
    with pytest.raises(RuntimeError):
        GaussianNoise().add_to(whole[:, :5], 1.0)
    assert not whole.any()


@pytest.mark.parametrize("standard_deviation", [0.0, -1.0, 1e-39, 1e39, math.inf, math.nan])
def test_a_wrong_standard_deviation_is_refused_and_nothing_is_changed(standard_deviation: float) -> None:
    values = torch.ones(3)
    with pytest.raises(ValueError, match="expected a standard deviation > 0"):
        GaussianNoise().add_to(values, standard_deviation)
    assert torch.equal(values, torch.ones(3))


def test_leaf_parameters_can_be_noised_without_a_graph() -> None:
    parameter = torch.nn.Parameter(torch.zeros(10))
    GaussianNoise().add_to(parameter, 1.0)
    assert parameter.is_leaf
    assert parameter.abs().min() > 0
