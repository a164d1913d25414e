"""Why a site does not do a task."""

from __future__ import annotations

from acm_core.federated.messages import Refusal


class RefusedError(Exception):
    """The site does not do this task; the code is what the server learns, the text stays in the site's log."""

    def __init__(self, refusal: Refusal, text: str) -> None:
        super().__init__(text)
        self.refusal = refusal
