"""Films that are open are taken again, and read anew when anything of them has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hospitals import FINDINGS, hospital, site

from acm_core.config.site import SiteConfig
from acm_core.data.site_films import load_site
from client.round.open_films import OpenFilms


@pytest.fixture
def settings(tmp_path: Path) -> SiteConfig:
    hospital(tmp_path, "A", patients=12)
    return site(tmp_path, "A")


def test_the_same_films_are_read_once(settings: SiteConfig) -> None:
    opened = OpenFilms()
    first = opened.load(settings, FINDINGS, 32, apart=False)
    assert opened.load(settings, FINDINGS, 32, apart=False) is first
    read = load_site(settings, FINDINGS, 32)
    assert first.fingerprint == read.fingerprint
    np.testing.assert_array_equal(np.asarray(first.train.images), np.asarray(read.train.images))


def films(settings: SiteConfig) -> list[Path]:
    return sorted(path for path in settings.films.rglob("*") if path.suffix == ".dcm")


def remove_a_film(settings: SiteConfig) -> None:
    films(settings)[0].unlink()


def add_a_film(settings: SiteConfig) -> None:
    shutil.copyfile(films(settings)[0], settings.films / "new.dcm")


def write_a_film_anew(settings: SiteConfig) -> None:
    first, second = films(settings)[:2]
    first.write_bytes(second.read_bytes())


def touch_a_film(settings: SiteConfig) -> None:
    os.utime(films(settings)[0], (1, 1))


def change_the_labels(settings: SiteConfig) -> None:
    lines = settings.labels.read_text(encoding="utf-8").splitlines()
    settings.labels.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")


def remove_the_manifest(settings: SiteConfig) -> None:
    (settings.state / "intake" / "manifest.sqlite").unlink()


def cut_the_prepared_films_off(settings: SiteConfig) -> None:
    (prepared,) = (settings.state / "prepared").glob("films-32-*")
    os.truncate(prepared, prepared.stat().st_size // 2)


@pytest.mark.parametrize(
    "change",
    [
        remove_a_film,
        add_a_film,
        write_a_film_anew,
        touch_a_film,
        change_the_labels,
        remove_the_manifest,
        cut_the_prepared_films_off,
    ],
)
def test_they_are_read_anew_after_a_change(
    settings: SiteConfig, change: Callable[[SiteConfig], None]
) -> None:
    opened = OpenFilms()
    first = opened.load(settings, FINDINGS, 32, apart=False)
    np.asarray(first.train.images)
    change(settings)
    second = opened.load(settings, FINDINGS, 32, apart=False)
    assert second is not first
    assert opened.load(settings, FINDINGS, 32, apart=False) is second
    read = load_site(settings, FINDINGS, 32)
    assert second.fingerprint == read.fingerprint
    np.testing.assert_array_equal(np.asarray(second.train.images), np.asarray(read.train.images))


@pytest.mark.parametrize(
    "other",
    [
        lambda opened, settings: opened.load(settings, FINDINGS[:1], 32, apart=False),
        lambda opened, settings: opened.load(settings, FINDINGS, 16, apart=False),
        lambda opened, settings: opened.load(settings, FINDINGS, 32, apart=True),
        lambda opened, settings: opened.load(
            settings.model_copy(update={"unknown_view": "reject"}), FINDINGS, 32, apart=False
        ),
    ],
    ids=["findings", "size", "apart", "site"],
)
def test_they_are_read_anew_for_another_question(
    settings: SiteConfig, other: Callable[[OpenFilms, SiteConfig], object]
) -> None:
    opened = OpenFilms()
    first = opened.load(settings, FINDINGS, 32, apart=False)
    assert other(opened, settings) is not first


def test_what_could_not_be_read_is_read_next_time(settings: SiteConfig) -> None:
    opened = OpenFilms()
    opened.load(settings, FINDINGS, 32, apart=False)
    away = settings.labels.with_suffix(".away")
    settings.labels.rename(away)
    with pytest.raises(OSError, match="labels"):
        opened.load(settings, FINDINGS, 32, apart=False)
    away.rename(settings.labels)
    assert len(opened.load(settings, FINDINGS, 32, apart=False).train) > 0
