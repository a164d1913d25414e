"""Films reach MONAI's transforms by this project's rules and in this project's axis order."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.data import PydicomReader
from monai.transforms import Compose, LoadImage, LoadImaged
from PIL import Image

from acm_core.data.film import read_film
from acm_core.data.monai_reader import FilmReader
from acm_core.data.set_aside import FilmSetAside, SetAside

# MONAI's own readers regret missing GPU libraries and, in a radiograph, missing positions in space.
pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    pytest.mark.filterwarnings("ignore:PydicomReader:UserWarning"),
]

SECRETS = ("geheim", "annegret", "47119", "19471103", "verschwiegen")


@pytest.fixture(params=["dicom", "png", "jpeg"])
def path(
    request: pytest.FixtureRequest, tmp_path: Path, dicom: Callable[..., bytes], ramp: np.ndarray
) -> Path:
    """A film that is higher than wide, under a name that says nothing of its format."""
    path = tmp_path / "Geheim_Annegret"
    if request.param == "dicom":
        path.write_bytes(dicom(ramp, BitsStored=12, PatientSex="F", PatientAge="078Y"))
    else:
        Image.fromarray((ramp // 16).astype(np.uint8)).save(path, request.param)
    return path


def test_loaders_give_what_read_film_gives(path: Path) -> None:
    expected = read_film(path).pixels
    assert expected.shape == (80, 64)
    loaded = LoadImage(reader=FilmReader)(path)
    assert loaded.dtype == torch.float32
    assert np.array_equal(loaded.numpy(), expected)
    by_key = LoadImaged(keys="image", reader=FilmReader(), ensure_channel_first=True)({"image": path})[
        "image"
    ]
    assert np.array_equal(by_key.numpy(), expected[None])


def test_the_axes_are_those_of_pydicom_and_not_those_of_monais_reader(
    tmp_path: Path, dicom: Callable[..., bytes], ramp: np.ndarray
) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(dicom(ramp, BitsStored=12, WindowCenter="2048", WindowWidth="4096"))
    stored = pydicom.dcmread(path).pixel_array
    ours = LoadImage(reader=FilmReader())(path).numpy()
    theirs = LoadImage(reader=PydicomReader())(path).numpy()
    assert np.array_equal(np.argsort(ours.ravel(), kind="stable"), np.argsort(stored.ravel(), kind="stable"))
    assert theirs.squeeze().shape == stored.T.shape


def test_real_films_in_pydicoms_axes(real: Path) -> None:
    path = real / "dicom/valid/cxr_uncompressed_10bit_mono1_derived.dcm"
    stored = pydicom.dcmread(path).pixel_array.astype(np.float64)
    loaded = LoadImage(reader=FilmReader())(path).numpy()
    assert np.array_equal(loaded, read_film(path).pixels)
    assert np.corrcoef(loaded.ravel(), stored.ravel())[0, 1] < -0.9  # MONOCHROME1
    assert abs(np.corrcoef(loaded.T.ravel(), stored.ravel())[0, 1]) < 0.7


def test_metadata_name_nobody(path: Path) -> None:
    _, said = FilmReader().get_data(FilmReader().read(path))
    assert not [secret for secret in SECRETS if secret in repr(said).lower()]
    meta = LoadImage(reader=FilmReader, prune_meta_pattern="filename_or_obj")(path).meta
    assert not [secret for secret in SECRETS if secret in repr(meta).lower()]


def lateral(dicom: Callable[..., bytes], ramp: np.ndarray) -> bytes:
    return dicom(ramp, ViewPosition="LATERAL")


def colour(dicom: Callable[..., bytes], ramp: np.ndarray) -> bytes:
    picture = np.zeros((*ramp.shape, 3), np.uint8)
    picture[..., 0] = ramp // 16
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def said_of(verdict: FilmSetAside) -> str:
    return "".join(traceback.format_exception_only(verdict)) + repr(verdict) + str(vars(verdict))


@pytest.mark.parametrize(
    ("made", "name", "reason"),
    [(lateral, "Geheim.dcm", SetAside.NOT_FRONTAL), (colour, "Geheim.png", SetAside.COLOUR)],
)
def test_what_is_set_aside_is_loaded_by_no_other_reader(
    tmp_path: Path, dicom: Callable[..., bytes], ramp: np.ndarray, made: Any, name: str, reason: SetAside
) -> None:
    """MONAI's own readers, which `LoadImage` tries after one that fails in `read`, take both files in."""
    path = tmp_path / name
    path.write_bytes(made(dicom, ramp))
    assert LoadImage()(path) is not None
    for load in (LoadImage(reader=FilmReader), LoadImage(reader=FilmReader())):
        with pytest.raises(FilmSetAside) as verdict:
            load(path)
        assert verdict.value.reason is reason
        assert not [secret for secret in SECRETS if secret in said_of(verdict.value).lower()]
    with pytest.raises(RuntimeError) as wrapped:
        Compose([LoadImaged(keys="image", reader=FilmReader())])({"image": path})
    cause = wrapped.value.__cause__
    assert isinstance(cause, FilmSetAside)
    assert cause.reason is reason
    assert "geheim" not in "".join(traceback.format_exception(wrapped.value)).lower()


@pytest.mark.parametrize("expanduser", [True, False])
def test_a_missing_file_and_several_at_once(tmp_path: Path, expanduser: bool) -> None:
    load = LoadImage(reader=FilmReader(), expanduser=expanduser)
    with pytest.raises(FilmSetAside) as verdict:
        load(tmp_path / "Geheim.dcm")
    assert verdict.value.reason is SetAside.MISSING_FILE
    for name in ("one", "two"):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / name, "PNG")
    with pytest.raises(ValueError, match="one by one"):
        load([tmp_path / "one", tmp_path / "two"])
