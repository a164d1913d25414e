"""What is said of a model by whose films it learnt from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from reports import read, report

from acm_core.federated.cohort import Cohort, cohorts_of, invented_warning, run_in_short


@given(st.lists(st.booleans(), max_size=5))
def test_a_warning_stands_exactly_where_a_sites_films_are_invented(invented: list[bool]) -> None:
    cohorts = [Cohort(site=f"S{number}", invented=one) for number, one in enumerate(invented)]
    warning, name = invented_warning(cohorts), run_in_short("demo", cohorts)
    assert bool(warning) == ("invented" in name) == any(invented)
    if any(invented):
        assert ("in part" in warning) == ("in part" in name) == (not all(invented))
    if any(invented) and not all(invented):
        assert all((cohort.site in warning) == cohort.invented for cohort in cohorts)


def test_a_site_says_which_films_it_has() -> None:
    reports = {
        "A": read({**report(), "about": "PA films of 2016 to 2019"}),
        "B": read({**report(), "invented": True}),
        "C": read({**report(), "fingerprint": None}),
    }
    a, b, c = cohorts_of(reports)
    assert (a.films, a.fingerprint) == ("PA films of 2016 to 2019", "0a" * 32)
    assert b.films == "invented films, drawn by a computer"
    assert c.films == "the site does not say which films, whose labels and what years"
    assert [cohort.invented for cohort in (a, b, c)] == [False, True, False]


@pytest.mark.parametrize("about", ["", "two\nlines", "x" * 301, "a\u2028b"])
def test_what_a_site_says_is_one_line(about: str) -> None:
    with pytest.raises(ValidationError):
        Cohort(site="A", about=about)
