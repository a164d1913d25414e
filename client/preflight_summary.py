"""What preflight found, as figures and as problems with what to do about each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acm_core.config.site import SiteConfig
from acm_core.data.intake.intake import Intake
from acm_core.data.intake.judgement import by_reason, by_split
from acm_core.data.intake.manifest import Row
from acm_core.data.intake.reading import HISTOGRAM_BINS, Reading
from acm_core.data.set_aside import SetAside
from acm_core.data.splits import Split

Weight = Literal["act", "note"]

_AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))
_FEW_TEST_FILMS = 20

_ADVICE: Mapping[SetAside, tuple[Weight, str, str]] = {
    SetAside.MISSING_FILE: (
        "act",
        "films that the label file names are not in the folder",
        "export them again, or take their rows out; names are relative to the films folder",
    ),
    SetAside.NOT_AN_IMAGE: (
        "note",
        "files are neither DICOM, PNG nor JPEG",
        "nothing, unless films were meant to be among them",
    ),
    SetAside.UNREADABLE: (
        "act",
        "films break off or contradict themselves",
        "export them again from the archive",
    ),
    SetAside.NO_DECODER: (
        "act",
        "films are compressed in a way that no decoder here reads",
        "export them uncompressed or as JPEG 2000 lossless",
    ),
    SetAside.CONTRADICTION: (
        "act",
        "films whose header contradicts their pixels",
        "export them again; ask the vendor if it stays",
    ),
    SetAside.TOO_LARGE: ("note", "files are larger than any radiograph", "nothing, unless they are films"),
    SetAside.TOO_SMALL: (
        "note",
        "images are smaller than any radiograph",
        "export the full films, not their previews",
    ),
    SetAside.NO_PIXELS: ("note", "DICOM objects without pixels (reports, plans)", "nothing"),
    SetAside.MODALITY: (
        "note",
        "images of another modality than CR and DX",
        "nothing, unless the export should be films only",
    ),
    SetAside.NOT_HUMAN: ("note", "films of animals", "look whose archive was exported"),
    SetAside.BODY_PART: ("note", "films of other parts of the body", "nothing, unless the header is wrong"),
    SetAside.NOT_FRONTAL: (
        "note",
        "lateral, oblique or decubitus films",
        "nothing: the model reads frontal films",
    ),
    SetAside.UNKNOWN_VIEW: (
        "act",
        "films whose view nobody states",
        "give the label file a view column, or set unknown_view: keep",
    ),
    SetAside.MULTI_FRAME: ("note", "images of several frames", "nothing"),
    SetAside.COLOUR: ("note", "colour images (screenshots, report pages)", "nothing"),
    SetAside.BLANK: ("note", "films of one even grey", "look whether the export failed for them"),
    SetAside.SATURATED: (
        "act",
        "films that are black and white only",
        "export them with their window, or without any",
    ),
    SetAside.TOO_SLOW: (
        "act",
        "files took longer to read than a file may",
        "look at them; if the disk was busy, run preflight again after `touch`ing them",
    ),
    SetAside.READER_CRASHED: (
        "act",
        "files crashed the reader",
        "treat them as suspicious: export them again, and report them to us",
    ),
    SetAside.DUPLICATE: ("note", "films are there a second time", "nothing: one of each is kept"),
    SetAside.NEAR_DUPLICATE: (
        "note",
        "films are there again in another encoding or window",
        "nothing: one of each is kept; the page shows the pairs",
    ),
}


@dataclass(frozen=True)
class Problem:
    """Something the site should know.

    Attributes:
        code: stable, for programs.
        count: of files, patients or values.
        weight: "act" where something should be done, "note" where it is enough to know.
        what: the sentence after the count.
        do: what to do.
    """

    code: str
    count: int
    weight: Weight
    what: str
    do: str


@dataclass(frozen=True)
class Summary:
    """The figures of a preflight; nothing in them speaks of one patient.

    Attributes:
        files: all, used (accepted and listed), accepted, read in this run.
        findings: finding → positive, negative and not labelled among the films used.
        views, sexes, ages: of the films used.
        changes: since the run before; None at the first.
    """

    site: str
    fingerprint: str
    files: Mapping[str, int]
    patients: int
    reasons: Mapping[str, int]
    splits: Mapping[str, int]
    findings: Mapping[str, Mapping[str, int]]
    views: Mapping[str, int]
    sexes: Mapping[str, int]
    ages: Mapping[str, int]
    identifying: Mapping[str, int]
    changes: Mapping[str, int] | None
    problems: Sequence[Problem] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready document."""
        return asdict(self)


def summarise(site: SiteConfig, taken: Intake, readings: Iterable[tuple[str, Reading]]) -> Summary:
    """Count what the intake found.

    Args:
        readings: the journal's, by path.
    """
    used = [row for row in taken.rows if row.reason is None and row.listed]
    burned_in, identifying = 0, Counter[str]()
    for _, reading in readings:
        burned_in += bool(reading.burned_in)
        identifying.update(reading.identifying)
    findings = _findings(taken)
    return Summary(
        site=site.site,
        fingerprint=taken.fingerprint,
        files={
            "all": len(taken.rows),
            "accepted": sum(row.reason is None for row in taken.rows),
            "used": len(used),
            "read": taken.read,
        },
        patients=len({row.patient for row in used}),
        reasons=by_reason(taken.rows),
        splits={split.value: count for split, count in by_split(taken.rows).items()},
        findings=findings,
        views=_counts(row.view or "unknown" for row in used),
        sexes=_counts(row.sex or "unknown" for row in used),
        ages=_ages(used),
        identifying=dict(sorted(identifying.items())),
        changes=taken.changes,
        problems=tuple(_problems(site, taken, findings, burned_in, identifying)),
    )


