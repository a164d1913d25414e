"""The consortium's certificates, as a strict TLS client takes them, and what it does not take."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hospital_pki import HospitalFiles, issued

from acm_core.trust import certificates
from acm_core.trust.address import AddressError
from acm_core.trust.certificates import CertificateError, expect_accepted

NAMES = ["localhost", "127.0.0.1", "::1", "fed.example.org"]


class Server:
    """What `make_authority` and `issue` gave, as files."""

    def __init__(self, folder: Path, names: Sequence[str] = NAMES) -> None:
        self.pair = certificates.make_authority("chest")
        self.certificate, self.key, self.authority = (folder / name for name in ("crt", "key", "ca"))
        self.authority.write_bytes(self.pair.certificate)
        self.key.write_bytes(certificates.make_key())
        self.renew(names)

    def renew(self, names: Sequence[str] = NAMES) -> None:
        self.certificate.write_bytes(certificates.issue(self.pair, self.key.read_bytes(), names))


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def strict(authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def connect(server: Server, site: ssl.SSLContext, name: str) -> str:
    """A TLS connection over loopback that a line goes through; the TLS version."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)

    def serve() -> None:
        plain, _ = listener.accept()
        try:
            with context.wrap_socket(plain, server_side=True) as connection:
                connection.sendall(connection.recv(5))
        except OSError:
            plain.close()  # the site went away

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as plain,
                site.wrap_socket(plain, server_hostname=name) as connection,
            ):
                connection.sendall(b"hello")
                assert connection.recv(5) == b"hello"
                return connection.version() or ""
        finally:
            serving.join()


@pytest.mark.parametrize("name", NAMES)
def test_a_strict_client_takes_the_certificate_by_each_name(server: Server, name: str) -> None:
    assert connect(server, strict(server.authority), name) == "TLSv1.3"
    expect_accepted(server.certificate, server.key, server.authority, NAMES)


def test_a_renewed_certificate_needs_nothing_at_the_site(server: Server) -> None:
    site = strict(server.authority)
    former = server.certificate.read_bytes()
    server.renew([*NAMES, "new.example.org"])
    assert server.certificate.read_bytes() != former
    assert connect(server, site, "new.example.org")


def test_another_name_is_refused(server: Server) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        connect(server, strict(server.authority), "elsewhere.example.org")
    for name in ("elsewhere.example.org", "10.0.0.5"):
        with pytest.raises(
            CertificateError, match=rf"for {name} in .*, got one for localhost, fed.example.org, 127"
        ):
            expect_accepted(server.certificate, server.key, server.authority, [*NAMES, name])


def test_another_consortium_of_the_same_name_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Server(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|signature failure"):
        connect(other, strict(server.authority), "localhost")
    with pytest.raises(CertificateError, match=r"expected the chain of .* to end at"):
        expect_accepted(other.certificate, other.key, server.authority, NAMES)


def test_the_server_cannot_pass_as_an_authority(server: Server, tmp_path: Path) -> None:
    """Whoever has the server's key, and not the authority's, issues nothing that sites take."""
    stolen = certificates.Pair(server.certificate.read_bytes(), server.key.read_bytes())
    forged, chain = tmp_path / "forged", certificates.make_key()
    (tmp_path / "forged.key").write_bytes(chain)
    forged.write_bytes(certificates.issue(stolen, chain, ["localhost"]) + server.certificate.read_bytes())
    with pytest.raises(CertificateError, match="invalid CA certificate"):
        expect_accepted(forged, tmp_path / "forged.key", server.authority, ["localhost"])


def test_what_the_certificates_say(server: Server) -> None:
    (authority,) = certificates.parse(server.pair.certificate)
    (own,) = certificates.parse(server.certificate.read_bytes())
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = authority.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    assert not own.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert 363 < certificates.days_left(server.certificate.read_bytes()) <= 365
    assert certificates.days_left(server.pair.certificate) > 19 * 365
    assert own.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=30), "for clocks that are behind"


def test_a_certificate_does_not_outlive_its_authority() -> None:
    for days in (10, -1):
        old = issued("O", authority=True, days=days, begins=-30)
        subject = x509.Name.from_rfc4514_string("O=chest,CN=authority")
        certificate = (
            x509.CertificateBuilder(subject, subject, old.key.public_key(), 1)
            .not_valid_before(old.certificate.not_valid_before_utc)
            .not_valid_after(old.certificate.not_valid_after_utc)
            .sign(old.key, old.certificate.signature_hash_algorithm)
        )
        pair = certificates.Pair(certificate.public_bytes(certificates.Encoding.PEM), old.key_pem())
        if days > 0:
            assert certificates.days_left(certificates.issue(pair, certificates.make_key(), NAMES)) < days
        else:
            with pytest.raises(
                CertificateError, match="expected a living authority, got one that ended on 20"
            ):
                certificates.issue(pair, certificates.make_key(), NAMES)


