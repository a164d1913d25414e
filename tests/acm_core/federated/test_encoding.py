"""What a message carries: exact or within its bound, foreseen by the sender to the bit, and nothing else gets in."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acm_core.arrays import Arrays, fingerprint
from acm_core.federated import encoding as module
from acm_core.federated.encoding import (
    ENCODINGS,
    BaseMismatchError,
    Encoding,
    EncodingError,
    LayoutMismatchError,
    decode,
    encode,
)
from acm_core.federated.update import RefusalReason, first_fault

ROUNDED: tuple[Encoding, ...] = ("float16", "int8")
HEADER = 102  # bytes; the pinned messages below hold it fixed

every = pytest.mark.parametrize("encoding", ENCODINGS)
rounded = pytest.mark.parametrize("encoding", ROUNDED)


def model(rng: np.random.Generator) -> Arrays:
    """The kinds of array that a model has, and some that it might."""
    return {
        "conv.weight": rng.standard_normal((6, 3, 3, 3)).astype(np.float32),
        "norm.weight": rng.standard_normal(6).astype(np.float32),
        "norm.running_var": rng.random(6).astype(np.float32) * np.float32(1e-30),
        "norm.num_batches_tracked": np.array(rng.integers(0, 1000)),
        "head.weight": rng.standard_normal((2, 6)).astype(np.float32),
        "double": rng.standard_normal((2, 2)),
        "half": rng.standard_normal((3, 2)).astype(np.float16),
        "counts": rng.integers(0, 2**63, (2, 3), np.uint64),
        "empty.weight": np.empty((0, 4), np.float32),
        "empty.rows": np.empty((4, 0), np.float32),
    }


def trained(base: Arrays, rng: np.random.Generator, size: float = 1e-3) -> Arrays:
    """A model some steps after `base`."""
    return {
        name: np.asarray(
            array + (size * rng.standard_normal(array.shape) if array.dtype.kind == "f" else 1)
        ).astype(array.dtype)
        for name, array in base.items()
    }


def pair(seed: int = 0) -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(seed)
    base = model(rng)
    return base, trained(base, rng)


def assert_same_bits(left: Arrays, right: Arrays) -> None:
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].shape == right[name].shape, name
        assert left[name].tobytes() == right[name].tobytes(), name


def content(payload: Arrays) -> bytes:
    (array,) = payload.values()
    return array.tobytes()


def payload(data: bytes) -> Arrays:
    return {"encoded": np.frombuffer(data, np.uint8)}


def refusal(data: bytes, reference: Arrays) -> str:
    with pytest.raises(EncodingError) as caught:
        decode(payload(data), reference)
    return str(caught.value)


DTYPES = st.sampled_from([np.float32, np.float32, np.float64, np.float16, np.int64, np.int8, np.uint16])


@st.composite
def bases_and_models(draw: st.DrawFn) -> tuple[Arrays, Arrays]:
    base: Arrays = {}
    arrays: Arrays = {}
    for name in draw(st.lists(st.text(max_size=4), unique=True, max_size=4)):
        dtype = np.dtype(draw(DTYPES))
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        elements = hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False)
        base[name], arrays[name] = (draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(2))
    return base, arrays


@settings(max_examples=200, deadline=None)
@given(bases_and_models())
def test_float32_is_exact_with_and_without_a_base(case: tuple[Arrays, Arrays]) -> None:
    base, arrays = case
    for start in (base, {}):
        encoded = encode(arrays, start, "float32")
        assert_same_bits(encoded.decoded, arrays)
        assert_same_bits(decode(encoded.payload, base), arrays)
        assert encoded.residual == {}


@settings(max_examples=200, deadline=None)
@given(bases_and_models(), st.sampled_from(ROUNDED))
def test_the_sender_foresees_every_bit_or_refuses(case: tuple[Arrays, Arrays], encoding: Encoding) -> None:
    base, arrays = case
    try:
        encoded = encode(arrays, base, encoding)
    except EncodingError as error:
        assert "send float32" in str(error)
        values = (*base.values(), *arrays.values())
        assert any(np.abs(array).max(initial=0) > 1e38 for array in values if array.dtype == np.float32)
        return
    assert_same_bits(decode(encoded.payload, base), encoded.decoded)
    assert list(encoded.decoded) == list(base)


@every
@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-6, 1e-3, 1e3])
def test_a_trained_model_arrives_as_foreseen(encoding: Encoding, size: float) -> None:
    rng = np.random.default_rng(1)
    base = model(rng)
    arrays = trained(base, rng, size)
    encoded = encode(arrays, base, encoding)
    assert_same_bits(decode(encoded.payload, base), encoded.decoded)
    for name in set(arrays) - {"conv.weight", "head.weight"}:  # only large float32 arrays are ever rounded
        assert encoded.decoded[name].tobytes() == arrays[name].tobytes(), name
    if size == 0:
        assert_same_bits(encoded.decoded, arrays)


@every
def test_without_a_base_whole_values_are_exact(encoding: Encoding) -> None:
    base, arrays = pair()
    encoded = encode(arrays, {}, encoding)
    assert_same_bits(decode(encoded.payload, base), arrays)  # the receiver's own model gives the layout only
    assert_same_bits(encoded.decoded, arrays)
    assert encoded.residual == {}


@every
def test_layout_in_memory_and_order_of_names_do_not_matter(encoding: Encoding) -> None:
    base, arrays = pair()
    plain = encode(arrays, base, encoding)
    moved = {name: np.asarray(arrays[name], order="F") for name in reversed(arrays)}
    assert content(encode(moved, base, encoding).payload) == content(plain.payload)
    shuffled = {name: np.asarray(base[name], order="F") for name in reversed(base)}
    assert_same_bits(decode(plain.payload, shuffled), {name: plain.decoded[name] for name in shuffled})


@every
def test_nothing_is_shared_with_what_was_given(encoding: Encoding) -> None:
    base, arrays = pair()
    encoded = encode(arrays, base, encoding)
    decoded = decode(encoded.payload, base)
    for results in (encoded.decoded, decoded):
        for name, result in results.items():
            assert result.flags.writeable, name
            assert not any(np.shares_memory(result, given[name]) for given in (base, arrays)), name


def test_the_bytes_of_a_number_may_lie_either_way() -> None:
    base, _ = pair()
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in base.items()}
    assert fingerprint(swapped) == fingerprint(base)


def test_a_fingerprint_is_of_names_shapes_dtypes_and_bits() -> None:
    base, _ = pair()
    prints = {fingerprint(base)}
    assert fingerprint({name: np.asarray(base[name], order="F") for name in reversed(base)}) in prints
    weight = base["conv.weight"]
    for changed in (
        {name: array for name, array in base.items() if name != "double"},
        {("x" if name == "double" else name): array for name, array in base.items()},
        {**base, "conv.weight": weight.reshape(3, 6, 3, 3)},
        {**base, "conv.weight": weight.view(np.int32)},
        {**base, "conv.weight": np.nextafter(weight, np.float32(9))},
        {**base, "norm.num_batches_tracked": base["norm.num_batches_tracked"] + 1},
        {**base, "zero": np.zeros(1, np.float32)},
        {**base, "zero": -np.zeros(1, np.float32)},
    ):
        assert fingerprint(changed) not in prints
        prints.add(fingerprint(changed))


# How far off, how large, what is carried on


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-6, 1.0, 1e30])
def test_float16_keeps_eleven_bits_of_every_difference(size: float) -> None:
    rng = np.random.default_rng(2)
    wanted = (size * rng.standard_normal((8, 500))).astype(np.float32)
    wanted[3, 7] = 2e8 * size  # far from the others in its channel
    wanted[4, 7] = np.nextafter(2 ** np.ceil(np.log2(np.float32(9 * size))), np.float32(0))  # rounds up
    base = {"w": np.zeros_like(wanted)}  # the sum with a base would round too
    off = np.abs(encode({"w": wanted}, base, "float16").decoded["w"].astype(np.float64) - wanted)
    assert (off <= 2.0**-11 * np.abs(wanted) + 2.0**-39 * np.abs(wanted).max(axis=1, keepdims=True)).all()


@rounded
def test_a_step_is_never_subnormal(encoding: Encoding) -> None:
    """Where a processor flushes such numbers to zero, sender and receiver would compute different models."""
    tiny = np.finfo(np.float32).tiny
    wanted = np.geomspace(1e-42, 1e-36, 300, dtype=np.float32).reshape(100, 3)
    decoded = encode({"w": wanted}, {"w": np.zeros_like(wanted)}, encoding).decoded["w"]
    assert (decoded[decoded != 0] >= tiny).all()
    assert np.abs(decoded - wanted)[wanted < tiny].max() < tiny


def test_int8_is_within_half_a_step_of_the_channels_largest_difference() -> None:
    rng = np.random.default_rng(3)
    size = np.float32(10.0) ** rng.integers(-30, 30, (40, 1)).astype(np.float32)
    wanted = (size * rng.standard_normal((40, 500))).astype(np.float32)
    wanted[0] = size[0]  # all equal
    wanted[1] = 0
    wanted[2, 5] *= np.float32(1e6)
    wanted[3, 5] = np.nextafter(
        2 ** np.ceil(np.log2(9 * size[3, 0])), np.float32(0)
    )  # would round up to 128 steps
    encoded = encode({"w": wanted}, {"w": np.zeros_like(wanted)}, "int8")
    largest = np.abs(wanted).max(axis=1, keepdims=True)
    step = 2.0 ** (np.floor(np.log2(np.where(largest > 0, largest, 1))) - 6)
    off = np.abs(encoded.decoded["w"].astype(np.float64) - wanted)
    assert (off <= np.where(np.abs(wanted) > 127 * step, step, step / 2)).all()
    np.testing.assert_array_equal(encoded.residual["w"], wanted - encoded.decoded["w"])


def test_what_int8_rounds_away_arrives_later() -> None:
    rng = np.random.default_rng(4)
    drift = (1e-4 * rng.standard_normal((4, 50))).astype(np.float32)
    drift[:, 0] = 1.0  # so large that the others are far below half a step: 1/64
    start = {"w": rng.standard_normal((4, 50)).astype(np.float32)}
    with_feedback, without, residual = start, start, {}
    rounds = 400
    for _ in range(rounds):
        encoded = encode({"w": with_feedback["w"] + drift}, with_feedback, "int8", residual)
        with_feedback, residual = encoded.decoded, encoded.residual
        without = encode({"w": without["w"] + drift}, without, "int8").decoded
    small = np.s_[:, 1:]
    wanted = (start["w"] + rounds * drift)[small]
    assert np.abs(with_feedback["w"][small] + residual["w"][small] - wanted).max() < 1e-4  # nothing is lost
    assert np.abs(with_feedback["w"][small] - wanted).max() <= 1 / 128 + 1e-4
    np.testing.assert_array_equal(without["w"][small], start["w"][small])  # what feedback is for


def test_the_residual_is_what_is_still_owed() -> None:
    base, arrays = pair()
    first = encode(arrays, base, "int8")
    assert set(first.residual) == {"conv.weight", "head.weight"}
    later = encode(arrays, base, "int8", first.residual)
    for name, owed in later.residual.items():
        wanted = arrays[name].astype(np.float64) + first.residual[name]
        np.testing.assert_allclose(later.decoded[name] + owed.astype(np.float64), wanted, rtol=0, atol=2e-7)
    assert all(
        (np.abs(owed) < np.abs(arrays[name] - base[name]).max() / 64).all()
        for name, owed in later.residual.items()
    )


@pytest.mark.parametrize(("encoding", "share"), [("float32", 0.9), ("float16", 0.46), ("int8", 0.25)])
def test_a_message_is_small(encoding: Encoding, share: float) -> None:
    rng = np.random.default_rng(5)
    base = {
        "conv.weight": (0.03 * rng.standard_normal((128, 128, 3, 3))).astype(np.float32),
        "norm.weight": np.ones(128, np.float32),
    }
    arrays = trained(base, rng)
    size = sum(array.nbytes for array in arrays.values())
    assert len(content(encode(arrays, base, encoding).payload)) <= share * size


@every
def test_a_model_that_stayed_costs_almost_nothing(encoding: Encoding) -> None:
    base = {"w": np.random.default_rng(6).standard_normal((300, 300)).astype(np.float32)}
    assert len(content(encode(base, base, encoding).payload)) < 300


# What is refused before it is sent


def with_value(value: float) -> Arrays:
    _, arrays = pair()
    arrays["conv.weight"][1, 2, 0, 0] = value
    return arrays


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_sent(encoding: Encoding, value: float) -> None:
    base, arrays = pair()
    with pytest.raises(EncodingError, match=r"conv.weight: expected finite values, got NaN or infinite"):
        encode(with_value(value), base, encoding)
    with pytest.raises(EncodingError, match=r"conv.weight: expected finite values"):
        encode(with_value(value), {}, encoding)
    arrays["norm.weight"][0] = value
    with pytest.raises(EncodingError, match=r"norm.weight: expected finite values"):
        encode(arrays, base, encoding)


@rounded
def test_a_difference_beyond_float32_is_not_sent(encoding: Encoding) -> None:
    high, low = np.full((2, 2), 3e38, np.float32), np.full((2, 2), -3e38, np.float32)
    with pytest.raises(EncodingError, match=f"too large a difference for {encoding}: send float32"):
        encode({"w": high}, {"w": low}, encoding)
    assert_same_bits(decode(encode({"w": high}, {"w": low}, "float32").payload, {"w": low}), {"w": high})


def test_a_value_that_rounding_would_make_infinite_is_not_sent() -> None:
    largest = np.full((2, 2), np.finfo(np.float32).max)
    with pytest.raises(EncodingError, match="too large a value for float16: send float32"):
        encode({"w": largest}, {"w": np.zeros_like(largest)}, "float16")


@every
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"conv.weight": np.zeros((6, 3, 9), np.float32)}, "conv.weight: expected float32 .* as in the base"),
        ({"conv.weight": np.zeros((6, 3, 3, 3))}, "conv.weight: expected float32"),
        ({"extra": np.zeros(1)}, "expected the names of the base, got others: extra"),
    ],
)
def test_a_model_that_is_not_like_its_base_is_not_sent(
    encoding: Encoding, change: dict[str, Any], text: str
) -> None:
    base, arrays = pair()
    with pytest.raises(EncodingError, match=text):
        encode({**arrays, **change}, base, encoding)


@pytest.mark.parametrize("dtype", [object, complex, np.longdouble, bool, ">f4", "U3"])
def test_types_that_no_model_has_are_refused_on_both_sides(dtype: Any) -> None:
    base, arrays = pair()
    odd = {"odd": np.zeros((2, 2), dtype)}
    for start in (odd, {}):
        with pytest.raises(EncodingError, match="odd: expected floats or integers"):
            encode(odd, start, "float32")
    with pytest.raises(EncodingError, match="odd: expected floats or integers"):
        decode(encode(arrays, base, "float32").payload, odd)


@pytest.mark.parametrize(
    ("encoding", "residual", "text"),
    [
        ("float16", {"conv.weight": np.zeros((6, 3, 3, 3), np.float32)}, "that int8 rounds only"),
        ("int8", {"norm.weight": np.zeros(6, np.float32)}, "that int8 rounds only"),
        ("int8", {"other": np.zeros((2, 2), np.float32)}, "that int8 rounds only"),
        ("int8", {"conv.weight": np.zeros((1, 3, 3, 3), np.float32)}, "expected a residual of float32"),
        ("int8", {"conv.weight": np.zeros((6, 3, 3, 3))}, "expected a residual of float32"),
        ("int8", {"conv.weight": np.full((6, 3, 3, 3), np.nan, np.float32)}, "in the residual"),
    ],
)
def test_a_residual_of_something_else_is_refused(encoding: Encoding, residual: Arrays, text: str) -> None:
    base, arrays = pair()
    with pytest.raises(EncodingError, match=text):
        encode(arrays, base, encoding, residual)


@every
def test_a_receiver_that_has_it_already_needs_no_base(encoding: Encoding) -> None:
    base, arrays = pair()
    encoded = encode(arrays, base, encoding)
    again = decode(encoded.payload, encoded.decoded)
    assert_same_bits(again, encoded.decoded)
    assert not any(np.shares_memory(again[name], encoded.decoded[name]) for name in again)


# What is refused when it arrives


@every
def test_a_receiver_without_the_base_says_so(encoding: Encoding) -> None:
    base, arrays = pair()
    encoded = encode(arrays, base, encoding)
    other = {**base, "norm.weight": np.nextafter(base["norm.weight"], np.float32(9))}
    with pytest.raises(BaseMismatchError, match=f"got one to {fingerprint(base)[:12]}: ask for whole values"):
        decode(encoded.payload, other)


@every
@pytest.mark.parametrize("start", ["base", "none"])
def test_a_receiver_of_another_model_says_so(encoding: Encoding, start: str) -> None:
    base, arrays = pair()
    data = content(encode(arrays, base if start == "base" else {}, encoding).payload)
    for other in (
        {**base, "conv.weight": base["conv.weight"].reshape(3, 6, 3, 3)},
        {**base, "extra": np.zeros(0)},
        {("x" if name == "double" else name): array for name, array in base.items()},
        {**base, "counts": base["counts"].view(np.int64)},
        {},
    ):
        with pytest.raises(
            LayoutMismatchError, match="expected a model of the names, shapes and dtypes here"
        ):
            decode(payload(data), other)


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"encoded": b"bytes"},
        {"encoded": None},
        {"encoded": np.zeros(200, np.int8)},
        {"encoded": np.zeros((2, 200), np.uint8)},
        {"encoded": np.zeros(200, object)},
        {"other": np.zeros(200, np.uint8)},
        {"encoded": np.zeros(200, np.uint8), "other": np.zeros(200, np.uint8)},
    ],
)
def test_anything_but_one_array_of_bytes_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(EncodingError, match="expected one array of bytes named 'encoded'"):
        decode(odd, pair()[0])


def test_another_format_is_named() -> None:
    base, arrays = pair()
    data = content(encode(arrays, base, "int8").payload)
    assert "expected an encoded model" in refusal(b"\x93NUM" + data[4:], base)
    assert "got format 2 with 2: install the same release" in refusal(data[:4] + b"\2" + data[5:], base)
    assert "got format 1 with 3" in refusal(data[:5] + b"\3" + data[6:], base)


@every
def test_every_cut_and_every_addition_is_refused(encoding: Encoding) -> None:
    base, arrays = pair()
    data = content(encode(arrays, base, encoding).payload)
    for length in range(len(data)):
        refusal(data[:length], base)
    skippable = struct.pack("<II4s", 0x184D2A50, 4, b"more")
    for extra in (b"\0", skippable, data[HEADER:], data):
        assert "padded" in refusal(data + extra, base)
    refusal(data[:HEADER] + skippable + data[HEADER:], base)


@every
def test_every_flipped_bit_is_refused_or_changes_nothing(encoding: Encoding) -> None:
    base, arrays = pair()
    encoded = encode(arrays, base, encoding)
    data = bytearray(content(encoded.payload))
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        try:
            assert_same_bits(decode(payload(bytes(data)), base), encoded.decoded)
            assert bit // 8 >= HEADER  # a bit that zstd does not read
        except EncodingError:
            pass
        data[bit // 8] ^= 1 << bit % 8


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    refusal(data, pair()[0])


@settings(max_examples=300, deadline=None)
@given(data=st.data(), encoding=st.sampled_from(ENCODINGS))
def test_behind_a_valid_header_any_bytes_are_refused(data: st.DataObject, encoding: Encoding) -> None:
    base, arrays = pair()
    valid = content(encode(arrays, base, encoding).payload)
    size = zstandard.frame_content_size(valid[HEADER:])
    body = data.draw(
        st.one_of(
            st.binary(max_size=400),
            st.binary(max_size=400).map(lambda tail: valid[HEADER : HEADER + 12] + tail),
            hnp.arrays(np.uint8, size).map(lambda values: zstandard.compress(values.tobytes())),
            st.binary(max_size=400).map(zstandard.compress),
        )
    )
    refusal(valid[:HEADER] + body, base)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), encoding=st.sampled_from(ENCODINGS))
def test_a_message_changed_anywhere_is_refused_or_right(data: st.DataObject, encoding: Encoding) -> None:
    base, arrays = pair()
    encoded = encode(arrays, base, encoding)
    valid = content(encoded.payload)
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(valid))] * 2)))
    changed = valid[:start] + data.draw(st.binary(max_size=20)) + valid[end:]
    try:
        decoded = decode(payload(changed), base)
    except EncodingError:
        return
    assert_same_bits(decoded, encoded.decoded)


@every
@pytest.mark.parametrize("name", ["conv.weight", "norm.weight"])
def test_nan_of_a_lying_sender_arrives_for_the_gate_to_name(
    encoding: Encoding, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, arrays = pair()
    arrays[name].flat[0] = np.nan
    with monkeypatch.context() as patch, np.errstate(invalid="ignore"):
        patch.setattr(module, "_check_finite", lambda *_: None)
        forged = encode(arrays, base, encoding)
    if np.isfinite(forged.decoded[name]).all():
        assert encoding == "int8"  # which has no step for it
        return
    fault = first_fault(decode(forged.payload, base), base)
    assert fault is not None
    assert fault[0] is RefusalReason.NOT_FINITE
    assert fault[1].startswith(f"{name}: expected finite values")


BOMBS = r"""
import resource, struct, sys
import numpy as np, zstandard
from acm_core.federated.encoding import EncodingError, decode, encode

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def bomb(size, said=True, window=19):
    settings = zstandard.ZstdCompressionParameters(
        compression_level=1, window_log=window, write_content_size=said
    )
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj(size if said else -1)
    return b"".join(compressor.compress(bytes(2**20)) for _ in range(size >> 20)) + compressor.flush()

