"""The report's two files in the run's folder."""

from __future__ import annotations

import json

from acm_core.files import write_text_atomically
from server.consortium.authority import ServerState
from server.report.content import report_content
from server.report.page import render
from server.round.run_folder import RunFolder


def write_report(folder: RunFolder, state: ServerState | None) -> None:
    """Write `report.html` and `report.json`.

    Args:
        state: see `report_content`.

    Raises:
        NoResultsError, RegistryError: as `report_content`.
        OSError: the disk does not take them; it says what to do.
    """
    content = report_content(folder, state)
    try:
        write_text_atomically(folder.report_numbers, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        write_text_atomically(folder.report, render(content))
    except OSError as error:
        raise OSError(
            f"the report is not written, all else of the run is: {error}; make room, then run "
            f"python -m server.report {folder.folder}"
        ) from error