@pytest.mark.parametrize("names", [[""], ["0.0.0.0"], ["a b"], ["fed.example.org:9092"], ["10.0.0"]])  # noqa: S104
def test_a_name_that_no_site_could_use_is_refused(names: list[str]) -> None:
    with pytest.raises(AddressError):
        certificates.issue(certificates.make_authority("chest"), certificates.make_key(), names)


def test_a_certificate_for_nothing_is_refused() -> None:
    with pytest.raises(CertificateError, match="got none"):
        certificates.issue(certificates.make_authority("chest"), certificates.make_key(), [])


def test_a_hospitals_own_certificate_is_taken(tmp_path: Path) -> None:
    own = HospitalFiles(tmp_path, "fed.example.org", "10.0.0.5")
    expect_accepted(own.certificate, own.key, own.authority, ["fed.example.org", "10.0.0.5"])
    own.certificate.write_bytes(own.server.pem)
    own.authority.write_bytes(own.between.pem + own.root.pem)
    expect_accepted(own.certificate, own.key, own.authority, ["fed.example.org"])


def test_what_is_wrong_with_a_hospitals_own_certificate_is_said(tmp_path: Path) -> None:
    own = HospitalFiles(tmp_path, "fed.example.org")
    other = issued("other", own.between, names=["fed.example.org"])
    late = issued("late", own.between, names=["fed.example.org"], begins=-30, days=-2)
    early = issued("early", own.between, names=["fed.example.org"], begins=5)
    nameless = issued("fed.example.org", own.between)
    chain, key = own.certificate, own.key

    def refused(text: str) -> None:
        with pytest.raises(CertificateError, match=text):
            expect_accepted(chain, key, own.authority, ["fed.example.org"])

    key.write_bytes(other.key_pem())
    refused("expected the private key of .*, got another certificate's")
    key.write_bytes(own.server.key_pem(b"passphrase"))
    refused("its key, without a passphrase")
    key.write_bytes(b"")
    refused("its key, without a passphrase")
    for holder, ends in ((late, -2), (early, 30)):
        key.write_bytes(holder.key_pem())
        chain.write_bytes(holder.pem + own.between.pem)
        refused(
            f"expected certificates for today.* to {datetime.now(UTC) + timedelta(days=ends):%Y-%m-%d} and"
        )
    key.write_bytes(nameless.key_pem())
    chain.write_bytes(nameless.pem + own.between.pem)
    refused("got one for none")
    key.write_bytes(own.server.key_pem())
    chain.write_bytes(own.server.pem)
    refused("unable to get local issuer certificate: put the certificates between")
    chain.write_bytes(own.server.pem + own.between.pem)
    own.authority.write_bytes(own.between.pem)
    refused("unable to get issuer certificate: .* the topmost one among the authority's")
    own.authority.write_bytes(b"no certificate")
    refused("expected certificates as PEM text in .*root.pem")
    own.authority.unlink()
    refused("expected a file of PEM text, found none at .*root.pem")


def test_fingerprints_are_those_of_openssl_and_can_be_read_aloud(server: Server) -> None:
    fingerprint = certificates.fingerprint(server.pair.certificate)
    spoken = certificates.spoken(fingerprint)
    assert len(spoken) == 79
    assert all(len(group) == 4 for group in spoken.split("-"))
    colons = ":".join(fingerprint.upper()[at : at + 2] for at in range(0, 64, 2))
    for text in (spoken, spoken.lower().replace("-", " "), colons, fingerprint, f"  {spoken}\n"):
        assert certificates.same_fingerprint(text, fingerprint)
    for text in ("", spoken[:-1], spoken[:-1] + ("0" if spoken[-1] != "0" else "1"), spoken + "0"):
        assert not certificates.same_fingerprint(text, fingerprint)
    if shutil.which("openssl"):
        shown = subprocess.run(
            ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", server.authority],
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.strip().rpartition("=")[2] == colons


def test_a_bundle_counts_as_a_whole(tmp_path: Path) -> None:
    own = HospitalFiles(tmp_path, "fed.example.org", days=5)
    bundle = own.certificate.read_bytes()
    assert certificates.days_left(bundle) == 4
    assert certificates.fingerprint(bundle) != certificates.fingerprint(own.server.pem)
    plain = certificates.without_comments(own.authority.read_bytes())
    assert plain.isascii()
    assert certificates.fingerprint(plain) == certificates.fingerprint(own.authority.read_bytes())
    with pytest.raises(CertificateError, match="expected certificates as PEM"):
        certificates.parse(b"nothing")
