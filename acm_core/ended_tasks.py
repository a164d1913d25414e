"""A task whose process has ended without an answer is told to Flower, which learns of it by a minute's silence else."""

from __future__ import annotations

import contextlib

import httpx
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import PushTaskOutputRequest
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient


def tell_ended(address: str, token: str) -> None:
    """Say that the task of this token failed; where it has ended before, no notice is taken of it.

    Args:
        address: of the Runtime API, on loopback.
    """
    client = RuntimeHttpClient.from_server_address(
        address,
        True,
        None,
        interceptors=[RuntimeVersionHttpInterceptor("superexec"), RuntimeTokenHttpInterceptor(token)],
    )
    # A token that is no longer known, or one who is told that has ended as well.
    with client, contextlib.suppress(httpx.HTTPError, RuntimeError):
        client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED))
