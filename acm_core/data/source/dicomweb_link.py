"""Requests to an archive by DICOMweb (PS3.18): searches by dicomweb-client, films as they are stored.

The library's own retrieval parses a film whole and without a limit, and what it gives has other bytes than were sent.
Here a film comes in pieces up to the size that a film may have, and goes to the reader as it came.

No error and no log of this module holds a credential, a UID or an accession number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import requests
from dicomweb_client.web import DICOMwebClient
from requests.auth import AuthBase
from requests.exceptions import InvalidJSONError, RequestException, SSLError, TooManyRedirects

from acm_core.config.archive import Archive
from acm_core.data.film import MAX_FILE_BYTES
from acm_core.data.quiet import without_warnings
from acm_core.data.set_aside import FilmSetAside, SetAside

for _library in ("dicomweb_client", "urllib3"):
    # They log addresses, which hold UIDs and accession numbers.
    logging.getLogger(_library).setLevel(logging.CRITICAL)

_TIMEOUTS = (10.0, 120.0)
"""Seconds until a connection is there, and between two pieces of an answer."""
_SECONDS_A_FILM = 240.0
_WAITS = (1.0, 2.0, 4.0)
"""Seconds before the second, third and fourth try."""
_LONGEST_WAIT = 60.0
_BUSY = frozenset(
    (
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    )
)
_PIECE = 2**20
_HEAD = 2**16
"""Bytes that the answer has around a film at most."""
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""PS3.18 8.7.3.3: without `*` an archive decompresses what it sends."""

T = TypeVar("T")


class ArchiveError(OSError):
    """The archive does not answer, or not as DICOMweb says.

    Attributes:
        found: what was expected and what came.
        fix: what to do.
    """

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(f"{found}: {fix}")
        self.found, self.fix = found, fix


class SearchFailedError(ArchiveError):
    """The archive failed over a search (HTTP 500): one damaged film is enough for that in some."""


class DicomwebLink:
    """Asks one archive.

    Args:
        before: called before each request, tries included; waits for its turn.
    """

    def __init__(self, archive: Archive, before: Callable[[], None]) -> None:
        self._archive, self._before = archive, before
        self._session = requests.Session()
        # Neither proxies nor ~/.netrc: the archive is in the house, and the credential is the file's.
        self._session.trust_env = False
        self._session.max_redirects = 0
        self._session.verify = True if archive.ca is None else str(archive.ca)
        if archive.token_file is not None:
            self._session.auth = _Credential(archive.token_file)
        self._client = DICOMwebClient(archive.dicomweb, self._session, timeout=_TIMEOUTS)
        self._client.set_http_retry_params(retry=False)  # it would try again after whatever happens

    def search(
        self, filters: dict[str, str], fields: tuple[str, ...], limit: int, offset: int
    ) -> list[dict[str, Any]]:
        """A page of the instances that match (QIDO-RS, PS3.18 10.6), as DICOM JSON.

        Raises:
            SearchFailedError: the archive failed over it.
            ArchiveError: there is no other answer that could be read either.
        """
        wrong, kind = None, ArchiveError
        try:
            with without_warnings():
                found = self._tried(
                    lambda: self._client.search_for_instances(
                        limit=limit, offset=offset, fields=fields, search_filters=filters
                    )
                )
        except ArchiveError:
            raise
        except (InvalidJSONError, ValueError, TypeError, AttributeError):
            wrong = _NO_DICOM_JSON
        except RequestException as error:
            wrong = _reason(error, self._archive)
            if error.response is not None and error.response.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
                kind = SearchFailedError
        except OSError:  # of the certificates' file
            wrong = (
                f"expected certificates (PEM) in {self._archive.ca}, got none",
                "set films: ca in the site file to the authority that signed the archive's",
            )
        if wrong is None and not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
            wrong = _NO_DICOM_JSON
        if wrong is not None:
            # Outside the handlers: a library's exception holds the request, and with it the credential.
            raise kind(f"{self._archive}: {wrong[0]}", wrong[1])
        return found

    def retrieve(self, study: str, series: str, instance: str) -> bytes:
        """A film as it is stored (WADO-RS, PS3.18 10.4).

        Raises:
            FilmSetAside: NOT_SENT, or TOO_LARGE.
        """
        address = f"{self._archive}/studies/{study}/series/{series}/instances/{instance}"
        try:
            return self._tried(lambda: self._film(address))
        except FilmSetAside as verdict:
            reason, value = verdict.reason, verdict.value
        except OSError as error:
            reason, value = SetAside.NOT_SENT, _said(error)
        raise FilmSetAside(reason, value)

    def _film(self, address: str) -> bytes:
        end = time.monotonic() + _SECONDS_A_FILM
        headers = {"Accept": _AS_STORED, "Accept-Encoding": "identity"}
        with self._session.get(address, headers=headers, stream=True, timeout=_TIMEOUTS) as answer:
            answer.raise_for_status()
            content = bytearray()
            for piece in answer.iter_content(_PIECE):
                content += piece
                if len(content) > MAX_FILE_BYTES + _HEAD:
                    raise FilmSetAside(SetAside.TOO_LARGE, f"over {MAX_FILE_BYTES >> 20} MiB")
                if time.monotonic() > end:
                    raise FilmSetAside(SetAside.NOT_SENT, f"not sent within {_SECONDS_A_FILM:.0f} s")
            return _only_part(content, answer.headers.get("Content-Type", ""))

    def _tried(self, ask: Callable[[], T]) -> T:
        """Ask again where the archive was busy or the connection broke off."""
        for wait in _WAITS:
            self._before()
            try:
                return ask()
            except (SSLError, TooManyRedirects, InvalidJSONError):
                raise
            except RequestException as error:
                answer = error.response
                if answer is not None:
                    if answer.status_code not in _BUSY:
                        raise
                    wait = max(wait, _asked_to_wait(answer.headers.get("Retry-After", "")))  # noqa: PLW2901  # as it asks
            time.sleep(wait)
        self._before()
        return ask()


