"""The consortium's certificates: an authority that every site trusts, and the server's certificate from it.

Sites know the authority alone, so that the server's certificate can be renewed without them (X.509, RFC 5280).
"""

from __future__ import annotations

import hashlib
import re
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from acm_core.trust import TrustError
from acm_core.trust.address import parse_host

_AUTHORITY_LIFE = timedelta(days=20 * 365)
_SERVER_LIFE = timedelta(days=365)
_BACKDATED = timedelta(hours=1)  # for clocks that are behind
_DATE_FAULTS = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NAME_FAULTS = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_FLIGHTS = 4  # of messages in a TLS handshake, more than any has


class CertificateError(TrustError):
    """A certificate that sites would not take."""


class Pair(NamedTuple):
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes


def make_authority(federation: str) -> Pair:
    """A certificate authority for one federation; it can issue servers' certificates and no other authority."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("ACM-Fed authority", federation)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), datetime.now(UTC) + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )
    return Pair(certificate.public_bytes(Encoding.PEM), _key_pem(key))


def make_key() -> bytes:
    """A new private key for a server, as PEM."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def issue(authority: Pair, key: bytes, names: Sequence[str]) -> bytes:
    """A certificate of the authority for the server that has `key` and is reached by `names`, for a year.

    Raises:
        AddressError: one of `names` is neither host name nor IP address.
        CertificateError: there is no name, or the authority ends before it begins.
    """
    if not names:
        raise CertificateError("expected a host name or an address for the certificate, got none")
    issuer, issuer_key = parse(authority.certificate)[0], _private(authority.key)
    end = min(datetime.now(UTC) + _SERVER_LIFE, issuer.not_valid_after_utc)
    if end <= datetime.now(UTC):
        raise CertificateError(f"expected a living authority, got one that ended on {end:%Y-%m-%d}")
    organisation = issuer.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    known_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        _builder(_name("ACM-Fed server", str(organisation)), issuer.subject, _private(key).public_key(), end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
        .add_extension(known_by, critical=False)
        .sign(issuer_key, hashes.SHA384())
        .public_bytes(Encoding.PEM)
    )


def parse(pem: bytes) -> list[x509.Certificate]:
    """The certificates in PEM text.

    Raises:
        CertificateError: there are none.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise CertificateError(f"expected certificates as PEM text, got something else: {error}") from None


def without_comments(pem: bytes) -> bytes:
    """The certificates alone: bundles carry comments, in any encoding."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in parse(pem))


def ends(pem: bytes) -> datetime:
    """When the first of the certificates ends, UTC."""
    return min(certificate.not_valid_after_utc for certificate in parse(pem))


def days_left(pem: bytes) -> int:
    """Whole days until the first of the certificates ends; negative after it."""
    return (ends(pem) - datetime.now(UTC)) // timedelta(days=1)


def fingerprint(pem: bytes) -> str:
    """SHA-256 in hex of the certificate, as `openssl x509 -fingerprint -sha256` has it; of all where there are more."""
    return hashlib.sha256(
        b"".join(certificate.public_bytes(Encoding.DER) for certificate in parse(pem))
    ).hexdigest()


def spoken(fingerprint: str) -> str:
    """A fingerprint in groups of four, to be read aloud: `3F2A-91C0-…`."""
    return "-".join(re.findall("....", fingerprint.upper()))


def same_fingerprint(text: str, fingerprint: str) -> bool:
    """Whether a person's `text` is this fingerprint, however it is grouped."""
    return re.sub(r"[\s:-]", "", text).lower() == fingerprint


def expect_accepted(certificate: Path, key: Path, authority: Path, names: Sequence[str]) -> None:
    """Do what a site does when it connects: a TLS handshake in memory, by each of the server's names.

    Args:
        certificate: PEM file with the server's certificate first, then those between it and the authority's.
        key: PEM file with its private key.
        authority: PEM file with what sites trust.

    Raises:
        CertificateError: the key is another's, the certificate is not from the authority, not for one of the names, or
            not for today.
    """
    for path in (certificate, key, authority):
        if not path.is_file():
            raise CertificateError(f"expected a file of PEM text, found none at {path}")
    server = _server_context(certificate, key)
    site = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        site.load_verify_locations(cafile=authority)
    except ssl.SSLError as error:
        raise CertificateError(
            f"expected certificates as PEM text in {authority}, got something else: {error}"
        ) from None
    site.check_hostname, site.hostname_checks_common_name = bool(names), False
    for name in names or (None,):
        try:
            _shake_hands(server, site, name)
        except ssl.SSLCertVerificationError as error:
            raise CertificateError(_refusal(error, certificate, authority, name)) from None
        except ssl.SSLError as error:
            raise CertificateError(
                f"expected a certificate for servers in {certificate}, got one that does not serve: {error}"
            ) from None


def _server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # asks for no passphrase at the terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(
                f"expected the private key of {certificate} in {key}, got another certificate's"
            ) from None
        raise CertificateError(
            f"expected a certificate as PEM text in {certificate} and its key, without a passphrase, in {key}; got "
            f"something else: {error}"
        ) from None
    return context


def _shake_hands(server: ssl.SSLContext, site: ssl.SSLContext, name: str | None) -> None:
    to_site, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        site.wrap_bio(to_site, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_site, server_side=True),
    )
    for side in sides * _FLIGHTS:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


def _refusal(
    error: ssl.SSLCertVerificationError, certificate: Path, authority: Path, name: str | None
) -> str:
    own = parse(certificate.read_bytes())[0]
    if error.verify_code in _DATE_FAULTS:
        return (
            f"expected certificates for today in {certificate} and {authority}, got a server's from "
            f"{own.not_valid_before_utc:%Y-%m-%d} to {own.not_valid_after_utc:%Y-%m-%d} and an authority's to "
            f"{ends(authority.read_bytes()):%Y-%m-%d}: {error.verify_message}"
        )
    if error.verify_code in _NAME_FAULTS:
        return f"expected a certificate for {name} in {certificate}, got one for {', '.join(_names(own)) or 'none'}"
    return (
        f"expected the chain of {certificate} to end at {authority}, got {error.verify_message}: put the certificates "
        "between the two behind the server's own, and the topmost one among the authority's"
    )


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    yield from names.get_values_for_type(x509.DNSName)
    yield from map(str, names.get_values_for_type(x509.IPAddress))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common: str, organisation: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _san(name: str) -> x509.GeneralName:
    host = parse_host(name)
    return x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(
            f"expected a private key that server.init made, got something else: {error}"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CertificateError("expected a private key that server.init made, got another kind")
    return key
