"""The section of a site's file that names an archive of films, in place of a folder."""

from __future__ import annotations

import re
from datetime import date
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from acm_core.config.section import Section

_DATES = re.compile(r"(\d{4}-\d{2}-\d{2})\.\.(\d{4}-\d{2}-\d{2})")


class ArchiveQuery(Section):
    """Which of an archive's films are the site's."""

    modality: tuple[str, ...] = Field(("CR", "DX"), min_length=1, description="modalities to search for")
    body_part: tuple[str, ...] = Field(
        (),
        description="body parts to search for, as the archive's headers write them; none: any, also where the header "
        "does not say",
    )
    dates: str | None = Field(
        None, description="first and last day of the studies, such as 2015-01-01..2023-12-31; null: all"
    )
    listed: bool = Field(
        False,
        description="only films that the label file lists, by label_map.image_is, which then may not be path; each is "
        "asked for by name",
    )

    @field_validator("dates")
    @classmethod
    def _days(cls, text: str | None) -> str | None:
        if text is not None:
            found = _DATES.fullmatch(text)
            try:
                first, last = map(date.fromisoformat, found.groups() if found else ("", ""))
            except ValueError:
                first, last = date.max, date.min
            if first > last:
                raise ValueError(f"expected two days such as 2015-01-01..2023-12-31, got {text}")
        return text


class Archive(Section):
    """An archive that is asked by DICOMweb (PS3.18); what it sends is read and not kept."""

    dicomweb: str = Field(
        description="address of its DICOMweb service, such as https://pacs.hospital/dicom-web; http: this machine only"
    )
    query: ArchiveQuery = ArchiveQuery()
    token_file: Path | None = Field(
        None,
        description="file of one line that the archive knows the site by: a bearer token, or user:password; it is read "
        "anew for each request; null: none",
    )
    ca: Path | None = Field(
        None,
        description="certificates (PEM) of the authority that signed the archive's; null: the public authorities",
    )
    requests_a_second: float = Field(5.0, gt=0, le=1000, description="requests that the archive gets at most")
    at_once: int = Field(2, ge=1, le=16, description="films that it sends at a time at most")

    def __str__(self) -> str:
        return self.dicomweb

    @field_validator("dicomweb")
    @classmethod
    def _address(cls, text: str) -> str:
        # No message holds what came: people write passwords into addresses.
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ValueError("expected an address such as https://pacs.hospital/dicom-web") from None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise ValueError("expected an address such as https://pacs.hospital/dicom-web")
        if parts.username is not None or parts.password is not None:
            raise ValueError("expected an address without user and password: they belong in token_file")
        if parts.scheme == "http" and not _is_this_machine(host):
            raise ValueError(
                "expected https: over http the films and the credential pass the network in the clear; http serves on "
                "this machine only"
            )
        return text.rstrip("/")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
