"""Archives that do what Orthanc does not: busy, sending on, breaking off, answering nonsense or past the question."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acm_core.config.archive import Archive
from acm_core.data.intake.readers import read_files
from acm_core.data.set_aside import FilmSetAside, SetAside
from acm_core.data.source import dicomweb_link
from acm_core.data.source.dicomweb import DicomwebSource
from acm_core.data.source.dicomweb_link import ArchiveError, _only_part, authorization

Answer = tuple[int, dict[str, str], bytes]
MULTIPART = {"Content-Type": 'multipart/related; type="application/dicom"; boundary="b-1"'}
NAME = "1.2/1.2.3/1.2.3.4.dcm"


def part(film: bytes, end: bytes = b"\r\n--b-1--") -> bytes:
    return b"preamble\r\n--b-1\r\nContent-Type: application/dicom\r\n\r\n" + film + end


class Odd:
    """A server whose answers a test chooses; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answer: Callable[[str], Answer] = lambda _path: (200, {}, b"[]")
        odd = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                odd.asked.append((self.path, dict(self.headers)))
                status, headers, body = odd.answer(self.path)
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/dicom-web"


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Odd]:
    monkeypatch.setattr(dicomweb_link, "_WAITS", (0.01, 0.01))
    running = Odd()
    thread = threading.Thread(target=running.server.serve_forever)
    thread.start()
    yield running
    running.server.shutdown()
    running.server.server_close()
    thread.join()


def source(odd: Odd, folder: Path, **settings: Any) -> DicomwebSource:
    (folder / "token").write_text("tok.en")
    return DicomwebSource(
        Archive(dicomweb=odd.address, token_file=folder / "token", requests_a_second=1000, **settings),
        folder / "archive.jsonl",
    )


def instances(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "00080018": {"vr": "UI", "Value": [f"1.2.3.{first + number}"]},
            "0020000E": {"vr": "UI", "Value": ["1.2.3"]},
            "0020000D": {"vr": "UI", "Value": ["1.2"]},
        }
        for number in range(count)
    ]


def verdict(asked: DicomwebSource) -> tuple[SetAside, str | None]:
    with pytest.raises(FilmSetAside) as refused:
        asked.read(NAME)
    return refused.value.reason, refused.value.value


