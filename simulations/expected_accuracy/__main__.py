"""`python -m simulations.expected_accuracy`: writes what `client.privacy --plan` says may be expected, from a table.

Exit codes: 0 written; 1 the table is not finished.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from acm_core.command import run_command
from acm_core.files import write_text_atomically
from client.site.expected_accuracy import PATH, ExpectedAccuracy, Measured, Table

_STARTS = ("start", "whole_start")


class UnfinishedTableError(RuntimeError):
    """A run that is needed is not there."""


def main(arguments: list[str] | None = None) -> int:
    """Write the file; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.expected_accuracy",
        description="Write what client.privacy --plan says that private training may reach, from the finished "
        "runs of configs/experiments/private.yaml.",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("docs/results/private"),
        help="folder of the finished runs (default: docs/results/private)",
    )
    parser.add_argument(
        "--output", type=Path, help="JSON file to write; default: that of the installed client"
    )
    options = parser.parse_args(arguments)
    cells = [json.loads(path.read_bytes()) for path in sorted(options.results.glob("*.json"))]
    try:
        of_heads, of_whole = (
            table(cell for cell in cells if (cell["settings"]["model"]["trainable"] == "head") == head)
            for head in (True, False)
        )
    except UnfinishedTableError as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 1
    write(options.output or PATH, ExpectedAccuracy(head=of_heads, whole=of_whole))
    return 0


def write(path: Path, expected: ExpectedAccuracy) -> None:
    """Write the figures, a line a row."""
    tables = []
    for name, part in (("head", expected.head), ("whole", expected.whole)):
        said = part.model_dump(mode="json", exclude={"rows"})
        about = "".join(
            f'  "{key}": {json.dumps(value, ensure_ascii=False)},\n' for key, value in said.items()
        )
        rows = ",\n".join(f"   {row.model_dump_json()}" for row in part.rows)
        tables.append(f' "{name}": {{\n{about}  "rows": [\n{rows}\n  ]\n }}')
    write_text_atomically(path, "{\n" + ",\n".join(tables) + "\n}\n")


def table(cells: Iterable[Mapping[str, Any]]) -> Table:
    """The figures of finished runs, as `simulations.tables` leaves them, of a head or of whole networks.

    Raises:
        UnfinishedTableError: the start is missing, or the runs without privacy for a number of patients.
    """
    values: dict[tuple[int, float | None], list[float]] = defaultdict(list)
    starts: list[float] = []
    seeds: set[int] = set()
    sites: set[str] = set()
    findings = 0
    made_with: dict[str, Any] = {}
    for cell in cells:
        settings = cell["settings"]
        figures = {name: site["models"]["federated"]["mean"] for name, site in cell["sites"].items()}
        value = fmean(figure for figure in figures.values() if figure is not None)
        seeds.add(cell["seed"])
        sites |= set(figures)
        findings, made_with = len(cell["findings"]), settings["model"]
        if cell["variant"] in _STARTS:
            starts.append(value)
            continue
        privacy = settings["privacy"]
        epsilon = privacy["epsilon"] if isinstance(privacy, Mapping) else None
        values[settings["simulation"]["training_patients"], epsilon].append(value)
    missing = sorted(
        {patients for patients, _ in values} - {size for size, budget in values if budget is None}
    )
    if not starts or not values or missing:
        what = f"those without privacy for {missing[0]} patients" if missing else "the start's and others"
        raise UnfinishedTableError(
            f"expected finished runs, {what} among them: python -m simulations.tables private"
        )
    measured_on = (
        f"{', '.join(sorted(sites))}: {findings} findings, films of {made_with['image_size']}², start "
        f"{Path(made_with['weights']).stem}, seeds {', '.join(map(str, sorted(seeds)))}"
    )
    order = sorted(values, key=lambda key: (key[0], -(key[1] or float("inf"))))
    return Table(
        measured_on=measured_on,
        start_alone=round(fmean(starts), 4),
        rows=tuple(_measured(*key, values[key]) for key in order),
    )


def _measured(patients: int, epsilon: float | None, values: list[float]) -> Measured:
    return Measured(
        patients=patients,
        epsilon=epsilon,
        auroc=round(fmean(values), 4),
        lowest=round(min(values), 4),
        highest=round(max(values), 4),
    )


if __name__ == "__main__":
    run_command(main, private=False)
