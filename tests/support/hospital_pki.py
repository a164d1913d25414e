"""Certificates as a hospital's own authority issues them, and as none should."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

TODAY = datetime.now(UTC)


@dataclass(frozen=True)
class Holder:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def key_pem(self, passphrase: bytes | None = None) -> bytes:
        encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def issued(
    name: str,
    issuer: Holder | None = None,
    *,
    names: Sequence[str] = (),
    days: float = 30,
    begins: float = -1,
    authority: bool = False,
) -> Holder:
    """A certificate of `issuer`, or of itself, that begins and ends so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(TODAY + timedelta(days=begins))
        .not_valid_after(TODAY + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if authority:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_name(name) for name in names]), critical=False
        )
    return Holder(builder.sign(signer, hashes.SHA256()), key)


class HospitalFiles:
    """What a hospital's IT department hands over: root, one between, and the server's certificate and key."""

    def __init__(self, folder: Path, *names: str, days: float = 30) -> None:
        self.root = issued("Hospital root", authority=True, days=3650)
        self.between = issued("Hospital issuing", self.root, authority=True, days=3650)
        self.server = issued("server", self.between, names=names, days=days)
        self.certificate, self.key, self.authority = (
            folder / name for name in ("chain.pem", "key.pem", "root.pem")
        )
        self.certificate.write_bytes(self.server.pem + self.between.pem)
        self.key.write_bytes(self.server.key_pem())
        self.authority.write_bytes("# Universitätsklinik\n".encode("latin-1") + self.root.pem)


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
