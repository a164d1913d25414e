"""Flower's ClientApp: what the SuperNode starts for a message. All it does is carry values to and from SiteRound."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from acm_core.config.loading import load_config
from acm_core.config.site import SiteConfig
from acm_core.federated.messages import MessageError, Refusal, Reply, Task
from acm_core.processes import end_with_parent, keep_freed_memory
from client.audited import answer_audited, refuse_unread

log = logging.getLogger("acm_fed.client")

SITE_FILE = "site-file"  # the node setting that says where the site's own file is


def _make_app() -> ClientApp:
    """A ClientApp that answers every kind of task; its process is one that trains (see `keep_freed_memory`)."""
    keep_freed_memory()
    client_app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        try:
            site = _site_of_node(context)
        except Exception:
            # Flower would send the exception's text to the server, and it names the site's files.
            log.exception("the site's configuration cannot be read")
            return Message(to_records(Reply("", refusal=Refusal.INTERNAL)), reply_to=message)
        return Message(to_records(_answer(message, site)), reply_to=message)

    for register in (
        client_app.train(),
        client_app.train("local_only"),
        client_app.evaluate(),
    ):
        register(answer)
    return client_app


def _answer(message: Message, site: SiteConfig) -> Reply:
    try:
        task = _read(message)
    except Exception as error:  # NumPy raises more than one kind for a file that is not its own
        return refuse_unread(site, error)
    # Imported here: client.run needs a name of this module, and neither torch nor MONAI.
    from client.site_round import SiteRound

    return answer_audited(task, site, SiteRound(site).answer)


def _read(message: Message) -> Task:
    if undeclared := set(message.content) - {"task", "arrays"}:
        raise MessageError(f"expected a task and its arrays, got {len(undeclared)} undeclared records")
    record = message.content.array_records.get("arrays", ArrayRecord())
    # Copies: a transport within one process hands every site the same arrays.
    arrays = {name: np.array(array.numpy()) for name, array in record.items()}
    return Task.from_wire(dict(message.content.config_records["task"]), arrays)


def to_records(reply: Reply) -> RecordDict:
    """All that leaves the site."""
    arrays = ArrayRecord({name: Array(array) for name, array in reply.arrays.items()})
    return RecordDict({"reply": ConfigRecord({**reply.to_wire()}), "arrays": arrays})


def _site_of_node(context: Context) -> SiteConfig:
    from client.site_log import open_site_log

    site = load_config(Path(str(context.node_config[SITE_FILE])), SiteConfig)
    open_site_log(site.state)
    end_with_parent()
    return site


app = _make_app()
