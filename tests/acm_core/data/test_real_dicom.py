"""Verdicts on real DICOM files, and accepted ones against pydicom's own pipeline."""

from __future__ import annotations

import csv
import re
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from acm_core.data.film import read_film as read_film_anew
from acm_core.data.grey_levels import displayed_grey
from acm_core.data.set_aside import FilmSetAside

ACCEPTED = {
    "valid/cxr_jpeg_baseline_8bit_mono2.dcm",
    "valid/cxr_jpeg_baseline_8bit_mono1_faketag.dcm",
    "valid/cxr_j2k_lossy_15bit_mono1.dcm",
    "valid/cxr_dx_j2k_lossless_12bit_mono1.dcm",
    "valid/cxr_uncompressed_10bit_mono1_derived.dcm",
}
REFUSED = {
    "body_part": """valid/cr_dental_modality_lut_sequence_jpegll_mono1 valid/cr_hip_jpegll_sv1_10bit_mono2
        valid/cr_hip_jpegls_lossless_10bit_mono2 valid/cr_extremity_j2k_lossless_10bit_mono1
        valid/cr_cspine_rescale_slope_mono1 hostile/jpeg_extended_bad_header""",
    "not_human": "valid/dx_thorax_dog_lateral_8bit_mono1",
    "modality": """valid/mg_voi_lut_sequence_12bit_jpegll valid/voi_lut_sequence_8bit
        valid/modality_lut_sequence_signed12 valid/ts_implicit_le valid/ts_explicit_le valid/ts_rle
        valid/ts_jpegls_lossless valid/ts_j2k_lossless valid/ts_jpeg_lossless_sv1 valid/ts_jpeg_extended
        valid/ts_jpegls_near_16 valid/ct_small_explicit_le valid/multiframe_mr_10 valid/multiframe_us_jpeg_30
        valid/color_rgb_3x3 valid/color_palette valid/seg_1bit valid/pixeldata_trailing_padding
        hostile/mr_pixeldata_truncated hostile/jpeg_lossy_12bit_bad_sos hostile/j2k_embedded_delimiter
        hostile/j2k_bitsstored_mismatch_693 hostile/bad_vr_number_of_frames hostile/bad_sequence_un
        hostile/nested_private_sequence hostile/no_pixel_spacing hostile/retired_ts_jpeg_spectral_1_2_4_53
        hostile/fragmented_no_bot_jpeg hostile/jpeg_ybr_frame_mismatch hostile/overlay_out_of_bounds_mg""",
    "no_pixels": """hostile/sr_basic_text hostile/rtplan_truncated hostile/header_only_cr_chest_japanese
        hostile/header_only_cr_chest_korean hostile/no_meta_group_length hostile/sr_empty_number_tags
        hostile/empty_pixeldata hostile/deflated_with_sq_553B hostile/dicomdir_as_dcm""",
    "unreadable": "hostile/j2k_codestream_truncated hostile/j2k_lossless_invalid_966",
    "not_an_image": "hostile/no_meta hostile/big_endian_no_meta",
}
read_film = cache(read_film_anew)
"""Large films, read once for all tests."""
REASONS = {f"{name}.dcm": reason for reason, names in REFUSED.items() for name in names.split()}


def verdict(path: Path) -> str:
    try:
        return f"film {read_film(path).header.view}"
    except FilmSetAside as set_aside:
        return set_aside.reason.value


