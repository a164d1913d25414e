"""The site's own log: full texts and traces that never leave the site."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from acm_core.files import LineTail, own_folder

LOG_NAME = "client.log"
_LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ (?:INFO|WARNING|ERROR) (.*)")


def open_site_log(state: Path) -> None:
    """Send what the client logs to `client.log` in the site's state folder, and no longer anywhere else.

    A process of the simulation does tasks of one site after another: none may write into the log of the one before.
    """
    own_folder(state)
    logger = logging.getLogger("acm_fed.client")
    for previous in logger.handlers[:]:
        logger.removeHandler(previous)
        previous.close()
    handler = logging.FileHandler(state / LOG_NAME, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


class LogTail:
    """Reads the lines added to the log since the last call, from the end of what was there at first."""

    def __init__(self, path: Path) -> None:
        self._lines = LineTail(path, from_end=True)

    def read(self) -> Iterator[str]:
        """New complete lines that a person should see: without the date, without traces."""
        for line in self._lines.read():
            if match := _LINE.match(line):
                yield match[1]
