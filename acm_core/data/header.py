"""What a DICOM header says of a film beside its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue

from acm_core.data.set_aside import FilmSetAside, SetAside

IDENTIFYING = (
    *(
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "OtherPatientIDs",
        "OtherPatientNames",
        "PatientBirthName",
    ),
    *(
        "PatientMotherBirthName",
        "PatientAddress",
        "PatientTelephoneNumbers",
        "MilitaryRank",
        "MedicalRecordLocator",
    ),
    *(
        "ReferringPhysicianName",
        "PerformingPhysicianName",
        "OperatorsName",
        "PhysiciansOfRecord",
        "RequestingPhysician",
    ),
    *(
        "InstitutionName",
        "InstitutionAddress",
        "StationName",
        "AccessionNumber",
        "StudyID",
        "PatientComments",
    ),
)
"""Attributes of the Basic Application Level Confidentiality Profile (PS3.15 Annex E) that name a person or a place."""

IDENTIFIERS: Mapping[str, str] = {
    "instance": "SOPInstanceUID",
    "series": "SeriesInstanceUID",
    "study": "StudyInstanceUID",
    "accession": "AccessionNumber",
}
"""What tells films apart in an archive → its keyword."""

_YEARS_A_UNIT = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_OLDEST = 130.0
_FIRST_YEAR = 1896
"""Of radiographs; dates before it stand for none."""


@dataclass(frozen=True)
class FilmHeader:
    """Facts about a film; None where the header is silent.

    Attributes:
        view: "AP" or "PA".
        sex: "F" or "M".
        age: years.
        bits: Bits Stored.
        burned_in: Burned In Annotation: whether there is writing in the pixels.
        identifying: keywords, never values, of attributes that say who the patient is and are not empty.
        patient_id: as the hospital writes it; it never leaves the site.
        person: name, birth date and sex together, where name and birth date are there; it never leaves the site.
        contradictions: what words of the header say against its codes, a text each; see `words_against_codes`.
        kind: how the film is stored: "PNG", "JPEG", or "DICOM" and its transfer syntax.
        device: manufacturer and model; an engineer may have written anything there, so it never leaves the site.
        year: of the acquisition.
        identifiers: those of `IDENTIFIERS` that are there; they never leave the site.
    """

    view: str | None = None
    sex: str | None = None
    age: float | None = None
    bits: int | None = None
    burned_in: bool | None = None
    identifying: tuple[str, ...] = ()
    patient_id: str | None = field(default=None, repr=False)
    person: str | None = field(default=None, repr=False)
    contradictions: tuple[str, ...] = field(default=(), repr=False)
    kind: str | None = field(default=None, repr=False)
    device: str | None = field(default=None, repr=False)
    year: int | None = field(default=None, repr=False)
    identifiers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, header: Dataset, view: str | None, contradictions: tuple[str, ...] = ()) -> Self:
        """Read the attributes; an irregular value counts as none.

        Args:
            view: as `check_header` found it.
            contradictions: as `words_against_codes` found them.
        """
        sex = header_text(header, "PatientSex")
        name, birth = header_text(header, "PatientName"), header_text(header, "PatientBirthDate")
        person = None
        if name and birth:
            person = "\0".join(("".join(letter for letter in name if letter.isalnum()), birth, sex))
        return cls(
            view=view,
            sex=sex if sex in ("F", "M") else None,
            age=_age(header_text(header, "PatientAge")),
            bits=int(header.BitsStored),
            burned_in={"YES": True, "NO": False}.get(header_text(header, "BurnedInAnnotation")),
            identifying=tuple(keyword for keyword in IDENTIFYING if header_text(header, keyword)),
            patient_id=header_text(header, "PatientID") or None,
            person=person,
            contradictions=contradictions,
            kind=f"DICOM {header.file_meta.TransferSyntaxUID}",
            device=" ".join(
                header_text(header, name) for name in ("Manufacturer", "ManufacturerModelName")
            ).strip()
            or None,
            year=_year(header),
            identifiers=identifiers(header),
        )


def identifiers(header: Dataset) -> dict[str, str]:
    """Those of `IDENTIFIERS` that are there, as they are written."""
    values = {kind: str(header.get(keyword) or "").strip(" \0") for kind, keyword in IDENTIFIERS.items()}
    return {kind: value for kind, value in values.items() if value}


def header_text(header: Dataset, keyword: str) -> str:
    """An attribute in capitals without blanks around it; several values with blanks between; "" where it is absent."""
    value = header.get(keyword)
    if value is None:
        return ""
    values = value if isinstance(value, MultiValue) else [value]
    return " ".join(str(part) for part in values).strip().upper()


def header_numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of an attribute; none where it is absent or empty.

    Devices of some countries write a decimal comma. It is no character of a Decimal String (PS3.5 6.2), so it can only
    be a decimal point.

    Raises:
        FilmSetAside: BAD_NUMBER where it holds something else.
    """
    try:
        value = header.get(keyword)
    except (
        ValueError,
        TypeError,
        OverflowError,
    ):  # pydicom could not read it as numbers and has left it as it was
        value = header.get_item(tag_for_keyword(keyword) or 0).value
    if value is None:
        return ()
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    parts = (
        value.split("\\")
        if isinstance(value, str)
        else value
        if isinstance(value, list | MultiValue)
        else [value]
    )
    try:
        return tuple(_number(part) for part in parts if str(part).strip(" \0"))
    except (ValueError, TypeError):
        pass
    raise FilmSetAside(SetAside.BAD_NUMBER, keyword)


def _number(part: object) -> float:
    text = str(part).strip(" \0")
    return float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)


def _year(header: Dataset) -> int | None:
    """Of the acquisition (C.7.6.1), else of the pixels, the series or the study (PS3.5 6.2: DA, DT)."""
    for keyword in ("AcquisitionDate", "AcquisitionDateTime", "ContentDate", "SeriesDate", "StudyDate"):
        year = header_text(header, keyword)[:4]
        if len(year) == 4 and year.isascii() and year.isdecimal() and int(year) >= _FIRST_YEAR:
            return int(year)
    return None


def _age(text: str) -> float | None:
    """Age String (PS3.5 6.2): three digits and a unit."""
    number, unit = text[:-1], text[-1:]
    if not number.isascii() or not number.isdecimal() or unit not in _YEARS_A_UNIT:
        return None
    age = int(number) * _YEARS_A_UNIT[unit]
    return age if age <= _OLDEST else None
