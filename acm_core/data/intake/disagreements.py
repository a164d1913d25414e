"""Where a film's header and the label file, or two parts of the header, say different things: one of them is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from acm_core.data.intake.judgement import Listed
from acm_core.data.intake.reading import Reading, hashed
from acm_core.data.set_aside import SetAside

About = Literal["view", "sex", "age", "patient", "leading_zeros", "header"]

_AGE_TOLERANCE = 2.0
"""Years: the age at the film and the age at another time of the same stay."""
_LONGEST_ID = 16
_SAME_IDS = 0.5
"""Share of films whose id is the header's from which the label file writes the hospital's own ids, not pseudonyms."""


class Disagreement(NamedTuple):
    """One film and one fact.

    Attributes:
        path: of the film, for the site's own eyes.
        about: what they disagree about; leading_zeros: the ids are one, but for zeros before it; header: its codes and
            its words, and the label file is not asked.
        header, table: what each says; of a patient nothing.
    """

    path: str
    about: About
    header: str = ""
    table: str = ""


class Comparison:
    """What header and label file say of each listed film, film by film; silence is no statement.

    Patients are compared where most films have the header's Patient ID in the label file: elsewhere it writes
    pseudonyms.
    """

    def __init__(self, listed: Mapping[str, Listed], salt: bytes) -> None:
        self._listed, self._salt = listed, salt
        self._facts: list[Disagreement] = []
        self._patients: list[Disagreement] = []
        self._same = 0

    def add(self, path: str, reading: Reading) -> None:
        """Compare one film, if the label file lists it."""
        said = self._listed.get(path)
        if said is None:
            return
        self._facts.extend(Disagreement(path, "header", text) for text in reading.contradictions)
        self._facts.extend(Disagreement(path, *facts) for facts in _facts(reading, said))
        if reading.patient is not None:
            about = self._patient(reading.patient, said.patient.upper())
            if about is None:
                self._same += 1
            else:
                self._patients.append(Disagreement(path, about))

    def found(self) -> list[Disagreement]:
        """Every film of which they say different things."""
        zeros = [one for one in self._patients if one.about == "leading_zeros"]
        hospitals_ids = self._same + len(zeros) >= _SAME_IDS * (self._same + len(self._patients))
        return [*self._facts, *(self._patients if hospitals_ids else zeros)]

    def _patient(self, header: str, table: str) -> Literal["patient", "leading_zeros"] | None:
        if hashed(f"patient\0{table}", self._salt) == header:
            return None
        if table.isascii() and table.isdecimal():
            for length in range(len(table) + 1, _LONGEST_ID + 1):
                if hashed(f"patient\0{table.zfill(length)}", self._salt) == header:
                    return "leading_zeros"
        return "patient"


def _facts(reading: Reading, said: Listed) -> Iterator[tuple[About, str, str]]:
    view = reading.refused if reading.reason is SetAside.NOT_FRONTAL else reading.view
    if view is not None and said.view is not None and view != said.view:
        both_from_the_side = view not in ("AP", "PA") and said.view not in ("AP", "PA")
        if not both_from_the_side:
            yield "view", view, said.view
    if reading.sex is not None and said.sex is not None and reading.sex != said.sex:
        yield "sex", reading.sex, said.sex
    if reading.age is not None and said.age is not None and abs(reading.age - said.age) > _AGE_TOLERANCE:
        yield "age", f"{reading.age:.0f}", f"{said.age:.0f}"
