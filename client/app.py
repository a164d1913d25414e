"""Flower's ClientApp, run once a message (`client.link.applications`): it carries a task to this site's worker.

It imports neither torch nor MONAI: the worker has films, labels and kernels at hand (`client.worker`).
"""

from __future__ import annotations

import logging

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from acm_core.federated.envelope import ReplyEnvelope, TaskEnvelope
from acm_core.federated.messages import MessageError, Refusal
from acm_core.trust import keys
from acm_core.trust.signatures import sign_reply
from client.link.depot import Depot, DepotError, TaskOverError
from client.link.worker_call import ThisSite, ask_worker, link_folder, reply_payload
from client.round.audited import refuse_unread
from client.site.membership import Membership
from client.site.site_log import open_site_log

log = logging.getLogger("acm_fed.client")

app = ClientApp()


def answer(message: Message, context: Context) -> Message:  # noqa: ARG001  # Flower calls it with both
    """Have the site's task done, and say where its reply is and that it is this site's."""
    site = ThisSite.of_environment()
    open_site_log(site.state)
    membership = Membership.load(site)
    depot = Depot(site.site, membership)
    reply = _reply(message, site, depot)
    if reply.payload:
        depot.deliver(reply_payload(site.state, reply))
    depot.close()
    signed = sign_reply(keys.load_key(membership.key), message.metadata.message_id, reply)
    return Message(RecordDict({"reply": ConfigRecord(dict(signed.fields()))}), reply_to=message)


def _reply(message: Message, site: ThisSite, depot: Depot) -> ReplyEnvelope:
    """What came of the task; one that cannot be fetched, and a message that is none, are refused without the worker."""
    try:
        task = _task(message)
        depot.fetch(task.payload, task.bytes, link_folder(site.state) / "tasks")
    except TaskOverError:
        return ReplyEnvelope(refusal=Refusal.LOST)
    except (MessageError, DepotError) as error:
        refused = refuse_unread(site, error)
        return ReplyEnvelope(refusal=Refusal(refused.refusal), audit=refused.audit)
    except OSError as error:
        log.error("a task cannot be kept: %s", error)  # noqa: TRY400  # the text says it all
        return ReplyEnvelope(refusal=Refusal.STORAGE)
    return ask_worker(site.state, task)


for _register in (app.train(), app.train("local_only"), app.evaluate()):
    _register(answer)


def _task(message: Message) -> TaskEnvelope:
    """What the server's message says of the task.

    Raises:
        MessageError: it says anything else.
    """
    if set(message.content) != {"task"}:
        raise MessageError("expected a task, got other records")
    return TaskEnvelope.read(message.content.config_records["task"])