def test_a_busy_archive_is_asked_again_after_as_long_as_it_says(odd: Odd, tmp_path: Path) -> None:
    answers = [(429, {"Retry-After": "0"}, b""), (503, {}, b""), (200, MULTIPART, part(b"film"))]
    odd.answer = lambda _path: answers[len(odd.asked) - 1]  # type: ignore[assignment, return-value]
    assert source(odd, tmp_path).read(NAME) == b"film"
    assert [path for path, _ in odd.asked] == ["/dicom-web/studies/1.2/series/1.2.3/instances/1.2.3.4"] * 3
    for _, headers in odd.asked:
        assert headers["Authorization"] == "Bearer tok.en"
        assert headers["Accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert dicomweb_link._asked_to_wait("7") == 7
    assert dicomweb_link._asked_to_wait("999999") == 60
    assert dicomweb_link._asked_to_wait("Fri, 31 Dec 1999 23:59:59 GMT") == 0


@pytest.mark.parametrize("status", [400, 403, 404, 406, 410, 500])
def test_a_film_that_is_refused_is_asked_for_once(odd: Odd, tmp_path: Path, status: int) -> None:
    odd.answer = lambda _path: (status, {}, b"1.2.3.4 of Geheim^Annegret")
    assert verdict(source(odd, tmp_path)) == (SetAside.NOT_SENT, f"HTTP {status}")
    assert len(odd.asked) == 1


def test_a_credential_that_goes_is_no_verdict_on_a_film(odd: Odd, tmp_path: Path) -> None:
    asked = source(odd, tmp_path)
    (tmp_path / "token").unlink()
    assert verdict(asked) == (SetAside.NOT_SENT, "no answer")
    with pytest.raises(ArchiveError, match="expected one line, a bearer token or user:password"):
        asked.expect_there()
    assert not odd.asked


def test_nothing_is_sent_on_to_another_address(odd: Odd, tmp_path: Path) -> None:
    odd.answer = lambda _path: (302, {"Location": f"{odd.address}/elsewhere"}, b"")
    assert verdict(source(odd, tmp_path)) == (SetAside.NOT_SENT, "HTTP 302")
    with pytest.raises(ArchiveError, match="got another address: write that one into films: dicomweb"):
        source(odd, tmp_path).look()
    assert not [path for path, _ in odd.asked if "elsewhere" in path]


@pytest.mark.parametrize(
    ("headers", "body", "comes"),
    [
        (MULTIPART, part(b"film\r\n\r\nmore"), b"film\r\n\r\nmore"),
        ({"Content-Type": "application/dicom"}, b"bare", b"bare"),
        (MULTIPART, part(b"half", end=b""), "an answer that breaks off"),
        (MULTIPART, b"nothing of the kind", "an answer that breaks off"),
        (MULTIPART | {"Content-Length": "5000"}, part(b"film"), "no answer"),
        (MULTIPART, part(bytes(3 * 2**20)), "over 1 MiB"),
    ],
)
def test_a_film_comes_whole_or_not_at_all(
    odd: Odd,
    tmp_path: Path,
    headers: dict[str, str],
    body: bytes,
    comes: bytes | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dicomweb_link, "MAX_FILE_BYTES", 2**20)
    odd.answer = lambda _path: (200, headers, body)
    if isinstance(comes, bytes):
        assert source(odd, tmp_path).read(NAME) == comes
    else:
        reason = SetAside.TOO_LARGE if comes.startswith("over") else SetAside.NOT_SENT
        assert verdict(source(odd, tmp_path)) == (reason, comes)


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_of_any_answer_a_part_or_a_verdict(film: bytes, before: bytes) -> None:
    if b"--b-1" not in film + before:
        assert _only_part(bytearray(before + part(film)), MULTIPART["Content-Type"]) == film
    try:
        _only_part(bytearray(film), MULTIPART["Content-Type"])
    except FilmSetAside as refused:
        assert refused.reason is SetAside.NOT_SENT  # both ends are right


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b'"text"', b"[1, 2]", b'[{"00080018": 3}]', b'[{"00080018": {"Value": [null]}}]'],
)
def test_nonsense_in_answer_to_a_search_is_an_error_or_no_film(odd: Odd, tmp_path: Path, body: bytes) -> None:
    odd.answer = lambda _path: (200, {"Content-Type": "application/dicom+json"}, body)
    try:
        assert source(odd, tmp_path).look().files == []
    except ArchiveError as error:
        assert "expected a list of instances as DICOM JSON" in str(error)


def test_an_archive_that_always_gives_its_first_page_is_told(odd: Odd, tmp_path: Path) -> None:
    odd.answer = lambda _path: (200, {}, json.dumps(instances(500)).encode())
    with pytest.raises(ArchiveError, match="expected the search to go on at an offset"):
        source(odd, tmp_path).look()
    odd.answer = lambda _path: (
        200,
        {},
        json.dumps(instances(600)).encode(),
    )  # it gives all, whatever the limit
    assert len(source(odd, tmp_path).look().files) == 600


def test_an_archive_with_smaller_pages_gives_all(odd: Odd, tmp_path: Path) -> None:
    def capped(path: str) -> Answer:
        offset = int(path.rpartition("offset=")[2].partition("&")[0])
        return 200, {}, json.dumps(instances(min(30, 100 - offset), offset)).encode()

    odd.answer = capped
    asked = source(odd, tmp_path, query={"modality": ["CR"]})
    assert len(asked.look().files) == 100
    assert len(odd.asked) == 4
    assert len(asked.look().files) == 100
    assert len(odd.asked) == 4
    assert len(asked.look(anew=True).files) == 100
    assert len(odd.asked) == 8


