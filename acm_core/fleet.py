"""What server and sites both know of Flower's Fleet API: the calls that a site makes, and how their bodies are read.

Flower itself is not imported: the messages are its protobuf classes, which either side brings along.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
"""As ASGI has them."""

MEDIA_TYPE = "application/protobuf"
_FLEET = "/v1/fleet/"
ACTIVATE, DEACTIVATE = _FLEET + "activate-node", _FLEET + "deactivate-node"
HEARTBEAT, GET_RUN, GET_BUNDLE = _FLEET + "send-node-heartbeat", _FLEET + "get-run", _FLEET + "get-fab"
PULL_MESSAGES, PUSH_MESSAGES = _FLEET + "pull-messages", _FLEET + "push-messages"
PULL_OBJECT, PUSH_OBJECT = _FLEET + "pull-object", _FLEET + "push-object"
CONFIRM = _FLEET + "confirm-message-received"
SITE_CALLS = frozenset(
    (
        ACTIVATE,
        DEACTIVATE,
        HEARTBEAT,
        GET_RUN,
        GET_BUNDLE,
        PULL_MESSAGES,
        PUSH_MESSAGES,
        PULL_OBJECT,
        PUSH_OBJECT,
        CONFIRM,
    )
)
INSTANCE_HEADER = "x-acm-instance"
"""Of each call: a text at random, another one each time that `client.run` is started."""
MOST_PARTS = 100
"""Of a message: a record of a few fields has three."""

_M = TypeVar("_M", bound=Message)


class WireError(ValueError):
    """Bytes that are not the message that the call carries, or a message that nobody takes."""


def parsed(kind: type[_M], body: bytes) -> _M:
    """The message of this kind that `body` holds.

    Raises:
        WireError: it holds anything else.
    """
    message: _M = kind()
    try:
        message.ParseFromString(body)
    except (DecodeError, RecursionError):
        raise WireError(f"expected a {kind.DESCRIPTOR.name}, got other bytes") from None
    return message
