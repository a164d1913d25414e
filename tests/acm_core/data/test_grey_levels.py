"""Stored values become the grey that PS3.3 C.11 prescribes, computed here value by value from the standard's text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from acm_core.data.film import decode_film
from acm_core.data.grey_levels import (
    _modality_values,
    _padding,
    _values_of_interest,
    _without_voi,
    displayed_grey,
    scaled_by_range,
)
from acm_core.data.set_aside import FilmSetAside, SetAside


def window(function: str, centre: float, width: float, x: float) -> float:
    """C.11.2.1.2.1 (LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT) with the output range 0 to 1."""
    if function == "SIGMOID":
        return 1 / (1 + math.exp(-4 * (x - centre) / width))
    if function == "LINEAR":
        if x <= centre - 0.5 - (width - 1) / 2:
            return 0
        if x > centre - 0.5 + (width - 1) / 2:
            return 1
        return (x - (centre - 0.5)) / (width - 1) + 0.5
    if x <= centre - width / 2:
        return 0
    if x > centre + width / 2:
        return 1
    return (x - centre) / width + 0.5


def header(**attributes: Any) -> Dataset:
    film = Dataset()
    film.PhotometricInterpretation = "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.PixelRepresentation = 16, 16, 0
    for keyword, value in attributes.items():
        setattr(film, keyword, value)
    return film


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@settings(max_examples=15, deadline=None)
@given(
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    centre=st.integers(-500, 3000),
    width=st.integers(1, 5000),
    slope=st.sampled_from([0.25, 1.0, -2.0]),
    intercept=st.sampled_from([-1024.0, 0.0]),
)
def test_every_window_is_the_standards_formula(
    photometric: str, function: str, centre: int, width: int, slope: float, intercept: float
) -> None:
    stored = np.arange(0, 2048, 7, dtype=np.uint16)[None]
    film = header(
        PhotometricInterpretation=photometric,
        WindowCenter=str(centre),
        WindowWidth=str(width),
        VOILUTFunction=function,
        RescaleSlope=str(slope),
        RescaleIntercept=str(intercept),
    )
    expected = np.array(
        [
            window(function, centre, width, min(max(slope * x + intercept, -1e5), 1e5))
            for x in stored[0].tolist()
        ]
        if function != "SIGMOID"
        else [0.5 * (1 + math.tanh(2 * (slope * x + intercept - centre) / width)) for x in stored[0].tolist()]
    )
    if photometric == "MONOCHROME1":
        expected = 1 - expected
    assert displayed_grey(stored, film)[0] == pytest.approx(expected, abs=1e-5)


def test_a_sigmoid_window_is_a_sigmoid() -> None:
    stored = np.arange(900, 1101, dtype=np.uint16)[None]
    film = header(WindowCenter="1000", WindowWidth="80", VOILUTFunction="SIGMOID")
    expected = [window("SIGMOID", 1000, 80, x) for x in stored[0].tolist()]
    assert displayed_grey(stored, film)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("says", "same_as"),
    [
        ({"WindowCenter": ["1000", "9"], "WindowWidth": ["500", "9"]}, ("LINEAR", 1000, 500)),
        ({"WindowCenter": "1000", "WindowWidth": "500", "VOILUTFunction": ""}, ("LINEAR", 1000, 500)),
        ({"WindowCenter": "1000", "WindowWidth": "1"}, ("LINEAR", 1000, 1)),
    ],
    ids=["several windows", "no function", "a step"],
)
def test_the_first_window_counts(says: dict[str, Any], same_as: tuple[str, float, float]) -> None:
    stored = np.arange(0, 2048, dtype=np.uint16)[None]
    expected = [window(*same_as, x) for x in stored[0].tolist()]
    assert displayed_grey(stored, header(**says))[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "says",
    [
        {"WindowCenter": "1000", "WindowWidth": "0"},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": "1000"},
        {"WindowCenter": "1000", "WindowWidth": "0.5"},
        {"WindowCenter": "1000", "WindowWidth": "500", "VOILUTFunction": "GAMMA"},
    ],
)
def test_a_window_that_says_nothing_leaves_the_range_of_the_pixels(says: dict[str, Any]) -> None:
    stored = np.arange(0, 2001, dtype=np.uint16)[None]
    grey = displayed_grey(stored, header(**says))[0]
    assert grey == pytest.approx(np.clip((np.arange(2001) - 10) / 1980, 0, 1), abs=1e-5)


def test_linear_exact_takes_widths_below_one() -> None:
    film = header(
        WindowCenter="0.5",
        WindowWidth="0.5",
        VOILUTFunction="LINEAR_EXACT",
        RescaleSlope="0.1",
        RescaleIntercept="0",
    )
    grey = displayed_grey(np.arange(11, dtype=np.uint16)[None], film)[0]
    assert grey == pytest.approx([0, 0, 0, 0.1, 0.3, 0.5, 0.7, 0.9, 1, 1, 1], abs=1e-5)


@pytest.mark.parametrize("first", [0, 100, -50])
def test_a_voi_table_is_indexed_from_its_first_value_and_held_beyond(
    lut: Callable[..., Dataset], first: int
) -> None:
    entries = (np.sqrt(np.arange(300) / 299) * 4095).round().astype(np.uint16)
    stored = np.arange(-100, 500, dtype=np.int16)[None]
    film = header(PixelRepresentation=1, VOILUTSequence=[lut(entries, first, 12), lut(entries[::-1], 0, 12)])
    film.WindowCenter, film.WindowWidth = "0", "2"  # an alternative view, not a second step
    film.set_original_encoding(False, True)
    expected = [entries[min(max(x - first, 0), 299)] / 4095 for x in stored[0].tolist()]
    assert displayed_grey(stored, film)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("storage", ["a word each", "packed bytes", "packed words"])
def test_tables_of_8_bits_in_every_way_they_are_stored(storage: str) -> None:
    entries = (np.arange(256) ** 2 // 255).astype(np.uint8)
    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    if storage == "packed words":
        item.add_new("LUTData", "US", entries.view("<u2").tolist())
    else:
        item.add_new("LUTData", "OW", entries.astype("<u2" if storage == "a word each" else "u1").tobytes())
    film = header(VOILUTSequence=[item])
    film.set_original_encoding(False, True)
    stored = np.array([[0, 1, 100, 255, 256, 700]], np.uint16)
    assert displayed_grey(stored, film)[0] == pytest.approx(
        entries[[0, 1, 100, 255, 255, 255]] / 255, abs=1e-6
    )


@pytest.mark.parametrize(
    ("declared", "largest", "white"),
    [
        (12, 4095, 4095),
        (12, 3000, 4095),  # a table may leave the brightest greys unused
        (12, 2048, 4095),
        (16, 4095, 4095),  # 12 bits in a table that declares 16
        (14, 1023, 1023),
        (16, 5000, 5000),
        (8, 4095, 4095),  # 12 bits in a table that declares 8
        (12, 65535, 65535),
        (0, 1023, 1023),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_table_that_does_not_use_the_declared_bits_is_shown_over_its_own(
    lut: Callable[..., Dataset], declared: int, largest: int, white: int, photometric: str
) -> None:
    entries = np.linspace(0, largest, 4096).round().astype(np.uint16)
    film = header(PhotometricInterpretation=photometric, VOILUTSequence=[lut(entries, 0, declared)])
    film.set_original_encoding(False, True)
    grey = displayed_grey(np.arange(4096, dtype=np.uint16)[None], film)[0]
    expected = entries / white
    assert grey == pytest.approx(1 - expected if photometric == "MONOCHROME1" else expected, abs=1e-5)


def test_a_modality_table_comes_before_the_window(lut: Callable[..., Dataset]) -> None:
    entries = np.arange(4095, -1, -1).astype(np.uint16)
    film = header(ModalityLUTSequence=[lut(entries, 0, 16)], WindowCenter="3000", WindowWidth="1001")
    film.set_original_encoding(False, True)
    film.RescaleSlope, film.RescaleIntercept = "7", "7"  # C.11.1: a table and a rescale exclude each other
    stored = np.arange(0, 4096, 5, dtype=np.uint16)[None]
    expected = [window("LINEAR", 3000, 1001, 4095 - x) for x in stored[0].tolist()]
    assert displayed_grey(stored, film)[0] == pytest.approx(expected, abs=1e-5)


def test_a_table_shorter_than_it_says_is_refused(
    dicom: Callable[..., bytes], lut: Callable[..., Dataset]
) -> None:
    item = lut(np.arange(100), 0, 12)
    item.LUTDescriptor = [4096, 0, 12]
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(dicom(np.arange(64, dtype=np.uint16).reshape(8, 8), VOILUTSequence=[item]))
    assert verdict.value.reason is SetAside.UNREADABLE


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("padding", "padded"),
    [
        ({"PixelPaddingValue": 4000}, [4000]),
        ({"PixelPaddingValue": 3999, "PixelPaddingRangeLimit": 4001}, [3999, 4000, 4001]),
        ({"PixelPaddingValue": 4001, "PixelPaddingRangeLimit": 3999}, [3999, 4000, 4001]),
    ],
)
def test_padding_is_black_and_outside_the_range(
    photometric: str, padding: dict[str, int], padded: list[int]
) -> None:
    film = np.linspace(100, 300, 400).round().astype(np.uint16).reshape(20, 20)
    stored = film.copy()
    stored[:, :3] = np.resize(padded, (20, 3))
    grey = displayed_grey(stored, header(PhotometricInterpretation=photometric, BitsStored=12, **padding))
    alone = displayed_grey(film[:, 3:], header(PhotometricInterpretation=photometric, BitsStored=12))
    assert (grey[:, :3] == 0).all()
    assert np.array_equal(grey[:, 3:], alone)


def test_padding_written_with_the_wrong_sign() -> None:
    stored = np.array([[-2000, 0, 500, 1000]], np.int16)
    grey = displayed_grey(stored, header(PixelRepresentation=1, PixelPaddingValue=63536))
    assert grey[0, 0] == 0
    assert grey[0, 2] == pytest.approx(0.5, abs=0.01)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    st.floats(0.5, 8, width=32),
    st.integers(-1000, 1000),
)
def test_scaling_forgets_gain_and_offset(values: list[float], gain: float, offset: int) -> None:
    film = np.array([values], np.float32).round()
    scaled = scaled_by_range(film)
    assert ((scaled >= 0) & (scaled <= 1)).all()
    assert (np.diff(scaled[0][np.argsort(film[0])]) >= 0).all()
    again = scaled_by_range(film * np.float32(gain) + np.float32(offset))
    spread = float(np.ptp(film))
    assert np.abs(again - scaled).max() <= 1e-6 + (8.0 / spread if spread else 0)


@given(
    dtype=st.sampled_from(["u1", "i2", "u2", "f4", "u4"]),
    seed=st.integers(0, 2**32 - 1),
    side=st.integers(1, 40),
    spread=st.integers(1, 120),
)
def test_the_range_is_that_of_numpys_percentiles(dtype: str, seed: int, side: int, spread: int) -> None:
    rng = np.random.default_rng(seed)
    film = np.abs(rng.normal(60, spread / 3, (side, side)).round()).clip(0, 120).astype(dtype)
    low, high = np.percentile(film.astype(np.float64), (0.5, 99.5))
    if low == high:
        low, high = film.min(), film.max()
    expected = (
        np.clip((film.astype(np.float64) - low) / (high - low), 0, 1) if low < high else np.zeros(film.shape)
    )
    assert np.abs(scaled_by_range(film) - expected).max() < 1e-6


def test_one_dead_pixel_does_not_decide_the_contrast() -> None:
    film = np.linspace(0, 1000, 10_000, dtype=np.float32).reshape(100, 100)
    dead = film.copy()
    dead[0, 0], dead[50, 50] = 65535, -65535
    change = np.abs(scaled_by_range(dead) - scaled_by_range(film))
    change[0, 0] = change[50, 50] = 0
    assert change.max() < 0.001


def test_a_small_object_on_an_even_ground_is_seen() -> None:
    film = np.zeros((100, 100), np.float32)
    film[40:43, 40:43] = 5
    scaled = scaled_by_range(film)
    assert scaled[41, 41] == 1
    assert scaled[0, 0] == 0


@st.composite
def headers(draw: st.DrawFn) -> dict[str, Any]:
    """What a header may say on the way from stored values to grey; tables as arguments of `lut`."""
    says: dict[str, Any] = {
        "PhotometricInterpretation": draw(st.sampled_from(["MONOCHROME1", "MONOCHROME2"]))
    }
    if draw(st.booleans()):
        says |= {
            "RescaleSlope": str(draw(st.sampled_from([0.25, 1.0, -2.0, 3.7]))),
            "RescaleIntercept": str(draw(st.integers(-2000, 2000))),
        }
    if draw(st.booleans()):
        says |= {
            "WindowCenter": str(draw(st.integers(-500, 5000))),
            "WindowWidth": str(draw(st.integers(0, 6000))),
            "VOILUTFunction": draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID", ""])),
        }
    for sequence in ("ModalityLUTSequence", "VOILUTSequence"):
        if draw(st.integers(0, 4)) == 0:
            entries = np.array(draw(st.lists(st.integers(0, 4095), min_size=2, max_size=300)), np.uint16)
            says[sequence] = (entries, draw(st.integers(0, 50)), 12)
    if draw(st.booleans()):
        says["PixelPaddingValue"] = draw(st.integers(0, 4095))
    return says


@settings(max_examples=150, deadline=None)
@given(
    says=headers(),
    dtype=st.sampled_from(["u1", "u2", "i2"]),
    seed=st.integers(0, 2**32 - 1),
    spread=st.integers(0, 1500),
)
def test_a_table_of_the_values_gives_what_each_pixel_alone_gives(
    lut: Callable[..., Dataset], says: dict[str, Any], dtype: str, seed: int, spread: int
) -> None:
    says = {name: [lut(*value)] if name.endswith("Sequence") else value for name, value in says.items()}
    stored = np.random.default_rng(seed).normal(900, spread, (23, 17)).round()
    stored = stored.clip(0, 255 if dtype == "u1" else 4095).astype(dtype)
    film = header(BitsAllocated=8 * stored.itemsize, BitsStored=8 if dtype == "u1" else 12, **says)
    film.PixelRepresentation = int(dtype == "i2")
    film.set_original_encoding(False, True)
    padding = _padding(stored, film).ravel()
    values = _modality_values(stored.ravel(), film)
    expected = _values_of_interest(values, film)
    if expected is None:
        expected = _without_voi(values, (~padding).astype(np.int64), film)
    if film.PhotometricInterpretation == "MONOCHROME1":
        expected = 1 - expected
    expected[padding] = 0
    assert np.abs(displayed_grey(stored, film).ravel() - expected).max() <= 1e-6