def grey_levels(readings: Iterable[tuple[str, Reading]]) -> tuple[list[str], NDArray[np.float32]]:
    """Paths of the films and their histograms, N×32 shares that add up to 1."""
    paths: list[str] = []
    histograms: list[NDArray[np.float32]] = []
    for path, reading in readings:
        if reading.reason is None:
            paths.append(path)
            histograms.append(np.array(reading.histogram, np.float32))
    shares = np.array(histograms, np.float32).reshape(len(paths), HISTOGRAM_BINS)
    return paths, shares / np.maximum(shares.sum(1, keepdims=True), 1)


def unlikeness(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far each film's grey levels lie from the site's median film: earth mover's distance in film ranges, N."""
    if len(shares) == 0:
        return np.zeros(0, np.float32)
    cumulated = shares.cumsum(1)
    distance: NDArray[np.float32] = np.abs(cumulated - np.median(cumulated, axis=0)).mean(1)
    return distance


def _findings(taken: Intake) -> dict[str, dict[str, int]]:
    reasons = {row.film: row.reason for row in taken.rows}
    used = [index for index, film in enumerate(taken.images) if reasons[film] is None]
    labels = taken.table.labels[used]
    return {
        finding: {
            "positive": int((values == 1).sum()),
            "negative": int((values == 0).sum()),
            "not labelled": int(np.isnan(values).sum()),
        }
        for finding, values in zip(taken.table.findings, labels.T, strict=True)
    }


def _problems(
    site: SiteConfig,
    taken: Intake,
    findings: Mapping[str, Mapping[str, int]],
    burned_in: int,
    identifying: Mapping[str, int],
) -> Iterable[Problem]:
    for code, count in by_reason(taken.rows).items():
        weight, what, do = _ADVICE[SetAside(code)]
        yield Problem(code, count, weight, what, do)
    unlisted = sum(row.reason is None and not row.listed for row in taken.rows)
    table = taken.table
    others: Sequence[tuple[str, int, Weight, str, str]] = (
        (
            "unlisted",
            unlisted,
            "note",
            "good films have no row in the label file",
            "add rows if they should be used",
        ),
        (
            "label_conflict",
            len(table.conflicts),
            "act",
            "films are labelled No Finding and a finding",
            "correct the rows; the page lists them; until then they are used as they stand",
        ),
        (
            "uncertain",
            sum(table.uncertain.values()),
            "note",
            "labels are uncertain",
            f"nothing: they are treated as the site file says (uncertain_policy: {site.label_map.uncertain_policy})",
        ),
        (
            "unknown_names",
            sum(table.unknown_names.values()),
            "note",
            "names in the list column are not in the vocabulary",
            "map them under label_map: list_names if they are findings of the run",
        ),
        (
            "shared_film",
            taken.shared,
            "act",
            "films stood under two patients",
            "find out which is right; they count as one person now",
        ),
        (
            "linked_patients",
            taken.linked,
            "note",
            "patient ids belong to a person who has another",
            "nothing: all films of a person go to the same split",
        ),
        (
            "placeholder",
            taken.placeholders,
            "note",
            "names or ids stand for many patients (a placeholder of the de-identification)",
            "nothing: they are not used to tell patients apart",
        ),
        (
            "burned_in",
            burned_in,
            "act",
            "films are marked as having writing in the pixels",
            "look at them on the page; mask what names a patient",
        ),
        (
            "identifying",
            max(identifying.values(), default=0),
            "note",
            "files carry attributes that say who the patient is",
            "nothing leaves: the intake keeps hashes only; de-identify the export if the folder is shared",
        ),
    )
    for code, count, weight, what, do in others:
        if count:
            yield Problem(code, count, weight, what, do)
    for finding, counts in findings.items():
        if bool(counts["positive"]) != bool(counts["negative"]):
            only = "positive" if counts["positive"] else "negative"
            yield Problem(
                "one_class",
                counts[only],
                "note",
                f"films are labelled for {finding}, all of them {only}",
                "nothing if that is so: the site then teaches, but cannot test, this finding",
            )
    if 0 < by_split(taken.rows)[Split.TEST] < _FEW_TEST_FILMS:
        yield Problem(
            "few_test_films",
            by_split(taken.rows)[Split.TEST],
            "note",
            "films are there to test on",
            "expect wide intervals; more patients would narrow them",
        )


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _ages(rows: Iterable[Row]) -> dict[str, int]:
    counts = dict.fromkeys(
        (*(f"{low}–{high - 1}" if high < 200 else f"{low} and over" for low, high in _AGE_BANDS), "unknown"),
        0,
    )
    names = list(counts)
    for row in rows:
        band = next(
            (i for i, (low, high) in enumerate(_AGE_BANDS) if row.age is not None and low <= row.age < high),
            -1,
        )
        counts[names[band]] += 1
    return counts
