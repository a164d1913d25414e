"""The depot's calls: a site greets, fetches its task, asks how much of its reply is here, and brings the rest.

| call | answer |
| --- | --- |
| GET /v1/depot/greeting | 200 with `x-acm-fed-versions` |
| GET, HEAD /v1/depot/tasks/SHA256 | the file, or a range of it (RFC 9110, 14) |
| HEAD /v1/depot/replies/SHA256 | `upload-offset`: bytes that are here; 204 where all are |
| PATCH /v1/depot/replies/SHA256 | takes what follows `upload-offset`; 409 and the right one where it is another |

Each call is signed by a registered key (`acm_core.trust.signatures`): the gate before this has checked it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from acm_core.bundle import VERSIONS_HEADER, versions
from acm_core.trust.signatures import OFFSET_HEADER
from server.link.depot import SHA256, Depot, UploadError

LENGTH_HEADER = "upload-length"
_LARGEST_FILL = 2**20


def depot_calls(depot: Depot, most_bytes: int, site_of: Callable[[Request], str]) -> Starlette:
    """The application that answers them.

    Args:
        most_bytes: that a reply may have.
        site_of: the site whose call the gate has let pass.
    """

    async def greeting(_request: Request) -> Response:
        return Response(headers={VERSIONS_HEADER: versions()})

    async def task(request: Request) -> Response:
        digest = request.path_params["digest"]
        path = depot.task(digest) if SHA256.fullmatch(digest) else None
        if path is None:
            return Response(status_code=404)
        depot.note_fetched(site_of(request), digest)
        return FileResponse(path, media_type="application/octet-stream")

    async def reply(request: Request) -> Response:
        site, digest = site_of(request), request.path_params["digest"]
        if not SHA256.fullmatch(digest):
            return Response(status_code=404)
        if request.method == "HEAD":
            return _there(depot.have(site, digest))
        return await _take(depot, request, site, digest, most_bytes)

    return Starlette(
        routes=[
            Route("/v1/depot/greeting", greeting),
            Route("/v1/depot/tasks/{digest}", task),
            Route("/v1/depot/replies/{digest}", reply, methods=["HEAD", "PATCH"]),
        ]
    )


async def _take(depot: Depot, request: Request, site: str, digest: str, most_bytes: int) -> Response:
    offset, length = (request.headers.get(name, "") for name in (OFFSET_HEADER, LENGTH_HEADER))
    if not (offset.isdigit() and length.isdigit()):
        return Response(status_code=400)
    at, whole = int(offset), int(length)
    if not 0 < whole <= most_bytes:
        return Response(status_code=413)
    waiting = bytearray()
    try:
        with contextlib.suppress(ClientDisconnect):  # what has come is kept: the site goes on there
            async for piece in request.stream():
                waiting += piece
                if at + len(waiting) > whole:
                    return Response(status_code=400)
                if len(waiting) >= _LARGEST_FILL:
                    at = await asyncio.to_thread(_append, depot, site, digest, at, waiting)
        at = await asyncio.to_thread(_append, depot, site, digest, at, waiting)
    except UploadError as error:
        return _there(error.have, status=409)
    if at < whole:
        return _there(at)
    whole_and_right = await asyncio.to_thread(depot.finish, site, digest)
    return Response(status_code=204 if whole_and_right else 422)


def _append(depot: Depot, site: str, digest: str, at: int, waiting: bytearray) -> int:
    depot.append(site, digest, at, bytes(waiting))
    size = len(waiting)
    waiting.clear()
    return at + size


def _there(have: int | None, *, status: int = 200) -> Response:
    if have is None:
        return Response(status_code=204)
    return Response(status_code=status, headers={OFFSET_HEADER: str(have)})
