"""Addresses as people write them."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from acm_core.trust.address import AddressError, join_address, parse_host, split_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("fed.example.org:9092", "fed.example.org", 9092),
        ("localhost:1", "localhost", 1),
        ("server_1:65535", "server_1", 65535),
        ("10.0.0.5:9092", "10.0.0.5", 9092),
        ("[2001:db8::1]:9092", "2001:db8::1", 9092),
    ],
)
def test_addresses_are_split_and_joined(text: str, host: str, port: int) -> None:
    assert split_address(text) == (host, port)
    assert join_address(host, port) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":9092",
        "fed.example.org",
        "fed.example.org:",
        "fed.example.org:0",
        "fed.example.org:65536",
        "fed.example.org:09092",
        "fed.example.org:9092 ",
        "fed.example.org:٩٠٩٢",
        "fed.example.org.:9092",
        "https://fed.example.org:9092",
        "user@fed.example.org:9092",
        "-fed.example.org:9092",
        "fed..example.org:9092",
        "10.0.0.256:9092",
        "10.0.0:9092",
        "0.0.0.0:9092",
        "[::]:9092",
        "[fe80::1%eth0]:9092",
        "2001:db8::1:9092",
        "[10.0.0.5]:9092",
        "[fed.example.org]:9092",
        "Krankenhaus-Süd.de:9092",
        f"{'a' * 254}:9092",
        "--insecure:1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="expected"):
        split_address(text)


@settings(deadline=None)
@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=40)
    | st.from_regex(r"[\[a-f0-9.:%\]]{1,20}:[0-9]{1,6}")
)
@example("[::1]:9092")
def test_what_is_taken_is_one_text_only_and_harmless(text: str) -> None:
    try:
        host, port = split_address(text)
    except AddressError:
        return
    assert join_address(host, port) == text
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set(" '\"`$;&|<>\\/@%")
    assert not text.startswith("-")
    assert str(parse_host(host)).lower() == host.lower() or ":" in host
