"""The federation on one machine: the server's round loop, and the sites' rounds in processes of their own.

The processes are forked from one that has imported everything before (a fork server), which it does while the one that
simulates is still at its own imports; a model goes to them and back through a pipe.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.forkserver
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import count
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from acm_core.federated.messages import Refusal, Reply, Task
from acm_core.processes import die_with_parent, keep_freed_memory, name_process
from server.round.transport import Answer, Connection, Ticket

if TYPE_CHECKING:
    from acm_core.config.sections import FederationConfig
    from acm_core.config.site import SiteConfig
    from server.round.run_folder import RunFolder

_FORKING = multiprocessing.get_context("forkserver")
PRELOADED = ("client.worker", "numba")
"""What the fork server imports: nothing that asks for a GPU or starts torch's threads, which outlive no fork."""


def start_imports() -> None:
    """Let the fork server begin to import what sites need; returns at once."""
    multiprocessing.forkserver.set_forkserver_preload(list(PRELOADED))
    multiprocessing.forkserver.ensure_running()


def simulate(
    config: FederationConfig,
    sites: dict[str, SiteConfig],
    folder: RunFolder,
    *,
    processes: int,
    resume: bool,
) -> dict[str, Any]:
    """Run the federation with `processes` sites at a time and return what stands in metrics.json.

    Raises:
        RunFailedError, ResumeError: as FederatedRun.execute.
        KeyboardInterrupt: after the sites' processes have ended.
    """
    from server.round.federation import FederatedRun

    with SiteProcesses([sites[name] for name in config.federation.sites], processes) as transport:
        return FederatedRun(transport, config, folder).execute(resume=resume)


class _Job(NamedTuple):
    message: str
    site: str
    task: Task
    until: float


class SiteProcesses:
    """The round loop's transport to sites on this machine, of which `processes` are at work at a time.

    A site does one task after another, as a hospital does. A process that dies over a task is replaced, and the site
    answers with the refusal `LOST`. Sites that took longest last time begin first, so that none is waited for alone.

    Leaving the context ends the processes, whatever they are doing.
    """

    def __init__(self, sites: Sequence[SiteConfig], processes: int) -> None:
        self._sites = {site.site: site for site in sites}
        self._connected = {name: Connection(number) for number, name in enumerate(self._sites)}
        self._messages = count(1)
        self._changed = threading.Condition()
        self._waiting: list[_Job] = []
        self._busy: set[str] = set()
        self._seconds: dict[str, float] = {}
        self._replies: dict[str, tuple[str, Reply]] = {}
        self._ended = False
        self._workers = [_Worker() for _ in range(processes)]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in self._workers
        ]

    def __enter__(self) -> Self:
        start_imports()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.end()
        for thread in self._threads:
            thread.join()

    def connected(self) -> dict[str, Connection]:
        return self._connected

    def send(self, task: Task, sites: dict[str, Connection], lifetime: float) -> list[Ticket]:
        size, until = sum(array.nbytes for array in task.arrays.values()), time.monotonic() + lifetime
        tickets = [Ticket(str(next(self._messages)), site, sites[site], size) for site in sites]
        with self._changed:
            for ticket in tickets:
                self._replies.pop(ticket.site, None)  # of a round whose time was up
                self._waiting.append(_Job(ticket.message, ticket.site, task, until))
            self._changed.notify_all()
        return tickets

    def receive(self, tickets: Sequence[Ticket]) -> Iterable[Answer]:
        for ticket in tickets:
            with self._changed:
                message, reply = self._replies.get(ticket.site, ("", None))
                if reply is None or message != ticket.message:
                    continue
                del self._replies[ticket.site]
            yield Answer(ticket, reply, sum(array.nbytes for array in reply.arrays.values()))
            del reply

    def _serve(self, worker: _Worker) -> None:
        worker.start()
        while (job := self._next()) is not None:
            begun = time.monotonic()
            reply = worker.ask(self._sites[job.site], job.task)
            with self._changed:
                self._replies[job.site] = job.message, reply
                self._seconds[job.site] = time.monotonic() - begun
                self._busy.remove(job.site)
                self._changed.notify_all()
            del job, reply

    def _next(self) -> _Job | None:
        """The next task of a site that has no other at work; None at the end."""
        with self._changed:
            while not self._ended:
                now = time.monotonic()
                self._waiting = [job for job in self._waiting if job.until > now]
                ready = [job for job in self._waiting if job.site not in self._busy]
                if ready:
                    job = max(ready, key=lambda job: self._seconds.get(job.site, math.inf))
                    self._waiting.remove(job)
                    self._busy.add(job.site)
                    return job
                self._changed.wait()
        return None


class _Worker:
    """A process that does tasks of one site after another, and the one after it where it dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = False
        self._process: BaseProcess | None = None
        self._pipe: Pipe | None = None

    def start(self) -> None:
        """Start the process, so that it is there when it is asked."""
        with self._lock, contextlib.suppress(OSError, EOFError):
            self._start()

    def ask(self, site: SiteConfig, task: Task) -> Reply:
        """The reply of the site, or the refusal `LOST` where the process died over it."""
        try:
            with self._lock:
                pipe = self._pipe or self._start()
            pipe.send((site, task))
            reply: Reply = pipe.recv()
        except (OSError, EOFError, MemoryError):
            with self._lock:
                self._kill()
            return Reply(site.site, task.round, refusal=Refusal.LOST)
        return reply

    def end(self) -> None:
        """Kill the process, and start no other."""
        with self._lock:
            self._ended = True
            self._kill()

    def _start(self) -> Pipe:
        if self._ended:
            raise EOFError
        self._pipe, theirs = _FORKING.Pipe()
        with theirs:
            process = _FORKING.Process(target=_answer_tasks, args=(theirs,), daemon=True)
            process.start()
        self._process = process
        return self._pipe

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None


def _answer_tasks(pipe: Pipe) -> None:
    """What a process of the simulation does."""
    # A terminal sends Ctrl-C to all; who started this process ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    name_process("simulated-site")
    keep_freed_memory()
    from client.round.open_films import OpenFilms
    from client.worker import do_task

    opened: defaultdict[str, OpenFilms] = defaultdict(OpenFilms)
    with contextlib.suppress(EOFError):
        while True:
            site, task = pipe.recv()
            reply = do_task(site, task, opened[site.site])
            pipe.send(reply)
            del task, reply
