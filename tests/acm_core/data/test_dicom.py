"""DICOM films in every encoding a site may hold, and files that break or overwhelm naive readers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import with_texts
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from acm_core.data import dicom as intake
from acm_core.data.film import decode_film
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.randomness import stream
from simulations.phantoms.anatomy import draw_anatomy
from simulations.phantoms.dicom import FilmIdentity, build_dicom, phantom_uid
from simulations.phantoms.exposure import expose
from simulations.phantoms.film import draw_film
from simulations.phantoms.geometry import draw_positioning
from simulations.phantoms.scanner import SCANNERS

WINDOW: dict[str, Any] = {"WindowCenter": "2048", "WindowWidth": "4096", "BitsStored": 12}


def shown(ramp: np.ndarray) -> np.ndarray:
    """C.11.2.1.2.1 with centre 2048 and width 4096."""
    return np.clip((ramp - 2047.5) / 4095 + 0.5, 0, 1)


def reason_of(content: bytes) -> SetAside:
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(content)
    return verdict.value.reason


def edited(content: bytes, change: Callable[[pydicom.Dataset], object]) -> bytes:
    film = pydicom.dcmread(io.BytesIO(content))
    change(film)
    buffer = io.BytesIO()
    film.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_every_encoding_shows_the_same_film_and_never_transposed(
    dicom: Callable[..., bytes], ramp: np.ndarray, syntax: str
) -> None:
    film = decode_film(dicom(ramp, syntax=syntax, **WINDOW))
    assert film.pixels.dtype == np.float32
    assert film.pixels == pytest.approx(shown(ramp), abs=1e-6)


def test_monochrome1_is_shown_inverted(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    film = decode_film(dicom(ramp, PhotometricInterpretation="MONOCHROME1", **WINDOW))
    assert film.pixels == pytest.approx(1 - shown(ramp), abs=1e-6)


def test_signed_pixels_with_rescale(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    signed = (ramp.astype(np.int16) - 2048).astype(np.int16)
    film = decode_film(
        dicom(signed, RescaleSlope="2", RescaleIntercept="4096", WindowCenter="4096", WindowWidth="8192")
    )
    assert film.pixels == pytest.approx(np.clip((2.0 * ramp - 4095.5) / 8191 + 0.5, 0, 1), abs=1e-6)


def test_overlay_bits_above_the_pixels_are_no_grey(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    with_overlay = ramp.copy()
    with_overlay[::3] |= 0xF000  # PS3.5 8.1.1: bits beyond Bits Stored are not part of the pixel
    assert decode_film(dicom(with_overlay, **WINDOW)).pixels == pytest.approx(shown(ramp), abs=1e-6)


def test_padding_beyond_the_stored_bits(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    """-2000 as unsigned 16 bits in a film of 12: the decoder reduces the pixels, and so must the comparison."""
    padded = ramp.copy()
    padded[:, :5] = 63536
    pixels = decode_film(dicom(padded, PixelPaddingValue=63536, **WINDOW)).pixels
    assert (pixels[:, :5] == 0).all()
    rest = np.where(ramp == 63536 % 4096, 0, shown(ramp))
    assert pixels[:, 5:] == pytest.approx(rest[:, 5:], abs=1e-6)


def test_a_file_without_preamble_and_meta(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    film = pydicom.dcmread(io.BytesIO(dicom(ramp, **WINDOW)))
    del film.file_meta
    for implicit in (True, False):
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, film, implicit_vr=implicit, little_endian=True, overwrite=True)
        bare = buffer.getvalue()[132:] if buffer.getvalue()[128:132] == b"DICM" else buffer.getvalue()
        assert bare[:2] == b"\x08\x00"
        assert decode_film(bare).pixels == pytest.approx(shown(ramp), abs=1e-6)


def test_pixels_followed_by_padding_are_read(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    content = dicom(ramp, PixelData=ramp.tobytes() + b"\0\0", **WINDOW)
    assert decode_film(content).pixels == pytest.approx(shown(ramp), abs=1e-6)


@pytest.mark.parametrize(
    ("syntax", "wrapped"), [(JPEG2000Lossless, "J2K"), (JPEG2000Lossless, "JP2"), (JPEGBaseline8Bit, "JPEG")]
)
def test_compressed_films_decode_and_truncated_ones_are_set_aside(
    dicom: Callable[..., bytes], ramp: np.ndarray, syntax: str, wrapped: str
) -> None:
    grey = (ramp // 16).astype(np.uint8)
    frame = io.BytesIO()
    if wrapped == "JPEG":
        Image.fromarray(grey).save(frame, "JPEG", quality=95)
    else:
        Image.fromarray(grey).save(frame, "JPEG2000", no_jp2=wrapped == "J2K", irreversible=False)

    def film(code: bytes) -> bytes:
        def change(header: pydicom.Dataset) -> None:
            header.file_meta.TransferSyntaxUID = syntax
            header.PixelData = encapsulate([code])
            header["PixelData"].VR = "OB"

        return edited(dicom(grey, WindowCenter="128", WindowWidth="256"), change)

    whole = film(frame.getvalue())
    assert decode_film(whole).pixels == pytest.approx(grey / 255, abs=0.03)
    assert reason_of(film(frame.getvalue()[: len(frame.getvalue()) // 2])) is SetAside.UNREADABLE
    assert reason_of(whole[:-100]) is SetAside.UNREADABLE
    # A code stream of another size than the header's: the decoder would follow the stream.
    assert reason_of(edited(whole, lambda header: setattr(header, "Rows", 40))) is SetAside.UNREADABLE


def test_a_code_stream_larger_than_its_header_says_reaches_no_decoder(
    monkeypatch: pytest.MonkeyPatch, dicom: Callable[..., bytes], ramp: np.ndarray
) -> None:
    size = struct.pack(">HHIIII", 41, 0, 30_000, 30_000, 0, 0) + bytes(16) + struct.pack(">H", 1)
    frame = b"\xff\x4f\xff\x51" + size + b"\x07\x01\x01" + bytes(60)

    def change(header: pydicom.Dataset) -> None:
        header.file_meta.TransferSyntaxUID = JPEG2000Lossless
        header.PixelData = encapsulate([frame])
        header["PixelData"].VR = "OB"

    content = edited(dicom(ramp), change)
    decoded: list[pydicom.Dataset] = []
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(decoded.append))
    assert reason_of(content) is SetAside.UNREADABLE
    assert decoded == []


def test_truncated_pixels_are_set_aside(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    content = dicom(ramp)
    for length in (len(content) - 2, len(content) // 2, len(content) - ramp.nbytes + 2):
        assert reason_of(content[:length]) is SetAside.UNREADABLE
    assert reason_of(dicom(ramp, syntax=RLELossless)[:-40]) is SetAside.UNREADABLE


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (SetAside.TOO_LARGE, {"Rows": 65535, "Columns": 65535}),
        (SetAside.UNREADABLE, {"Rows": 800}),
        (SetAside.UNREADABLE, {"Rows": 0}),
        (SetAside.INCOMPLETE_HEADER, {"Rows": None}),
        (SetAside.INCOMPLETE_HEADER, {"BitsStored": None, "HighBit": 11}),
        (SetAside.UNREADABLE, {"BitsAllocated": 12}),
        (SetAside.UNREADABLE, {"BitsAllocated": 64, "BitsStored": 64}),
        (SetAside.CONTRADICTION, {"BitsStored": 0, "HighBit": 0}),
        (SetAside.CONTRADICTION, {"BitsStored": 10, "HighBit": 9}),  # its greys need 12
        (SetAside.CONTRADICTION, {"PixelAspectRatio": [1, 7]}),
        (SetAside.UNREADABLE, {"RescaleSlope": "1e39", "RescaleIntercept": "0"}),
    ],
)
def test_headers_that_lie_about_the_pixels(
    dicom: Callable[..., bytes], ramp: np.ndarray, reason: SetAside, says: dict[str, Any]
) -> None:
    assert reason_of(dicom(ramp, **says)) is reason


@pytest.mark.parametrize("gone", ["SamplesPerPixel", "PixelRepresentation", "HighBit"])
def test_what_the_pixels_leave_no_doubt_of_may_be_missing(
    dicom: Callable[..., bytes], ramp: np.ndarray, gone: str
) -> None:
    content = dicom(ramp, **{**WINDOW, gone: None})
    assert decode_film(content).pixels == pytest.approx(shown(ramp), abs=1e-6)


@pytest.mark.parametrize("whole", [True, False])
def test_an_icon_is_not_the_film(dicom: Callable[..., bytes], ramp: np.ndarray, whole: bool) -> None:
    """A DICOMDIR and a header alone have icons with Pixel Data of their own (C.7.6.1.1.6): nothing has broken off."""
    icon = pydicom.Dataset()
    icon.Rows, icon.Columns, icon.BitsAllocated, icon.PixelData = 2, 2, 8, b"1234"
    content = dicom(ramp, IconImageSequence=[icon], **WINDOW)
    if whole:
        assert decode_film(content).pixels == pytest.approx(shown(ramp), abs=1e-6)
    else:
        assert reason_of(dicom(ramp, IconImageSequence=[icon], PixelData=None)) is SetAside.NO_PIXELS
        cut_off = dicom(ramp, IconImageSequence=[icon], syntax=RLELossless)[:-40]
        assert reason_of(cut_off) is SetAside.UNREADABLE


@pytest.mark.parametrize(
    "syntax", ["1.2.840.113845.1.2.1", "1.2.840.113619.5.2", "1.3.46.670589.33.1.4.1", "1.2.840.10008.1.9"]
)
def test_a_private_transfer_syntax_has_no_decoder(
    dicom: Callable[..., bytes], ramp: np.ndarray, syntax: str
) -> None:
    content = dicom(ramp, **WINDOW)
    old, new = ExplicitVRLittleEndian.encode() + b"\0", syntax.encode() + b"\0" * (len(syntax) % 2)
    content = content.replace(struct.pack("<H", len(old)) + old, struct.pack("<H", len(new)) + new, 1)
    length = struct.unpack("<I", content[140:144])[0] + len(new) - len(old)
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(content[:140] + struct.pack("<I", length) + content[144:])
    assert verdict.value.reason is SetAside.NO_DECODER
    assert str(verdict.value.value).startswith(syntax)


@pytest.mark.parametrize(
    ("texts", "same_as"),
    [
        (
            {"RescaleSlope": "1,0", "RescaleIntercept": "0,0"},
            {"WindowCenter": "2048", "WindowWidth": "4096"},
        ),
        (
            {"WindowCenter": "2047,5", "WindowWidth": "1000,0"},
            {"WindowCenter": "2047.5", "WindowWidth": "1000"},
        ),
        (
            {"WindowCenter": "2047,5\\10,5", "WindowWidth": "1e3\\7"},
            {"WindowCenter": "2047.5", "WindowWidth": "1000"},
        ),
        (
            {"PixelSpacing": "0,1\\0,2"},
            {"WindowCenter": "2048", "WindowWidth": "4096", "PixelSpacing": ["0.1", "0.2"]},
        ),
    ],
)
def test_a_decimal_comma_is_a_decimal_point(
    dicom: Callable[..., bytes], ramp: np.ndarray, texts: dict[str, str], same_as: dict[str, Any]
) -> None:
    window = {name: value for name, value in same_as.items() if name not in texts}
    film = decode_film(with_texts(dicom(ramp, BitsStored=12, **window), **texts))
    expected = decode_film(dicom(ramp, BitsStored=12, **same_as))
    assert np.array_equal(film.pixels, expected.pixels)


def test_a_window_with_decimal_commas_is_the_standards_ramp(
    dicom: Callable[..., bytes], ramp: np.ndarray
) -> None:
    """PS3.3 C.11.2.1.2.1 by hand: a narrow window leaves one pixel in four grey, the others black or white."""
    film = decode_film(with_texts(dicom(ramp, BitsStored=12), WindowCenter="2047,5", WindowWidth="1000,0"))
    by_hand = np.clip((ramp - (2047.5 - 0.5)) / (1000 - 1) + 0.5, 0, 1)
    assert film.pixels == pytest.approx(by_hand, abs=1e-6)
    assert np.mean((film.pixels > 0) & (film.pixels < 1)) == pytest.approx(999 / 4096, abs=0.001)


@pytest.mark.parametrize(
    "texts",
    [
        {"NumberOfFrames": "one"},
        {"RescaleSlope": "one"},
        {"RescaleIntercept": "1.000,5"},
        {"WindowCenter": "mid", "WindowWidth": "9"},
    ],
)
def test_a_text_in_the_place_of_a_number_is_told(
    dicom: Callable[..., bytes], ramp: np.ndarray, texts: dict[str, str]
) -> None:
    with pytest.raises(FilmSetAside) as verdict:
        decode_film(with_texts(dicom(ramp, BitsStored=12), **texts))
    assert (verdict.value.reason, verdict.value.value) == (SetAside.BAD_NUMBER, next(iter(texts)))


def test_a_film_of_one_grey_is_blank(dicom: Callable[..., bytes]) -> None:
    assert reason_of(dicom(np.full((40, 40), 700, np.uint16))) is SetAside.BLANK


def deflated_bomb(meta_bytes: int, preamble: bool, inflated: int) -> bytes:
    """A deflated data set of `inflated` zero bytes behind meta information of at least `meta_bytes`."""
    syntax = DeflatedExplicitVRLittleEndian.encode()
    private = b"\x02\x00\x00\x01OB\x00\x00" + struct.pack("<I", meta_bytes) + bytes(meta_bytes)
    element = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(syntax)) + syntax
    meta = private if meta_bytes else b""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"".join(compressor.compress(bytes(2**20)) for _ in range(inflated >> 20)) + compressor.flush()
    head = bytes(128) + b"DICM" if preamble else b""
    group = b"\x02\x00\x00\x00UL\x04\x00" + struct.pack("<I", len(meta) + len(element))
    return head + group + meta + element + packed


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize("meta_bytes", [0, 6000])
def test_a_deflated_bomb_is_not_inflated(
    monkeypatch: pytest.MonkeyPatch, preamble: bool, meta_bytes: int
) -> None:
    def inflated(*_: object, **__: object) -> bytes:
        raise AssertionError("pydicom inflated the whole data set")

    monkeypatch.setattr(intake, "MAX_INFLATED_BYTES", 2**20)
    monkeypatch.setattr(zlib, "decompress", inflated)
    assert reason_of(deflated_bomb(meta_bytes, preamble, 2**23)) is SetAside.TOO_LARGE


def test_the_deflated_syntax_may_be_mentioned(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    content = dicom(ramp, StudyDescription=f"CHEST {DeflatedExplicitVRLittleEndian}", **WINDOW)
    assert decode_film(content).pixels == pytest.approx(shown(ramp), abs=1e-6)


def test_scanners_read_alike() -> None:
    """The same anatomy exposed once, written as five machines write it: 2 % of the range at most between any two."""
    anatomy = draw_anatomy(stream(5, "anatomy"), "F")
    positioning = draw_positioning(stream(5, "positioning"), "PA")
    plain = SCANNERS["dx_mono2_14bit_window"].model_copy(update={"marker": "none", "film_size": (43.0, 43.0)})
    exposure = expose(
        draw_film(anatomy, positioning, (), plain.canvas(128), stream(5, "texture")).image,
        plain,
        stream(5, "expose"),
    )
    films = {}
    for name, scanner in SCANNERS.items():
        uids = [phantom_uid(name, part) for part in ("study", "series", "instance")]
        identity = FilmIdentity("P-1", "Phantom^P1", "F", 40, "PA", *uids, 1)
        buffer = io.BytesIO()
        machine = scanner.model_copy(update={"film_size": (43.0, 43.0)})
        build_dicom(exposure, machine, identity).save_as(buffer, enforce_file_format=True)
        films[name] = decode_film(buffer.getvalue()).pixels
    for name, pixels in films.items():
        assert np.abs(pixels - exposure.image).mean() < 0.02, name
    greys = list(films.values())
    assert max(np.abs(a - b).mean() for a in greys for b in greys) < 0.02


@pytest.mark.parametrize(
    ("says", "shape"),
    [
        ({"PixelAspectRatio": [1, 1]}, (80, 64)),
        ({"PixelAspectRatio": [2, 1]}, (80, 32)),
        ({"PixelAspectRatio": [1, 2]}, (40, 64)),
        ({"PixelSpacing": ["0.1", "0.15"]}, (53, 64)),
        ({"ImagerPixelSpacing": ["0.15", "0.1"]}, (80, 43)),
        ({"PixelSpacing": ["0.1", "0.1"], "ImagerPixelSpacing": ["0.1", "0.2"]}, (80, 64)),
        ({"PixelAspectRatio": [2, 1], "PixelSpacing": ["0.1", "0.2"]}, (80, 32)),
        ({"PixelSpacing": ["0.1430", "0.1431"]}, (80, 64)),
        ({"PixelSpacing": ["0", "0.1"], "ImagerPixelSpacing": ["0.1", "0.2"]}, (40, 64)),
        ({"PixelSpacing": ""}, (80, 64)),
    ],
)
def test_pixels_are_made_square(
    dicom: Callable[..., bytes], ramp: np.ndarray, says: dict[str, Any], shape: tuple[int, int]
) -> None:
    film = decode_film(dicom(ramp, **says, **WINDOW)).pixels
    assert film.shape == shape
    assert film.dtype == np.float32
    assert film.mean() == pytest.approx(shown(ramp).mean(), abs=0.01)
    assert film[0, 0] < 0.05 < 0.95 < film[-1, -1]


def compressed(content: bytes, syntax: str, frame: bytes) -> bytes:
    def change(header: pydicom.Dataset) -> None:
        header.file_meta.TransferSyntaxUID = syntax
        header.PixelData = encapsulate([bytes(frame)])
        header["PixelData"].VR = "OB"

    return edited(content, change)


def test_extended_jpeg_of_12_bits(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    frame = imagecodecs.jpeg8_encode(ramp, level=98, bitspersample=12)
    film = decode_film(compressed(dicom(ramp, **WINDOW), JPEGExtended12Bit, frame))
    assert film.pixels == pytest.approx(shown(ramp), abs=0.01)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.100", HTJ2K])
def test_what_no_decoder_reads_is_told_from_what_is_damaged(
    dicom: Callable[..., bytes], ramp: np.ndarray, syntax: str
) -> None:
    assert reason_of(compressed(dicom(ramp), syntax, b"no frame of any kind")) is SetAside.NO_DECODER
    assert reason_of(compressed(dicom(ramp, Modality="CT"), syntax, b"no frame")) is SetAside.MODALITY


def test_bits_at_which_gdcm_ends_the_process(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    eight = (ramp // 16).astype(np.uint8)
    lossless, jpeg_ls = (
        imagecodecs.ljpeg_encode(ramp, bitspersample=12),
        bytearray(imagecodecs.jpegls_encode(ramp)),
    )
    jpeg_ls[jpeg_ls.index(b"\xff\xf7") + 4] = 24
    baseline = imagecodecs.jpeg8_encode(eight)
    for content in (
        compressed(dicom(ramp.astype(np.uint32), BitsStored=12), JPEGLosslessSV1, lossless),
        compressed(dicom(ramp, BitsStored=12), JPEGLSLossless, jpeg_ls),
        compressed(dicom(eight, BitsStored=7), JPEGBaseline8Bit, baseline),
    ):
        assert reason_of(content) is SetAside.CONTRADICTION
    assert (
        reason_of(compressed(dicom(eight), JPEGBaseline8Bit, baseline.replace(b"\xff\xda", b"\0\xff\xda", 1)))
        is SetAside.UNREADABLE
    )


def lossy(film: np.ndarray, most: int) -> np.ndarray:
    """The film with a few pixels beyond its range, as lossy compression leaves them; `most` greys."""
    beyond = film.astype(np.int32)
    beyond[-1, -8:] += most
    if film.dtype.kind == "i":
        beyond[0, :8] -= most
    return beyond.astype(film.dtype)


@pytest.mark.parametrize("most", [1, 3, 40])
@pytest.mark.parametrize("signed", [False, True])
def test_a_lossy_film_that_comes_out_a_few_greys_beyond_its_range_is_clipped(
    dicom: Callable[..., bytes], ramp: np.ndarray, most: int, signed: bool
) -> None:
    film = (ramp.astype(np.int16) - 2048).astype(np.int16) if signed else ramp
    window = {**WINDOW, "WindowCenter": "0"} if signed else WINDOW
    pixels = decode_film(dicom(lossy(film, most), **window)).pixels
    assert np.abs(pixels - shown(ramp)).max() <= most / 4095 + 1e-6


@pytest.mark.parametrize("syntax", [JPEGLSLossless, "1.2.840.10008.1.2.4.81"])
def test_a_near_lossless_film_that_overshoots(
    dicom: Callable[..., bytes], ramp: np.ndarray, syntax: str
) -> None:
    level = 0 if syntax == JPEGLSLossless else 3
    frame = imagecodecs.jpegls_encode(lossy(ramp, 2), level=level)
    film = decode_film(compressed(dicom(ramp, **WINDOW), syntax, frame)).pixels
    assert np.abs(film - shown(ramp)).max() < 0.002


def test_signed_pixels_whose_sign_is_not_carried_on(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    """12 bits of two's complement in 16, the upper four left at zero."""
    signed = (ramp.astype(np.int16) - 2048).astype(np.int16)
    bare = (signed.view(np.uint16) & 0x0FFF).view(np.int16)
    window = {**WINDOW, "WindowCenter": "0"}
    expected = decode_film(dicom(signed, **window)).pixels
    assert np.array_equal(decode_film(dicom(bare, **window)).pixels, expected)


