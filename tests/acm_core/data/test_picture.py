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
    coloured[3, 4] = (200, 20, 20)
    assert reason_of(stored(Image.fromarray(coloured))) is SetAside.COLOUR
    assert reason_of(stored(Image.fromarray(coloured).convert("CMYK"), "JPEG")) is SetAside.COLOUR


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
