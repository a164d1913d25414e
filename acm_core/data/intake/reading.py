"""What the intake records of one file: enough to judge it beside all others without opening it again."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from acm_core.data.appearance import appearance
from acm_core.data.film import Film, decode_film, film_identifiers
from acm_core.data.intake.same_film import NEARLY_EVEN, without_frame
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.data.shrink import shrink, square_film
from acm_core.data.source.film_source import FilmSource
from acm_core.data.terms import NOTHING, Accepted

HISTOGRAM_BINS = 32
SIGNATURE_SIDE = 32
_STATISTICS_SIDE = 64
_FRAME_SIDE = 320


@dataclass(frozen=True)
class Reading:
    """A file's verdict and facts. Nothing in it names a patient: ids are hashed under the site's salt.

    Attributes:
        content: SHA-256 of the file, or None where it could not be read.
        reason: why the file cannot be used, or None for a film.
        refused: what refused it, see `FilmSetAside.value`.
        pixels: SHA-256 of the displayed film's size and of its means over 64×64 windows: the same for one film in two
            encodings. Of films only, as all below.
        rows, columns: of the displayed film.
        bits: Bits Stored, or None for pictures.
        view: "AP", "PA" or None where the header is silent.
        sex: "F", "M" or None.
        age: years.
        patient: hash of Patient ID.
        person: hash of name, birth date and sex, where the header has them.
        known_as: kind of `IDENTIFIERS` → hash, of those that the header has; of every DICOM file.
        burned_in: whether the header says that there is writing in the pixels; None where it is silent.
        identifying: keywords of attributes that say who the patient is and are not empty.
        histogram: share of the film in each of 32 grey levels, in units of 1/65535.
        contradictions: what words of the header say against its codes.
        kind: how the film is stored.
        device: hash of manufacturer and model.
        year: of the acquisition.
        appearance: the film's mean grey and its border's, see `appearance`, in units of 1/65535.
        signature: 32×32 grey levels of 255, row by row, in base64, for finding films that look the same.
        inner_signature: as `signature`, of what is inside the film's frame.
    """

    content: str | None
    reason: SetAside | None = None
    refused: str | None = None
    pixels: str | None = None
    rows: int | None = None
    columns: int | None = None
    bits: int | None = None
    view: str | None = None
    sex: str | None = None
    age: float | None = None
    patient: str | None = None
    person: str | None = None
    known_as: Mapping[str, str] = field(default_factory=dict)
    burned_in: bool | None = None
    identifying: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    kind: str | None = None
    device: str | None = None
    year: int | None = None
    histogram: tuple[int, ...] = field(default=(), repr=False)
    appearance: tuple[int, ...] = field(default=(), repr=False)
    signature: str = field(default="", repr=False)
    inner_signature: str = field(default="", repr=False)

    def to_json(self) -> str:
        """One line that `from_json` reads back."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The reading that `to_json` wrote.

        Raises:
            ValueError, TypeError: the text is not a reading.
        """
        fields: dict[str, Any] = json.loads(text)
        if fields["reason"] is not None:
            fields["reason"] = SetAside(fields["reason"])
        for name in ("identifying", "contradictions", "histogram", "appearance"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def read_file(
    source: FilmSource, name: str, salt: bytes, image_size: int | None, accepted: Accepted = NOTHING
) -> tuple[Reading, NDArray[np.float16] | None]:
    """Read one file; never raises for what is in it.

    Args:
        salt: of the site.
        image_size: S to also prepare the film for training, or None.
        accepted: the site's own words for body part, modality and view.

    Returns:
        The reading, and the film S×S where it is one and S was given.
    """
    try:
        content = source.read(name)
    except FilmSetAside as verdict:
        return Reading(None, verdict.reason, verdict.value), None
    digest = hashlib.sha256(content).hexdigest()
    try:
        film = decode_film(content, accepted)
    except FilmSetAside as verdict:
        known_as = identifier_hashes(film_identifiers(content), salt)
        return Reading(digest, verdict.reason, verdict.value, known_as=known_as), None
    prepared = None if image_size is None else square_film(film.pixels, image_size)
    return reading_of(digest, film, salt), prepared


def hashed(identity: str, salt: bytes) -> str:
    """128 bits of HMAC-SHA256 in hexadecimal: tells identities apart, and without the salt says nothing of them."""
    return hmac.new(salt, identity.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def identifier_hash(kind: str, identifier: str, salt: bytes) -> str:
    """64 bits of an identifier of this kind: two of a site's films have one by chance once in millions of sites."""
    return hashed(f"{kind}\0{identifier}", salt)[:16]


def identifier_hashes(identifiers: Mapping[str, str], salt: bytes) -> dict[str, str]:
    """`Reading.known_as` of these identifiers."""
    return {kind: identifier_hash(kind, value, salt) for kind, value in identifiers.items()}


def reading_of(digest: str, film: Film, salt: bytes) -> Reading:
    """What is recorded of a film; `digest` is of its file."""
    header = film.header
    small = shrink(film.pixels, _STATISTICS_SIDE, _STATISTICS_SIDE)
    levels = np.bincount(
        np.minimum(small * HISTOGRAM_BINS, HISTOGRAM_BINS - 1).astype(np.int64).ravel(),
        minlength=HISTOGRAM_BINS,
    )
    reduced = _reduced(film.pixels)
    return Reading(
        content=digest,
        pixels=hashlib.sha256(np.array(film.pixels.shape, np.int64).tobytes() + small.tobytes()).hexdigest(),
        rows=film.pixels.shape[0],
        columns=film.pixels.shape[1],
        bits=header.bits,
        view=header.view,
        sex=header.sex,
        age=header.age,
        patient=None if header.patient_id is None else hashed(f"patient\0{header.patient_id}", salt),
        person=None if header.person is None else hashed(f"person\0{header.person}", salt),
        known_as=identifier_hashes(header.identifiers, salt),
        burned_in=header.burned_in,
        identifying=header.identifying,
        contradictions=header.contradictions,
        kind=header.kind,
        device=None if header.device is None else hashed(f"device\0{header.device}", salt),
        year=header.year,
        histogram=tuple(np.rint(levels / levels.sum() * 65535).astype(int).tolist()),
        appearance=tuple(np.rint(np.clip(appearance(reduced), 0, 1) * 65535).astype(int).tolist()),
        signature=_signature(small),
        inner_signature=_signature(without_frame(reduced, NEARLY_EVEN)),
    )


def _reduced(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """H×W with at most 320 pixels along the longer side: a frame is found at any size, and at this one quickly."""
    longest = max(pixels.shape)
    if longest <= _FRAME_SIDE:
        return pixels
    rows, columns = (max(1, round(side * _FRAME_SIDE / longest)) for side in pixels.shape)
    return shrink(pixels, rows, columns)


def _signature(pixels: NDArray[np.float32]) -> str:
    small = shrink(pixels, _STATISTICS_SIDE, _STATISTICS_SIDE)
    levels = np.rint(shrink(small, SIGNATURE_SIDE, SIGNATURE_SIDE) * 255).astype(np.uint8)
    return b64encode(levels.tobytes()).decode("ascii")
