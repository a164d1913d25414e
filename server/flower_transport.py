"""The round loop's transport over Flower's Grid: the server's only module that builds Flower messages."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Iterator, Sequence

import httpx
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from acm_core.federated.messages import Refusal, Reply, Task, TaskKind
from server.transport import Answer, Connection, Ticket

log = logging.getLogger("acm_fed.server")

_MESSAGE_TYPES = {
    TaskKind.TRAIN: "train",
    TaskKind.LOCAL_ONLY: "train.local_only",
    TaskKind.EVALUATE: "evaluate",
}
_CONNECTED_SECONDS = 1.0


class FlowerTransport:
    """Sites over a Flower Grid, each by the name that its key is registered under, whatever it says it is."""

    def __init__(self, grid: Grid, sites: Sequence[str]) -> None:
        self._grid = grid
        self._sites = frozenset(sites)
        self._connected: dict[str, Connection] = {}
        self._asked = -math.inf

    def connected(self) -> dict[str, Connection]:
        if time.monotonic() - self._asked >= _CONNECTED_SECONDS:
            self._connected = {
                node.name: Connection(node.node_id, node.last_activated_at)
                for node in self._grid.get_nodes()
                if node.name in self._sites
            }
            self._asked = time.monotonic()
        return self._connected

    def send(self, task: Task, sites: dict[str, Connection], lifetime: float) -> list[Ticket]:
        arrays = ArrayRecord({name: Array(array) for name, array in task.arrays.items()})
        content = RecordDict({"task": ConfigRecord({**task.to_wire()}), "arrays": arrays})
        sent_bytes = sum(array.nbytes for array in task.arrays.values())
        tickets = []
        for site, connection in sites.items():
            message = Message(
                content,
                dst_node_id=connection.node,
                message_type=_MESSAGE_TYPES[task.kind],
                ttl=lifetime,
                group_id=str(task.round),
            )
            identifier = next(iter(self._grid.push_messages([message])), "")
            if identifier:
                tickets.append(Ticket(identifier, site, connection, sent_bytes))
            del message
        del content, arrays
        gc.collect()  # Flower's records refer to themselves: the model in these goes now, while the sites train
        return tickets

    def receive(self, tickets: Sequence[Ticket]) -> Iterator[Answer]:
        """Replies that have arrived; what a site sent that cannot be read is a refusal.

        Raises:
            httpx.HTTPError: the SuperLink does not answer, or not as it should.
        """
        # One message a call: Flower unpacks all that it is asked for before it hands out the first.
        for ticket in tickets:
            for reply in self._replies(ticket):
                yield Answer(ticket, reply, sum(array.nbytes for array in reply.arrays.values()))
                del reply

    def _replies(self, ticket: Ticket) -> list[Reply]:
        """The reply to a ticket, if it has arrived.

        Flower unpacks in `pull_messages` what the site packed, and a site can pack anything: the kinds of errors that
        Flower, protobuf and NumPy then raise are no closed list. Their texts are the site's, so none is logged.
        """
        try:
            return [_read(message, ticket) for message in self._grid.pull_messages([ticket.message])]
        except httpx.HTTPError:
            raise
        except Exception as error:
            log.warning("the reply of %s cannot be read: %s", ticket.site, type(error).__name__)
            return [Reply(ticket.site, refusal="unreadable")]


def _read(message: Message, ticket: Ticket) -> Reply:
    if message.has_error():
        return Reply(ticket.site, refusal=Refusal.LOST)
    wire = dict(message.content.config_records["reply"])
    record = message.content.array_records.get("arrays", ArrayRecord())
    # Taken out: the record would keep the bytes until a garbage collection.
    arrays = {name: np.asarray(record.pop(name).numpy()) for name in list(record)}
    reply = Reply.from_wire(wire, arrays)
    if ticket.site and reply.site != ticket.site:
        return Reply(ticket.site, refusal="wrong_site")
    return reply
