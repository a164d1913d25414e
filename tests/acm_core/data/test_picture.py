"""PNG and JPEG films."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acm_core.data import picture as intake
from acm_core.data.film import decode_film
from acm_core.data.set_aside import FilmSetAside, SetAside

GREY = np.linspace(0, 255, 60 * 40).round().astype(np.uint8).reshape(60, 40)


def stored(image: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def reason_of(content: bytes) -> SetAside:
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(content)
    return verdict.value.reason


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_8_bit_greys_are_taken_as_displayed(mode: str) -> None:
    film = decode_film(stored(Image.fromarray(GREY).convert(mode)))
    assert film.pixels == pytest.approx(GREY / 255, abs=1e-6)
    assert film.header.view is None


def test_a_narrow_range_of_8_bits_is_not_stretched() -> None:
    assert decode_film(stored(Image.fromarray(GREY // 4 + 50))).pixels == pytest.approx(
        (GREY // 4 + 50) / 255
    )


def test_16_bits_are_scaled_by_their_range() -> None:
    values = np.linspace(500, 4500, 2400).round().astype(np.uint16).reshape(60, 40)
    expected = np.clip((values - 520.0) / 3960, 0, 1)
    assert decode_film(stored(Image.fromarray(values))).pixels == pytest.approx(expected, abs=1e-3)


def test_jpeg_in_grey_and_in_three_equal_channels() -> None:
    for mode in ("L", "RGB"):
        film = decode_film(stored(Image.fromarray(GREY).convert(mode), "JPEG", quality=95))
        assert np.abs(film.pixels - GREY / 255).mean() < 0.02


def test_an_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise to display
    film = decode_film(stored(Image.fromarray(GREY), exif=exif))
    assert film.pixels == pytest.approx(np.rot90(GREY, -1) / 255)


def test_colour_is_refused() -> None:
    coloured = np.stack([GREY, GREY, GREY], axis=2)
    coloured[3:6, 4:9] = (200, 20, 20)  # 15 of 2400
    assert reason_of(stored(Image.fromarray(coloured))) is SetAside.COLOUR
    assert reason_of(stored(Image.fromarray(coloured).convert("CMYK"), "JPEG")) is SetAside.COLOUR
    assert reason_of(sixteen_bits(coloured.astype(np.uint16) * 16, 2)) is SetAside.COLOUR


def test_a_coloured_mark_of_a_few_pixels_does_not_make_a_film_colour() -> None:
    marked = np.stack([GREY, GREY, GREY], axis=2)
    marked[3:6, 4:8] = (200, 20, 20)  # 12 of 2400
    film = decode_film(stored(Image.fromarray(marked))).pixels
    expected = GREY / 255
    expected[3:6, 4:8] = round(0.299 * 200 + 0.701 * 20) / 255
    assert film == pytest.approx(expected, abs=1e-6)


def sixteen_bits(pixels: np.ndarray, kind: int, exif: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel; kind: 0 grey, 2 RGB, 4 grey and opacity, 6 RGBA (PNG, 11.2.1)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    size = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    about = chunk(b"eXIf", exif) if exif else b""
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + about + data + chunk(b"IEND", b"")


def channels(grey: np.ndarray, kind: int) -> np.ndarray:
    opaque = np.full_like(grey, 65535)
    return {
        0: grey,
        2: np.stack([grey, grey, grey], axis=2),
        4: np.stack([grey, opaque], axis=2),
        6: np.stack([grey, grey, grey, opaque], axis=2),
    }[kind]


@pytest.mark.parametrize("most", [4095, 65535])
@pytest.mark.parametrize("kind", [2, 4, 6])
def test_16_bits_in_several_channels_keep_their_greys(kind: int, most: int) -> None:
    grey = np.linspace(0, most, 2400).round().astype(np.uint16).reshape(60, 40)
    film = decode_film(sixteen_bits(channels(grey, kind), kind)).pixels
    assert np.array_equal(film, decode_film(sixteen_bits(grey, 0)).pixels)
    assert len(np.unique(film)) > 2300


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [0, 2, 4, 6])
def test_16_bits_are_turned_as_8_bits_are(kind: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode_film(stored(Image.fromarray(GREY), exif=exif)).pixels
    grey = GREY.astype(np.uint16) * 257
    content = sixteen_bits(channels(grey, kind), kind, exif.tobytes().removeprefix(b"Exif\0\0"))
    film = decode_film(content).pixels
    assert film.shape == turned.shape
    assert np.abs(film - turned).max() < 0.02


def test_a_truncated_16_bit_picture_is_unreadable() -> None:
    content = sixteen_bits(channels(GREY.astype(np.uint16) * 16, 2), 2)
    assert reason_of(content[: len(content) - 60]) is SetAside.UNREADABLE


def test_an_animation_is_refused() -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    assert reason_of(stored(frames[0], save_all=True, append_images=frames[1:])) is SetAside.MULTI_FRAME


def test_one_grey_is_blank() -> None:
    assert reason_of(stored(Image.new("L", (40, 60), 77))) is SetAside.BLANK


@pytest.mark.parametrize("side", [6000, 2**15])
def test_a_picture_that_would_fill_the_memory_is_refused_undecoded(side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert side * side > intake.MAX_PIXELS
    assert reason_of(content) is SetAside.TOO_LARGE


def test_a_truncated_picture_is_unreadable() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50), np.uint8))
    for kind in ("PNG", "JPEG"):
        content = stored(noise, kind)
        assert reason_of(content[: len(content) // 2]) is SetAside.UNREADABLE