def test_what_an_archive_passes_over_of_the_question_counts_here(odd: Odd, tmp_path: Path) -> None:
    said = instances(6)
    for number, more in enumerate(
        (
            {"00080060": "CT"},
            {"00180015": "HAND"},
            {"00080020": "20191231"},
            {"00080060": "dx", "00180015": "Chest", "00080020": "20200101"},
            {},  # it says nothing of them
            {"00080018": "../../etc"},
        )
    ):
        said[number] |= {tag: {"vr": "CS", "Value": [value]} for tag, value in more.items()}
    odd.answer = lambda _path: (200, {}, json.dumps(said).encode())
    query = {"modality": ["DX"], "body_part": ["CHEST"], "dates": "2020-01-01..2020-12-31"}
    listing = source(odd, tmp_path, query=query).look()
    assert [file.name for file in listing.files] == ["1.2/1.2.3/1.2.3.3.dcm", "1.2/1.2.3/1.2.3.4.dcm"]
    (asked,) = [path for path, _ in odd.asked]
    assert {"Modality=DX", "BodyPartExamined=CHEST", "StudyDate=20200101-20201231"} <= set(
        re.split("[?&]", asked)
    )


def test_a_stopped_search_goes_on_where_it_was(odd: Odd, tmp_path: Path) -> None:
    def down_after_three(path: str) -> Answer:
        offset = int(path.rpartition("offset=")[2].partition("&")[0])
        if len(odd.asked) == 4:
            return 400, {}, b""
        return 200, {}, json.dumps(instances(min(500, 1800 - offset), offset)).encode()

    odd.answer = down_after_three
    asked = source(odd, tmp_path, query={"modality": ["CR"]})
    with pytest.raises(ArchiveError, match="got HTTP 400: ask who runs the archive"):
        asked.look(anew=True)
    with (tmp_path / ".archive.jsonl.unfinished").open("a") as file:
        file.write('{"search": 0, "next": 17')  # killed over a line
    assert not (tmp_path / "archive.jsonl").exists()
    assert len(asked.look(anew=True).files) == 1800
    assert [path.rpartition("offset=")[2] for path, _ in odd.asked] == [
        "0",
        "500",
        "1000",
        "1500",
        "1500",
        "1800",
    ]


def test_all_readers_together_keep_to_the_sites_rate_and_number(odd: Odd, tmp_path: Path) -> None:
    came: list[float] = []

    def answer(_path: str) -> Answer:
        came.append(time.monotonic())
        time.sleep(0.2)
        return 200, MULTIPART, part(b"no film")

    odd.answer = answer
    names = [f"1.2/1.2.3/1.2.3.{number}.dcm" for number in range(12)]
    for at_once, rate, least in ((4, 1000.0, 0.0), (2, 1000.0, 5 * 0.2), (4, 5.0, 11 / 5)):
        settings = {"requests_a_second": rate, "at_once": at_once}
        asked = DicomwebSource(source(odd, tmp_path)._archive.model_copy(update=settings))
        came.clear()
        answers = list(read_files(asked, names, bytes(32), None, workers=8))
        assert {answer.reading.reason for answer in answers} == {SetAside.NOT_AN_IMAGE}
        assert max(came) - min(came) > 0.95 * least  # after the first, for which the readers start up


def test_a_search_that_always_fails_is_an_error(odd: Odd, tmp_path: Path) -> None:
    odd.answer = lambda _path: (500, {}, b"Geheim^Annegret")
    with pytest.raises(ArchiveError, match="got HTTP 500") as failed:
        source(odd, tmp_path).look()
    assert "Geheim" not in str(failed.value)
    assert len(odd.asked) < 60
    source(odd, tmp_path).expect_there()  # it answers


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("eyJhbGciOi.J9-_~+/=\n", "Bearer eyJhbGciOi.J9-_~+/="),
        ("user:pass:word", "Basic dXNlcjpwYXNzOndvcmQ="),
        ("Jörg:müsli \r\n\n", "Basic SsO2cmc6bcO8c2xp"),
    ],
)
def test_a_credential_is_a_token_or_user_and_password(tmp_path: Path, text: str, header: str) -> None:
    (tmp_path / "token").write_text(text, encoding="utf-8", newline="")
    assert authorization(tmp_path / "token") == header


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "1.2/1.2.3", "1.2/1.2.3/1.2.3.4/frames.dcm", "a/b/c.dcm", ""]
)
def test_a_name_that_is_no_film_is_not_asked_for(odd: Odd, tmp_path: Path, name: str) -> None:
    with pytest.raises(FilmSetAside):
        source(odd, tmp_path).read(name)
    assert not odd.asked
