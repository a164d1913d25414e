"""A federation as hospitals run it: one server process and one process a site, with TLS, over loopback."""

from __future__ import annotations

from pathlib import Path

import psutil
from consortium import found_federation
from hospitals import federation, hospital, site
from link import Link
from processes import Command

from acm_core.config import dump_config
from acm_core.processes import free_port

OF_THE_SERVER = {
    "SuperLink": ("server.link.program",),
    "ServerApp": ("flwr-serverapp",),
}
AT_A_SITE = {
    "SuperNode": ("flower-supernode", "state/A"),
    "worker": ("[acm-fed-worker]", "sites/A.yaml"),
    "ClientApps": ("[acm-fed-apps]", "state/A"),
    "ClientApp": ("[flwr-clientapp]", "state/A"),
}
PROCESSES = OF_THE_SERVER | AT_A_SITE
"""By which each is known; `server.run` and `client.run` keep them running."""


class Federation:
    """Two hospitals, their site files, the federation's file and, where `linked`, links, in one folder."""

    def __init__(self, folder: Path, rounds: int, *, linked: bool = False) -> None:
        port = free_port()
        self.config = config = federation(
            federation={"rounds": rounds}, server={"port": port}, evaluation={"local_only": False}
        )
        self.folder = folder
        self.run = folder / "runs" / config.name
        (folder / "federation.yaml").write_text(dump_config(config), encoding="utf-8")
        (folder / "sites").mkdir()
        for name in config.federation.sites:
            hospital(folder, name)
            settings = site(folder, name)
            (folder / "sites" / f"{name}.yaml").write_text(dump_config(settings), encoding="utf-8")
        self.links = {name: Link(port) for name in config.federation.sites} if linked else {}
        ports = {name: link.port for name, link in self.links.items()} if linked else None
        found_federation(folder, config.federation.sites, ports)
        self._commands: list[Command] = []

    def server(self, *options: str) -> Command:
        arguments = ["server.run", "--config", str(self.folder / "federation.yaml")]
        arguments += ["--runs", str(self.folder / "runs"), "--state", str(self.folder / "server_state")]
        return self._start([*arguments, *options])

    def client(self, name: str) -> Command:
        return self._start(["client.run", f"--site={name}", "--sites", str(self.folder / "sites")])

    def everything(self) -> str:
        return "\n".join(f"--- {command.output.name}\n{command.text()}" for command in self._commands)

    def log(self, name: str) -> str:
        path = self.folder / "state" / name / "client.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def end(self) -> None:
        for command in self._commands:
            command.end()
        for link in self.links.values():
            link.end()

    def _start(self, arguments: list[str]) -> Command:
        command = Command(arguments, self.folder / f"{len(self._commands)}-{arguments[0]}.txt")
        self._commands.append(command)
        return command

    def processes(self, *texts: str) -> list[psutil.Process]:
        """Living processes of this federation: with its folder in their command lines or environments, and all of
        these in "[name] command line and Flower's folder".
        """
        found = []
        for process in psutil.process_iter():
            try:
                name = Path(f"/proc/{process.pid}/comm").read_text(encoding="utf-8").strip()
                environment = process.environ()
                line = f"[{name}] {' '.join(process.cmdline())} {environment.get('FLWR_HOME', '')}"
                own = any(str(self.folder) in value for value in (line, *environment.values()))
                if own and process.status() != psutil.STATUS_ZOMBIE and all(text in line for text in texts):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
                continue
        return found
