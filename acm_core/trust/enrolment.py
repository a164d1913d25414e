"""The two files with which a site joins: its request to the operator and the operator's answer.

Neither holds a secret, and either may go by any channel: people compare the fingerprint of the key and that of the
authority by telephone. The request is signed with the site's key, so that nobody asks in the name of another's key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, ClassVar, Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from acm_core.audit_events import RunName, Version
from acm_core.config.sections import SiteName
from acm_core.hash_chain import Sha256
from acm_core.trust import TrustError, certificates, keys
from acm_core.trust.address import ServerAddress
from acm_core.trust.document import Document

MOST_AUTHORITY_BYTES = 2**16
"""Of PEM in an answer; a hospital's chain of authorities has perhaps 10 kB."""

_SIGNATURE = ec.ECDSA(hashes.SHA384())
_FROM, _TO = datetime(2020, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_PEM = Annotated[str, StringConstraints(max_length=MOST_AUTHORITY_BYTES)]
_Short = Annotated[str, StringConstraints(max_length=300)]

Time = Annotated[AwareDatetime, Field(ge=_FROM, lt=_TO)]
"""When a document was written."""


class EnrolmentError(TrustError):
    """A file that is no request or answer, or not the one that was written."""


class Request(Document):
    """What a site sends to join; every instance is signed by the key in it."""

    called: ClassVar[str] = "an enrolment request"
    error: ClassVar[type[TrustError]] = EnrolmentError

    format: Literal["acm-fed.enrolment-request/1"] = "acm-fed.enrolment-request/1"
    site: SiteName
    public_key: _Short
    acm_fed: Version
    flwr: Version
    time: Time
    signature: _Short

    @classmethod
    def signed(cls, site: str, key: keys.SiteKey) -> Request:
        """A request of now."""
        unsigned = cls.model_construct(
            site=site,
            public_key=keys.public_text(key.public_key()),
            acm_fed=version("acm-fed"),
            flwr=version("flwr"),
            time=now(),
            signature="",
        )
        signature = base64.b64encode(key.sign(_content(unsigned, "signature"), _SIGNATURE))
        return cls(**unsigned.model_dump(exclude={"signature"}), signature=signature.decode("ascii"))

    @property
    def fingerprint(self) -> str:
        """Of the key."""
        return keys.fingerprint(keys.parse_public_key(self.public_key))

    @model_validator(mode="after")
    def _is_signed(self) -> Self:
        key = keys.parse_public_key(self.public_key)
        try:
            signature = base64.b64decode(self.signature, validate=True)
            key.verify(signature, _content(self, "signature"), _SIGNATURE)
        except (InvalidSignature, binascii.Error):
            raise ValueError("the signature is not of this key over this request") from None
        if base64.b64encode(signature).decode("ascii") != self.signature:
            raise ValueError("the signature is not as it was written")
        return self


class Answer(Document):
    """What the operator sends back; `sha256` shows damage on the way, the compared fingerprint shows forgery.

    Attributes:
        server: host:port at which the site reaches the server.
        key: fingerprint of the site's key.
        authority: PEM of what the site is to trust; `authority_fingerprint` is SHA-256 in hex.
    """

    called: ClassVar[str] = "an enrolment answer"
    error: ClassVar[type[TrustError]] = EnrolmentError

    format: Literal["acm-fed.enrolment-answer/1"] = "acm-fed.enrolment-answer/1"
    site: SiteName
    federation: RunName
    server: ServerAddress
    key: _Short
    authority: _PEM
    authority_fingerprint: Sha256
    time: Time
    sha256: Sha256

    @classmethod
    def to(cls, request: Request, *, federation: str, server: str, authority: bytes) -> Answer:
        """The answer of now to an approved request."""
        unsealed = cls.model_construct(
            site=request.site,
            federation=federation,
            server=server,
            key=request.fingerprint,
            authority=authority.decode("ascii"),
            authority_fingerprint=certificates.fingerprint(authority),
            time=now(),
            sha256="",
        )
        return cls(**unsealed.model_dump(exclude={"sha256"}), sha256=unsealed._digest())

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self._digest() != self.sha256:
            raise ValueError("the answer was changed after it was written")
        if certificates.fingerprint(self.authority.encode()) != self.authority_fingerprint:
            raise ValueError("the authority is not the one of authority_fingerprint")
        return self

    def _digest(self) -> str:
        return hashlib.sha256(_content(self, "sha256")).hexdigest()


def now() -> datetime:
    """The time of a document: UTC, whole seconds.

    Raises:
        EnrolmentError: this machine's clock is years off.
    """
    time = datetime.now(UTC).replace(microsecond=0)
    if not _FROM <= time < _TO:
        raise EnrolmentError(
            f"expected the time of today on this machine's clock, got {time:%Y-%m-%d}: set it"
        )
    return time


def _content(document: Document, seal: str) -> bytes:
    """All but the field that is computed over it."""
    return document.model_dump_json(exclude={seal}).encode()
