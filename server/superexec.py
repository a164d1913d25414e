"""Flower's SuperExec as a program that tells the SuperLink at once of a server application that has died.

`server.superlink` starts it as `python -m server.superexec OPTIONS…`, the options being those of Flower's
flower-superexec.
"""

from __future__ import annotations

import os
import subprocess

from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult, SubprocessExecutor

from acm_core.ended_tasks import tell_ended


def main() -> None:
    """Serve the SuperLink until told to end."""
    run_superexec.get_executor = lambda *_, **__: WatchingExecutor()  # type: ignore[attr-defined]  # no hook
    flower_superexec()


class WatchingExecutor(SubprocessExecutor):
    """Starts server applications, and nothing else, and sees them end."""

    def __init__(self) -> None:
        self._running: list[tuple[subprocess.Popen[bytes], ExecutionSpec]] = []

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], **_how: object
    ) -> tuple[set[TaskType], set[str]]:
        """A server application's task alone can be started."""
        return supported_task_types & {TaskType.SERVER_APP}, set()

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the server application of a task.

        Its token, with which anybody could be the server, goes by a file that only the two processes have: every user
        of the machine can read a command line.
        """
        token = os.memfd_create("token")
        try:
            os.write(token, spec.token.encode())
            where = ["--runtime-api-address", spec.runtime_api_address, "--insecure"]
            options = ["--token-file", f"/dev/fd/{token}", "--parent-pid", str(spec.parent_pid)]
            process = subprocess.Popen(["flwr-serverapp", *where, *options], pass_fds=[token])  # noqa: S603, S607  # the environment's own
        finally:
            os.close(token)
        self._running.append((process, spec))
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Forget those that have ended, and say which did so without saying it themselves."""
        running = []
        for process, spec in self._running:
            if (code := process.poll()) is None:
                running.append((process, spec))
            elif code:
                tell_ended(spec.runtime_api_address, spec.token)
        self._running = running


if __name__ == "__main__":
    main()
