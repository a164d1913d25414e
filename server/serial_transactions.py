"""Flower's transactions on the SuperLink's database come one after another.

SQLite has one writer at a time, and Flower writes in every call, even in one that only asks for a run's state. Where
many sites ask at once, SQLite lets each try again and again, in no order, and after five seconds says "database is
locked": Flower then answers 500, and the site drops what it was about. A transaction that waits here instead waits
as long as it has to.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.supercore.sql_mixin import SqlMixin
from sqlalchemy.orm import Session

_turn = threading.RLock()  # a transaction within a transaction, such as the object store's, belongs to it
_session = SqlMixin.session


def serialize_transactions() -> None:
    """Every state on a database of this process keeps to it from now on."""
    SqlMixin.session = _session_in_turn  # type: ignore[method-assign]  # no hook


@contextmanager
def _session_in_turn(self: SqlMixin) -> Iterator[Session]:
    with _turn, _session(self) as session:
        yield session
