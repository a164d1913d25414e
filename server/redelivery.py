"""A task whose way to its site broke off is given out again.

Flower notes a task as delivered when it has handed it to the network, once. Where the answer with it is lost, because a
connection was cut or a client had stopped waiting, the site goes on asking for something to do and the server waits for
its reply until the round's deadline.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from flwr.proto.fleet_pb2 import PullMessagesResponse

_SITES = 10_000


class MessageState(Protocol):
    """Flower's state on a database, of which this is asked."""

    def get_valid_message_ins(self, message_id: str) -> dict[str, Any] | None:
        """The message of that id that is on its way to a site."""
        ...


class Redelivery:
    """What each site was last given and has not shown to have: it shows that by asking for the task's run or parts.

    Args:
        state: of the SuperLink.
    """

    def __init__(self, state: Callable[[], MessageState]) -> None:
        self._state = state
        self._given: OrderedDict[bytes, bytes] = OrderedDict()

    def answer(self, site: bytes, answer: bytes) -> bytes:
        """What to answer to a site that asks for a task.

        Args:
            site: its key.
            answer: Flower's, a PullMessagesResponse.
        """
        if PullMessagesResponse.FromString(answer).messages_list:
            self._given[site] = answer
            self._given.move_to_end(site)
            while len(self._given) > _SITES:
                self._given.popitem(last=False)
            return answer
        if (given := self._given.get(site)) is None:
            return answer
        if all(
            self._is_wanted(message.metadata.message_id)
            for message in PullMessagesResponse.FromString(given).messages_list
        ):
            return given
        self.arrived(site)
        return answer

    def arrived(self, site: bytes) -> None:
        """The site has what it was given, or begins anew."""
        self._given.pop(site, None)

    def _is_wanted(self, message: str) -> bool:
        return self._state().get_valid_message_ins(message) is not None
