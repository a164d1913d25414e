"""A site's key: made where it stays, and known elsewhere by its public half and that one's fingerprint.

ECDSA on P-384 in OpenSSH's format without a passphrase is what Flower's SuperNode takes.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from acm_core.files import flush_folder
from acm_core.trust import TrustError

SiteKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

_LONGEST_TEXT = 1000  # of a public key; P-384's has 225 characters
_LARGEST_FILE = 2**16
_KIND = "an ECDSA key on P-384 in OpenSSH's format without a passphrase"


class SiteKeyError(TrustError):
    """A key that is not there, is of another kind, or that others can read."""


def create_key(path: Path) -> SiteKey:
    """Make a key in a new file that only its owner may read (0600), in a folder that only its owner may enter (0700).

    Killed at any point it leaves the whole key or none.

    Raises:
        FileExistsError: there is a file of this name; it stays as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    key = ec.generate_private_key(ec.SECP384R1())
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
            file.flush()
            os.fsync(descriptor)
        os.link(name, path)  # unlike a rename it never replaces a key
    finally:
        Path(name).unlink()
    flush_folder(path.parent)
    return key


def load_key(path: Path) -> SiteKey:
    """The key in a file.

    Raises:
        SiteKeyError: there is none, others may read it, or it is of another kind.
    """
    expect_private(path)
    with path.open("rb") as file:
        content = file.read(_LARGEST_FILE)
    try:
        key = load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm) as error:
        raise SiteKeyError(f"expected {_KIND} in {path}, got something else: {error}") from None
    if not isinstance(key, SiteKey) or not isinstance(key.curve, ec.SECP384R1):
        raise SiteKeyError(f"expected {_KIND} in {path}, got another kind of key")
    return key


def expect_private(path: Path) -> None:
    """Refuse a secret that is not there, or that others than its owner can read or change.

    Raises:
        SiteKeyError: it is so.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SiteKeyError(f"expected a key in {path}, got {error.strerror}") from None
    if mode & 0o077:
        raise SiteKeyError(
            f"expected that only its owner can read {path}, got mode {mode:04o}: if nobody else has read it, run "
            f"chmod 600 {path}"
        )


def public_text(key: PublicKey) -> str:
    """The public key as OpenSSH writes it, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def parse_public_key(text: str) -> PublicKey:
    """The key that `public_text` wrote.

    Raises:
        SiteKeyError: `text` is anything else.
    """
    try:
        key = load_ssh_public_key(text[:_LONGEST_TEXT].encode())
    except (ValueError, NotImplementedError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP384R1) or public_text(key) != text:
        raise SiteKeyError("expected an ECDSA public key on P-384 as OpenSSH writes it, got something else")
    return key


def fingerprint(key: PublicKey) -> str:
    """`SHA256:…`, as `ssh-keygen -lf` prints it (RFC 4648 base64 without padding)."""
    blob = base64.b64decode(public_text(key).split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")
