"""An operator and a hospital at their terminals, with the files that go between them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from acm_core.config import SiteConfig, load_config
from acm_core.trust.enrolment import Answer, Request
from client import enrol
from client import roster as client_roster
from client.site.membership import membership_folder
from server import approve, init, remove
from server import roster as server_roster
from server.consortium.authority import ServerState
from server.consortium.registry import Registry


class Said(NamedTuple):
    """What a command gave back."""

    code: int
    out: str
    err: str


class Joining:
    """The commands in one folder, where the two files lie; answers to questions are typed at once.

    Attributes:
        typed: what the person answers; "" is an end of input.
    """

    def __init__(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch
        self.typed = ""
        self.config("127.0.0.1")
        self.site_file("A")
        monkeypatch.chdir(folder)

    def config(self, *names: str, host: str = "127.0.0.1", sites: tuple[str, ...] = ("A", "B")) -> None:
        settings = {
            "name": "chest",
            "findings": ["Nodule"],
            "privacy": "off",
            "federation": {"sites": list(sites), "rounds": 2},
            "server": {"host": host, "port": 9092, "names": list(names)},
        }
        (self.folder / "federation.yaml").write_text(yaml.safe_dump(settings))

    def site_file(self, name: str) -> None:
        paths = {key: str(self.folder / name / key) for key in ("films", "labels", "state")}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump({"site": name, **paths}))

    def init(self, *options: str) -> Said:
        return self._said(init.main(["--config", "federation.yaml", *options]))

    def approve(self, *options: str, request: str = "request-A.json") -> Said:
        return self._said(approve.main([request, "--config", "federation.yaml", *options]))

    def remove(self, *options: str) -> Said:
        return self._said(remove.main(list(options)))

    def enrol(self, *options: str, site: str = "A") -> Said:
        return self._said(enrol.main([f"--site={site}", "--sites", str(self.folder), *options]))

    def ask(self, *, server: str = "127.0.0.1:9092", site: str = "A") -> Said:
        return self.enrol("--server", server, site=site)

    def answer(self, *options: str, site: str = "A") -> Said:
        return self.enrol("--answer", f"answer-{site}.json", *options, site=site)

    def write_roster(self, *options: str) -> Said:
        return self._said(server_roster.main(["--config", "federation.yaml", *options]))

    def roster(self, *options: str, site: str = "A") -> Said:
        return self._said(client_roster.main([f"--site={site}", "--sites", str(self.folder), *options]))

    def join_all(self, *sites: str) -> None:
        """Several sites, the whole way."""
        self.types("yes")
        assert self.init().code == 0
        for site in sites:
            self.site_file(site)
            for said in (
                self.ask(site=site),
                self.approve(request=f"request-{site}.json"),
                self.answer(site=site),
            ):
                assert said.code == 0

    def join(self) -> None:
        """The whole way, without a slip."""
        self.types("yes")
        for said in (self.init(), self.ask(), self.approve(), self.answer()):
            assert (said.code, said.err) == (0, "")

    def types(self, text: str) -> None:
        self.typed = text
        self._monkeypatch.setattr(sys, "stdin", _Typing(self))

    @property
    def state(self) -> ServerState:
        return ServerState(self.folder / "server_state")

    @property
    def registry(self) -> Registry:
        return Registry.load(self.state.registry)

    @property
    def site(self) -> SiteConfig:
        return load_config(self.folder / "A.yaml", SiteConfig)

    @property
    def key_file(self) -> Path:
        return membership_folder(self.site) / "site.key"

    @property
    def request(self) -> Request:
        return Request.read(self.folder / "request-A.json")

    @property
    def answer_file(self) -> Answer:
        return Answer.read(self.folder / "answer-A.json")

    def _said(self, code: int) -> Said:
        return Said(code, *self._capsys.readouterr())


class _Typing(io.TextIOBase):
    def __init__(self, joining: Joining) -> None:
        self._joining = joining

    def readline(self, _size: int = -1) -> str:
        return f"{self._joining.typed}\n" if self._joining.typed else ""
