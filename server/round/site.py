"""A site as the round loop knows it, and what came of one task there."""

from __future__ import annotations

from dataclasses import dataclass, replace

from acm_core.federated.messages import Refusal, Reply
from server.round.events import Reason
from server.round.transport import Connection, Ticket

_TRIES_OF_LOST = 3


@dataclass
class Site:
    """One site, for as long as the server application runs.

    Attributes:
        connection: None while the site is away.
        has_last: whether it has the last round's model, so that the difference to it is enough.
    """

    name: str
    connection: Connection | None = None
    has_last: bool = False


@dataclass
class Asked:
    """One site and one task: a message goes there, and another where the first one is lost, until something comes.

    Attributes:
        ticket: of the newest message; None: one goes out as soon as the site is there.
        at_work: the newest message has no answer yet.
        reply: what was taken in, without its arrays.
        refusal: why nothing was; None also where the site is being asked again.
        was_asked: at least once.
        bytes_sent: of arrays.
        bytes_received: of arrays, or of the files that they came in.
    """

    site: Site
    ticket: Ticket | None = None
    at_work: bool = False
    reply: Reply | None = None
    refusal: Reason | None = None
    was_asked: bool = False
    bytes_sent: int = 0
    bytes_received: int = 0
    _times_lost: int = 0

    @property
    def due(self) -> bool:
        """Whether a message has to go out: the site is there, and has had none over this connection."""
        here = self.site.connection
        return here is not None and self.reply is None and (not self.ticket or self.ticket.connection != here)

    @property
    def to_be_asked_again(self) -> bool:
        """Whether what it refused for is mended by another message."""
        return self.refusal is not None and self.ticket is None

    @property
    def silent(self) -> bool:
        """Whether it has neither answered nor refused."""
        return self.reply is None and self.refusal is None

    def sent(self, ticket: Ticket) -> None:
        """A message has gone out."""
        self.ticket, self.at_work, self.was_asked, self.refusal = ticket, True, True, None
        self.bytes_sent += ticket.sent_bytes

    def came(self, received_bytes: int) -> None:
        """The answer to the newest message is here."""
        self.at_work = False
        self.bytes_received += received_bytes

    def take(self, reply: Reply) -> None:
        """The answer counts. Its arrays are in the round's sum: held here, memory would grow with the sites."""
        self.reply = replace(reply, arrays={})

    def refuse(self, reason: Reason) -> None:
        """The answer does not count. A site that lost its process or its model may be asked again, a few times."""
        self.refusal, self.site.has_last = reason, False
        if reason in (Refusal.LOST, Refusal.BASE) and self._times_lost < _TRIES_OF_LOST:
            self._times_lost += 1
            self.ticket = None
