"""What can stand in an audit log: declared events of the server and of a site.

Nothing in them is free text: hashes, counts, codes and names of a fixed form, so that no patient and no path can get
in. Kinds, fields and codes are only ever added: a log outlives the version that wrote it.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, StringConstraints

from acm_core.config.sections import SiteName
from acm_core.federated.messages import Refusal, TaskKind
from acm_core.federated.update import RefusalReason
from acm_core.hash_chain import Sha256, Strict


def _address(value: object) -> str:
    return str(ipaddress.ip_address(str(value).partition("%")[0]))


Count = Annotated[int, Field(ge=0, lt=2**53)]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}|SHA256:[A-Za-z0-9+/]{43})$")]
"""SHA-256 of a key or certificate, in hex or as ssh-keygen writes it."""
RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+!_-]{0,39}$")]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z_]{0,39}$")]
"""A code of this project's own."""
Setting = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}(\.[a-z_]{1,40}){0,3}$")]
"""A line of a site's file, such as privacy.required."""
FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,63}$")]
ApiPath = Annotated[str, StringConstraints(pattern=r"^(other|/v1/[a-z]{1,20}/[a-z-]{1,40})$")]
Address = Annotated[str, StringConstraints(pattern=r"^[0-9a-f.:]{2,45}$"), BeforeValidator(_address)]
"""Of a peer; the name of an interface after % is left out."""


class RunFailure(StrEnum):
    """Why a run ended before its last round."""

    QUORUM = "quorum"  # a round stayed below quorum in every attempt
    INTERNAL = "internal"  # anything else: see the run's log


class ReplyFault(StrEnum):
    """Why a reply was refused before anybody looked at its update."""

    UNREADABLE = "unreadable"
    WRONG_SITE = "wrong_site"
    WRONG_ROUND = "wrong_round"


class Event(Strict):
    """Something that happened; `bytes` are those of the message's content, `round` is 0 where there is none."""


class RowCut(Event):
    """Either side: a process was killed, or the disk was full, while it wrote the next row; what was there is gone."""

    kind: Literal["row_cut"] = "row_cut"
    bytes: Count


class CertificateWritten(Event):
    """Server: it has a certificate of this authority from now on."""

    kind: Literal["certificate_written"] = "certificate_written"
    certificate: Fingerprint
    authority: Fingerprint


class ServerStarted(Event):
    """Server: `bundle` is what sites are asked to run; without `certificate` it listens on loopback alone."""

    kind: Literal["server_started"] = "server_started"
    version: Version
    bundle: Sha256
    certificate: Fingerprint | None


class ServerStopped(Event):
    """Server: it ended in order; a start without one before it followed a crash."""

    kind: Literal["server_stopped"] = "server_stopped"


class SiteApproved(Event):
    """Server: from now on whoever has this key is this site."""

    kind: Literal["site_approved"] = "site_approved"
    site: SiteName
    key: Fingerprint


class SiteRemoved(Event):
    """Server: from now on the key is refused."""

    kind: Literal["site_removed"] = "site_removed"
    site: SiteName
    key: Fingerprint


class SiteConnected(Event):
    """Server: a site is there, at this address as far as that is known."""

    kind: Literal["site_connected"] = "site_connected"
    site: SiteName
    address: Address | None


class SiteDisconnected(Event):
    """Server: a site is no longer there."""

    kind: Literal["site_disconnected"] = "site_disconnected"
    site: SiteName


class RunStarted(Event):
    """Server: `config` is the hash of the run's configuration as every site is told it."""

    kind: Literal["run_started"] = "run_started"
    run: RunName
    config: Sha256
    sites: Count
    rounds: Count


class RunResumed(Event):
    """Server: a run goes on after `round`."""

    kind: Literal["run_resumed"] = "run_resumed"
    run: RunName
    config: Sha256
    round: Count


class RunFinished(Event):
    """Server: `model` is the hash of the final one."""

    kind: Literal["run_finished"] = "run_finished"
    run: RunName
    round: Count
    model: Sha256


class RunFailed(Event):
    """Server: a run ended after `round`."""

    kind: Literal["run_failed"] = "run_failed"
    run: RunName
    round: Count
    reason: RunFailure


class TaskSent(Event):
    """Server: what a site was asked; `model` is the hash of the arrays sent, None where there were none."""

    kind: Literal["task_sent"] = "task_sent"
    run: RunName
    round: Count
    task: TaskKind
    site: SiteName
    model: Sha256 | None
    bytes: Count


