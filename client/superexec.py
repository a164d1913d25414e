"""Flower's SuperExec as a program whose ClientApps are forked from a process that has imported everything before.

Flower answers each message by a process of its own, and starting one means importing torch and MONAI, 5 s and more.
Here a fork server imports them once and never sees a film, a message or a key; for each message it forks a process that
does, and that ends with the answer.

`client.run` starts it as `python -m client.superexec STATE OPTIONS…`: the site's state folder, and the options of
Flower's flower-superexec.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.forkserver
import signal
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor
from flwr.supernode.runtime.run_clientapp import run_clientapp

from acm_core.ended_tasks import tell_ended
from acm_core.processes import die_with_parent, name_process
from client.site_log import open_site_log

log = logging.getLogger("acm_fed.client")

PRELOADED = (
    "flwr.supercore.cli.flower_superexec",
    "flwr.supernode.runtime.run_clientapp",
    "client.site_round",
    "client.private_round",
    "numba",
)
"""What the fork server imports: nothing that asks for a GPU or starts torch's threads, which outlive no fork.

`acm_core.ops.cpu` is not among it: imported before a fork, it would take those threads for lost.
"""

_FORKING = multiprocessing.get_context("forkserver")
_FORK_SERVER_GONE = 255  # multiprocessing.popen_forkserver


def main() -> None:
    """Serve the SuperNode until told to end."""
    open_site_log(Path(sys.argv.pop(1)))
    multiprocessing.forkserver.set_forkserver_preload(list(PRELOADED))
    multiprocessing.forkserver.ensure_running()
    run_superexec.get_executor = lambda *_, **__: ForkingExecutor()  # type: ignore[attr-defined]  # no hook
    flower_superexec()


class ForkingExecutor(SubprocessExecutor):
    """Starts ClientApps, and nothing else, as children of the fork server."""

    def __init__(self) -> None:
        self._running: list[tuple[BaseProcess, ExecutionSpec]] = []

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **_how: object
    ) -> tuple[set[TaskType], set[str]]:
        """A ClientApp's task alone can be started."""
        return supported_task_types & {TaskType.CLIENT_APP}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the ClientApp of a task; its token goes by a pipe, and so stands in no command line."""
        process = _FORKING.Process(
            target=_client_app, args=(spec.runtime_api_address, spec.token, spec.parent_pid)
        )
        try:
            process.start()
        except (OSError, EOFError) as error:
            # The fork server was killed this moment; the task comes again and starts another.
            tell_ended(spec.runtime_api_address, spec.token)
            return LaunchResult.failed(f"{type(error).__name__}: {error}")
        self._running.append((process, spec))
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Forget those that have ended, and say of which there will be no answer."""
        running = []
        for process, spec in self._running:
            code = process.exitcode
            if code is None:
                running.append((process, spec))
            elif code:
                log.error("the process that did the server's task %s", _end(code))
                tell_ended(spec.runtime_api_address, spec.token)
        self._running = running

    def close(self) -> None:
        """End those that still run: this process would wait for them."""
        for process, _ in self._running:
            process.terminate()


def _end(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed: if nobody did, the machine had too little memory"
    return "ended with the one it was forked from" if code == _FORK_SERVER_GONE else f"ended with {code}"


def _client_app(address: str, token: str, parent: int | None) -> None:
    name_process("flwr-clientapp")
    die_with_parent()  # its successor, which the SuperNode starts as soon as it hears, is alone
    run_clientapp(address, token, insecure=True, parent_pid=parent)


if __name__ == "__main__":
    main()
