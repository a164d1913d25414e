"""What travels by Flower: where a task's or a reply's file is, and who says so. The file itself goes by the depot.

A site's ClientApp and its worker say the same to each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError

from acm_core.federated.messages import MessageError, Refusal, TaskKind
from acm_core.federated.payload import MOST_BYTES
from acm_core.hash_chain import Sha256, Strict

MESSAGE_TYPES = {
    TaskKind.TRAIN: "train",
    TaskKind.LOCAL_ONLY: "train.local_only",
    TaskKind.EVALUATE: "evaluate",
}
"""What Flower calls the messages that carry a task of a kind, and its reply."""
PayloadBytes = Annotated[int, Field(ge=0, le=MOST_BYTES)]


class _Envelope(Strict):
    def fields(self) -> dict[str, str | int]:
        """As a Flower record takes them."""
        return self.model_dump(mode="json")

    @classmethod
    def read(cls, fields: Mapping[str, object]) -> Self:
        """The envelope that a record has.

        Raises:
            MessageError: its fields are others, or of other kinds; the text quotes none of them.
        """
        try:
            return cls.model_validate_json(json.dumps(dict(fields)))
        except (ValidationError, TypeError, ValueError):
            raise MessageError(f"expected the fields of a {cls.__name__}, got others") from None


class TaskEnvelope(_Envelope):
    """Of a task.

    Attributes:
        payload: SHA-256 of its file.
        bytes: size of that.
        audit: head of the server's audit log, "" without one.
    """

    payload: Sha256
    bytes: PayloadBytes
    audit: Sha256 | Literal[""]


class ReplyEnvelope(_Envelope):
    """Of a reply: it has a file, or it is a refusal.

    Attributes:
        payload: SHA-256 of its file, "" for a refusal.
        bytes: size of that.
        refusal: the code of one.
        audit: head of the site's audit log, "" without one.
        signature: by the site's key, of the rest and of the message that is answered (`acm_core.trust.signatures`);
            "" before it is signed.
    """

    payload: Sha256 | Literal[""] = ""
    bytes: PayloadBytes = 0
    refusal: Refusal | Literal[""] = ""
    audit: Sha256 | Literal[""] = ""
    signature: Annotated[str, Field(max_length=200)] = ""
