"""One process speaks for a site, until it hangs up or is silent."""

from __future__ import annotations

import time

import pytest

from server.link import leases
from server.link.leases import Leases


def test_the_first_one_has_it_and_each_site_its_own() -> None:
    held = Leases()
    assert held.take("A", "original")
    assert not held.take("A", "copy")
    assert held.take("A", "original")
    assert held.take("B", "copy")


def test_one_that_hung_up_makes_room_at_once() -> None:
    held = Leases()
    assert held.take("A", "original")
    held.release("A")
    assert held.take("A", "started again")
    assert not held.take("A", "original")


def test_one_that_is_silent_makes_room_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_SECONDS", 0.2)
    held = Leases()
    assert held.take("A", "original")
    with held.call("A"):
        time.sleep(0.3)
        assert not held.take("A", "copy")  # a call of the other is under way
    assert not held.take("A", "copy")
    time.sleep(0.3)
    assert held.take("A", "copy")


def test_a_call_of_one_that_hung_up_ends_in_peace() -> None:
    held = Leases()
    assert held.take("A", "original")
    with held.call("A"):
        held.release("A")
        assert held.take("A", "copy")
    assert not held.take("A", "original")
