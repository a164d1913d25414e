"""Whatever a file holds, a Film or a verdict comes out, and the verdict says nothing of the patient."""

from __future__ import annotations

import io
import logging
import os
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from acm_core.data import film as intake
from acm_core.data.film import Film, decode_film, read_film
from acm_core.data.header import FilmHeader
from acm_core.data.set_aside import FilmSetAside, SetAside

SECRETS = ("geheim", "annegret", "47119", "19471103", "verschwiegen")
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=6)
KEPT = st.floats(0.05, 1)
GREY = np.random.default_rng(0).integers(0, 4096, (48, 40)).astype(np.uint16)


def damaged(content: bytes, flips: list[tuple[float, int]], kept: float) -> bytes:
    broken = bytearray(content[: max(1, round(len(content) * kept))])
    for place, bit in flips:
        broken[int(place * len(broken))] ^= 1 << bit
    return bytes(broken)


def judged(content: bytes) -> Film | FilmSetAside:
    """Decode under a root logger that takes everything; neither it nor the verdict may name the patient."""
    records: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    try:
        film = decode_film(content)
    except FilmSetAside as verdict:
        assert verdict.__context__ is None
        assert verdict.__cause__ is None
        said = "".join(traceback.format_exception(verdict)) + repr(verdict) + str(vars(verdict))
        assert not [secret for secret in SECRETS if secret in said.lower()]
        assert records == []
        return verdict
    finally:
        root.removeHandler(listener)
        root.setLevel(level)
    assert records == []
    assert film.pixels.dtype == np.float32
    assert film.pixels.ndim == 2
    assert ((film.pixels >= 0) & (film.pixels <= 1)).all()
    assert film.header.view in ("AP", "PA", None)
    return film


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian])
@settings(max_examples=60, deadline=None)
@given(flips=FLIPS, kept=KEPT)
def test_a_damaged_dicom_never_gets_further_than_a_verdict(
    dicom: Callable[..., bytes], syntax: str, flips: list[tuple[float, int]], kept: float
) -> None:
    judged(damaged(dicom(GREY, syntax=syntax, WindowCenter="2048", WindowWidth="4096"), flips, kept))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@settings(max_examples=60, deadline=None)
