"""Where a server is reached: host names, IP addresses, and host:port."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

from acm_core.trust import TrustError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST_NAME = 253  # RFC 1035 2.3.4, without the dot at the end
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"({_LABEL}\.)*{_LABEL}", re.ASCII)


class AddressError(TrustError):
    """Text that is no address."""


def parse_host(text: str) -> IPAddress | str:
    """The IP address in `text`, or `text` itself where it is a host name.

    Raises:
        AddressError: it is neither, or means something on this machine alone (0.0.0.0, fe80::1%eth0).
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        if (
            len(text) > _LONGEST_NAME
            or not _NAME.fullmatch(text)
            or text.rpartition(".")[2].isdecimal()  # a mistyped IP address
        ):
            raise AddressError(
                f"expected a host name or an IP address, got {ascii(text)[:_LONGEST_NAME]}"
            ) from None
        return text
    if address.is_unspecified or "%" in text:
        raise AddressError(f"expected an address by which others reach the server, got {text}")
    return address


def split_address(text: str) -> tuple[str, int]:
    """Host, without brackets, and port of `host:port` or `[IPv6 address]:port`.

    Raises:
        AddressError: `text` is no such address.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port[:6]) <= 65535):
        raise AddressError(f"expected host:port such as fed.example.org:9092, got {ascii(text)[:300]}")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if join_address(bare, int(port)) != text:
        raise AddressError(
            f"expected host:port, an IPv6 address in brackets: [2001:db8::1]:9092; got {ascii(text)[:300]}"
        )
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets.

    Raises:
        AddressError: `host` is none.
    """
    return f"[{host}]:{port}" if isinstance(parse_host(host), ipaddress.IPv6Address) else f"{host}:{port}"


def _expect_address(text: str) -> str:
    split_address(text)
    return text


ServerAddress = Annotated[str, AfterValidator(_expect_address)]
"""host:port of a federation's server."""
