"""A site's ClientApps, which wait here for a SuperNode that takes their connection and says nothing."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from client.link.applications import Applications


class Site:
    """Applications of a site, and what `client.run` does with them all the time."""

    def __init__(self, folder: Path) -> None:
        self.log, self.failed = folder / "clientapp.log", 0
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.applications = Applications(self.log, {"FLWR_HOME": str(folder)})

    def start(self) -> str:
        token = secrets.token_hex()
        self.applications.start(f"127.0.0.1:{self.silent.getsockname()[1]}", token)
        return token

    def loaded(self) -> list[psutil.Process]:
        return [process for process in psutil.Process().children() if process.name() == "acm-fed-apps"]

    def running(self) -> list[psutil.Process]:
        """Not what they start for a moment themselves."""
        children = [process for loaded in self.loaded() for process in loaded.children()]
        return [process for process in children if process.name() == "flwr-clientapp"]

    def until(self, what: Callable[[], bool]) -> None:
        """As long as it takes, half a minute at most."""
        ends = time.monotonic() + 30
        while not what():
            self.failed += self.applications.tend()
            assert time.monotonic() < ends, self.log.read_text()
            time.sleep(0.01)

    def until_running(self, count: int) -> list[psutil.Process]:
        self.until(lambda: len(self.running()) == count)
        return self.running()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.applications.stop()
    site.silent.close()
    assert site.loaded() == []


def test_each_message_has_a_process_of_its_own_and_its_token_stands_nowhere(site: Site) -> None:
    tokens = [site.start(), site.start()]
    running = site.until_running(2)
    (loaded,) = site.loaded()
    for process in (loaded, *running):
        view = [*process.cmdline(), *process.environ().values()]
        assert not [text for text in view if any(token in text for token in tokens)]
    assert site.failed == 0


def test_who_ends_without_an_answer_is_told(site: Site) -> None:
    site.start()
    site.start()
    site.until_running(2)[0].kill()
    site.until(lambda: site.failed == 1)
    assert len(site.running()) == 1


def test_they_end_when_they_are_let_go_of(site: Site) -> None:
    site.start()
    site.until_running(1)
    site.applications.end_all()
    site.until(lambda: site.running() == [])
    assert site.failed == 0
    site.start()
    site.until_running(1)


def test_what_has_them_loaded_is_started_again_and_those_that_ran_count_as_lost(site: Site) -> None:
    site.start()
    site.until_running(1)
    site.loaded()[0].kill()
    site.until(lambda: site.failed == 1)
    site.start()
    site.until_running(1)
    assert site.failed == 1
