"""Child programs that end with the process that started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from acm_core.files import bound_log

_GRACE_SECONDS = 10.0
_SHORT_LIFE_SECONDS, _LONGEST_PAUSE_SECONDS = 20.0, 30.0
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # prctl(2)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _LARGE = -1, -3, 2**30  # mallopt(3)

# Set before anything of Flower is imported or started: nothing may call home or install at run time.
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Child:
    """A program in a process group of its own, its output appended to a log file.

    The whole group is ended by `stop`; on Linux the program is also ended when this process is killed, and keeps to
    `cores` where they are given. A `secret` goes by a file that the two processes alone have, whose name is the last
    argument: every user of the machine can read a command line. `files` are open in the program as they are here.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        cores: Collection[int] = (),
        secret: str | None = None,
        files: Sequence[int] = (),
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        with log.open("ab") as output, contextlib.ExitStack() as held:
            hidden = [] if secret is None else [held.enter_context(secret_file(secret))]
            self._process = subprocess.Popen(  # noqa: S603  # the command is our own, never a shell line
                [*command, *map(name_of_file, hidden)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **OFFLINE, **environment, "PATH": path},
                start_new_session=True,
                pass_fds=[*hidden, *files],
                preexec_fn=_in_child(os.getpid(), cores),  # noqa: PLW1509  # it calls the system and nothing else
            )

    @property
    def exit_code(self) -> int | None:
        """The exit code, or None while the program runs."""
        return self._process.poll()

    def bound_log(self) -> None:
        """Keep what it prints within bounds; to be called now and then."""
        bound_log(self._log)

    def stop(self) -> None:
        """End the program and everything it started: politely, then by force after ten seconds."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class KeptChild:
    """A child that is started again when it ends: at once, and ever later while it ends as soon as it is started.

    Attributes:
        name: for people.
        short_lives: how often in a row it ended as soon as it was started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        files: Sequence[int] = (),
    ) -> None:
        self.name, self.log, self.short_lives = name, log, 0
        self._start: Callable[[], Child] = lambda: Child(command, log, environment, files=files)
        self._child: Child | None = None
        self._started = 0.0
        self._again: float | None = None

    @property
    def exit_code(self) -> int | None:
        """The last exit code, or None while it runs or has not been started."""
        return None if self._child is None else self._child.exit_code

    def tend(self) -> bool:
        """Start it if it does not run and its time has come; True where it had run before."""
        if self._child is None:
            self._child, self._started = self._start(), time.monotonic()
            return False
        if self._child.exit_code is None:
            self._child.bound_log()
            return False
        if self._again is None:
            short = time.monotonic() - self._started < _SHORT_LIFE_SECONDS
            self.short_lives = self.short_lives + 1 if short else 0
            pause = min(2.0**self.short_lives, _LONGEST_PAUSE_SECONDS) if self.short_lives > 1 else 0.0
            self._again = time.monotonic() + pause
        if time.monotonic() < self._again:
            return False
        self._child.stop()  # what it had started
        self._child, self._started, self._again = self._start(), time.monotonic(), None
        return True

    def stop(self) -> None:
        """End it and all it started."""
        if self._child is not None:
            self._child.stop()


def end_with_parent(grace: float = _GRACE_SECONDS) -> None:
    """End this process when the one that started it has ended, and it has not ended of itself within `grace` seconds.

    Flower asks for it by a signal that it raises in a thread of its own, of which a main thread learns only when it
    does not wait for another: one that waits for a part of a message, from a SuperLink that is gone, waits for ever.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        time.sleep(grace)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        _signal_without(ctypes.CDLL(None), os.getppid(), signal.SIGKILL)


def name_process(name: str) -> None:
    """Let lists of processes show this one by `name`, of which Linux keeps 15 bytes; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now, for a child to listen on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside, as Ctrl-C does, so that both end a program in the same orderly way."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def secret_file(secret: str) -> Iterator[int]:
    """A file without a name that holds a secret, as long as it is open."""
    file = os.memfd_create("secret")
    try:
        os.write(file, secret.encode())
        yield file
    finally:
        os.close(file)


def name_of_file(file: int) -> str:
    """Where a process finds a file that it has open."""
    return f"/dev/fd/{file}"


def _in_child(parent: int, cores: Collection[int]) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        if cores:
            os.sched_setaffinity(0, cores)
        _signal_without(libc, parent, signal.SIGTERM)

    return prepare


def _signal_without(libc: ctypes.CDLL, parent: int, number: int) -> None:
    """This process gets a signal when its parent ends; it ends itself where that has happened."""
    libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def keep_freed_memory() -> bool:
    """Let this process use large freed blocks again; False where the system's allocator has no such setting.

    By default glibc maps every block above 32 MiB afresh and gives it back when freed, so that each training step
    pays for new pages (mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD). For processes that train.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE) and mallopt(_M_TRIM_THRESHOLD, _LARGE))


def give_freed_memory_back() -> bool:
    """Give what `keep_freed_memory` keeps back to the system, for as long as there is nothing to do; False where the
    system's allocator has no such call (malloc_trim(3)).
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return False
    return bool(trim(0))
