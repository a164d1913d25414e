"""The round loop's transport over Flower's Grid: small messages there, and what they are about in the depot."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from acm_core.federated.envelope import MESSAGE_TYPES, ReplyEnvelope, TaskEnvelope
from acm_core.federated.messages import MessageError, Refusal, Reply, Task
from acm_core.federated.payload import Payload, read_reply
from acm_core.trust.signatures import is_signed_reply
from server.link.depot import Depot
from server.link.known_keys import KnownKeys
from server.round.transport import Answer, Connection, Ticket

log = logging.getLogger("acm_fed.server")

_CONNECTED_SECONDS = 1.0
_SURE_SECONDS = 1.0  # behind which an empty answer to a site is not one from before its task was there
_AGAIN_SECONDS, _TRIES = 5.0, 10


@dataclass
class _Sent:
    """A task on its way: the messages that carry it to its site, and when the first and the last went out."""

    task: Task
    payload: Payload
    connection: Connection
    lifetime: float
    messages: list[str] = field(default_factory=list)
    first: float = 0.0  # by the clock of files
    last: float = 0.0


class FlowerTransport:
    """Sites over a Flower Grid, each by the name that its key is registered under, whatever it says it is.

    Flower notes a task as delivered when it has handed it to the network, once. A site that asks for something to do
    and gets nothing, while nobody has fetched its task's payload, has lost the message: it is sent again.

    Args:
        grid: of the server application.
        sites: of the run.
        depot: where payloads lie.
        registry: file with the sites' keys, by which replies are signed.
    """

    def __init__(self, grid: Grid, sites: Sequence[str], depot: Depot, registry: Path) -> None:
        self._grid, self._depot = grid, depot
        self._sites, self._keys = frozenset(sites), KnownKeys(registry)
        self._connected: dict[str, Connection] = {}
        self._asked = -math.inf
        self._sent: dict[str, _Sent] = {}

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
        payload = self._depot.put_task(task)
        fields = replace(task, arrays={})  # the payload's file has them
        tickets = []
        for site, connection in sites.items():
            self._forget(site)
            sent = _Sent(fields, payload, connection, lifetime)
            if self._push(sent):
                self._sent[site] = sent
                tickets.append(Ticket(sent.messages[0], site, connection, payload.size))
        self._depot.ring()
        self._depot.remove_tasks(but={payload.sha256, *(sent.payload.sha256 for sent in self._sent.values())})
        return tickets

    def receive(self, tickets: Sequence[Ticket]) -> Iterator[Answer]:
        """Replies that have arrived; what a site sent that cannot be read is a refusal.

        Raises:
            httpx.HTTPError: the SuperLink does not answer, or not as it should.
        """
        for ticket in tickets:
            sent = self._sent.get(ticket.site)
            if sent is None or sent.messages[0] != ticket.message:
                continue
            for message in sent.messages:
                if self._depot.answered(message):
                    reply, size = self._reply(ticket.site, message)
                    self._forget(ticket.site)
                    yield Answer(ticket, reply, size)
                    del reply
                    break
            else:
                if not self._is_under_way(ticket.site, sent):
                    self._forget(ticket.site)
                    yield Answer(ticket, Reply(ticket.site, refusal=Refusal.LOST), 0)

    def _push(self, sent: _Sent) -> bool:
        """Whether Flower took another message that carries the task."""
        envelope = TaskEnvelope(payload=sent.payload.sha256, bytes=sent.payload.size, audit=sent.task.audit)
        message = Message(
            RecordDict({"task": ConfigRecord(dict(envelope.fields()))}),
            dst_node_id=sent.connection.node,
            message_type=MESSAGE_TYPES[sent.task.kind],
            ttl=sent.lifetime,
            group_id=str(sent.task.round),
        )
        identifier = next(iter(self._grid.push_messages([message])), "")
        if not identifier:
            return False
        sent.messages.append(identifier)
        sent.last = time.time()
        sent.first = sent.first or sent.last
        return True

    def _is_under_way(self, site: str, sent: _Sent) -> bool:
        """Whether a reply may still come, the task being sent again where its site has lost it."""
        fetched = self._depot.fetched(site, sent.payload.sha256)
        if fetched is not None and fetched >= sent.first - _SURE_SECONDS:
            return True
        idle = self._depot.idle(site)
        if idle is None or idle < sent.last + _SURE_SECONDS or time.time() < sent.last + _AGAIN_SECONDS:
            return True
        if len(sent.messages) >= _TRIES:
            return False
        self._push(sent)
        self._depot.ring()
        return True

    def _reply(self, site: str, message: str) -> tuple[Reply, int]:
        """The reply to a message, and the bytes of its payload.

        Flower unpacks in `pull_messages` what the site packed, and a site can pack anything: the kinds of errors that
        Flower, protobuf and NumPy then raise are no closed list. Their texts are the site's, so none is logged.
        """
        try:
            (answer,) = self._grid.pull_messages([message])
            if answer.has_error():
                return Reply(site, refusal=Refusal.LOST), 0
            return self._read(site, message, dict(answer.content.config_records["reply"]))
        except httpx.HTTPError:
            raise
        except Exception as error:
            log.warning("the reply of %s cannot be read: %s", site, type(error).__name__)
            return Reply(site, refusal="unreadable"), 0

    def _read(self, site: str, message: str, said: Mapping[str, object]) -> tuple[Reply, int]:
        envelope = ReplyEnvelope.read(said)
        key = self._keys.key(site)
        if key is None or not is_signed_reply(key, message, envelope):
            return Reply(site, refusal="wrong_site"), 0
        if envelope.refusal:
            return Reply(site, refusal=envelope.refusal, audit=envelope.audit), 0
        path = self._depot.reply(site, envelope.payload) if envelope.payload else None
        if path is None:
            raise MessageError("expected a reply whose payload is here, got one without")
        reply = read_reply(path, envelope.audit)
        self._depot.remove_reply(site, envelope.payload)
        return (reply, envelope.bytes) if reply.site == site else (Reply(site, refusal="wrong_site"), 0)

    def _forget(self, site: str) -> None:
        if (sent := self._sent.pop(site, None)) is not None:
            for message in sent.messages:
                self._depot.remove_answered(message)
