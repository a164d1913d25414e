"""The one seam between the round loop and the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from acm_core.federated.messages import Reply, Task


@dataclass(frozen=True)
class Ticket:
    """A task that was sent: to which site, over which connection, and how many bytes of arrays it carried."""

    message: str
    site: str
    connection: int
    sent_bytes: int


@dataclass(frozen=True)
class Answer:
    """A reply to a ticket. `reply.site` is the site the ticket went to, whatever the message claims."""

    ticket: Ticket
    reply: Reply
    received_bytes: int


class Transport(Protocol):
    """Carries tasks to sites and replies back."""

    def connected(self) -> dict[str, int]:
        """Sites connected now → their connection; a site that reconnects has a new one."""
        ...

    def send(self, task: Task, sites: dict[str, int], lifetime: float) -> list[Ticket]:
        """Send one task to several sites; a message not fetched within `lifetime` seconds is dropped."""
        ...

    def receive(self, tickets: Sequence[Ticket]) -> list[Answer]:
        """Replies that have arrived since the last call, without waiting."""
        ...