def pydicom_shows(film: pydicom.Dataset) -> np.ndarray:
    """Displayed grey in [0, 1] by pydicom's functions, and numpy's percentiles where the film has no VOI."""
    values = apply_modality_lut(film.pixel_array, film)
    if "VOILUTSequence" in film:
        # Whole numbers index a table; in the pixels' own type pydicom's index would wrap.
        image = apply_voi_lut(values.astype(np.int64), film) / (
            2.0 ** film.VOILUTSequence[0].LUTDescriptor[2] - 1
        )
    elif "WindowWidth" in film:
        slope, intercept = float(film.get("RescaleSlope", 1)), float(film.get("RescaleIntercept", 0))
        top = slope * (2**film.BitsStored - 1) + intercept
        image = (apply_voi_lut(values, film) - intercept) / (top - intercept)
    else:
        low, high = np.percentile(values, (0.5, 99.5))
        if (
            "ModalityLUTSequence" not in film and high - low > (2**film.BitsStored - 1) / 2
        ):  # a film that uses its range is shown over that range
            low, high = 0, 2**film.BitsStored - 1
        image = np.clip((values - low) / (high - low), 0, 1)
    return 1 - image if film.PhotometricInterpretation == "MONOCHROME1" else image


def opened(path: Path) -> pydicom.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these files are irregular on purpose
        film = pydicom.dcmread(path)
        film.pixel_array  # noqa: B018  (decoded once, kept by pydicom)
        return film


def test_every_real_file_gets_its_verdict(real: Path) -> None:
    with (real / "dicom/manifest.csv").open(encoding="utf-8", newline="") as manifest:
        files = [row["file"] for row in csv.DictReader(manifest)]
    assert set(files) == ACCEPTED | set(REASONS)
    verdicts = {file: verdict(real / "dicom" / file) for file in files}
    assert verdicts == dict.fromkeys(ACCEPTED, "film PA") | REASONS


@pytest.mark.parametrize("file", sorted(ACCEPTED))
def test_accepted_films_are_what_pydicom_shows(real: Path, file: str) -> None:
    film = opened(real / "dicom" / file)
    pixels = read_film(real / "dicom" / file).pixels
    assert pixels.shape == (film.Rows, film.Columns)
    assert np.abs(pixels - pydicom_shows(film)).max() < 1e-4


def test_the_same_pixels_tagged_monochrome1_are_the_negative(real: Path) -> None:
    positive, negative = (
        read_film(real / f"dicom/valid/cxr_jpeg_baseline_8bit_{name}.dcm").pixels
        for name in ("mono2", "mono1_faketag")
    )
    assert np.abs(positive + negative - 1).max() < 1e-6


@pytest.mark.parametrize(
    "name",
    [
        "mg_voi_lut_sequence_12bit_jpegll",
        "voi_lut_sequence_8bit",
        "modality_lut_sequence_signed12",
        "cr_cspine_rescale_slope_mono1",
        "cr_dental_modality_lut_sequence_jpegll_mono1",
        "cr_extremity_j2k_lossless_10bit_mono1",
    ],
)
def test_tables_and_rescales_of_other_real_files(real: Path, name: str) -> None:
    film = opened(real / f"dicom/valid/{name}.dcm")
    assert np.abs(displayed_grey(film.pixel_array, film) - pydicom_shows(film)).max() < 1e-4


def test_every_transfer_syntax_decodes_to_what_pydicom_recorded(real: Path) -> None:
    """All of valid/, whatever its verdict: "decodes 1955x1841 uint16 803..26512"."""
    with (real / "dicom/manifest.csv").open(encoding="utf-8", newline="") as manifest:
        rows = [row for row in csv.DictReader(manifest) if row["file"].startswith("valid/")]
    assert len(rows) > 20
    for row in rows:
        pixels = opened(real / "dicom" / row["file"]).pixel_array
        _, shape, dtype, extremes = row["pydicom_outcome"].split()
        assert ("x".join(str(side) for side in pixels.shape), str(pixels.dtype)) == (shape, dtype), row[
            "file"
        ]
        # Decoders may round the inverse cosine transform as they like (ISO 10918-1 A.3.3); the others are exact.
        rounding = 1 if "JPEG Baseline" in row["transfer_syntax"] else 0
        low, high = (int(number) for number in re.findall(r"-?\d+", extremes))
        assert abs(int(pixels.min()) - low) <= rounding, row["file"]
        assert abs(int(pixels.max()) - high) <= rounding, row["file"]
