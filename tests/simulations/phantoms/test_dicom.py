"""The written DICOM shows, in any viewer that follows the standard, the film that was exposed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from acm_core.data.film import decode_film
from acm_core.randomness import stream
from simulations.phantoms.anatomy import draw_anatomy
from simulations.phantoms.dicom import FilmIdentity, build_dicom, phantom_uid
from simulations.phantoms.exposure import Exposure, expose
from simulations.phantoms.film import draw_film
from simulations.phantoms.geometry import Canvas, draw_positioning
from simulations.phantoms.scanner import SCANNERS, Scanner

IDENTITY = FilmIdentity(
    patient_id="P-1",
    patient_name="Phantom^P00001",
    sex="F",
    age=7,
    view="PA",
    study=phantom_uid("study"),
    series=phantom_uid("series"),
    instance=phantom_uid("instance"),
    number=1,
)
SYNTAX = {"explicit": "1.2.840.10008.1.2.1", "rle": "1.2.840.10008.1.2.5"}


def reopen(exposure: Exposure, scanner: Scanner) -> Dataset:
    """Written as a file and read again."""
    buffer = io.BytesIO()
    build_dicom(exposure, scanner, IDENTITY).save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def shown(film: Dataset) -> np.ndarray:
    """What a viewer shows, in [0, 1], white = 1: modality LUT, VOI, inversion (PS3.4 N.2), by pydicom alone."""
    values = apply_modality_lut(film.pixel_array, film)
    if "VOILUTSequence" in film:
        values = values.astype(np.uint16)  # a table is indexed by whole numbers
    values = apply_voi_lut(values, film)
    if "VOILUTSequence" in film:
        low, high = 0.0, 2.0 ** film.VOILUTSequence[0].LUTDescriptor[2] - 1
    else:  # pydicom's windows reach over the range of the stored values
        slope, intercept = float(film.RescaleSlope), float(film.RescaleIntercept)
        low, high = intercept, slope * (2**film.BitsStored - 1) + intercept
    image = (values - low) / (high - low)
    return 1 - image if film.PhotometricInterpretation == "MONOCHROME1" else image


def phantom_like(rows: int, columns: int) -> np.ndarray:
    """Every grey from black to white."""
    return np.linspace(0, 1, rows * columns, dtype=np.float32).reshape(rows, columns)


@pytest.mark.parametrize("name", SCANNERS)
def test_a_viewer_shows_the_exposed_film(name: str) -> None:
    scanner = SCANNERS[name]
    rows, columns = scanner.canvas(128).shape
    exposure = expose(phantom_like(rows, columns), scanner, stream(1, name))
    image = shown(reopen(exposure, scanner))
    assert image.shape == exposure.image.shape
    assert np.abs(image - exposure.image).mean() < 0.003
    assert np.abs(image - exposure.image).max() < 0.02


def test_films_of_all_scanners_come_out_alike() -> None:
    """One anatomy: other bits, photometric, window, table or none of them must not show in the film that is read."""
    rng = stream(1, "alike")
    drawn = draw_film(draw_anatomy(rng, "F"), draw_positioning(rng, "PA"), (), Canvas(36.0, 43.0, 256), rng)
    image = np.clip(drawn.image, 0, 1)
    exposure = Exposure(image, np.zeros(image.shape, bool))
    films = []
    for scanner in SCANNERS.values():
        buffer = io.BytesIO()
        build_dicom(exposure, scanner, IDENTITY).save_as(buffer, enforce_file_format=True)
        films.append(decode_film(buffer.getvalue()).pixels)
    assert len(films) == 5
    for film in films:
        assert np.abs(film - films[0]).mean() < 0.001
        assert np.abs(film - films[0]).max() < 0.02


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([10, 12, 14, 16]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    voi=st.sampled_from(["none", "LINEAR", "LINEAR_EXACT", "SIGMOID", "lut"]),
    slope=st.sampled_from([1.0, 0.25, 3.0]),
    intercept=st.sampled_from([0.0, -1024.0]),
    encoding=st.sampled_from(["explicit", "rle"]),
    border=st.booleans(),
)
def test_every_way_of_storing_shows_the_same_film(
    bits: int, photometric: str, voi: str, slope: float, intercept: float, encoding: str, border: bool
) -> None:
    if voi == "lut":
        slope, intercept = 1.0, 0.0
    scanner = Scanner.model_validate(
        {
            "modality": "CR",
            "model_name": "any",
            "bits_stored": bits,
            "photometric": photometric,
            "voi": voi,
            "rescale_slope": slope,
            "rescale_intercept": intercept,
            "encoding": encoding,
        }
    )
    image = phantom_like(40, 31)
    mask = np.zeros(image.shape, bool)
    mask[:, :3] = border
    image[mask] = 1.0
    film = reopen(Exposure(image, mask), scanner)
    assert film.BitsStored == bits
    assert film.file_meta.TransferSyntaxUID == SYNTAX[encoding]
    assert np.abs(shown(film) - image).max() < (0.02 if voi == "SIGMOID" else 0.006)


@pytest.mark.parametrize("name", SCANNERS)
def test_attributes_that_the_standard_requires(name: str, tmp_path: Path) -> None:
    scanner = SCANNERS[name]
    exposure = expose(phantom_like(*scanner.canvas(96).shape), scanner, stream(1))
    film = reopen(exposure, scanner)
    type1 = [
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "Modality",
        "PixelData",
    ]
    type1 += [
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
    ]
    type1 += ["HighBit", "PixelRepresentation", "ImagerPixelSpacing", "BodyPartExamined", "ViewPosition"]
    type2 = [
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
    ]
    type2 += ["AccessionNumber", "ReferringPhysicianName", "SeriesNumber", "InstanceNumber", "Manufacturer"]
    if (
        scanner.modality == "DX"
    ):  # PS3.3 C.8.11.1 to C.8.11.3, DX Anatomy Imaged, Detector, Acquisition Context
        type1 += [
            "PresentationIntentType",
            "PresentationLUTShape",
            "PixelIntensityRelationship",
            "RescaleSlope",
        ]
        type1 += [
            "PixelIntensityRelationshipSign",
            "RescaleIntercept",
            "RescaleType",
            "ImageLaterality",
            "ImageType",
        ]
        type1 += [
            "BurnedInAnnotation",
            "LossyImageCompression",
            "PatientOrientation",
            "AnatomicRegionSequence",
        ]
        type2 += ["DetectorType", "AcquisitionContextSequence"]
        assert ("WindowCenter" in film and "WindowWidth" in film) or "VOILUTSequence" in film
        inverse = film.PhotometricInterpretation == "MONOCHROME1"
        assert film.PresentationLUTShape == ("INVERSE" if inverse else "IDENTITY")
    for keyword in type1:
        assert film[keyword].value not in ("", None), keyword
    for keyword in type2:
        assert keyword in film
    sop_class = {"CR": "1.2.840.10008.5.1.4.1.1.1", "DX": "1.2.840.10008.5.1.4.1.1.1.1"}[scanner.modality]
    assert film.SOPClassUID == film.file_meta.MediaStorageSOPClassUID == sop_class
    assert film.SOPInstanceUID == film.file_meta.MediaStorageSOPInstanceUID == IDENTITY.instance
    assert (film.BitsAllocated, film.HighBit, film.PixelRepresentation) == (16, film.BitsStored - 1, 0)
    assert film.pixel_array.max() <= 2**film.BitsStored - 1
    assert (film.PatientAge, film.PatientSex, film.BodyPartExamined, film.ViewPosition) == (
        "007Y",
        "F",
        "CHEST",
        "PA",
    )
    longest = max(scanner.film_size) * 10
    assert float(film.ImagerPixelSpacing[0]) * 96 == pytest.approx(longest, rel=1e-4)


def test_uids_are_valid_and_named_by_their_source_only() -> None:
    uids = {phantom_uid("a", 1), phantom_uid("a", 2), phantom_uid("b", 1), phantom_uid("a", "1")}
    assert len(uids) == 4
    assert all(uid.is_valid and uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)
    assert phantom_uid("a", 1) == phantom_uid("a", 1)


@pytest.mark.parametrize(("marker", "half"), [("R", "viewer's left"), ("boxed L", "viewer's right")])
def test_the_side_marker_stands_on_its_side(marker: str, half: str) -> None:
    scanner = SCANNERS["dx_mono2_14bit_window"].model_copy(update={"marker": marker, "noise": 0.0})
    image = expose(np.full((256, 256), 0.4, np.float32), scanner, stream(2)).image
    rows, columns = np.nonzero(image > 0.9)
    assert rows.size > 20
    assert rows.max() < 64
    assert (columns.max() < 128) if half == "viewer's left" else (columns.min() >= 128)


@pytest.mark.parametrize(("look", "grey"), [("bright", 1.0), ("dark", 0.0)])
def test_collimation_hides_the_border_and_nothing_else(look: str, grey: float) -> None:
    scanner = SCANNERS["cr_mono1_10bit"].model_copy(
        update={"collimation": look, "noise": 0.0, "marker": "none", "collimation_margin": 3.0}
    )
    exposure = expose(np.full((256, 208), 0.5, np.float32), scanner, stream(3))
    assert (exposure.image[exposure.border] == grey).all()
    assert 0 < exposure.border.mean() < 0.25
    assert np.ptp(exposure.image[~exposure.border]) < 1e-6


def test_blur_and_noise_are_what_the_scanner_says() -> None:
    base = SCANNERS["dx_mono2_14bit_window"].model_copy(update={"marker": "none", "contrast": 1.0})
    quiet = base.model_copy(update={"noise": 0.0, "blur": 0.0})
    flat = np.full((256, 256), 0.5, np.float32)
    assert np.array_equal(expose(flat, quiet, stream(4)).image, flat)
    noisy = expose(flat, quiet.model_copy(update={"noise": 0.04}), stream(4)).image
    assert noisy.std() == pytest.approx(0.04 * 0.65, rel=0.02)
    edge = np.zeros((256, 256), np.float32)
    edge[:, 128:] = 1
    soft = expose(edge, quiet.model_copy(update={"blur": 3.0}), stream(4)).image[100]
    # 10 % to 90 % of a Gaussian edge are 2.56 standard deviations: 3 mm at 1.68 mm a pixel.
    assert ((soft > 0.1) & (soft < 0.9)).sum() == pytest.approx(2.56 * 3.0 / (430 / 256), abs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voi": "none"}, "expected a window or a table for DX"),
        ({"rescale_slope": 2.0}, "expected rescale slope 1 and intercept 0 for DX"),
        ({"modality": "CR", "voi": "lut", "rescale_intercept": 5.0}, "with a VOI table"),
        ({"film_size": (20.0, 20.0)}, "expected a detector of 34 to 50 cm"),
        ({"bits_stored": 9}, "10, 12, 14 or 16"),
        ({"windows": 1}, "Extra inputs"),
    ],
)
def test_scanners_that_dicom_does_not_allow_are_refused(change: dict[str, object], message: str) -> None:
    settings_of_scanner = SCANNERS["dx_mono2_14bit_window"].model_dump() | change
    with pytest.raises(ValidationError, match=message):
        Scanner.model_validate(settings_of_scanner)
