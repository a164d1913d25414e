"""Commands as a user starts them, and what is left of them afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]


class Command:
    """A `python -m …` process whose output goes to a file."""

    def __init__(self, arguments: list[str], output: Path) -> None:
        self.output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=REPOSITORY,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A shell lets what it starts in the background ignore Ctrl-C, and `make soak` is started so.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
            )

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """As the kernel does when memory runs out: the command and everything it started, at once."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """As on a machine that is put to sleep or moved: the command and everything it started stand still."""
        family = self.family()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def kill_alone(self) -> None:
        """The command without what it started."""
        self._process.kill()
        self._process.wait()

    def wait(self, seconds: float) -> int:
        return self._process.wait(seconds)

    def end(self) -> None:
        """Whatever state it is in, leave nothing behind."""
        if self._process.poll() is None:
            self.kill()

    def family(self) -> list[psutil.Process]:
        """The command and everything it started."""
        command = psutil.Process(self._process.pid)
        return [command, *command.children(recursive=True)]


def wait_for(what: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    """Poll until `what()` is true; fails with `why()`."""
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {why()}")
        time.sleep(0.2)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def processes_with(text: str) -> list[str]:
    """Command lines of living processes that have `text` in their command line or environment."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            line = " ".join(process.info["cmdline"] or [])
            living = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if living and any(text in value for value in (line, *process.environ().values())):
                found.append(line)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
