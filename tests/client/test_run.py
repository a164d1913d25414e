"""client.run as a hospital starts it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from consortium import Consortium
from joining import Joining
from processes import Command, wait_for

from acm_core.trust import keys
from acm_core.trust.enrolment import Answer
from client.membership import Membership
from server.registry import Registry


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


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_another_server_with_another_authority_is_taken_up_while_it_runs(
    joining: Joining, tmp_path: Path
) -> None:
    joining.join()
    site = joining.site
    site.films.mkdir(parents=True)
    site.labels.touch()
    with contextlib.ExitStack() as ending:
        assert joining.ask(server=ending.enter_context(hanging_up())).code == 0
        former = Membership.load(site).authority
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
        log = site.state / "supernode.log"
        wait_for(lambda: "SuperNode ID" in log.read_text(encoding="utf-8"), 60, client.text)
        assert f"enrolled anew in chest, whose server is {new.address}: connecting" in client.text()
        assert "Traceback" not in client.text()
        client.interrupt()
        assert client.wait(30) == 0
