"""Strangers make room for newcomers; those whose signature came stay; nobody has more than a share."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from server.link.doors import Client, Doors, peer_of

MOST, SHARE = 6, 3


class Connection:
    """One that goes when it is broken off, as a socket does: not at once."""

    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Listener(RuleBasedStateMachine):
    """Connections that come, show a signature and go, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.doors, self.number = Doors(MOST, SHARE), 0
        self.open: dict[Client, Connection] = {}
        self.known: set[Client] = set()

    @rule(peer=st.integers(1, 9))
    def come(self, peer: int) -> None:
        before = [client for client, connection in self.open.items() if not connection.aborted]
        of_peer = [client for client in self.open if client[0] == f"10.0.0.{peer}"]
        self.number += 1
        client, connection = (f"10.0.0.{peer}", self.number), Connection()
        full = len(self.open) >= MOST
        self.open[client] = connection
        self.doors.enter(client, cast(asyncio.Transport, connection))
        gone = [one for one in before if self.open[one].aborted]
        if len(of_peer) >= SHARE:
            assert connection.aborted
            assert gone == []
        elif full:
            strangers = [one for one in before if one not in self.known]
            assert gone == strangers[:1]
            assert connection.aborted == (strangers == [])
        else:
            assert gone == []
            assert not connection.aborted

    @rule(chosen=st.integers(0, 20))
    def show_a_signature(self, chosen: int) -> None:
        here = [client for client, connection in self.open.items() if not connection.aborted]
        if here:
            self.known.add(here[chosen % len(here)])
            self.doors.know(here[chosen % len(here)])

    @rule(chosen=st.integers(0, 20))
    def go(self, chosen: int) -> None:
        if self.open:
            client = list(self.open)[chosen % len(self.open)]
            del self.open[client]
            self.known.discard(client)
            self.doors.leave(client)

    @rule()
    def all_that_were_broken_off_go(self) -> None:
        for client in [client for client, connection in self.open.items() if connection.aborted]:
            del self.open[client]
            self.doors.leave(client)

    @invariant()
    def who_is_known_stays(self) -> None:
        assert not any(self.open[client].aborted for client in self.known)


Listener.TestCase.settings = settings(max_examples=300, deadline=None)
test_a_listener = Listener.TestCase


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_who_counts_as_one_peer(address: str, peer: str) -> None:
    assert peer_of(address) == peer
