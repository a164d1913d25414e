"""A folder as a source of films: what it lists it also gives, whatever the names are made of."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import hospitals
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from acm_core.data.intake.intake import prepare, take_in
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.data.source.choice import source_at
from acm_core.data.source.film_source import Listing
from acm_core.data.source.folder import FolderSource


def names(listing: Listing) -> list[str]:
    return [file.name for file in listing.files]


def test_files_at_any_depth_but_for_what_is_left_out(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.png", "a/b/d", "state/model", "labels.csv", "a.png"):
        path = tmp_path / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    films = tmp_path / "films"
    (films / "there.png").symlink_to(films / "b.png")
    (films / "nothing.png").symlink_to(films / "gone.png")
    (films / "linked").symlink_to(films / "a")
    os.mkfifo(films / "pipe")
    (tmp_path / "other").symlink_to(films)
    source = FolderSource(tmp_path / "other", (films / "labels.csv", tmp_path / "other/state"))
    listing = source.look()
    assert names(listing) == ["a.png", "a/b/d", "a/c.png", "b.png", "there.png"]
    assert listing.linked == ["linked"]
    assert [source.read(name) for name in names(listing)[:2]] == [b"a.png", b"a/b/d"]


def test_a_stamp_changes_with_the_file_and_not_else(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    source = FolderSource(tmp_path)
    first = source.look()
    assert source.look() == first
    os.utime(path, (1, 1))
    assert source.look() != first
    (file,) = source.every_file()
    assert (file.stamp.size, file.stamp.modified) == (3, 10**9)


@given(
    st.lists(
        st.binary(min_size=1, max_size=12).filter(lambda name: not {0, 47} & set(name) and name.strip(b".")),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_what_is_listed_can_be_read_whatever_its_name(
    tmp_path_factory: pytest.TempPathFactory, raw: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("films")
    for name in raw:
        (folder / os.fsdecode(name)).write_bytes(name)
    source = source_at(FolderSource(folder).place)
    listed = names(source.look())
    assert len(listed) == len(raw)
    if len(set(listed)) == len(raw):  # a name may spell another's escapes
        assert sorted(source.read(name) for name in listed) == sorted(raw)
    shutil.rmtree(folder)


def test_a_film_whose_name_is_no_text_is_trained_on(tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    Image.effect_noise((70, 60), 90).save(tmp_path / "film.png")
    shutil.move(tmp_path / "film.png", films / os.fsdecode(b"R\xf6ntgen.png"))
    (tmp_path / "labels.csv").write_text("patient_id,image,Pneumonia\np1,R\\xf6ntgen.png,1\n")
    site = hospitals.site(tmp_path, "A", films=films, labels=tmp_path / "labels.csv")
    (row,) = take_in(site).rows
    assert (row.reason, row.listed) == (None, True)
    _, (content,) = prepare(site, ["R\\xf6ntgen.png"], 32)
    assert content is not None


def test_what_is_not_there_or_no_file_is_set_aside(tmp_path: Path) -> None:
    for name in ("gone.png", "gone\\xff.png", "."):
        with pytest.raises(FilmSetAside) as refused:
            FolderSource(tmp_path).read(name)
        assert refused.value.reason is SetAside.MISSING_FILE
