"""`python -m client.worker SITE_FILE`: the long-lived process that does this site's tasks, one after another.

`client.run` keeps it running. Its films stay open, its labels parsed and its kernels warm from one task to the next.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from acm_core.config.loading import ConfigError, load_config
from acm_core.config.site import SiteConfig
from acm_core.federated.envelope import ReplyEnvelope, TaskEnvelope
from acm_core.federated.messages import MessageError, Refusal, Reply, Task
from acm_core.federated.payload import read_reply, read_task, write_payload
from acm_core.files import keep_files_private
from acm_core.processes import end_with_parent, give_freed_memory_back, keep_freed_memory, name_process
from client.link.worker_call import link_folder, serve_orders
from client.round.audited import answer_audited, refuse_unread
from client.round.open_films import OpenFilms
from client.round.policy import permits_digest
from client.round.site_round import SiteRound
from client.site.site_log import open_site_log

log = logging.getLogger("acm_fed.client")


def do_task(site: SiteConfig, task: Task, films: OpenFilms) -> Reply:
    """The site's reply to a task, written down in its audit log.

    Args:
        films: of the site, from its last task in this process.
    """
    try:
        open_site_log(site.state)
        return answer_audited(task, site, SiteRound(site, films).answer)
    except OSError:
        return Reply(site.site, task.round, refusal=Refusal.STORAGE)


class Worker:
    """Does the tasks of one site as they are ordered.

    A task that comes again, because its ClientApp died or its message was lost, has the reply that was found for it,
    if the site's file still permits the same.

    Args:
        path: of the site's file, which is read anew for each task.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: tuple[str, str] | None = None  # the task and what the site's file permitted
        self._reply, self._films = "", OpenFilms()

    def do(self, task: TaskEnvelope) -> ReplyEnvelope:
        """Do a task whose payload is here, and leave the reply's; memory that it freed goes back to the system."""
        try:
            return self._do(task)
        finally:
            give_freed_memory_back()

    def _do(self, task: TaskEnvelope) -> ReplyEnvelope:
        try:
            site = load_config(self._path, SiteConfig)
        except ConfigError as error:
            log.error("the site's file cannot be used; until it is mended tasks are refused: %s", error)  # noqa: TRY400
            return ReplyEnvelope(refusal=Refusal.INTERNAL)
        open_site_log(site.state)
        folder = link_folder(site.state)
        try:
            asked = read_task(folder / "tasks" / task.payload, task.audit)
        except MessageError as error:
            reply = refuse_unread(site, error)
        else:
            reply = self._answered(site, asked, task.payload, folder)
        if reply.refusal:
            self._last = None
            return ReplyEnvelope(refusal=Refusal(reply.refusal), audit=reply.audit)
        try:
            payload = write_payload(reply, folder / "replies")
        except OSError as error:
            log.error("round %d: the reply cannot be written: %s", reply.round, error)  # noqa: TRY400  # it says all
            return ReplyEnvelope(refusal=Refusal.STORAGE)
        for other in payload.path.parent.iterdir():
            if other != payload.path:
                other.unlink()
        self._last, self._reply = (task.payload, permits_digest(site)), payload.sha256
        return ReplyEnvelope(payload=payload.sha256, bytes=payload.size, audit=reply.audit)

    def _answered(self, site: SiteConfig, task: Task, digest: str, folder: Path) -> Reply:
        if self._last != (digest, permits_digest(site)):
            return do_task(site, task, self._films)
        log.info("round %d: the reply that was found before goes again", task.round)
        return answer_audited(task, site, lambda _task: read_reply(folder / "replies" / self._reply, ""))


def main() -> None:
    """Do tasks until `client.run` ends."""
    keep_files_private()
    end_with_parent(grace=0)
    keep_freed_memory()
    name_process("acm-fed-worker")
    path = Path(sys.argv[1])
    state = load_config(path, SiteConfig).state
    open_site_log(state)
    serve_orders(state, Worker(path).do)


if __name__ == "__main__":
    main()