def test_greys_in_the_upper_bits_are_moved_down(dicom: Callable[..., bytes], ramp: np.ndarray) -> None:
    """High Bit 15 with 12 Bits Stored, which older editions of C.7.6.3 allowed."""
    film = decode_film(dicom((ramp << 4).astype(np.uint16), **WINDOW, HighBit=15)).pixels
    assert film == pytest.approx(shown(ramp), abs=1e-6)
    filled = (ramp << 4 | 7).astype(np.uint16)
    assert reason_of(dicom(filled, **WINDOW, HighBit=15)) is SetAside.CONTRADICTION


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", ["jpeg", "jpeg extended", "jpeg-ls", "jpeg 2000", "lossless jpeg"])
def test_a_stream_of_8_bits_in_16_allocated(
    dicom: Callable[..., bytes], ramp: np.ndarray, kind: str, bits: int
) -> None:
    eight = (ramp // 16).astype(np.uint8)
    syntax, frame = {
        "jpeg": (JPEGBaseline8Bit, imagecodecs.jpeg8_encode(eight, level=98)),
        "jpeg extended": (JPEGExtended12Bit, imagecodecs.jpeg8_encode(eight, level=98)),
        "jpeg-ls": (JPEGLSLossless, imagecodecs.jpegls_encode(eight)),
        "jpeg 2000": (JPEG2000Lossless, imagecodecs.jpeg2k_encode(eight, level=0, codecformat="J2K")),
        "lossless jpeg": (JPEGLosslessSV1, imagecodecs.ljpeg_encode(eight, bitspersample=8)),
    }[kind]
    film = decode_film(compressed(dicom(ramp, BitsStored=bits), syntax, frame)).pixels
    assert film == pytest.approx(eight / 255, abs=0.02)
    # A window for the 12 bits before compression would show the film in 6 % of the range.
    windowed = dicom(ramp, BitsStored=bits, WindowCenter="2048", WindowWidth="4096")
    assert reason_of(compressed(windowed, syntax, frame)) is SetAside.CONTRADICTION
