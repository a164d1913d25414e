"""A site's calls of the server's depot: it fetches its task and brings its reply, and goes on where it was cut off."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx

from acm_core.bundle import VERSIONS_HEADER
from acm_core.federated.payload import MOST_BYTES, Payload
from acm_core.files import file_sha256
from acm_core.proxies import proxy_for
from acm_core.trust import keys
from acm_core.trust.address import split_address
from acm_core.trust.signatures import OFFSET_HEADER, sign_call
from client.site.membership import Membership

log = logging.getLogger("acm_fed.client")

_SECONDS = 120.0  # a link of 1 Mbit/s needs half a minute for what the system has taken of an upload
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_PIECE_BYTES = 2**16
_T = TypeVar("_T")


class DepotError(RuntimeError):
    """The server does not give the task, or does not take the reply; another try does not help."""


class TaskOverError(DepotError):
    """The server has no such task any more."""


class Depot:
    """The server's depot as a member of its federation reaches it.

    Args:
        site: the member's name.
        membership: where the server is, and the key that signs.
    """

    def __init__(self, site: str, membership: Membership) -> None:
        self._site, self._key = site, keys.load_key(membership.key)
        self._client = httpx.Client(
            base_url=f"https://{membership.address}",
            verify=ssl.create_default_context(cafile=str(membership.authority)),
            timeout=_SECONDS,
            headers={"accept-encoding": "identity"},
            proxy=proxy_for(split_address(membership.address)[0]),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def greet(self) -> str | None:
        """The server's versions; None where it does not know this site's key.

        Raises:
            httpx.HTTPError: it does not answer, or not as a server does.
        """
        response = self._client.send(self._request("GET", "/v1/depot/greeting"), stream=True)
        response.close()
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return None
        return str(response.raise_for_status().headers.get(VERSIONS_HEADER, ""))

    def fetch(self, digest: str, size: int, folder: Path) -> Path:
        """The task of this digest as a file in `folder`, from which other tasks go; tried until it is here.

        Raises:
            TaskOverError: the server has no such task.
            DepotError: it gives other bytes than those of the task's digest, or too many.
        """
        if size > MOST_BYTES:
            raise DepotError(f"expected a task of at most {MOST_BYTES} bytes, got one of {size}")
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.iterdir():
            if not other.name.startswith(digest):
                other.unlink()
        path, part = folder / digest, folder / f"{digest}.part"
        if path.exists():
            self._patiently(lambda: self._expect(self._request("HEAD", f"/v1/depot/tasks/{digest}"), (200,)))
            return path
        part.touch()
        while part.stat().st_size < size:
            self._patiently(lambda: self._read_on(digest, size, part))
        if file_sha256(part) != digest:
            part.unlink()
            raise DepotError("expected the bytes of the task's digest, got others")
        return part.replace(path)

    def deliver(self, payload: Payload) -> None:
        """Bring a reply to the server; tried until it is there.

        Raises:
            DepotError: the server does not take it.
        """
        path = f"/v1/depot/replies/{payload.sha256}"
        there = self._patiently(lambda: self._offset(self._expect(self._request("HEAD", path), (200, 204))))
        while there is not None:
            offset = there

            def bring(offset: int = offset) -> int | None:
                request = self._request(
                    "PATCH",
                    path,
                    offset=offset,
                    content=_rest(payload.path, offset),
                    headers={
                        "content-length": str(payload.size - offset),
                        "upload-length": str(payload.size),
                    },
                )
                return self._offset(self._expect(request, (200, 204, 409)))

            try:
                there = bring()
            except httpx.HTTPError:
                there = self._patiently(
                    lambda: self._offset(self._expect(self._request("HEAD", path), (200, 204)))
                )

    def _read_on(self, digest: str, size: int, part: Path) -> None:
        have = part.stat().st_size
        request = self._request("GET", f"/v1/depot/tasks/{digest}", headers={"range": f"bytes={have}-"})
        response = self._client.send(request, stream=True)
        try:
            if response.status_code not in (200, 206):
                self._refused(response)
            with part.open("ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as file:
                for piece in response.iter_raw():
                    if file.tell() + len(piece) > size:
                        raise DepotError(f"expected a task of {size} bytes, got more")
                    file.write(piece)
        finally:
            response.close()

    def _request(
        self,
        method: str,
        path: str,
        *,
        offset: int = 0,
        content: Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Request:
        signed = sign_call(self._key, self._site, method, path, offset)
        return self._client.build_request(
            method, path, content=content, headers={**signed, **(headers or {})}
        )

    def _expect(self, request: httpx.Request, statuses: tuple[int, ...]) -> httpx.Response:
        response = self._client.send(request, stream=True)
        response.close()  # what follows the headers is not read
        if response.status_code not in statuses:
            self._refused(response)
        return response

    @staticmethod
    def _refused(response: httpx.Response) -> None:
        """Raise for an answer that is none of those hoped for: HTTPStatusError where another try may help."""
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            response.raise_for_status()
        if response.status_code == httpx.codes.NOT_FOUND:
            raise TaskOverError(
                "expected the task that the server spoke of, got the answer that there is none"
            )
        raise DepotError(
            f"expected that the server serves this site's task, got status {response.status_code}"
        )

    @staticmethod
    def _offset(response: httpx.Response) -> int | None:
        """Bytes of the reply that the server has; None: all."""
        if response.status_code == httpx.codes.NO_CONTENT:
            return None
        text = response.headers.get(OFFSET_HEADER, "")
        if not text.isdigit():
            raise DepotError("expected the bytes that the server has, got another answer")
        return int(text)

    @staticmethod
    def _patiently(call: Callable[[], _T]) -> _T:
        """What `call` gives, which is tried again as long as the server is away."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return call()
            except httpx.HTTPError as error:
                if pause == _FIRST_PAUSE:
                    log.info("the server's depot does not answer (%s); trying again", type(error).__name__)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


def _rest(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(_PIECE_BYTES):
            yield piece
