"""`python -m simulations.comparing`: does comparing the two lungs help? Trains what is missing, writes the tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import run_command

if TYPE_CHECKING:
    from simulations.comparing.experiment import Cell

_NAME = "comparing"


def main(arguments: list[str] | None = None) -> int:
    """Train and write; returns the exit code (0 written, 2 wrong choice or damaged cell, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.comparing",
        description="Train each context module on phantom films that only a comparison of the two lungs decides, and "
        "on films that one lung decides, and write a page with tables and a drawing. A finished cell leaves a small "
        "file in docs/results/comparing/ and is not trained again while its settings stay. All cells take about 70 "
        "minutes of one core; give the command twice, with other --seeds, to use two.",
    )
    parser.add_argument("--contexts", help="with commas between; default: all")
    parser.add_argument("--tasks", help="sides, step; default: both")
    parser.add_argument("--films", help="of training: 200, 800; default: both")
    parser.add_argument("--seeds", help="1 to 5; default: all")
    parser.add_argument("--write", action="store_true", help="only write the page, from what is there")
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("docs/results"),
        help="folder of finished cells and of the page (default: docs/results)",
    )
    options = parser.parse_args(arguments)

    from acm_core.processes import interruptible
    from simulations.comparing.experiment import every_cell, read_cell
    from simulations.comparing.page import write_page
    from simulations.tables.cells import DamagedCellError

    folder, page = options.results / _NAME, options.results / f"{_NAME}.md"
    with interruptible():
        try:
            chosen = _chosen(options)
            if not options.write:
                _run(chosen, folder)
            finished = {cell: file for cell in every_cell() if (file := read_cell(folder, cell)) is not None}
            write_page(finished, page)
        except KeyboardInterrupt:
            print("interrupted; give the command again to go on", file=sys.stderr)  # noqa: T201
            return 130
        except (ChoiceError, DamagedCellError) as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 2
    _say(f"{page}: written, from {len(finished)} of {len(every_cell())} cells")
    return 0


class ChoiceError(ValueError):
    """Contexts, tasks, films or seeds that the experiment has not."""


def _chosen(options: argparse.Namespace) -> list[Cell]:
    from simulations.comparing.experiment import CONTEXTS, EPOCHS, SEEDS, every_cell
    from simulations.comparing.films import TASKS

    contexts = _some("--contexts", options.contexts, CONTEXTS)
    tasks = _some("--tasks", options.tasks, TASKS)
    films = _some("--films", options.films, map(str, EPOCHS))
    seeds = _some("--seeds", options.seeds, map(str, SEEDS))
    return [
        cell
        for cell in every_cell()
        if cell.context in contexts
        and cell.task in tasks
        and str(cell.films) in films
        and str(cell.seed) in seeds
    ]


def _some(option: str, text: str | None, known: Iterable[str]) -> set[str]:
    """The words of `text`, or all that are known.

    Raises:
        ChoiceError: a word that is not known.
    """
    from acm_core.config.explanation import nearest

    names = list(known)
    words = names if text is None else text.split(",")
    for word in words:
        if word not in names:
            raise ChoiceError(
                f"{option}: expected some of {', '.join(names)}, got {word!r}{nearest(word, names)}"
            )
    return set(words)


def _run(cells: list[Cell], folder: Path) -> None:
    import torch

    from simulations.comparing.experiment import read_cell, run_cell, write_cell

    torch.set_num_threads(1)  # the same sums on any machine, up to the processor's rounding
    for number, cell in enumerate(cells, 1):
        if read_cell(folder, cell) is None:
            file = run_cell(cell)
            write_cell(folder, cell, file)
            _say(
                f"{cell.name} ({number} of {len(cells)}): AUROC {file.auroc.value:.3f}, {file.seconds:.0f} s"
            )


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # the command's own output


if __name__ == "__main__":
    run_command(main, private=False)
