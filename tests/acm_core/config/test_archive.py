"""The section that names an archive: what a person reads when it is wrong, and that it holds no password."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from acm_core.config import ConfigError, SiteConfig, dump_config, load_config
from acm_core.config.archive import Archive


def loaded(folder: Path, films: object, **more: object) -> SiteConfig:
    settings = {"site": "A", "films": films, "labels": "labels.csv", "state": "state", **more}
    (folder / "A.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return load_config(folder / "A.yaml", SiteConfig)


def problem(folder: Path, films: object, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, films, **more)
    return str(caught.value).replace(f"{folder}/", "")


def test_a_folder_or_an_archive(tmp_path: Path) -> None:
    assert loaded(tmp_path, "films").films == tmp_path / "films"
    site = loaded(
        tmp_path,
        {
            "dicomweb": "https://pacs.hospital:8443/dicom-web/",
            "token_file": "token",
            "ca": "/etc/ca.pem",
            "query": {"modality": ["DX"], "dates": "2015-01-01..2015-12-31"},
        },
    )
    assert isinstance(site.films, Archive)
    assert str(site.films) == "https://pacs.hospital:8443/dicom-web"
    assert (site.films.token_file, site.films.ca) == (tmp_path / "token", Path("/etc/ca.pem"))
    (tmp_path / "again.yaml").write_text(dump_config(site))
    assert load_config(tmp_path / "again.yaml", SiteConfig) == site


@pytest.mark.parametrize(
    "address",
    [
        "http://localhost:8042/dicom-web",
        "http://127.0.0.1/dicom-web",
        "http://[::1]:8042/dicom-web",
        "https://10.0.0.7/pacs/dicom-web",
    ],
)
def test_https_anywhere_and_http_on_this_machine(tmp_path: Path, address: str) -> None:
    assert str(loaded(tmp_path, {"dicomweb": address}).films) == address


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://pacs.hospital/dicom-web", "expected https: over http the films and the credential"),
        ("http://localhost.evil.example/", "expected https: over http"),
        ("https://user:Geheim@pacs.hospital/dicom-web", "expected an address without user and password"),
        ("https://user@pacs.hospital/dicom-web", "expected an address without user and password"),
        ("https://pacs.hospital/dicom-web?key=Geheim", "expected an address such as https://pacs"),
        ("https://pacs.hospital:Geheim/", "expected an address such as https://pacs"),
        ("pacs.hospital/Geheim", "expected an address such as https://pacs"),
        ("https:///Geheim", "expected an address such as https://pacs"),
        ("https://[Geheim/", "expected an address such as https://pacs"),
    ],
)
def test_an_address_that_will_not_do_is_not_repeated(tmp_path: Path, address: str, says: str) -> None:
    text = problem(tmp_path, {"dicomweb": address})
    assert text.startswith(f"A.yaml:3: films.dicomweb: {says}")
    assert "Geheim" not in text


@pytest.mark.parametrize(
    ("films", "says"),
    [
        ({"query": {}}, "A.yaml:2: films.dicomweb: missing; expected text"),
        (
            {"dicomweb": "https://p/", "tokenfile": "t"},
            "films.tokenfile: unknown key; did you mean 'token_file'?",
        ),
        (
            {"dicomweb": "https://p/", "query": {"modality": []}},
            "A.yaml:5: films.query.modality: expected a list of length ≥ 1",
        ),
        (
            {"dicomweb": "https://p/", "query": {"dates": "2015-01-01..2015-02-30"}},
            "films.query.dates: expected two days such as 2015-01-01..2023-12-31, got 2015-01-01..2015-02-30",
        ),
        (
            {"dicomweb": "https://p/", "query": {"dates": "2016-01-01..2015-01-01"}},
            "expected two days such as",
        ),
        ({"dicomweb": "https://p/", "query": {"dates": "2016"}}, "expected two days such as"),
        ({"dicomweb": "https://p/", "at_once": 0}, "films.at_once: expected an integer ≥ 1 and ≤ 16, got 0"),
        ({"dicomweb": "https://p/", "query": {"listed": True}}, "expected label_map: image_is as accession"),
        (7, "A.yaml:2: films: expected a path, got 7"),
    ],
)
def test_what_is_wrong_is_said_by_line_and_key(tmp_path: Path, films: object, says: str) -> None:
    assert says in problem(tmp_path, films)


def test_an_ending_belongs_to_file_names(tmp_path: Path) -> None:
    says = problem(tmp_path, "films", label_map={"image_is": "study", "image_suffix": ".png"})
    assert "expected image_suffix beside image_is: path only, got image_is: study" in says
