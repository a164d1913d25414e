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
from pathlib import Path
from typing import Annotated, Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from acm_core.audit_events import RunName, Version
from acm_core.config.sections import SiteName
from acm_core.files import write_text_atomically
from acm_core.hash_chain import Sha256, Strict
from acm_core.trust import TrustError, certificates, keys
from acm_core.trust.address import ServerAddress

MOST_AUTHORITY_BYTES = 2**16
"""Of PEM in an answer; a hospital's chain of authorities has perhaps 10 kB."""

_MOST_BYTES = 2**17
_MOST_PROBLEMS = 3
_SIGNATURE = ec.ECDSA(hashes.SHA384())
_FROM, _TO = datetime(2020, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_PEM = Annotated[str, StringConstraints(max_length=MOST_AUTHORITY_BYTES)]
_Short = Annotated[str, StringConstraints(max_length=300)]

Time = Annotated[AwareDatetime, Field(ge=_FROM, lt=_TO)]
"""When a document was written."""


class EnrolmentError(TrustError):
    """A file that is no request or answer, or not the one that was written."""


class _Document(Strict):
    """A JSON file of declared fields."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """The document in a file, verified.

        Raises:
            EnrolmentError: it is not there, something else, or not as it was written.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise EnrolmentError(f"expected a readable file {path}, got {error.strerror}") from None
        if len(content) > _MOST_BYTES:
            raise EnrolmentError(f"expected at most {_MOST_BYTES} bytes in {path}, got more")
        try:
            return cls.parse(content)
        except EnrolmentError as error:
            raise EnrolmentError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """The document, verified.

        Raises:
            EnrolmentError: `content` is something else, or not as it was written.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise EnrolmentError(
                f"expected an enrolment {cls.__name__.lower()} as it was written, got something else; have it sent "
                f"again: {_problems(error)}"
            ) from None

    def write(self, path: Path) -> None:
        """Write the document, in place of an earlier one."""
        write_text_atomically(path, self.model_dump_json(indent=2) + "\n")

    def _content(self, seal: str) -> bytes:
        """All but the field that is computed over it."""
        return self.model_dump_json(exclude={seal}).encode()


class Request(_Document):
    """What a site sends to join; every instance is signed by the key in it."""

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
        signature = base64.b64encode(key.sign(unsigned._content("signature"), _SIGNATURE))
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
            key.verify(signature, self._content("signature"), _SIGNATURE)
        except (InvalidSignature, binascii.Error):
            raise ValueError("the signature is not of this key over this request") from None
        if base64.b64encode(signature).decode("ascii") != self.signature:
            raise ValueError("the signature is not as it was written")
        return self


class Answer(_Document):
    """What the operator sends back; `sha256` shows damage on the way, the compared fingerprint shows forgery.

    Attributes:
        server: host:port at which the site reaches the server.
        key: fingerprint of the site's key.
        authority: PEM of what the site is to trust; `authority_fingerprint` is SHA-256 in hex.
    """

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
        return hashlib.sha256(self._content("sha256")).hexdigest()


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


def _problems(error: ValidationError) -> str:
    """What is wrong, without the content: it is a stranger's."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    rows = []
    for problem in found[:_MOST_PROBLEMS]:
        place = ".".join(ascii(str(step))[1:-1][:60] for step in problem["loc"])
        rows.append(": ".join(part for part in (place, problem["msg"].removeprefix("Value error, ")) if part))
    return "; ".join(rows)
