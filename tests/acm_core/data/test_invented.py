"""Invented films are known wherever their generator's record is within reach of the site's file."""

from __future__ import annotations

import shutil
from pathlib import Path

from hospitals import hospital, site

from acm_core.data.invented import are_invented


def test_phantoms_are_known_by_the_record_beside_films_or_labels(tmp_path: Path) -> None:
    folder = hospital(tmp_path, "A", patients=1)
    assert are_invented(site(tmp_path, "A"))
    elsewhere = tmp_path / "labels" / "labels.csv"
    elsewhere.parent.mkdir()
    shutil.copy(folder / "labels.csv", elsewhere)
    assert are_invented(site(tmp_path, "A", labels=elsewhere))
    assert are_invented(site(tmp_path, "A", films=folder / "films"))
    assert are_invented(site(tmp_path, "A", films={"dicomweb": "https://pacs.hospital/dicom-web"}))
    assert not are_invented(site(tmp_path, "A", films=folder / "films", labels=elsewhere))
