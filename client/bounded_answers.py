"""Answers of the server, of which no more is read than an honest one sends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import httpx

MOST_BYTES = 4 * 2**20
"""Of one answer: a model comes in pieces of a quarter of that (`acm_core.processes.PIECES`)."""


class TooMuchError(ValueError):
    """An answer is larger than any that this site asks for, or of unknown size: it is not read on."""


def bound(client: httpx.Client) -> None:
    """Have `client` ask for answers that are not compressed, and raise `TooMuchError` for one that is or is too large.

    A compressed one grows as it is read, and httpx decompresses before anybody can look.
    """
    client.headers["accept-encoding"] = "identity"
    client.event_hooks = {"response": [_check]}


def _check(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise TooMuchError("expected an answer that is not compressed, got one that is")
    response.stream = _Bounded(cast("httpx.SyncByteStream", response.stream))


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        left = MOST_BYTES
        for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise TooMuchError(f"expected an answer of at most {MOST_BYTES} bytes, got more")
            yield piece

    def close(self) -> None:
        self._stream.close()
