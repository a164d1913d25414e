"""What a site promises and what it takes part in, against an operator who runs other software."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from summing import Hospitals

from acm_core.secure_aggregation.promise import Promise
from acm_core.secure_aggregation.sum_list import ListFault, ListRefused, SumList

CHANGES: dict[str, Any] = {
    "federation": "heart",
    "run": "demo-2",
    "round": 2,
    "model": "0" * 64,
    "config": "0" * 64,
    "roster": "0" * 64,
    "site": "S77",
    "key": "1" * 64,
    "films": 2**24,
    "labels": "101",
    "losses": "10",
}


@pytest.fixture(scope="module")
def four() -> Hospitals:
    return Hospitals(4)


@pytest.fixture(scope="module")
def promises(four: Hospitals) -> tuple[Promise, ...]:
    return four.list().promises


def changed(promise: Promise, **changes: Any) -> Promise:
    return Promise(**{**promise.model_dump(), **changes})


def refused(hospitals: Hospitals, promises: Sequence[Promise], fault: ListFault, text: str) -> None:
    """By the first of the sites, before it masks."""
    with pytest.raises(ListRefused, match=text) as said:
        hospitals.masked("S00", SumList(tuple(promises)))
    assert said.value.fault == fault


def test_what_a_promise_says(four: Hospitals, promises: tuple[Promise, ...]) -> None:
    for promise in promises:
        films = four.updates[promise.site].films
        assert promise.films / 2 < films <= promise.films
        assert promise.is_signed(four.public[promise.site])
        assert promise == Promise.model_validate_json(promise.model_dump_json())
    four_labels = Hospitals(2)
    four_labels.change("S00", labelled=(3, 0, 1), metrics={"train_loss": 0.5})
    assert (four_labels.promise("S00").labels, four_labels.promise("S00").losses) == ("101", "10")


@pytest.mark.parametrize(("films", "said"), [(1, 1), (2, 2), (3, 4), (4, 4), (1025, 2048)])
def test_films_are_said_as_a_power_of_two(films: int, said: int) -> None:
    hospitals = Hospitals(2)
    hospitals.change("S00", films=films, labelled=(0, 0, 0))
    assert hospitals.promise("S00").films == said


@pytest.mark.parametrize(
    "field", [name for name in Promise.model_fields if name not in ("protocol", "signature")]
)
def test_every_field_is_signed_and_changes_every_key(four: Hospitals, field: str) -> None:
    sums = four.list()
    one = sums.promises[2]
    assert getattr(one, field) != CHANGES[field]
    other = changed(one, **{field: CHANGES[field]})
    assert not other.is_signed(four.public[one.site])
    before = {mask.key for mask in four.secrets["S00"].masks("S00", sums)}
    about = {field: CHANGES[field]} if field in type(four.subject).model_fields else {}
    again = [four.promise(name, **about) for name in four.names]
    if not about:
        again[2] = other
    after = SumList.of(again)
    assert after.transcript != sums.transcript
    keys = {mask.key for mask in four.secrets["S00"].masks("S00", after)}
    assert len(keys) == len(before) == 4
    assert not keys & before


def test_every_field_has_its_change() -> None:
    assert set(CHANGES) == set(Promise.model_fields) - {"protocol", "signature"}


def test_the_signature_is_no_part_of_the_transcript(four: Hospitals) -> None:
    """Signatures are never the same twice: a promise that is signed anew is the same promise."""
    one, other = four.list(), four.list()
    assert one.promises != other.promises
    assert one.transcript == other.transcript


def test_substituted_keys_are_refused(four: Hospitals, promises: tuple[Promise, ...]) -> None:
    other = changed(promises[2], key="11" * 32)
    refused(four, [*promises[:2], other, promises[3]], ListFault.ROSTER, "a promise that S02 signed")
    foreign = Promise.signed(
        ec.generate_private_key(ec.SECP384R1()), four.subject, four.updates["S02"], other.key
    )
    refused(four, [*promises[:2], foreign, promises[3]], ListFault.ROSTER, "a promise that S02 signed")
    stolen = changed(promises[2], signature=promises[3].signature)
    refused(four, [*promises[:2], stolen, promises[3]], ListFault.ROSTER, "a promise that S02 signed")


def test_a_site_outside_the_roster_is_refused(four: Hospitals, promises: tuple[Promise, ...]) -> None:
    invented = Hospitals(6)
    invented.subject = four.subject
    refused(
        four, [*promises, invented.promise("S05")], ListFault.ROSTER, "sites of the pinned roster, got S05"
    )


@pytest.mark.parametrize("field", ["federation", "run", "round", "model", "config", "roster"])
def test_promises_for_another_sum_are_refused(
    four: Hospitals, promises: tuple[Promise, ...], field: str
) -> None:
    """An old round's, another run's, one of a site that was shown another model, configuration or roster."""
    other = four.promise("S02", **{field: CHANGES[field]})
    refused(four, [*promises[:2], other, promises[3]], ListFault.LIST, "promises for one sum")


def test_promises_about_other_findings_are_refused(four: Hospitals, promises: tuple[Promise, ...]) -> None:
    refused(four, [*promises[:3], changed(promises[3], labels="11")], ListFault.LIST, "promises for one sum")


def test_lists_that_are_none_are_refused(four: Hospitals, promises: tuple[Promise, ...]) -> None:
    for wrong in ((), promises[:1], promises[::-1], (promises[0], *promises)):
        refused(four, wrong, ListFault.LIST, "two sites or more, each once and in order")
    refused(four, promises[1:], ListFault.LIST, "own promise as it made it")
    own = four.promise("S00")  # signed anew by the site, but not the one it keeps
    with pytest.raises(ListRefused, match="own promise as it made it"):
        SumList((own, *promises[1:])).expect_permitted(promises[0], four.public, quorum=2, least=2)
    copy = changed(promises[3], key=promises[2].key)
    refused(four, [*promises[:3], copy], ListFault.LIST, "a key of each site's own")


def test_fewer_sites_than_the_sites_own_file_asks_for_are_refused() -> None:
    hospitals = Hospitals(4, quorum=3, least=3)
    promises = hospitals.list().promises
    refused(hospitals, promises[:2], ListFault.MINIMUM, "expected 3 sites or more")
    hospitals.masked("S00", SumList(promises[:3]))
    hospitals.quorum = 2  # a run whose rows may be two sites'
    refused(hospitals, promises, ListFault.MINIMUM, "got 4 in a run with a quorum of 2")


@pytest.mark.parametrize("key", ["00" * 32, "01" + "00" * 31, "ed" + "ff" * 30 + "7f"])
def test_keys_that_agree_with_everybody_on_one_secret_are_refused(four: Hospitals, key: str) -> None:
    """Points of low order: 0, 1 and p."""
    promises = four.list().promises
    evil = Promise.signed(four.keys["S02"], four.subject, four.updates["S02"], key)
    refused(four, [*promises[:2], evil, promises[3]], ListFault.LIST, "agrees on a secret")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", "acm-fed.sum/2"),
        ("films", 3),
        ("films", 0),
        ("films", 2**25),
        ("films", 4.0),
        ("round", 0),
        ("labels", ""),
        ("labels", "12"),
        ("losses", "1"),
        ("key", "AB" * 32),
        ("key", "ab" * 31),
        ("site", "S\n00"),
        ("run", ""),
        ("signature", ""),
        ("signature", "é"),
        ("more", 1),
    ],
)
def test_a_promise_has_its_fields_and_no_others(
    promises: tuple[Promise, ...], field: str, value: object
) -> None:
    with pytest.raises(ValidationError):
        changed(promises[0], **{field: value})
    content = [json.loads(promise.model_dump_json()) for promise in promises]
    content[1][field] = value
    with pytest.raises(ListRefused, match="expected a list of promises") as said:
        SumList.parse(json.dumps(content))
    assert str(said.value).isprintable()
    assert said.value.fault == ListFault.LIST


def test_a_list_comes_back_from_its_text(promises: tuple[Promise, ...]) -> None:
    sums = SumList(promises)
    assert SumList.parse(sums.text) == sums == SumList.of(promises[::-1])
    assert len(sums.text) < 700 * len(promises)
    assert sums.sites == ["S00", "S01", "S02", "S03"]


@given(
    st.text(max_size=50)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ).map(json.dumps)
)
@settings(deadline=None)
def test_anything_else_is_no_list(text: str) -> None:
    with pytest.raises(ListRefused) as said:
        SumList.parse(text)
    assert said.value.fault == ListFault.LIST
    assert len(str(said.value)) < 500


def test_more_than_a_list_may_weigh_is_not_even_read(promises: tuple[Promise, ...]) -> None:
    with pytest.raises(ListRefused, match="at most 131072 bytes"):
        SumList.parse(SumList(promises).text.ljust(2**17 + 1))
    SumList.parse(SumList(promises).text.ljust(2**17))


def test_what_follows_from_a_list() -> None:
    hospitals = Hospitals(3)
    hospitals.change("S00", films=5, labelled=(5, 0, 0), metrics={"train_loss": 1.0})
    hospitals.change("S01", films=100, labelled=(1, 2, 0))
    hospitals.change("S02", films=64, labelled=(0, 1, 7))
    terms = hospitals.list().terms(quorum=2)
    assert (terms.sites, terms.films) == (3, 8 + 128 + 64)
    assert (terms.labelling, terms.rows) == ((2, 2, 1), (True, True, False))
    assert terms.losses == (True, False)
    assert hospitals.list().terms(quorum=3).rows == (False, False, False)