class ReplyTaken(Event):
    """Server: a site's reply counts; `sha256` and `bytes` are those of the site's own row `left`."""

    kind: Literal["reply_taken"] = "reply_taken"
    run: RunName
    round: Count
    task: TaskKind
    site: SiteName
    sha256: Sha256
    bytes: Count
    films: Count
    site_head: Sha256 | None


class ReplyRefused(Event):
    """Server: a site's reply does not count."""

    kind: Literal["reply_refused"] = "reply_refused"
    run: RunName
    round: Count
    task: TaskKind
    site: SiteName
    reason: RefusalReason | ReplyFault


class SiteRefused(Event):
    """Server: a site did not do a task, and says why."""

    kind: Literal["site_refused"] = "site_refused"
    run: RunName
    round: Count
    task: TaskKind
    site: SiteName
    reason: Refusal


class SiteMissing(Event):
    """Server: a site that was asked had not replied when the time was up."""

    kind: Literal["site_missing"] = "site_missing"
    run: RunName
    round: Count
    task: TaskKind
    site: SiteName


class PeerRefused(Event):
    """Server: a request did not pass the public listener; whoever writes this bounds how often."""

    kind: Literal["peer_refused"] = "peer_refused"
    address: Address | None
    path: ApiPath
    status: int = Field(ge=100, le=599)
    reason: Word


class Enrolled(Event):
    """Site: it trusts this authority from now on, and is known there by this key."""

    kind: Literal["enrolled"] = "enrolled"
    site: SiteName
    key: Fingerprint
    authority: Fingerprint


class RosterPinned(Event):
    """Site: it knows the federation's hospitals by this roster from now on; `roster` is its fingerprint."""

    kind: Literal["roster_pinned"] = "roster_pinned"
    federation: RunName
    roster: Sha256
    sites: Count


class ClientStarted(Event):
    """Site: `bundle` is all that it lets the server have run, `policy` the hash of what its file permits."""

    kind: Literal["client_started"] = "client_started"
    site: SiteName
    version: Version
    bundle: Sha256
    policy: Sha256


class ClientStopped(Event):
    """Site: it left in order; a start without one before it followed a crash."""

    kind: Literal["client_stopped"] = "client_stopped"


class PolicyChanged(Event):
    """Site: its file permits something else from now on."""

    kind: Literal["policy_changed"] = "policy_changed"
    policy: Sha256


class TaskReceived(Event):
    """Site: what it was asked; `run` is None where the configuration, whose hash is `config`, does not say."""

    kind: Literal["task_received"] = "task_received"
    run: RunName | None
    round: Count
    task: TaskKind
    config: Sha256
    model: Sha256 | None
    bytes: Count
    server_head: Sha256 | None


class TaskRefused(Event):
    """Site: it did not do a task; `reason` is all that the server learns, `policy` the line that forbids it.

    `run` and `task` are None where the message does not say.
    """

    kind: Literal["task_refused"] = "task_refused"
    run: RunName | None
    round: Count
    task: TaskKind | None
    reason: Refusal
    policy: Setting | None


class BundleRefused(Event):
    """Site: the server wanted other code to be run than what is installed here."""

    kind: Literal["bundle_refused"] = "bundle_refused"
    offered: Sha256
    own: Sha256


class Left(Event):
    """Site: this is about to leave, and nothing else.

    Attributes:
        sha256: of exactly what leaves, but for this log's own head, which goes with it.
        fields: names of what is in it.
        epsilon: that the run has cost so far at its δ; None where it has no differential privacy.
    """

    kind: Literal["left"] = "left"
    run: RunName
    round: Count
    task: TaskKind
    sha256: Sha256
    bytes: Count
    fields: Annotated[tuple[FieldName, ...], Field(max_length=64)]
    epsilon: Annotated[float, Field(ge=0)] | None


AnyEvent = (
    RowCut
    | CertificateWritten
    | ServerStarted
    | ServerStopped
    | SiteApproved
    | SiteRemoved
    | SiteConnected
    | SiteDisconnected
    | RunStarted
    | RunResumed
    | RunFinished
    | RunFailed
    | TaskSent
    | ReplyTaken
    | ReplyRefused
    | SiteRefused
    | SiteMissing
    | PeerRefused
    | Enrolled
    | RosterPinned
    | ClientStarted
    | ClientStopped
    | PolicyChanged
    | TaskReceived
    | TaskRefused
    | BundleRefused
    | Left
)
KINDS: tuple[str, ...] = tuple(event.model_fields["kind"].default for event in get_args(AnyEvent))
