"""Worker processes that read one file each at a time, within bounds of time and memory."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from acm_core.data.intake.reading import Reading
from acm_core.data.intake.worker import ANSWER
from acm_core.data.set_aside import SetAside
from acm_core.data.source.film_source import FilmSource
from acm_core.data.terms import NOTHING, Accepted

MEMORY_A_FILE = 2 * 2**30
"""Bytes beyond what a process has when it starts; the largest film allowed needs about half of it."""


@dataclass(frozen=True)
class Answer:
    """What came of the file at `index` of those asked for; `film` float16 S×S where it was to be prepared."""

    index: int
    reading: Reading
    film: NDArray[np.float16] | None


class _Crashed(Exception):  # noqa: N818  (what the parent saw, turned into a verdict)
    """The worker is gone."""


class _Worker:
    def __init__(self, memory: int) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # our own module, never a shell line
            [sys.executable, "-m", "acm_core.data.intake.worker", str(os.getpid()), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # One thread: there are as many workers as cores, and a thread's stack counts as memory.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""},
        )
        self.index, self.name = -1, ""
        self.deadline = 0.0

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fileno(self) -> int:
        assert self._process.stdout is not None  # noqa: S101  # asked for a pipe
        return self._process.stdout.fileno()

    def ask(
        self,
        index: int,
        name: str,
        source: FilmSource,
        salt: bytes,
        image_size: int | None,
        accepted: Accepted,
        seconds: float,
    ) -> None:
        turn = source.turn()
        request = {
            "place": source.place,
            "name": name,
            "turn": turn,
            "salt": salt.hex(),
            "image_size": image_size,
            "accepted": astuple(accepted),
        }
        self.index, self.name = index, name
        self.deadline = max(turn, time.monotonic()) + seconds
        try:
            assert self._process.stdin is not None  # noqa: S101  # asked for a pipe
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError:
            pass  # it has died; the reader of its answers sees that

    def answer(self, image_size: int | None) -> Answer:
        lengths = ANSWER.unpack(self._read(ANSWER.size))
        reading = Reading.from_json(self._read(lengths[0]).decode())
        pixels = self._read(lengths[1])
        film = None
        if pixels and image_size is not None:
            film = np.frombuffer(pixels, np.float16).reshape(image_size, image_size)
        return Answer(self.index, reading, film)

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = os.read(self.fileno(), min(count - len(parts), 2**20))
            if not part:
                raise _Crashed
            parts += part
        return bytes(parts)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


_idle: list[_Worker] = []
"""Workers between two calls: starting one takes most of a second."""
_lock = Lock()


def _forget_workers() -> None:
    _idle.clear()  # they are the parent's


def _end_workers() -> None:
    while _idle:
        _idle.pop().kill()


os.register_at_fork(after_in_child=_forget_workers)
atexit.register(_end_workers)


def read_files(
    source: FilmSource,
    names: Iterable[str],
    salt: bytes,
    image_size: int | None,
    *,
    workers: int,
    accepted: Accepted = NOTHING,
    seconds: float | None = None,
) -> Iterator[Answer]:
    """Read files in parallel and yield what came of each, in the order in which they are done.

    A file whose reader crashes twice, or takes longer than `seconds`, is set aside with that reason; the others go on.

    Args:
        names: taken one after another, as workers become free.
        workers: processes, at least one; fewer where the source gives fewer films at once.
        accepted: the site's own words for body part, modality and view.
        seconds: default: the source's.

    Raises:
        OSError: the source is gone.
    """
    workers = workers if source.at_once is None else min(workers, source.at_once)
    seconds = source.seconds if seconds is None else seconds
    waiting = enumerate(names)
    again: list[tuple[int, str]] = []
    tried: set[int] = set()
    busy: dict[int, _Worker] = {}
    with selectors.DefaultSelector() as selector:

        def start(worker: _Worker | None) -> None:
            task = again.pop() if again else next(waiting, None)
            if task is None:
                if worker is not None:
                    _return(worker)
                return
            worker = worker or _borrow()
            busy[worker.fileno()] = worker
            selector.register(worker, selectors.EVENT_READ)
            worker.ask(*task, source, salt, image_size, accepted, seconds)

        try:
            for _ in range(workers):
                start(None)
            while busy:
                wait = min(worker.deadline for worker in busy.values()) - time.monotonic()
                ready = {key.fd for key, _ in selector.select(max(wait, 0))}
                now = time.monotonic()
                for number, worker in list(busy.items()):
                    if number not in ready and worker.deadline > now:
                        continue
                    selector.unregister(worker)
                    del busy[number]
                    index = worker.index
                    reason = SetAside.TOO_SLOW
                    if number in ready:
                        try:
                            answer = worker.answer(image_size)
                        except (_Crashed, ValueError, TypeError, KeyError):
                            reason = SetAside.READER_CRASHED
                        else:
                            start(worker)
                            if answer.reading.reason is SetAside.NOT_SENT:
                                source.expect_there()
                            yield answer
                            continue
                    worker.kill()
                    retry = reason is SetAside.READER_CRASHED and index not in tried
                    if retry:  # it may have been killed for another's sake
                        tried.add(index)
                        again.append((index, worker.name))
                    start(None)
                    if not retry:
                        yield Answer(index, Reading(None, reason), None)
        finally:
            for worker in busy.values():
                worker.kill()


def _borrow() -> _Worker:
    with _lock:
        while _idle:
            worker = _idle.pop()
            if worker.alive:
                return worker
            worker.kill()
    return _Worker(MEMORY_A_FILE)


def _return(worker: _Worker) -> None:
    with _lock:
        _idle.append(worker)