model = {"w": np.zeros((512, 512), np.float32)}
header = encode(model, {}, "float32").payload["encoded"][:102].tobytes()
gibibyte = bomb(2**30, window=17)
at = 6  # magic, descriptor, window, then the size in 4 bytes
assert gibibyte[at : at + 4] == struct.pack("<I", 2**30)
lying = gibibyte[:at] + struct.pack("<I", 2**20) + gibibyte[at + 4 :]
wide = lying[: at - 1] + bytes([(27 - 10) << 3]) + lying[at:]  # asks for a window of 128 MiB, the most that zstd grants
frames = {
    "said": gibibyte, "unsaid": bomb(2**30, said=False, window=17), "lying": lying, "wide": wide, "cut": wide[:3000]
}
before = peak()
for name, frame in frames.items():
    try:
        decode({"encoded": np.frombuffer(header + frame, np.uint8)}, model)
    except EncodingError as error:
        print(name, (peak() - before) >> 20, error, sep="|")
"""


def test_a_bomb_takes_no_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOMBS], capture_output=True, text=True, check=True, timeout=60
    )
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["said", "unsaid", "lying", "wide", "cut"]
    assert max(int(row[1]) for row in rows) <= 16  # MiB
    assert rows[0][2] == "expected 1048576 bytes after decompression, got a frame of 1073741824"


# What every release and every machine has to agree on

PINNED: dict[Encoding, str] = {
    "float32": (
        "QUNNRgEAVqcn6ZLbPHrIsFr+D24yQfafriGU4NS/oty8y0beo8hVte+yzCqDxFnX+p9pgQMcoAt1fVbpGu0vJzinmQFa46G0"
        "2DdUg9d+MHK4RUpjnlfN/2K/Ze8CHlIatJJGPEJDKLUv/SBEIQIAwABoNwBmAAAmAAAAAgAAAAAAAAAhRGOyAAAAALrodP8A"
        "AADoAAAAAOii0f8AAACiAAAAAKILRX8AAAD8AAAAAAECAv4="
    ),
    "float16": (
        "QUNNRgEBVqcn6ZLbPHrIsFr+D24yQfafriGU4NS/oty8y0beo8hVte+yzCqDxFnX+p9pgQMcoAt1fVbpGu0vJzinmQFa46G0"
        "2DdUg9d+MHK4RUpjnlfN/2K/Ze8CHlIatJJGPEJDKLUv/SAvVQEAFALAAGg3AGYAACYAAAACAPHx9EBAQAAorC50AAAAAGxw"
        "cvQCAIAYA1AC"
    ),
    "int8": (
        "QUNNRgECVqcn6ZLbPHrIsFr+D24yQfafriGU4NS/oty8y0beo8hVte+yzCqDxFnX+p9pgQMcoAt1fVbpGu0vJzinmQFa42ou"
        "nHobV8ruhbjGizi48ZFv2ujUV9kDVddazCVks7OjKLUv/SAjGQEAwABoNwBmAAAmAAAAAgAAAAAAAAD5+fwAAABAAAAAABAg"
        "MMA="
    ),
}


def pinned() -> tuple[Arrays, Arrays]:
    base = {
        "w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "b": np.array([1e-40, -0.0, 3.0], np.float32),
        "n": np.array(7),
    }
    step = np.array([[1e-6, -2e-6, 3e-6, 5e-1], [0, 0, 0, 0], [1, 2, 3, -4]], np.float32)
    return base, {"w": base["w"] + step, "b": base["b"] * np.float32(1.1), "n": np.array(8)}


@every
def test_a_message_of_this_format_is_read_for_ever(encoding: Encoding) -> None:
    base, arrays = pinned()
    decoded = decode(payload(base64.b64decode(PINNED[encoding])), base)
    assert_same_bits(decoded, encode(arrays, base, encoding).decoded)
    assert_same_bits(decode(encode(arrays, base, encoding).payload, base), decoded)
