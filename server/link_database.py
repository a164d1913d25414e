"""How the SuperLink uses its database.

SQLite has one writer at a time, and Flower writes in every call, even in one that only asks for a run's state. Where
many sites ask at once, SQLite lets each try again and again, in no order, and after five seconds says "database is
locked": Flower then answers 500, and the site drops what it was about. A transaction that waits here instead waits
as long as it has to.

SQLite keeps its file and its journal as large as they have ever been: a round in which every site's reply lay there
would cost its disk for good.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flwr.supercore import sql_mixin
from flwr.supercore.sql_mixin import SqlMixin
from sqlalchemy.orm import Session

_turn = threading.RLock()  # a transaction within a transaction, such as the object store's, belongs to it
_session = SqlMixin.session

_JOURNAL_BYTES = 4 * 2**20  # what four parts of a model take


def serialize_transactions() -> None:
    """Transactions of every state on a database of this process come one after another from now on."""
    SqlMixin.session = _session_in_turn  # type: ignore[method-assign]  # no hook


@contextmanager
def _session_in_turn(self: SqlMixin) -> Iterator[Session]:
    with _turn, _session(self) as session:
        yield session


def give_disk_back() -> None:
    """Every database that is made from now on is as large as what it holds, its journal a few MiB."""
    # Before all others: a database of which something is written keeps how it began.
    sql_mixin.SQLITE_PRAGMAS = (  # type: ignore[assignment,attr-defined]  # no hook
        ("auto_vacuum", "FULL"),
        *sql_mixin.SQLITE_PRAGMAS,  # type: ignore[attr-defined]
        ("journal_size_limit", str(_JOURNAL_BYTES)),
    )
