"""client.run, and what it and other commands leave, as a hospital starts them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from consortium import Consortium
from hospitals import hospital, site
from joining import Joining
from processes import REPOSITORY, Command, wait_for

from acm_core.config.loading import dump_config
from acm_core.trust import keys
from acm_core.trust.enrolment import Answer
from client.site.membership import Membership
from server.consortium.registry import Registry


@pytest.fixture
def joining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Joining:
    return Joining(tmp_path, capsys, monkeypatch)


@contextlib.contextmanager
def hanging_up() -> Iterator[str]:
    """The address of something that takes connections and ends them."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listening.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def open_to_all() -> Iterator[None]:
    """A umask that takes nobody's rights away."""
    former = os.umask(0)
    yield
    os.umask(former)


def open_to_others(folder: Path) -> list[Path]:
    """What in a folder, or it itself, others than its user may do something with."""
    return [path for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o077]


@pytest.mark.usefixtures("open_to_all")
def test_what_a_command_writes_is_the_sites_alone(tmp_path: Path) -> None:
    hospital(tmp_path, "A", patients=4)
    settings = site(tmp_path, "A")
    assert settings.state in open_to_others(settings.state)  # made before, by somebody's mkdir
    (tmp_path / "A.yaml").write_text(dump_config(settings), encoding="utf-8")
    command = [sys.executable, "-m", "client.preflight", "--site=A", "--sites", str(tmp_path)]
    options = ["--image-size", "32", "--workers", "1"]
    done = subprocess.run([*command, *options], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert len(list(settings.state.rglob("*"))) > 4
    assert open_to_others(settings.state) == []


@pytest.mark.slow
@pytest.mark.usefixtures("open_to_all")
@pytest.mark.timeout(180)
def test_another_server_with_another_authority_is_taken_up_while_it_runs(
    joining: Joining, tmp_path: Path
) -> None:
    joining.join()
    settings = joining.site
    settings.films.mkdir(parents=True)
    settings.labels.touch()
    with contextlib.ExitStack() as ending:
        assert joining.ask(server=ending.enter_context(hanging_up())).code == 0
        former = Membership.load(settings).authority
        client = Command(["client.run", "--site=A", "--sites", str(joining.folder)], tmp_path / "client.txt")
        ending.callback(client.end)
        wait_for(lambda: "cannot be reached yet: certificate" in client.text(), 60, client.text)

        new = Consortium(tmp_path / "new")
        ending.callback(new.end)
        public = keys.public_text(keys.load_key(joining.key_file).public_key())
        Registry.load(new.state.registry).approve("A", public)
        new.link.register()
        Answer.to(
            joining.request,
            federation="chest",
            server=new.address,
            authority=new.state.authority.read_bytes(),
        ).write(tmp_path / "answer-A.json")
        assert joining.answer().code == 0
        assert not former.exists()
        wait_for(lambda: "answers; waiting for tasks" in client.text(), 60, client.text)
        log = settings.state / "supernode.log"
        wait_for(lambda: "SuperNode ID" in log.read_text(encoding="utf-8"), 60, client.text)
        assert f"enrolled anew in chest, whose server is {new.address}: connecting" in client.text()
        assert "Traceback" not in client.text()
        client.interrupt()
        assert client.wait(30) == 0
        logs = {path.name for path in settings.state.glob("*.log")}
        assert logs >= {"client.log", "supernode.log", "worker.log"}
        written = {
            *settings.state.glob("*.log"),
            settings.state,
            settings.state / "flower",
            settings.state / "audit",
        }
        assert written & set(open_to_others(settings.state)) == set()
