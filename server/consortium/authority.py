"""The server's state folder: the consortium's authority, the server's certificate, secrets and the registry."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from acm_core.audit_events import CertificateWritten
from acm_core.audit_log import AuditLog, audit_folder
from acm_core.config.sections import ServerSection
from acm_core.files import write_atomically, write_private
from acm_core.trust import TrustError, certificates, keys
from acm_core.trust.address import AddressError, parse_host
from acm_core.trust.enrolment import MOST_AUTHORITY_BYTES
from server.consortium.registry import Registry

_WARN_DAYS = 30
_WARN_AUTHORITY_DAYS = 60


class ServerStateError(TrustError):
    """The folder is not what a server needs; the text says which command mends it."""


def server_names(server: ServerSection) -> tuple[str, ...]:
    """By what the sites reach the server: what the certificate is for; the first is what they are told.

    Raises:
        ServerStateError: one of them is no name or address by which another machine could reach it.
    """
    names = server.names or (server.host,)
    for name in names:
        try:
            parse_host(name)
        except AddressError as error:
            raise ServerStateError(
                f"server.{'names' if server.names else 'host'}: {error}: set server.names"
            ) from None
    return names


class ServerState:
    """A state folder, made by `server.init`.

    Attributes:
        authority: what the sites trust; `authority_key` is there where this server made it.
        certificate, key: the server's own, for TLS.
        registry: of the sites, for `server.consortium.registry`.
        audit: folder of the audit log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, self.authority_key = folder / "ca.crt", folder / "ca.key"
        self.certificate, self.key = folder / "server.crt", folder / "server.key"
        self.registry = folder / "sites.json"
        self.audit = audit_folder(folder)

    def create(self, federation: str, names: Sequence[str]) -> None:
        """Make everything. The registry comes last: a folder without it was never finished, and is made again.

        Raises:
            ServerStateError: the folder is made already.
            TrustError: `names` cannot stand in a certificate.
        """
        self._begin()
        if (
            self.authority.exists() and self.authority_key.exists()
        ):  # the registry was lost, or init interrupted
            authority = self._own_authority()
        else:
            authority = certificates.make_authority(federation)
        key = certificates.make_key()
        certificate = certificates.issue(authority, key, names)
        _write_secret(self.authority_key, authority.key)
        _write(self.authority, authority.certificate)
        self._write_certificate(key, certificate)
        self._finish()

    def create_with(self, certificate: Path, key: Path, authority: Path, names: Sequence[str]) -> None:
        """Make everything but the certificates, which are the hospital's own.

        Raises:
            ServerStateError: the folder is made already.
            CertificateError: the certificates do not serve a server of these names.
        """
        certificates.expect_accepted(certificate, key, authority, names)
        self._begin()
        if self.authority_key.exists():
            raise ServerStateError(
                f"expected no authority of server.init's own in {self.folder}, got {self.authority_key.name}: use "
                "another --state for the hospital's"
            )
        self._take(certificate, key, authority)
        self._finish()

    def renew(self, names: Sequence[str]) -> None:
        """A new certificate from the same authority, for the same key: one file is replaced, and no site notices.

        Raises:
            ServerStateError: the folder is not made, or its authority is the hospital's own.
            TrustError: `names` cannot stand in a certificate, or the authority has ended.
        """
        self._expect_files()
        if not self.authority_key.exists():
            raise ServerStateError(
                f"expected an authority that server.init made in {self.folder}, got the hospital's own: have it issue "
                f"a certificate, then run `{self._command('--renew --certificate FILE --key FILE')}`"
            )
        self._write_certificate(None, certificates.issue(self._own_authority(), self.key.read_bytes(), names))

    def renew_with(self, certificate: Path, key: Path, authority: Path | None, names: Sequence[str]) -> None:
        """Take the hospital's new certificate, and its new authority where there is one.

        Raises:
            ServerStateError: the folder is not made, or its authority is one that `server.init` made.
            CertificateError: the certificates do not serve a server of these names.
        """
        self._expect_files()
        if self.authority_key.exists():
            raise ServerStateError(
                f"expected the hospital's own authority in {self.folder}, got one that server.init made and the sites "
                "trust: run server.init with another --state for the hospital's, and approve the sites there"
            )
        certificates.expect_accepted(certificate, key, authority or self.authority, names)
        self._take(certificate, key, authority or self.authority)

    def expect_ready(self, names: Sequence[str] = ()) -> None:
        """Refuse to start a server that sites would not connect to, or whose secrets others can read.

        Raises:
            ServerStateError: a file is missing, open to others or of the wrong kind; or the certificate is not for
                today, for one of `names`, or from the authority.
        """
        self._expect_files()
        try:
            for path in (self.key, self.authority_key):
                if path != self.authority_key or path.exists():
                    keys.expect_private(path)
            Registry.load(self.registry)
            certificates.expect_accepted(self.certificate, self.key, self.authority, names)
        except certificates.CertificateError as error:
            raise ServerStateError(f"{error}; renew it: `{self._renewal}`") from None
        except TrustError as error:
            raise ServerStateError(str(error)) from None

    @property
    def certificate_days_left(self) -> int:
        """Whole days until the server's certificate ends."""
        return certificates.days_left(self.certificate.read_bytes())

    @property
    def authority_days_left(self) -> int:
        """Whole days until the authority ends."""
        return certificates.days_left(self.authority.read_bytes())

    def warnings(self) -> list[str]:
        """What will end soon, and what to do."""
        texts = []
        if self.certificate_days_left < _WARN_DAYS:
            texts.append(
                f"the server's certificate {_ending(self.certificate)}: run `{self._renewal}`; the sites need do "
                "nothing"
            )
        if self.authority_days_left < _WARN_AUTHORITY_DAYS:
            own = (
                "make a new one with server.init and another --state, and approve the sites there"
                if self.authority_key.exists()
                else f"run `{self._renewal} --authority FILE` and send every site a new answer with server.approve"
            )
            texts.append(f"the authority that the sites trust {_ending(self.authority)}: {own}")
        return texts

    @property
    def _renewal(self) -> str:
        own = self.authority_key.exists()
        return self._command("--renew" if own else "--renew --certificate FILE --key FILE")

    def _command(self, options: str) -> str:
        return f"python -m server.init --state {shlex.quote(str(self.folder))} {options}".rstrip()

    def _expect_files(self) -> None:
        files = (self.registry, self.authority, self.certificate, self.key)
        missing = [path for path in files if not path.exists()]
        if self.registry in missing:
            raise ServerStateError(
                f"expected the server's keys and certificates in {self.folder}, found none: run `{self._command('')}`"
            )
        if missing:
            raise ServerStateError(
                f"expected {', '.join(path.name for path in missing)} in {self.folder}, found none: put the folder's "
                "newest backup back"
            )

    def _begin(self) -> None:
        if self.registry.exists():
            raise ServerStateError(
                f"expected a folder that is not yet a server's, got {self.folder}: to renew its certificate run "
                f"`{self._renewal}`"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)

    def _finish(self) -> None:
        Registry.create(self.registry)

    def _own_authority(self) -> certificates.Pair:
        return certificates.Pair(self.authority.read_bytes(), self.authority_key.read_bytes())

    def _take(self, certificate: Path, key: Path, authority: Path) -> None:
        pem = certificates.without_comments(certificate.read_bytes())
        trusted = certificates.without_comments(authority.read_bytes())
        if len(trusted) > MOST_AUTHORITY_BYTES:
            raise ServerStateError(
                f"expected the authority that issued the certificate in {authority}, got a collection of "
                f"{len(certificates.parse(trusted))}: the sites are to trust that one alone"
            )
        # The certificate last: a running server looks at it to see whether the pair is new.
        _write(self.authority, trusted)
        self._write_certificate(key.read_bytes(), pem)

    def _write_certificate(self, key: bytes | None, certificate: bytes) -> None:
        AuditLog(self.audit).append(
            CertificateWritten(
                certificate=certificates.fingerprint(certificate),
                authority=certificates.fingerprint(self.authority.read_bytes()),
            )
        )
        if key is not None:
            _write_secret(self.key, key)
        _write(self.certificate, certificate)


def _ending(path: Path) -> str:
    pem = path.read_bytes()
    return f"{'ended' if certificates.days_left(pem) < 0 else 'ends'} on {certificates.ends(pem):%Y-%m-%d}"


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _write_secret(path: Path, content: bytes) -> None:
    write_atomically(path, partial(write_private, content=content))
