"""What is wrong with the rows of a label file, all of it at once and by its lines."""

from __future__ import annotations

from collections.abc import Sequence

from acm_core.data.label_file import LabelError
from acm_core.vocabulary import plain

_LINES_TOLD = 20
_REPEATS_TOLD = 3

_READERS = """
    radid rad reader readerid radiologist radiologistid annotator annotatorid rater raterid observer observerid doctor
    doctorid labeler labeller expert expertid user userid
    """
_BOXES = """
    xmin ymin xmax ymax bbox bboxx bboxy bboxw bboxh bboxxywh x y w h x1 y1 x2 y2 width height left top polygon contour
    """
_FINDINGS = "classname classid class label labels finding pathology diagnosis disease"
"""Names of columns that tell what several rows a film are, see `plain`."""


class Problems:
    """Problems of the rows, gathered while they are read; no text of a row is kept."""

    def __init__(self, header: Sequence[str]) -> None:
        self._header = header
        self._told: list[str] = []
        self._count = 0
        self._repeats: list[str] = []
        self._repeated_rows = 0
        self._repeated_films: set[int] = set()

    def add(self, error: LabelError) -> None:
        """A row that cannot be read."""
        self._count += 1
        if len(self._told) < _LINES_TOLD:
            self._told.append(str(error))

    def repeat(self, line: int, first: int) -> None:
        """A row whose film stands in line `first` already."""
        self._repeated_rows += 1
        self._repeated_films.add(first)
        if len(self._repeats) < _REPEATS_TOLD:
            self._repeats.append(f"line {line}: the film of line {first} stands here again")

    def expect_none(self) -> None:
        """Raise LabelError with all of them, a line each."""
        told = list(self._told)
        if self._count > len(told):
            told.append(f"and {self._count - len(told):,} more lines with problems")
        if self._repeated_rows:
            told += self._repeats
            films, rows = len(self._repeated_films), self._repeated_rows
            told.append(
                f"expected a row a film, got {rows:,} rows too many, of {films:,} films that stand in several rows: "
                f"{self._advice()}"
            )
        if told:
            raise LabelError("\n".join(told))

    def _advice(self) -> str:
        readers, boxes, findings = (
            [name for name in self._header if plain(name) in names.split()]
            for names in (_READERS, _BOXES, _FINDINGS)
        )
        advice = []
        if readers:
            advice.append(
                f"they look like a row a reader (column {_quoted(readers)}); merge the readers' rows to one, a finding "
                "present or absent where most readers say so, uncertain where they are divided"
            )
        if len(boxes) > 1:
            advice.append(
                f"they look like a row a box (columns {_quoted(boxes)}); merge the boxes' rows to one, a finding "
                "present where any box shows it"
            )
        if findings:
            advice.append(
                f"they look like a row a finding (column {_quoted(findings)}); write a column a finding, or one list "
                "of them (label_map: list_column)"
            )
        return "; ".join(advice) or (
            "merge the rows of a film to one; where they say different things, find out which is right"
        )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
