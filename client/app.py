"""Flower's ClientApp, run once a message (`client.link.applications`): it carries a task to this site's worker.

It imports neither torch nor MONAI: the worker has films, labels and kernels at hand (`client.worker`).
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from acm_core.config.loading import load_config
from acm_core.config.site import SiteConfig
from acm_core.federated.messages import MessageError, Refusal
from acm_core.trust import keys
from acm_core.trust.signatures import sign_reply
from client.link.depot import Depot, DepotError, TaskOverError
from client.link.worker_call import SITE_FILE_VARIABLE, Done, Order, ask_worker, link_folder
from client.round.audited import refuse_unread
from client.site.membership import Membership
from client.site.site_log import open_site_log

log = logging.getLogger("acm_fed.client")

_SHA256, _HEAD = re.compile(r"[0-9a-f]{64}"), re.compile(r"([0-9a-f]{64})?")
_FIELDS = {"payload": str, "bytes": int, "audit": str}

app = ClientApp()


def answer(message: Message, context: Context) -> Message:  # noqa: ARG001  # Flower calls it with both
    """Have the site's task done, and say where its reply is and that it is this site's."""
    site = load_config(Path(os.environ[SITE_FILE_VARIABLE]), SiteConfig)
    open_site_log(site.state)
    membership = Membership.load(site)
    depot = Depot(site.site, membership)
    done = _done(message, site, depot)
    if done.reply:
        depot.deliver(done.payload(link_folder(site.state)))
    depot.close()
    said = (done.reply, done.bytes, done.refusal, done.audit)
    signature = sign_reply(keys.load_key(membership.key), message.metadata.message_id, *said)
    names = ("payload", "bytes", "refusal", "audit", "signature")
    record = ConfigRecord(dict(zip(names, (*said, signature), strict=True)))
    return Message(RecordDict({"reply": record}), reply_to=message)


def _done(message: Message, site: SiteConfig, depot: Depot) -> Done:
    """What came of the task; one that cannot be fetched, and a message that is none, are refused without the worker."""
    try:
        digest, size, head = _said(message)
        depot.fetch(digest, size, link_folder(site.state) / "tasks")
    except TaskOverError:
        return Done(refusal=Refusal.LOST)
    except (MessageError, DepotError) as error:
        reply = refuse_unread(site, error)
        return Done(refusal=Refusal(reply.refusal), audit=reply.audit)
    except OSError as error:
        log.error("a task cannot be kept: %s", error)  # noqa: TRY400  # the text says it all
        return Done(refusal=Refusal.STORAGE)
    return ask_worker(site.state, Order(task=digest, audit=head))


for _register in (app.train(), app.train("local_only"), app.evaluate()):
    _register(answer)


def _said(message: Message) -> tuple[str, int, str]:
    """What the server's message says of the task: SHA-256, bytes, and the head of its audit log.

    Raises:
        MessageError: it says anything else.
    """
    if set(message.content) != {"task"}:
        raise MessageError("expected a task, got other records")
    record = dict(message.content.config_records["task"])
    if {name: type(value) for name, value in record.items()} != _FIELDS:
        raise MessageError("expected the fields of a task, got others")
    if not _SHA256.fullmatch(str(record["payload"])) or not _HEAD.fullmatch(str(record["audit"])):
        raise MessageError("expected digests in the fields of a task, got other texts")
    return str(record["payload"]), int(str(record["bytes"])), str(record["audit"])
