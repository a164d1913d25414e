"""The proxies that the environment names: which one a server is reached through, and none for loopback.

`http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`, in small or capital letters, as curl and others read them.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import suppress
from urllib.request import getproxies_environment

import httpx

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
NAMES = ("http_proxy", "https_proxy", "all_proxy")
"""Of variables, in small letters."""
_WHOLE = "ACM_FED_NO_PROXY"
"""The list as it was, of which the libraries get what they understand."""
_SCHEMES = frozenset({"http", "https"})


class ProxyError(ValueError):
    """A proxy in the environment that cannot be used. The text names the variable, and never its value."""


def proxy_for(host: str) -> str | None:
    """The proxy through which a TLS connection to `host` goes; None where it goes by itself.

    Raises:
        ProxyError: it is none.
    """
    if _is_direct(host):
        return None
    return next((_proxy(name, value) for name, value in _named("https_proxy", "all_proxy")), None)


def without_credentials(proxy: str) -> str:
    """host:port of a proxy, to be shown."""
    url = httpx.URL(proxy)
    return url.host if url.port is None else f"{url.host}:{url.port}"


def settle_proxies() -> None:
    """Let this process and those that it starts reach loopback by themselves, and read proxies without an error.

    What libraries make of the same variables differs: here they are written as all of them understand.

    Raises:
        ProxyError: one of the proxies cannot be used.
    """
    for name, value in _named(*NAMES):
        os.environ[name] = _proxy(name, value)
    os.environ[_WHOLE] = ",".join(_exceptions())
    direct = ",".join(dict.fromkeys([*_LOOPBACK, *filter(_is_understood, _exceptions())]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = direct


def _named(*names: str) -> Iterator[tuple[str, str]]:
    """The variables that are set, in small or capital letters, and their values."""
    for name in names:
        for spelt in (name, name.upper()):
            if value := os.environ.get(spelt, "").strip():
                yield spelt, value


def _proxy(name: str, value: str) -> str:
    text = value if "://" in value else f"http://{value}"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise ProxyError(
            f"expected {name} to be http://host:port or http://user:password@host:port, got something else; in a "
            "password # is written %23, / is %2F, ? is %3F and @ is %40"
        ) from None
    if url.scheme not in _SCHEMES or not url.host:
        raise ProxyError(
            f"expected {name} to be http://host:port or https://host:port, got another kind of proxy"
        )
    return text


def _exceptions() -> Iterator[str]:
    """What `no_proxy` lists, without brackets and ports."""
    listed = os.environ.get(_WHOLE) or getproxies_environment().get("no", "")
    for entry in listed.split(","):
        text = entry.strip()
        if text.startswith("["):
            text = text[1:].partition("]")[0]
        elif text.count(":") == 1:
            text = text.partition(":")[0]
        if text:
            yield text


def _is_direct(host: str) -> bool:
    name = host.strip("[]").lower().rstrip(".")
    if name in _LOOPBACK:
        return True
    address = None
    with suppress(ValueError):
        address = ipaddress.ip_address(name)
    for entry in _exceptions():
        if entry == "*":
            return True
        if address is not None:
            with suppress(ValueError):
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
        else:
            suffix = entry.lower().removeprefix("*").strip(".")
            if suffix and (name == suffix or name.endswith(f".{suffix}")):
                return True
    return False


def _is_understood(entry: str) -> bool:
    """Whether httpx can read an entry of `no_proxy`."""
    with suppress(ValueError):
        return ipaddress.ip_network(entry, strict=False).version == 4 or "/" not in entry
    with suppress(httpx.InvalidURL):
        httpx.URL(f"all://*{entry}")
        return "/" not in entry
    return False
