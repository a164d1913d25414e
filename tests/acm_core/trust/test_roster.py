"""The roster: one fingerprint for all that is in it, and no site under another's name."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.trust import keys
from acm_core.trust.roster import Roster, RosterError

KEYS = {site: ec.generate_private_key(ec.SECP384R1()) for site in ("A", "B", "C", "D")}
PUBLIC = {site: keys.public_text(key.public_key()) for site, key in KEYS.items()}
ROSTER = Roster.of("chest", {site: PUBLIC[site] for site in ("C", "A", "B")})


def written(**changes: Any) -> bytes:
    return json.dumps(json.loads(ROSTER.model_dump_json()) | changes).encode()


def rows(**public: str) -> list[dict[str, str]]:
    """Rows as an operator may write them, in this order."""
    return [
        {"site": site, "public_key": text, "fingerprint": keys.fingerprint(keys.parse_public_key(text))}
        for site, text in public.items()
    ]


A, B = rows(A=PUBLIC["A"], B=PUBLIC["B"])


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    ROSTER.write(tmp_path / "roster.json")
    assert Roster.read(tmp_path / "roster.json") == ROSTER
    assert [row.site for row in ROSTER.sites] == ["A", "B", "C"]
    own = ROSTER.public_keys()
    assert {site: keys.public_text(key) for site, key in own.items()} == {site: PUBLIC[site] for site in own}


def test_its_fingerprint_is_of_all_that_is_in_it_and_of_nothing_else() -> None:
    same = Roster.of("chest", {site: PUBLIC[site] for site in ("B", "C", "A")})
    others = [
        Roster.of("heart", {site: PUBLIC[site] for site in ("A", "B", "C")}),
        Roster.of("chest", {site: PUBLIC[site] for site in ("A", "B")}),
        Roster.of("chest", PUBLIC),
        Roster.of("chest", {"A": PUBLIC["A"], "B": PUBLIC["B"], "C": PUBLIC["D"]}),
        Roster.of("chest", {"A": PUBLIC["B"], "B": PUBLIC["A"], "C": PUBLIC["C"]}),
        Roster.of("chest", {"A": PUBLIC["A"], "B": PUBLIC["B"], "C2": PUBLIC["C"]}),
    ]
    assert same.fingerprint == ROSTER.fingerprint
    assert len({roster.fingerprint for roster in (ROSTER, *others)}) == 1 + len(others)
    assert len(bytes.fromhex(ROSTER.fingerprint)) == 32


def test_every_changed_byte_is_refused_or_has_another_fingerprint_or_means_the_same() -> None:
    content = ROSTER.model_dump_json(indent=2).encode()
    chance = random.Random(0)
    refused = 0
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= chance.choice((1, 2, 4, 8, 16, 32, 128))
        try:
            roster = Roster.parse(bytes(changed))
            assert roster == ROSTER or roster.fingerprint != ROSTER.fingerprint
        except RosterError as error:
            refused += 1
            assert str(error).isprintable()
    assert refused > 0.8 * len(content)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sites": rows(A=PUBLIC["A"])}, "sites"),
        ({"sites": rows(B=PUBLIC["B"], A=PUBLIC["A"])}, "in the order of their names"),
        ({"sites": [*rows(A=PUBLIC["A"]), *rows(A=PUBLIC["B"])]}, "in the order of their names"),
        ({"sites": rows(A=PUBLIC["A"], B=PUBLIC["A"])}, "two sites have one key"),
        ({"sites": [A, B | {"fingerprint": A["fingerprint"]}]}, "not that of the key of B"),
        ({"sites": [A, B | {"public_key": "ssh-rsa AAAA"}]}, "P-384"),
        ({"format": "acm-fed.roster/2"}, "format"),
        ({"federation": "chest\nA key"}, "federation"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_no_roster_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(RosterError, match=text) as refused:
        Roster.parse(written(**changes))
    assert str(refused.value).startswith("expected a roster as it was written")


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    ).map(lambda value: json.dumps(value).encode())
)
@settings(deadline=None)
def test_anything_else_is_refused_in_a_line(content: bytes) -> None:
    with pytest.raises(RosterError) as refused:
        Roster.parse(content)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


def test_a_site_finds_its_own_key_under_its_own_name_or_refuses() -> None:
    own = KEYS["A"].public_key()
    ROSTER.expect_own("chest", "A", own)
    for federation, site, key, text in (
        ("heart", "A", own, "expected a roster of heart, got one of chest"),
        (
            "chest",
            "A",
            KEYS["D"].public_key(),
            "this site's key SHA256:.* under A in the roster, got SHA256:",
        ),
        (
            "chest",
            "D",
            KEYS["D"].public_key(),
            r"expected D in the roster \(A, B, C\), got none of that name",
        ),
        ("chest", "D", KEYS["B"].public_key(), "under D in the roster, got it under B"),
    ):
        with pytest.raises(RosterError, match=text):
            ROSTER.expect_own(federation, site, key)
