"""A transport within one process: each site is a function from task to reply, run in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.federated.messages import Refusal, Reply, Task
from client.round.site_round import SiteRound
from server.round.federation import FederatedRun
from server.round.run_folder import RunFolder
from server.round.transport import Answer, Connection, Ticket

Site = Callable[[Task], Reply]


class InProcessTransport:
    """Sites that can be connected, disconnected and reconnected while a run goes on."""

    def __init__(self, sites: dict[str, Site]) -> None:
        self._connections = count(1)
        self._messages = count(1)
        self._pool = ThreadPoolExecutor(16)
        self._sites: dict[str, tuple[Connection, Site]] = {}
        self._replies: dict[str, tuple[Ticket, Future[Reply]]] = {}
        for name, answer in sites.items():
            self.connect(name, answer)

    def connect(self, name: str, answer: Site) -> None:
        self._sites[name] = (Connection(next(self._connections)), answer)

    def disconnect(self, name: str) -> None:
        del self._sites[name]

    def connected(self) -> dict[str, Connection]:
        return {name: connection for name, (connection, _) in self._sites.items()}

    def send(self, task: Task, sites: dict[str, Connection], lifetime: float) -> list[Ticket]:
        tickets = []
        for name, connection in sites.items():
            sent = sum(array.nbytes for array in task.arrays.values())
            ticket = Ticket(f"m{next(self._messages)}", name, connection, sent)
            self._replies[ticket.message] = (ticket, self._pool.submit(self._sites[name][1], task))
            tickets.append(ticket)
        return tickets

    def receive(self, tickets: Sequence[Ticket]) -> list[Answer]:
        answers = []
        for wanted in tickets:
            ticket, future = self._replies[wanted.message]
            if future.done():
                del self._replies[wanted.message]
                reply = Reply(ticket.site, refusal=Refusal.LOST) if future.exception() else future.result()
                answers.append(Answer(ticket, reply, sum(a.nbytes for a in reply.arrays.values())))
        return answers


def run_in_process(sites: dict[str, SiteConfig], config: FederationConfig, folder: Path) -> RunFolder:
    """Run the federation with nothing in between; `sites` say where each site's films and fresh state are."""
    run = RunFolder(folder)
    run.open(config, resume=False)
    transport = InProcessTransport({name: SiteRound(settings).answer for name, settings in sites.items()})
    FederatedRun(transport, config, run).execute(resume=False)
    return run
