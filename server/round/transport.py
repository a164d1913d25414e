"""The one seam between the round loop and the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from acm_core.federated.messages import Reply, Task


class Connection(NamedTuple):
    """A site's connection: the number that the network knows the site by, and since when; another time is another."""

    node: int
    since: str = ""


@dataclass(frozen=True)
class Ticket:
    """A task that was sent: to which site, over which connection, and how many bytes of arrays it carried."""

    message: str
    site: str
    connection: Connection
    sent_bytes: int


@dataclass(frozen=True)
class Answer:
    """A reply to a ticket. `reply.site` is the site the ticket went to, whatever the message claims."""

    ticket: Ticket
    reply: Reply
    received_bytes: int


class Transport(Protocol):
    """Carries tasks to sites and replies back."""

    def connected(self) -> dict[str, Connection]:
        """Sites connected now → their connection; a site that reconnects has a new one."""
        ...

    def send(self, task: Task, sites: dict[str, Connection], lifetime: float) -> list[Ticket]:
        """Send one task to several sites; a message not fetched within `lifetime` seconds is dropped."""
        ...

    def receive(self, tickets: Sequence[Ticket]) -> Iterable[Answer]:
        """Replies that have arrived since the last call, without waiting; over a network one in memory at a time."""
        ...
