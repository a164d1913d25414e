"""Proxies of the environment: read as curl reads them, never for loopback, and never quoted."""

from __future__ import annotations

import os

import httpx
import pytest
from flwr.supercore.runtime import RuntimeHttpClient
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.proxies import ProxyError, proxy_for, settle_proxies, without_credentials

VARIABLES = [
    spelt for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for spelt in (name, name.upper())
]
PROXY = "http://proxy.hospital.example:3128"


@pytest.fixture(autouse=True)
def without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*VARIABLES, "ACM_FED_NO_PROXY"]:
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(
    ("host", "exceptions", "expected"),
    [
        ("server.example", "", PROXY),
        ("server.example", "*", None),
        ("server.example", "server.example", None),
        ("server.example", ".example", None),
        ("server.example", "*.example", None),
        ("server.example", "server.example:9092", None),
        ("server.example", " other , SERVER.example ", None),
        ("server.example.", "server.example", None),
        ("theserver.example", "server.example", PROXY),
        ("10.1.2.3", "10.0.0.0/8", None),
        ("11.1.2.3", "10.0.0.0/8", PROXY),
        ("10.1.2.3", "10.1.2.3", None),
        ("2001:db8::7", "2001:db8::/32", None),
        ("[2001:db8::7]", "[2001:db8::7]:9092", None),
        ("2001:db9::7", "2001:db8::/32", PROXY),
        ("127.0.0.1", "", None),
        ("localhost", "", None),
        ("::1", "", None),
    ],
)
def test_which_hosts_are_reached_through_it(
    monkeypatch: pytest.MonkeyPatch, host: str, exceptions: str, expected: str | None
) -> None:
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv("no_proxy", exceptions)
    assert proxy_for(host) == expected
    settle_proxies()
    assert proxy_for(host) == expected


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_which_variables_name_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, " nurse:p%23ss@proxy.example:3128 ")
    assert proxy_for("server.example") == "http://nurse:p%23ss@proxy.example:3128"
    assert without_credentials(str(proxy_for("server.example"))) == "proxy.example:3128"


def test_one_for_plain_http_alone_is_not_for_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", PROXY)
    assert proxy_for("server.example") is None


@pytest.mark.parametrize(
    "value",
    [
        "socks5://proxy:1080",
        "ftp://proxy",
        "http://nurse:kept#quiet@proxy:1",
        "http://nurse:kept/quiet@proxy:1",
        "http://proxy:kept",
        "http://",
    ],
)
@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy"])
def test_what_is_none_is_said_by_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ProxyError, match=f"expected {name} to be http://host:port") as raised:
        settle_proxies()
    assert "kept" not in str(raised.value)
    assert "nurse" not in str(raised.value)


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
HOSTS = st.sampled_from(
    ["::1", "[::1]", "[::1]:80", "::1/128", "10.0.0.0/8", "ü.de", "*", ".x", "a b", "h:1"]
)
LISTS = st.lists(HOSTS | TEXTS, max_size=4).map(",".join)
PROXIES = st.sampled_from([PROXY, "", "p:1"]) | TEXTS | TEXTS.map(lambda text: f"http://{text}@proxy:1")


@settings(deadline=None)  # a client reads the system's certificates
@given(PROXIES, PROXIES, LISTS)
def test_whatever_stands_there_libraries_read_it_afterwards(http: str, https: str, exceptions: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (
            ("http_proxy", http),
            ("HTTPS_PROXY", https),
            ("no_proxy", exceptions),
            ("ACM_FED_NO_PROXY", ""),
        ):
            patched.setenv(name, value)
        try:
            settle_proxies()
            proxy_for("server.example")
        except ProxyError:
            return
        assert os.environ["no_proxy"].startswith("127.0.0.1,::1,localhost")
        with httpx.Client() as client:
            assert client._transport_for_url(httpx.URL("http://127.0.0.1:1/")) is client._transport
        RuntimeHttpClient.from_server_address("127.0.0.1:1", True, None, interceptors=[]).close()
