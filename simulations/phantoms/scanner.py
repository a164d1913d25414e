"""What a hospital's X-ray machine does to a film: its detector, its file format and its habits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from acm_core.config.section import Section
from simulations.phantoms.geometry import Canvas


def _pair(value: Any) -> Any:
    """A file writes a pair as a list; behind a validator of its own, pydantic would take only a tuple."""
    return tuple(value) if isinstance(value, list) else value


Size = Annotated[tuple[float, float], BeforeValidator(_pair)]


class Scanner(Section):
    """A machine and how it writes DICOM. CR: Computed Radiography; DX: Digital X-Ray, For Presentation."""

    modality: Literal["CR", "DX"] = Field(description="Modality (PS3.3 C.7.3.1.1.1)")
    model_name: str = Field(
        max_length=64, description="written as Manufacturer's Model Name (LO: 64 characters)"
    )
    bits_stored: Literal[10, 12, 14, 16] = Field(description="Bits Stored")
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = Field(
        description="whether low values are shown white"
    )
    voi: Literal["none", "LINEAR", "LINEAR_EXACT", "SIGMOID", "lut"] = Field(
        description="how stored values become shown values (PS3.3 C.11.2): a window, a table or nothing"
    )
    rescale_slope: float = Field(
        1.0, gt=0, description="modality LUT (PS3.3 C.11.1); CR only, DX prescribes 1"
    )
    rescale_intercept: float = Field(0.0, description="as rescale_slope")
    encoding: Literal["explicit", "rle"] = Field(
        "explicit", description="explicit little endian, plain or RLE"
    )
    film_size: Size = Field((36.0, 43.0), description="width and height of the detector in cm")
    blur: float = Field(0.2, ge=0, le=3, description="standard deviation of the detector's blur in mm")
    noise: float = Field(
        0.01, ge=0, le=0.2, description="standard deviation of noise in white areas, white = 1"
    )
    contrast: float = Field(1.0, gt=0.4, lt=2.5, description="exponent of the vendor's tone curve")
    collimation: Literal["none", "bright", "dark"] = Field(
        "none", description="look of the border outside the beam"
    )
    collimation_margin: float = Field(1.5, ge=0, le=3, description="greatest width of that border in cm")
    marker: Literal["none", "L", "R", "boxed L", "boxed R"] = Field(
        "L", description="lead letter on the film"
    )

    @model_validator(mode="after")
    def _allowed_by_dicom(self) -> Scanner:
        if self.modality == "DX" and (self.rescale_slope, self.rescale_intercept) != (1, 0):
            raise ValueError(
                f"expected rescale slope 1 and intercept 0 for DX (PS3.3 C.8.11.3), got "
                f"{self.rescale_slope:g} and {self.rescale_intercept:g}: use modality CR"
            )
        if self.modality == "DX" and self.voi == "none":
            raise ValueError(
                "expected a window or a table for DX (PS3.3 C.8.11.3: required For Presentation), "
                "got voi none: use modality CR"
            )
        if self.voi == "lut" and (self.rescale_slope, self.rescale_intercept) != (1, 0):
            raise ValueError(
                "expected rescale slope 1 and intercept 0 with a VOI table, which whole numbers index; got "
                f"{self.rescale_slope:g} and {self.rescale_intercept:g}: use a window"
            )
        if min(self.film_size) < 34 or max(self.film_size) > 50:
            raise ValueError(
                f"expected a detector of 34 to 50 cm, which takes a chest, got {self.film_size} cm"
            )
        return self

    def canvas(self, longest: int) -> Canvas:
        """The film with `longest` pixels along its longer side."""
        return Canvas(*self.film_size, longest)


SCANNERS: dict[str, Scanner] = {
    "dx_mono2_14bit_window": Scanner(
        modality="DX",
        model_name="Phantom DX 14",
        bits_stored=14,
        photometric="MONOCHROME2",
        voi="LINEAR",
        film_size=(43.0, 43.0),
        noise=0.008,
        marker="L",
    ),
    "dx_mono1_12bit_lut": Scanner(
        modality="DX",
        model_name="Phantom DX 12",
        bits_stored=12,
        photometric="MONOCHROME1",
        voi="lut",
        film_size=(36.0, 43.0),
        blur=0.5,
        noise=0.014,
        contrast=1.2,
        collimation="dark",
        marker="R",
    ),
    "cr_mono1_10bit": Scanner(
        modality="CR",
        model_name="Phantom CR 10",
        bits_stored=10,
        photometric="MONOCHROME1",
        voi="none",
        film_size=(35.0, 43.0),
        blur=1.2,
        noise=0.03,
        contrast=0.85,
        collimation="bright",
        collimation_margin=1.0,
        marker="boxed L",
    ),
    "cr_mono2_12bit_rescale": Scanner(
        modality="CR",
        model_name="Phantom CR 12",
        bits_stored=12,
        photometric="MONOCHROME2",
        voi="LINEAR_EXACT",
        rescale_slope=0.25,
        rescale_intercept=-200.0,
        encoding="rle",
        film_size=(43.0, 36.0),
        blur=0.8,
        noise=0.02,
        contrast=1.1,
        marker="boxed R",
    ),
    "dx_mono2_16bit_sigmoid": Scanner(
        modality="DX",
        model_name="Phantom DX 16",
        bits_stored=16,
        photometric="MONOCHROME2",
        voi="SIGMOID",
        film_size=(40.0, 43.0),
        blur=0.3,
        noise=0.012,
        contrast=0.95,
        collimation="dark",
        marker="none",
    ),
}
"""Machines that differ in everything that hospitals' machines differ in."""


def _by_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in SCANNERS:
        raise ValueError(f"expected one of {', '.join(SCANNERS)} or a scanner's settings, got {value}")
    return SCANNERS[value]


NamedScanner = Annotated[Scanner, BeforeValidator(_by_name)]
"""A scanner, or the name of one in `SCANNERS`."""