@given(flips=FLIPS, kept=KEPT)
def test_a_damaged_picture_never_gets_further_than_a_verdict(
    kind: str, flips: list[tuple[float, int]], kept: float
) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", "Geheim^Annegret 47119")
    exif = Image.Exif()
    exif[0x010E] = "Geheim^Annegret 47119"
    buffer = io.BytesIO()
    picture = Image.fromarray((GREY // 16).astype(np.uint8))
    picture.save(buffer, kind, **({"pnginfo": text} if kind == "PNG" else {}), exif=exif)
    judged(damaged(buffer.getvalue(), flips, kept))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", b"\x08\x00", bytes(128) + b"DICM", b"\xff\xd8\xff"]))
def test_garbage_is_judged_too(content: bytes, beginning: bytes) -> None:
    assert isinstance(judged(beginning + content), FilmSetAside)


def irregular(dicom: Callable[..., bytes]) -> bytes:
    content = dicom(GREY, SpecificCharacterSet="ISO_IR 100", WindowCenter="2048", WindowWidth="4096")
    return content.replace(b"ISO_IR 100", b"Geheim 471")


def test_an_irregular_header_is_not_quoted(dicom: Callable[..., bytes]) -> None:
    """pydicom warns of this character set and quotes it: a warning would be an error here, a record be seen."""
    content = irregular(dicom)
    assert isinstance(judged(content), Film)
    assert isinstance(judged(content.replace(b"MONOCHROME2 ", b"Geheim 47119")), FilmSetAside)


def test_neither_film_nor_verdict_shows_more_than_the_reason(dicom: Callable[..., bytes]) -> None:
    assert str(FilmSetAside(SetAside.BLANK)) == "film set aside: blank"
    shown = repr(decode_film(dicom(GREY, PatientSex="F", PatientAge="047Y")))
    assert shown == (
        "Film(header=FilmHeader(view='PA', sex='F', age=47.0, bits=16, burned_in=None, "
        "identifying=('PatientName', 'PatientID', 'PatientBirthDate', 'InstitutionName')))"
    )


def test_content_decides_and_not_the_name(tmp_path: Path, dicom: Callable[..., bytes]) -> None:
    text, film = tmp_path / "text.dcm", tmp_path / "film.txt"
    text.write_text("This is no film, whatever it is called. " * 20)
    film.write_bytes(dicom(GREY))
    assert read_film(film).header.view == "PA"
    with pytest.raises(FilmSetAside) as verdict:
        read_film(text)
    assert verdict.value.reason is SetAside.NOT_AN_IMAGE
    text.write_bytes(b"")
    with pytest.raises(FilmSetAside) as verdict:
        read_film(text)
    assert verdict.value.reason is SetAside.NOT_AN_IMAGE


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe.dcm"
    os.mkfifo(pipe)
    big = tmp_path / "Geheim.dcm"
    big.write_bytes(bytes(1001))
    monkeypatch.setattr(intake, "MAX_FILE_BYTES", 1000)
    for path, reason in (
        (tmp_path / "absent.dcm", SetAside.MISSING_FILE),
        (tmp_path, SetAside.MISSING_FILE),
        (pipe, SetAside.MISSING_FILE),  # opening it would wait for ever
        (tmp_path / "nul\0.dcm", SetAside.MISSING_FILE),
        (tmp_path / ("x" * 300), SetAside.CANNOT_OPEN),
        (big, SetAside.TOO_LARGE),
    ):
        with pytest.raises(FilmSetAside) as verdict:
            read_film(path)
        assert verdict.value.reason is reason
        assert verdict.value.__context__ is None


def test_threads_leave_the_warning_filters_as_they_were(dicom: Callable[..., bytes]) -> None:
    content = irregular(dicom)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        films = list(pool.map(decode_film, [content] * 200))
    assert len(films) == 200
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", UserWarning, stacklevel=1)


def test_the_header_is_told_without_its_identifying_values(dicom: Callable[..., bytes]) -> None:
    header = decode_film(
        dicom(
            GREY, PatientSex="f", PatientAge="063Y", BitsStored=12, BurnedInAnnotation="NO", OperatorsName=""
        )
    ).header
    assert (header.view, header.sex, header.age, header.bits, header.burned_in) == ("PA", "F", 63, 12, False)
    assert header.identifying == ("PatientName", "PatientID", "PatientBirthDate", "InstitutionName")
    assert header.patient_id == "GEHEIM-47119"
    assert not [secret for secret in SECRETS if secret in repr(header).lower()]


def test_a_picture_and_an_emptied_header_say_nothing(dicom: Callable[..., bytes]) -> None:
    buffer = io.BytesIO()
    Image.fromarray((GREY // 16).astype(np.uint8)).save(buffer, "PNG")
    assert decode_film(buffer.getvalue()).header == FilmHeader(kind="PNG")
    emptied = dict.fromkeys(
        ("ViewPosition", "PatientName", "PatientID", "PatientBirthDate", "InstitutionName", "SOPInstanceUID"),
        "",
    )
    assert decode_film(dicom(GREY, **emptied)).header == FilmHeader(
        bits=16, kind="DICOM 1.2.840.10008.1.2.1", identifiers={"instance": "1.2.3.47119"}
    )


@pytest.mark.parametrize(
    ("says", "device", "year"),
    [
        ({}, None, None),
        ({"Manufacturer": "Acme ", "ManufacturerModelName": "Alpha 2"}, "ACME ALPHA 2", None),
        ({"ManufacturerModelName": "Alpha", "AcquisitionDate": "20190704"}, "ALPHA", 2019),
        (
            {"AcquisitionDate": "", "AcquisitionDateTime": "20180704101500.000000", "StudyDate": "20170101"},
            None,
            2018,
        ),
        ({"AcquisitionDate": "00010101", "StudyDate": "19961231"}, None, 1996),
    ],
)
def test_the_header_says_which_device_and_year(
    dicom: Callable[..., bytes], says: dict[str, str], device: str | None, year: int | None
) -> None:
    header = decode_film(dicom(GREY, **says)).header
    assert (header.device, header.year) == (device, year)


@pytest.mark.parametrize(
    ("written", "years"),
    [
        *(("063Y", 63), ("010M", 10 / 12), ("003W", 21 / 365.25), ("012D", 12 / 365.25), ("000D", 0)),
        *(
            ("", None),
            ("63", None),
            ("Y", None),
            ("999Y", None),
            ("-01Y", None),
            ("06³Y", None),
            (None, None),
        ),
    ],
)
def test_ages_are_in_years(dicom: Callable[..., bytes], written: str | None, years: float | None) -> None:
    assert decode_film(dicom(GREY, PatientAge=written)).header.age == pytest.approx(years)


def test_one_person_is_known_however_the_name_is_written(dicom: Callable[..., bytes]) -> None:
    def person(**says: str | None) -> str | None:
        return decode_film(dicom(GREY, **says)).header.person

    written = {
        person(PatientName=name) for name in ("Geheim^Annegret", "GEHEIM^ANNEGRET^^", "geheim^ annegret")
    }
    assert len(written) == 1
    assert None not in written
    assert not written & {
        person(PatientName="Geheim^Anna"),
        person(PatientBirthDate="19471104"),
        person(PatientSex="M"),
    }
    assert person(PatientName=None) is None
    assert person(PatientBirthDate="") is None
