"""Flower's SuperNode as a program that runs this site's own code and nothing else.

`client.run` starts it as `python -m client.site_node FOLDER OPTIONS…`, the options being the SuperNode's. It stands
between the SuperNode and the server: the bundle that names the applications is built here and never taken from the
server, other kinds of tasks are refused, and what a message may weigh is bounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest, PushObjectResponse
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from acm_core.audit_events import BundleRefused, TaskRefused
from acm_core.audit_log import AuditLog, audit_folder
from acm_core.bundle import VERSIONS_HEADER, build_bundle, versions
from acm_core.federated.messages import Refusal
from acm_core.trust.keys import load_key
from client.bounded_answers import TooMuchError, bound
from client.check import Check
from client.ended_apps import answer_for_ended_apps
from client.membership import Membership
from client.site_log import open_site_log

log = logging.getLogger("acm_fed.client")

NODE_ID = "node_id"
"""The file in FOLDER with the number that the server gave this site."""
MESSAGE_TYPES = frozenset({"train", "train.local_only", "evaluate"})

Keys = tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]

_MOST_BYTES = 2**30  # of one message: about 270 million float32
_MOST_OBJECTS = 20_000
_HASH = re.compile(r"[0-9a-f]{64}")
_SAID = re.compile(r"[\w ,.+-]{1,100}")  # it goes to a terminal
_PATIENCE_SECONDS = 60
_PIECE_SECONDS = 120.0  # two pieces of a reply at a time at some 150 kbit/s


def main() -> None:
    """Serve the server until told to end."""
    folder = Path(sys.argv.pop(1))
    open_site_log(folder.parent)
    bundle, audit = build_bundle(), AuditLog(audit_folder(folder.parent))

    @contextlib.contextmanager
    def guarded(
        address: str, insecure: bool, authority: str, keys: Keys, *limits: Any
    ) -> Iterator[tuple[Any, ...]]:
        server = FleetClient.from_server_address(
            address, insecure, authority, interceptors=[NodeAuthHttpInterceptor(*keys)]
        )
        with server:
            _take_own_place(server, folder / NODE_ID)
            try:
                opening = http_request_response(address, insecure, authority, keys, *limits)
                connection = opening.__enter__()
            except SystemExit:
                if not (key := _greet(server, keys)).passed:
                    log.error("key: %s; %s", key.found, key.fix)  # noqa: TRY400  # Flower has said the rest
                raise
        (folder / NODE_ID).write_text(str(connection[0]), encoding="utf-8")
        try:
            guard = Guard(bundle, audit, *connection)
            threading.Thread(target=guard.watch, args=[_give_up], daemon=True).start()
            yield guard.connection
        finally:
            opening.__exit__(*sys.exc_info())

    answer_for_ended_apps()
    start_client_internal.http_request_response = guarded  # type: ignore[assignment,attr-defined]  # no hook
    fleet_http_connection.FleetHttpClient = FleetClient  # type: ignore[attr-defined]  # no hook
    code = 1
    try:
        flower_supernode()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        log.exception("the connection ended")
    finally:
        logging.shutdown()
        # Its own server thread would keep the program alive, connected to nothing, and nobody would start it again.
        os._exit(code)


class FleetClient(FleetHttpClient):
    """Reads no answer that is too large, and waits for one to a piece of a reply until a slow link has carried it.

    The system takes a whole piece at once, and Flower's half a minute for the answer begins then: a link of 1 Mbit/s
    never got two pieces of 5 MB through, however often they were tried.
    """

    def __init__(self, *about: Any, **how: Any) -> None:
        super().__init__(*about, **how)
        bound(self._client)

    def PushObject(self, request: PushObjectRequest) -> PushObjectResponse:  # noqa: N802  # Flower's name
        return self._unary_unary(
            path="/v1/fleet/push-object",
            rpc_method="/flwr.proto.Fleet/PushObject",
            request=request,
            response_type=PushObjectResponse,
            timeout=_PIECE_SECONDS,
        )


class Guard:
    """Stands before the calls of a SuperNode's connection.

    Args:
        bundle: the only bundle that this site runs.
        audit: where another one is written down.
        receive, send, get_run, pull_object, push_object, confirm: the connection's own, in Flower's order.
    """

    def __init__(
        self,
        bundle: bytes,
        audit: AuditLog,
        node: int,
        receive: Callable[[], tuple[Message, ObjectTree] | None],
        send: Callable[[Message, ObjectTree, float], tuple[set[str], str]],
        get_run: Callable[[int], Run],
        _get_fab: Callable[[str, int], Fab],
        pull_object: Callable[[int, str], bytes],
        push_object: Callable[[int, str, str, bytes], None],
        confirm: Callable[[int, str], None],
        *others: Callable[..., Any],
    ) -> None:
        self._fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        self._receive, self._send, self._get_run, self._pull = receive, send, get_run, pull_object
        self._push, self._confirm = push_object, confirm
        self._audit, self._left = audit, 0
        self._lock, self._sending, self._pushes, self._quiet = threading.Lock(), False, 0, 0
        self._failed = False
        self.connection = (
            node,
            self.receive,
            self.send,
            get_run,
            lambda _hash, _run: self._fab,
            self.pull_object,
            self.push_object,
            self.confirm,
            *others,
        )

    def receive(self) -> tuple[Message, ObjectTree] | None:
        """The next message for this site, or None; one that the site does not take is answered and passed over.

        Raises:
            TooMuchError: what the server answers is larger than any message.
        """
        self._note(sending=False)
        with self._bounded():
            received = self._receive()
            if received is None:
                return None
            message, tree = received
            refusal = self._refusal(message, tree)
        if refusal is None:
            self._left = _MOST_BYTES
            return received
        log.error("a message of the server is refused: %s", refusal)
        self._send_error(
            Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "refused"), reply_to=message), 0.0
        )
        return None

    def pull_object(self, run: int, identifier: str) -> bytes:
        """A part of the message that was received last.

        Raises:
            TooMuchError: the part is larger than a part can be, or the message than any model.
        """
        with self._whole_or_failed(ObjectUnavailableError), self._bounded():
            content = self._pull(run, identifier)
            with self._lock:
                self._left -= len(content)
                left = self._left
            if left < 0:
                raise TooMuchError(f"expected a message of at most {_MOST_BYTES} bytes, got more")
            return content

    def confirm(self, run: int, identifier: str) -> None:
        """Say that the message that was received last is whole."""
        with self._whole_or_failed(ObjectUnavailableError):
            self._confirm(run, identifier)

    def send(self, message: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        """Announce a reply, whose parts are pushed next.

        Flower's own error goes without its text, which is an exception's and may hold paths of this site.
        """
        if message.has_error():
            log.error("an error of Flower: %s", message.error.reason)
            self._send_error(
                make_message(copy(message.metadata), error=Error(message.error.code, "failed")), seconds
            )
            return set(), ""
        with self._whole_or_failed(RunNotRunningException):
            announced = self._send(message, tree, seconds)
        self._note(sending=True)
        return announced

    def push_object(self, run: int, session: str, identifier: str, content: bytes) -> None:
        """Send a part of the reply that was announced last."""
        self._note(pushes=1)
        try:
            with self._whole_or_failed(RunNotRunningException):
                self._push(run, session, identifier, content)
        finally:
            self._note(pushes=-1)

    def watch(self, give_up: Callable[[], None], patience: int = _PATIENCE_SECONDS) -> None:
        """Give up when a message or a reply fails, or a reply stays incomplete.

        Flower drops a reply that could not be announced or of which a part could not be sent, and waits for ever for
        parts that a killed ClientApp did not leave; the server would wait for both until the deadline. Of a message
        that it could not receive it keeps the task, whose ClientApp then takes the next message, and from then on each
        reply waits for the message after it. Seconds count while no part is on its way and this process runs, so that
        neither a slow link nor a machine that was suspended uses them up.
        """
        while True:
            time.sleep(1)
            with self._lock:
                self._quiet = self._quiet + 1 if self._sending and not self._pushes else 0
                stuck = self._quiet >= patience
            if self._failed or stuck:
                if stuck:
                    log.error("a reply stayed incomplete for %d s: its ClientApp ended over it", patience)
                else:
                    log.error("a message or a reply was lost on its way, see supernode.log")
                give_up()
                return

    def _send_error(self, reply: Message, seconds: float) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with self._whole_or_failed(RunNotRunningException):
            missing, session = self._send(reply, get_object_tree(reply), seconds)
            for identifier in missing:  # the reply itself: until it is there, the server waits for it
                self._push(reply.metadata.run_id, session, identifier, reply.deflate())

    @contextlib.contextmanager
    def _whole_or_failed(self, harmless: type[BaseException]) -> Iterator[None]:
        """Note where a part of a message or a reply does not get through: Flower drops the whole of it, and goes on.

        Args:
            harmless: of a message, a part that is not there yet, which is asked for again; of a reply, the end of its
                run, as nobody waits for it. A message whose run ends while it is received is dropped half as any other.
        """
        try:
            yield
        except BaseException as error:  # Flower's own are no Exceptions
            self._failed = self._failed or not isinstance(error, harmless)
            raise

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[None]:
        """Write down where the server answers more than a site can take."""
        try:
            yield
        except TooMuchError as error:
            log.error("a message of the server is refused: %s", self._not_a_task(str(error)))  # noqa: TRY400
            raise

    def _note(self, *, sending: bool | None = None, pushes: int = 0) -> None:
        with self._lock:
            self._sending = self._sending if sending is None else sending
            self._pushes, self._quiet = self._pushes + pushes, 0

    def _refusal(self, message: Message, tree: ObjectTree) -> str | None:
        about = message.metadata
        if about.src_node_id != SUPERLINK_NODE_ID or about.message_type not in MESSAGE_TYPES:
            return self._not_a_task(
                f"expected one of {', '.join(sorted(MESSAGE_TYPES))} from the server, got another kind"
            )
        if sum(1 for _ in iterate_object_tree(tree)) > _MOST_OBJECTS:
            return self._not_a_task(f"expected at most {_MOST_OBJECTS} parts, got more")
        run = self._get_run(about.run_id)
        if run.primary_task_type != TaskType.SERVER_APP:
            return self._not_a_task("expected a task of a server application, got another kind")
        if not _HASH.fullmatch(run.fab_hash):
            return self._not_a_task("expected the hash of a bundle, got another text")
        if run.fab_hash != self._fab.hash_str:
            self._audit.append(BundleRefused(offered=run.fab_hash, own=self._fab.hash_str))
            return (
                f"expected the bundle {self._fab.hash_str[:12]} that is built from what is installed here, got "
                f"{run.fab_hash[:12]}: the server has another version of acm-fed or Flower, or wants other code to run"
            )
        return None

    def _not_a_task(self, text: str) -> str:
        self._audit.append(TaskRefused(run=None, round=0, task=None, reason=Refusal.POLICY, policy=None))
        return text


def _give_up() -> None:
    """End at once; `client.run` starts the SuperNode again, and the server asks again."""
    os._exit(1)


def _take_own_place(server: FleetHttpClient, known: Path) -> None:
    """Tell the server that this site's earlier SuperNode, which was perhaps killed, is gone: its place is free at once.

    Without it Flower refuses the site for a minute.
    """
    # What fails here is said by the connection that follows.
    with contextlib.suppress(OSError, ValueError, httpx.HTTPError, RuntimeError):
        server.DeactivateNode(DeactivateNodeRequest(node_id=int(known.read_text(encoding="utf-8"))))


def examine_key(membership: Membership) -> list[Check]:
    """Whether the server knows this site's key, and has the versions that are here: it greets and leaves again."""
    key = load_key(membership.key)
    keys, hearing = (key, key.public_key()), _Hearing()
    with FleetClient.from_server_address(
        membership.address,
        False,
        membership.authority.read_bytes(),
        interceptors=[NodeAuthHttpInterceptor(*keys), hearing],
    ) as server:
        checks = [_greet(server, keys)]
    if (theirs := hearing.versions) is not None:
        fix = f"install the same at both ends, here is {versions()}: until then this site refuses every task"
        checks.append(Check("server's versions", theirs, "" if theirs == versions() else fix))
    return checks


class _Hearing:
    """Hears which versions a server has, of which Flower's client hands out nothing."""

    versions: str | None = None

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        response = call_next(context)
        said = response.headers.get(VERSIONS_HEADER)
        if said is not None and _SAID.fullmatch(said):
            self.versions = said
        return response


def _greet(server: FleetHttpClient, keys: Keys) -> Check:
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(keys[1]), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
    )
    try:
        node = server.ActivateNode(request).node_id
        server.DeactivateNode(DeactivateNodeRequest(node_id=node))
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            return Check(
                "key",
                "the server does not know it",
                "it was not approved yet or was removed: ask the operator, with the fingerprint of client.enrol",
            )
        # A key that is not known is refused before anything else: this one is online already.
    except (httpx.HTTPError, RuntimeError) as error:
        return Check("key", f"not examined: {error}", "try again")
    return Check("key", "registered")


if __name__ == "__main__":
    main()
