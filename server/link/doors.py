"""Who is connected: a peer has a share of the places, and where all are taken strangers make room for newcomers."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, OrderedDict
from contextlib import suppress

Client = tuple[str, int]
"""Address and port of a connection's other end."""
_IPV6_PREFIX = 64


class Doors:
    """The open connections of a listener.

    Over some of them a registered site's signature has come. The others are strangers', and of these the one that is
    longest here goes when a newcomer finds no place: however many strangers come, a site gets in and stays.

    Args:
        most: connections at a time.
        most_a_peer: of one peer (`peer_of`).
    """

    def __init__(self, most: int, most_a_peer: int) -> None:
        self._most, self._most_a_peer = most, most_a_peer
        self._peers: Counter[str] = Counter()
        self._strangers: OrderedDict[Client, asyncio.Transport] = OrderedDict()

    def enter(self, client: Client, transport: asyncio.Transport) -> None:
        """A connection has come; one that is too much of its peer's is broken off, or a stranger for it."""
        peer = peer_of(client[0])
        self._peers[peer] += 1
        if self._peers[peer] > self._most_a_peer:
            transport.abort()
            return
        self._strangers[client] = transport
        if self._peers.total() > self._most:
            _, longest_here = self._strangers.popitem(last=False)
            longest_here.abort()

    def know(self, client: Client) -> None:
        """A site's signature has come over this connection."""
        self._strangers.pop(client, None)

    def leave(self, client: Client) -> None:
        """A connection has gone."""
        self._strangers.pop(client, None)
        peer = peer_of(client[0])
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]


def peer_of(address: str) -> str:
    """Who counts as one: an IPv4 address, or the 64 bits of an IPv6 address that one customer has whole (RFC 6177)."""
    with suppress(ValueError):
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if parsed.version == 4:
            return str(parsed)
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
    return address
