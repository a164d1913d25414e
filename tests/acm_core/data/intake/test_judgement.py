"""What private training goes by: each patient judged as if the site had no other."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.data.intake.judgement import Listed, film_id, judge
from acm_core.data.intake.manifest import Row
from acm_core.data.intake.reading import Reading
from acm_core.data.intake.signature import SIGNATURE_BYTES
from acm_core.data.set_aside import SetAside

SALT = bytes(32)


@dataclass(frozen=True)
class Film:
    """A film in the label file; films with one `picture` are the same, in the same file or in another."""

    patient: int
    picture: int
    encoding: int
    header_id: int | None
    person: int | None
    view: str | None


films = st.lists(
    st.builds(
        Film,
        patient=st.integers(0, 5),
        picture=st.integers(0, 3),
        encoding=st.integers(0, 1),
        header_id=st.none() | st.integers(0, 2),
        person=st.none() | st.integers(0, 2),
        view=st.sampled_from(["AP", "PA", "LATERAL", None]),
    ),
    min_size=1,
    max_size=24,
)


def signature(picture: int) -> str:
    contrast = np.random.default_rng(picture).integers(-127, 128, SIGNATURE_BYTES)
    return b64encode(contrast.astype(np.int8).tobytes()).decode()


def judged(site: dict[str, Film]) -> dict[str, Row]:
    """Path → row."""
    readings = [
        (
            path,
            Reading(
                f"content of {path}",
                pixels=f"{film.picture} {film.encoding}",
                view=film.view,
                patient=None if film.header_id is None else f"id {film.header_id}",
                person=None if film.person is None else f"person {film.person}",
                signature=signature(film.picture),
            ),
        )
        for path, film in site.items()
    ]
    listed = {path: Listed(f"patient {film.patient}") for path, film in site.items()}
    judgement = judge(readings, listed, SALT)
    rows = {row.film: row for row in judgement.rows}
    return {path: rows[film_id(path, SALT)] for path in site}


@settings(max_examples=60, deadline=None)
@given(films=films, gone=st.integers(0, 5))
def test_one_patient_more_or_less_changes_nothing_for_another(films: list[Film], gone: int) -> None:
    """Whatever headers say, and whatever films both have: sensitivity is that of one unit."""
    site = {f"{index:02}.dcm": film for index, film in enumerate(films)}
    others = {path: film for path, film in site.items() if film.patient != gone}
    with_all, without = judged(site), judged(others)
    for path, row in without.items():
        apart = with_all[path].apart()
        assert (apart.patient, apart.split, apart.reason) == (
            row.own_patient,
            row.own_split,
            row.own_reason,
        )


@settings(max_examples=60, deadline=None)
@given(films=films)
def test_apart_a_patient_is_the_label_files_and_keeps_one_of_each_film(films: list[Film]) -> None:
    site = {f"{index:02}.dcm": film for index, film in enumerate(films)}
    rows = {path: row.apart() for path, row in judged(site).items()}
    numbers = {row.patient: site[path].patient for path, row in rows.items()}
    assert len(numbers) == len({film.patient for film in films})
    assert all(numbers[row.patient] == site[path].patient for path, row in rows.items())
    for patient, row in {(site[path].patient, row) for path, row in rows.items()}:
        assert row.split == next(r.split for p, r in rows.items() if site[p].patient == patient)
    used = [(site[path].patient, site[path].picture) for path, row in rows.items() if row.reason is None]
    assert len(used) == len(set(used))
    frontal = {(film.patient, film.picture) for film in films if film.view != "LATERAL"}
    assert set(used) == frontal


def test_nine_who_share_an_identity_are_as_apart_as_eight() -> None:
    """By headers eight are joined and nine are a placeholder: then one patient more parts eight others."""
    many = {f"{number}.dcm": Film(number, number, 0, None, 0, "PA") for number in range(9)}
    few = dict(list(many.items())[:8])
    assert len({row.patient for row in judged(few).values()}) == 1
    assert len({row.patient for row in judged(many).values()}) == 9
    for site in (few, many):
        assert len({row.own_patient for row in judged(site).values()}) == len(site)


def test_a_film_of_two_patients_is_used_of_both_apart_and_of_one_together() -> None:
    site = {name: Film(number, 0, number, None, None, "PA") for number, name in enumerate(["a.png", "b.png"])}
    rows = judged(site)
    assert [rows[path].reason for path in site] == [None, SetAside.NEAR_DUPLICATE]
    assert [rows[path].own_reason for path in site] == [None, None]
