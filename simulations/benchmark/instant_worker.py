"""`python -m simulations.benchmark.instant_worker SITE_FILE`: a worker that answers each task at once.

It trains nothing: its answer is `reply.npy` in the site's state folder.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from acm_core.config.loading import load_config
from acm_core.config.site import SiteConfig
from acm_core.federated.envelope import ReplyEnvelope, TaskEnvelope
from acm_core.federated.messages import Reply
from acm_core.federated.payload import read_task, write_payload
from acm_core.processes import end_with_parent
from client.link.worker_call import link_folder, serve_orders

REPLY = "reply.npy"


def main() -> None:
    """Until the process that started this one ends."""
    end_with_parent(grace=0)
    site = load_config(Path(sys.argv[1]), SiteConfig)
    folder = link_folder(site.state)
    shutil.rmtree(folder / "replies", ignore_errors=True)

    def do(envelope: TaskEnvelope) -> ReplyEnvelope:
        task = read_task(folder / "tasks" / envelope.payload, envelope.audit)
        arrays = {"encoded": np.load(site.state / REPLY)}
        payload = write_payload(
            Reply(site.site, task.round, films=100, labelled=(100,), arrays=arrays), folder / "replies"
        )
        return ReplyEnvelope(payload=payload.sha256, bytes=payload.size)

    serve_orders(site.state, do)


if __name__ == "__main__":
    main()