class _Credential(AuthBase):
    """The line of a file, read for each request so that a token may be renewed in it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = authorization(self._file)
        return request


def authorization(file: Path) -> str:
    """The header for the credential in a file: a bearer token (RFC 6750), or user and password (RFC 7617).

    Raises:
        ArchiveError: the file cannot be read, or is not one line.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        lines = []
    line = lines[0].strip() if lines else ""
    if not line or any(map(str.strip, lines[1:])) or not line.isprintable():
        raise ArchiveError(
            f"{file}: expected one line, a bearer token or user:password, got none or more",
            "write it, for the user that runs this to read",
        )
    if ":" not in line:
        return f"Bearer {line}"
    return str(requests.auth._basic_auth_str(*line.encode().split(b":", 1)))


def _only_part(content: bytearray, kind: str) -> bytes:
    """The film in a multipart answer (RFC 2046 5.1), or the answer itself where an archive sends it bare."""
    message = Message()
    message["Content-Type"] = kind
    boundary = message.get_boundary()
    if message.get_content_type() == "application/dicom" or boundary is None:
        return bytes(content)
    marker = b"--" + boundary.encode("latin-1", "replace")
    begin = content.find(b"\r\n\r\n", content.find(marker))
    end = content.find(b"\r\n" + marker, begin)
    if begin < 0 or end < 0:
        raise FilmSetAside(SetAside.NOT_SENT, "an answer that breaks off")
    return bytes(content[begin + 4 : end])


def _asked_to_wait(text: str) -> float:
    """Seconds of a Retry-After header; dates, which archives do not write, count as none."""
    return min(float(text), _LONGEST_WAIT) if text.isascii() and text.isdigit() else 0.0


def _said(error: OSError) -> str:
    """For the page: what became of one film."""
    answer = error.response if isinstance(error, RequestException) else None
    return "no answer" if answer is None else f"HTTP {answer.status_code}"


_NO_DICOM_JSON = (
    "expected a list of instances as DICOM JSON (PS3.18 F), got something else",
    "look at films: dicomweb in the site file",
)


def _reason(error: RequestException, archive: Archive) -> tuple[str, str]:
    """What is wrong with the archive, and what to do."""
    if isinstance(error, SSLError):
        signed = "a public authority" if archive.ca is None else f"the authority in {archive.ca}"
        return (
            f"expected a certificate for this address from {signed}, got another",
            "set films: ca in the site file to the authority that signed the archive's",
        )
    if isinstance(error, TooManyRedirects):
        return "expected an answer, got another address", "write that one into films: dicomweb"
    if error.response is None:
        return "expected an answer, got none", "look whether the archive runs and this machine may reach it"
    status = error.response.status_code
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return (
            f"expected to be let in, got HTTP {status}",
            "renew the credential in films: token_file, or its rights",
        )
    if status == HTTPStatus.NOT_FOUND:
        return "expected a DICOMweb service, got HTTP 404", "look at films: dicomweb in the site file"
    if status in _BUSY:
        return (
            f"expected an answer, got HTTP {status}",
            "it is busy: try later, or lower films: requests_a_second",
        )
    return (
        f"expected an answer to a search for instances (QIDO-RS), got HTTP {status}",
        "ask who runs the archive",
    )
