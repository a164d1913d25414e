"""What the finished cells say: tables as Markdown, and a drawing of what comparing adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from acm_core.files import write_text_atomically
from simulations.comparing.experiment import (
    CONTEXTS,
    EPOCHS,
    SEEDS,
    TEST_FILMS,
    Cell,
    CellFile,
    Context,
    Figure,
)
from simulations.comparing.films import TASKS, Task
from simulations.tables.forest import difference_text, drawing
from simulations.tables.intervals import Combined, Interval, Measured, combine
from simulations.tables.markdown import markdown_table
from simulations.tables.results import Difference

Cells = Mapping[Cell, CellFile]
_Measured = dict[str, dict[int, Measured]]  # "200 films" → seed → value

_PLAIN: Context = "none"
_TASKS: dict[Task, str] = {"sides": "between the lungs", "step": "within one lung"}
_TITLE = "Does comparing help? Gain over the plain network between the lungs, less that within one lung"
_MEAN = "mean of both"


def write_page(cells: Cells, path: Path) -> None:
    """Write the tables to `path`, a Markdown file, and where there is a difference to draw an SVG file beside it."""
    gained = gains(cells)
    picture = path.with_suffix(".svg")
    if gained:
        write_text_atomically(picture, drawing(_TITLE, gained, mean=_MEAN))
    else:
        picture.unlink(missing_ok=True)
    write_text_atomically(path, page_text(cells, gained, picture.name))


def gains(cells: Cells) -> list[Difference]:
    """Of each context module: (it − plain) between the lungs less (it − plain) within one, by training films."""
    found = []
    for context in CONTEXTS:
        if context != _PLAIN and (combined := combine(_gain(cells, context))) is not None:
            found.append(Difference(f"{context} less {_PLAIN}", combined))
    return found


def page_text(cells: Cells, gained: list[Difference], picture: str) -> str:
    """The page as Markdown."""
    sizes = " and ".join(map(str, EPOCHS))
    parts = [
        "# Does comparing help?",
        "Written by `python -m simulations.comparing`. Phantom films show two regions that hold as much air as each "
        "other, or one of them a step more. **Between the lungs** the regions are the two lungs, and one lung alone "
        "says nothing. **Within one lung** they are its upper and its lower part, and the other lung says nothing. The "
        "air of a region alone has the same distribution under both labels. "
        f"{sizes} training films, {TEST_FILMS} test films a seed, seeds "
        f"{', '.join(map(str, SEEDS))}; the settings were chosen on other seeds.",
        "## AUROC",
        "Means over seeds, with 95 % intervals over seeds and test films.",
        _levels(cells, lambda file: file.auroc),
    ]
    if gained:
        parts += [
            "## What comparing adds",
            "The gain over the plain network between the lungs, less its gain within one lung; paired by seed, films "
            "in the same order. Comparing helps where the interval lies above zero.",
            _gains_table(gained),
            f"![The gains with their intervals]({picture})",
        ]
    parts += [
        "## Another lung is pasted",
        "One lung of each test film is replaced by the healthy lung of another patient with one step more or less air. "
        "Between the lungs, the label turns into its opposite; within one lung it is the lung without the step, and "
        "the label stays. AUROC against the labels that the films have then:",
        _levels(cells, lambda file: file.pasted_auroc),
        "How far a film's logit moves, where 1 is the mean way from a film to one of the other label. A model that "
        "compares moves between the lungs, and stays within one:",
        _levels(cells, lambda file: file.moved),
        _made(cells),
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _levels(cells: Cells, figure: Callable[[CellFile], Figure]) -> str:
    lines = [["context", *(f"{_TASKS[task]}, {films} films" for task in TASKS for films in EPOCHS)]]
    for context in CONTEXTS:
        row: list[str] = [context]
        for task in TASKS:
            combined = combine(_measured(cells, context, task, figure))
            known = {} if combined is None else combined.sites
            row += [_level_text(known.get(_size(films))) for films in EPOCHS]
        lines.append(row)
    return markdown_table(lines)


def _level_text(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{interval.value:.3f} ({interval.low:.2f}–{interval.high:.2f})"


def _gains_table(gained: list[Difference]) -> str:
    lines = [["", *map(_size, EPOCHS), _MEAN]]
    for title, combined in gained:
        lines.append(
            [title, *(_gain_text(combined, films) for films in EPOCHS), difference_text(combined.mean)]
        )
    return markdown_table(lines)


def _gain_text(combined: Combined, films: int) -> str:
    interval = combined.sites.get(_size(films))
    return "–" if interval is None else difference_text(interval)


def _gain(cells: Cells, context: Context) -> _Measured:
    between, within = (_less_plain(cells, context, task) for task in TASKS)
    return _paired(between, within)


def _less_plain(cells: Cells, context: Context, task: Task) -> _Measured:
    return _paired(*(_measured(cells, one, task, lambda file: file.auroc) for one in (context, _PLAIN)))


def _paired(left: _Measured, right: _Measured) -> _Measured:
    """The differences where both are there."""
    return {
        size: {
            seed: left[size][seed].less(right[size][seed]) for seed in left[size].keys() & right[size].keys()
        }
        for size in left
        if size in right
    }


def _measured(cells: Cells, context: Context, task: Task, figure: Callable[[CellFile], Figure]) -> _Measured:
    found: _Measured = {}
    for cell, file in sorted(cells.items(), key=lambda item: item[0].seed):
        if (cell.context, cell.task) == (context, task):
            found.setdefault(_size(cell.films), {})[cell.seed] = figure(file).measured
    return found


def _size(films: int) -> str:
    return f"{films} films"


def _made(cells: Cells) -> str:
    whole = len(CONTEXTS) * len(TASKS) * len(EPOCHS) * len(SEEDS)
    minutes = sum(file.seconds for file in cells.values()) / 60
    return (
        f"{len(cells)} of {whole} cells are finished; their training took {minutes:.0f} minutes of one core."
    )
