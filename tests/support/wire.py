"""Models as they travel: whole in a task, as a difference in a reply."""

from __future__ import annotations

from acm_core.arrays import Arrays
from acm_core.federated.encoding import decode, encode
from acm_core.federated.messages import Reply


def whole(arrays: Arrays) -> Arrays:
    """What a task carries."""
    return encode(arrays, {}, "float32").payload


def trained(reply: Reply, sent: Arrays) -> Arrays:
    """The weights in a reply to a task that carried `whole(sent)`."""
    return decode(reply.arrays, sent)
