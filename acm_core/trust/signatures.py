"""What a site signs with its registered key: its calls of the server's depot, and its replies.

ECDSA on P-384 with SHA-384 (FIPS 186-5). What is signed is a list of texts without line ends, of which the first says
what kind of statement it is: a signature for one kind is none for another.
"""

from __future__ import annotations

import base64
import binascii
import time

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from acm_core.federated.envelope import ReplyEnvelope
from acm_core.trust.keys import PublicKey, SiteKey

SITE_HEADER, TIME_HEADER, SIGNATURE_HEADER = "x-acm-site", "x-acm-time", "x-acm-signature"
OFFSET_HEADER = "upload-offset"
"""Bytes of an upload that are there, as in the IETF's draft of resumable uploads."""
AHEAD_SECONDS, BEHIND_SECONDS = 5.0, 300.0
"""How far a site's clock may be off; as far as Flower lets it be."""


def sign(key: SiteKey, *texts: str) -> str:
    """The signature of these texts, in base64.

    Raises:
        ValueError: a text has a line end.
    """
    return base64.b64encode(key.sign(_joined(texts), ec.ECDSA(hashes.SHA384()))).decode("ascii")


def is_signed(key: PublicKey, signature: str, *texts: str) -> bool:
    """Whether `signature` is one of these texts by the owner of `key`; False for whatever is no signature."""
    try:
        key.verify(base64.b64decode(signature, validate=True), _joined(texts), ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def sign_call(key: SiteKey, site: str, method: str, path: str, offset: int = 0) -> dict[str, str]:
    """The headers of a call of the depot, made now.

    Args:
        offset: where the bytes that it carries belong.
    """
    now = f"{time.time():.3f}"
    signature = sign(key, *_call(site, method, path, now, str(offset)))
    return {SITE_HEADER: site, TIME_HEADER: now, SIGNATURE_HEADER: signature, OFFSET_HEADER: str(offset)}


def is_signed_call(
    key: PublicKey, signature: str, site: str, method: str, path: str, when: str, offset: str
) -> bool:
    """Whether the site signed this call, and lately."""
    try:
        age = time.time() - float(when)
    except ValueError:
        return False
    timely = -AHEAD_SECONDS < age < BEHIND_SECONDS
    return timely and is_signed(key, signature, *_call(site, method, path, when, offset))


def sign_reply(key: SiteKey, message: str, reply: ReplyEnvelope) -> ReplyEnvelope:
    """The reply to a message, signed."""
    return reply.model_copy(update={"signature": sign(key, *_reply(message, reply))})


def is_signed_reply(key: PublicKey, message: str, reply: ReplyEnvelope) -> bool:
    """Whether the owner of `key` signed just this reply to just this message."""
    return is_signed(key, reply.signature, *_reply(message, reply))


def _call(*texts: str) -> tuple[str, ...]:
    return ("acm-fed call 1", *texts)


def _reply(message: str, reply: ReplyEnvelope) -> tuple[str, ...]:
    return ("acm-fed reply 1", message, reply.payload, str(reply.bytes), reply.refusal, reply.audit)


def _joined(texts: tuple[str, ...]) -> bytes:
    if any("\n" in text for text in texts):
        raise ValueError("expected texts without line ends to sign, got one with")
    return "\n".join(texts).encode()
