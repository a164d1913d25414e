"""What makes a site a member of a federation: its key, the server's address, and the authority that it trusts.

All of it lies in `STATE/federation/`: `site.key`, `membership.json`, and `ca-….crt`, named after its fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import ValidationError

from acm_core.audit_events import RunName
from acm_core.files import write_atomically, write_text_atomically
from acm_core.hash_chain import Sha256, Strict
from acm_core.trust import TrustError, certificates, keys
from acm_core.trust.address import ServerAddress
from acm_core.trust.enrolment import Answer


class NotEnrolledError(TrustError):
    """The site is no member, or what makes it one is damaged; the text says what to run."""


class Joining(Strict):
    """How far a site has come; `federation` and `authority` are None until the operator's answer is installed.

    Attributes:
        server: host:port.
        key: fingerprint of the key that was asked for.
        authority: SHA-256 of the authority's certificates, in hex.
    """

    format: Literal["acm-fed.membership/1"] = "acm-fed.membership/1"
    server: ServerAddress
    key: str
    federation: RunName | None = None
    authority: Sha256 | None = None


class SitePlace(Protocol):
    """A site by its name and the folder of its state: a `SiteConfig` is one."""

    @property
    def site(self) -> str: ...

    @property
    def state(self) -> Path: ...


@dataclass(frozen=True)
class Membership:
    """A member's files and where its server is.

    Attributes:
        folder: with the others in it, nobody else's to read.
        key: file of the site's private key, for Flower.
        authority: PEM file that the server's certificate has to come from.
        address: host:port of the server.
        federation: its name.
    """

    folder: Path
    key: Path
    authority: Path
    address: str
    federation: str

    @classmethod
    def load(cls, site: SitePlace) -> Membership:
        """The membership of a site.

        Raises:
            NotEnrolledError: it has none, or one that is damaged or open to others.
        """
        folder, command = membership_folder(site), f"python -m client.enrol --site={site.site}"
        joining = read_joining(folder)
        if joining is None:
            raise NotEnrolledError(
                f"site {site.site} has not joined a federation yet: run `{command} --server HOST:PORT` with the "
                "address that the operator gave you"
            )
        try:
            key = keys.fingerprint(keys.load_key(key_file(folder)).public_key())
        except keys.SiteKeyError as error:
            raise NotEnrolledError(str(error)) from None
        if joining.federation is None or joining.authority is None or key != joining.key:
            raise NotEnrolledError(
                f"site {site.site} has asked to join at {joining.server} and waits for the operator's answer: when it "
                f"is there, run `{command} --answer answer-{site.site}.json`; to write the request again, run "
                f"`{command} --server {joining.server}`"
            )
        authority = authority_file(folder, joining.authority)
        if not _is_authority(authority, joining.authority):
            raise NotEnrolledError(
                f"expected the authority in {authority} as it was installed, got something else: run `{command} "
                f"--answer answer-{site.site}.json` again"
            )
        return cls(folder, key_file(folder), authority, joining.server, joining.federation)

    @property
    def days_left(self) -> int:
        """Whole days until the authority ends and the site has to enrol again."""
        return certificates.days_left(self.authority.read_bytes())


def membership_folder(site: SitePlace) -> Path:
    """Where a site keeps what makes it a member."""
    return site.state / "federation"


def key_file(folder: Path) -> Path:
    """The site's private key."""
    return folder / "site.key"


def authority_file(folder: Path, fingerprint: str) -> Path:
    """The authority's certificates, by their fingerprint: a new authority is never half there."""
    return folder / f"ca-{fingerprint[:16]}.crt"


def read_joining(folder: Path) -> Joining | None:
    """How far the site has come; None where it has not begun.

    Raises:
        NotEnrolledError: the file is damaged.
    """
    path = folder / "membership.json"
    try:
        return Joining.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise NotEnrolledError(
            f"expected {path} as it was written, got something else: put its backup back, or delete it and enrol again"
        ) from None


def write_joining(folder: Path, joining: Joining) -> None:
    """Keep how far the site has come."""
    write_text_atomically(folder / "membership.json", joining.model_dump_json(indent=2) + "\n")


def _is_authority(path: Path, fingerprint: str) -> bool:
    try:
        return certificates.fingerprint(path.read_bytes()) == fingerprint
    except (OSError, certificates.CertificateError):
        return False


def install(folder: Path, answer: Answer) -> None:
    """Trust the answer's authority and use its address from now on; killed at any point, all of it or nothing."""
    authority = authority_file(folder, answer.authority_fingerprint)
    write_atomically(authority, lambda temporary: temporary.write_text(answer.authority, encoding="ascii"))
    write_joining(
        folder,
        Joining(
            server=answer.server,
            key=answer.key,
            federation=answer.federation,
            authority=answer.authority_fingerprint,
        ),
    )
    for former in folder.glob("ca-*.crt"):
        if former != authority:
            former.unlink()
