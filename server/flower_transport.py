"""The round loop's transport over Flower's Grid: the server's only module that builds Flower messages."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from acm_core.federated.messages import MessageError, Refusal, Reply, Task, TaskKind
from acm_core.federated.update import Arrays
from server.transport import Answer, Ticket

_MESSAGE_TYPES = {
    TaskKind.IDENTIFY: "query",
    TaskKind.TRAIN: "train",
    TaskKind.LOCAL_ONLY: "train.local_only",
    TaskKind.EVALUATE: "evaluate",
}
_IDENTIFY_SECONDS = 60.0


class FlowerTransport:
    """Sites over a Flower Grid.

    A node is asked once which site it is; the newest node that says it is a site stands for that site, so that a
    client that was killed and started again takes its old place.
    """

    def __init__(self, grid: Grid, sites: Sequence[str]) -> None:
        self._grid = grid
        self._expected = set(sites)
        self._asked: dict[int, tuple[str, float]] = {}
        self._names: dict[int, str] = {}

    def connected(self) -> dict[str, int]:
        nodes = set(self._grid.get_node_ids())
        self._names = {node: site for node, site in self._names.items() if node in nodes}
        self._identify(nodes)
        return {site: node for node, site in self._names.items() if site in self._expected}

    def send(self, task: Task, sites: dict[str, int], lifetime: float) -> list[Ticket]:
        content = RecordDict({"task": ConfigRecord({**task.to_wire()}), "arrays": _to_record(task.arrays)})
        sent_bytes = sum(array.nbytes for array in task.arrays.values())
        tickets = []
        for site, node in sites.items():
            message = Message(
                content,
                dst_node_id=node,
                message_type=_MESSAGE_TYPES[task.kind],
                ttl=lifetime,
                group_id=str(task.round),
            )
            identifier = next(iter(self._grid.push_messages([message])))
            if identifier:
                tickets.append(Ticket(identifier, site, node, sent_bytes))
        return tickets

    def receive(self, tickets: Sequence[Ticket]) -> list[Answer]:
        if not tickets:
            return []
        awaited = {ticket.message: ticket for ticket in tickets}
        answers = []
        for message in self._grid.pull_messages(list(awaited)):
            ticket = awaited[message.metadata.reply_to_message_id]
            reply = _read(message, ticket.site)
            answers.append(Answer(ticket, reply, sum(array.nbytes for array in reply.arrays.values())))
        return answers

    def _identify(self, nodes: set[int]) -> None:
        now = time.monotonic()
        stale = {node for node, (_, asked) in self._asked.items() if now - asked > _IDENTIFY_SECONDS}
        self._asked = {
            node: asked for node, asked in self._asked.items() if node in nodes and node not in stale
        }
        strangers = {f"node {node}": node for node in nodes - self._names.keys() - self._asked.keys()}
        if strangers:
            for ticket in self.send(Task(TaskKind.IDENTIFY), strangers, _IDENTIFY_SECONDS):
                self._asked[ticket.connection] = (ticket.message, now)
        waiting = {message: node for node, (message, _) in self._asked.items()}
        if not waiting:
            return
        for message in self._grid.pull_messages(list(waiting)):
            node = waiting[message.metadata.reply_to_message_id]
            site = _read(message, "").site
            del self._asked[node]
            if site in self._expected:
                # A later connection of the same site replaces the earlier one, which may linger after a crash.
                self._names = {n: name for n, name in self._names.items() if name != site} | {node: site}
            else:
                self._names[node] = ""  # not of this federation: never asked again


def _to_record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _read(message: Message, site: str) -> Reply:
    """The reply in a message; what cannot be read becomes a refusal, whoever it comes from."""
    if message.has_error():
        return Reply(site, refusal=Refusal.LOST)
    try:
        wire = dict(message.content.config_records["reply"])
        record = message.content.array_records.get("arrays", ArrayRecord())
        arrays = {name: np.asarray(array.numpy()) for name, array in record.items()}
        reply = Reply.from_wire(wire, arrays)
    except (MessageError, KeyError, ValueError, TypeError):
        return Reply(site, refusal="unreadable")
    if site and reply.site != site:
        return Reply(site, refusal="wrong_site")
    return reply
