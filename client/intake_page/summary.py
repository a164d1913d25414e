"""What preflight found, as figures and as problems with what to do about each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acm_core.config.site import SiteConfig
from acm_core.data.intake.disagreements import Comparison
from acm_core.data.intake.intake import Intake
from acm_core.data.intake.judgement import by_reason, by_split
from acm_core.data.intake.manifest import Row
from acm_core.data.intake.reading import HISTOGRAM_BINS, Reading
from acm_core.data.set_aside import SetAside
from acm_core.data.shortcut_features import IntakeFeatures
from acm_core.shortcuts import Shortcut
from acm_core.training.shortcuts import Alone
from client.intake_page.advice import ADVICE, REPEATED, VALUES_TOLD, Problem, Weight
from client.intake_page.shortcuts import measure_shortcuts, shortcut_problems
from client.intake_page.table import disagreement_problems, table_problems

_AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 80), (80, 200))

_SYSTEM_FOLDERS = frozenset(
    ("lost+found", "#recycle", "@eadir", "$recycle.bin", "system volume information", ".trashes", ".snapshot")
)


@dataclass(frozen=True)
class Summary:
    """The figures of a preflight; nothing in them speaks of one patient.

    Attributes:
        files: all, used (accepted and listed), accepted, read in this run.
        findings: finding → positive, negative and not labelled among the films used.
        views, sexes, ages: of the films used.
        changes: since the run before; None at the first.
        shortcuts: finding → shortcut → how well it alone tells the finding.
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
    shortcuts: Mapping[str, Mapping[Shortcut, Alone]] = field(default_factory=dict)
    problems: Sequence[Problem] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready document."""
        return asdict(self)


def summarise(
    site: SiteConfig, taken: Intake, readings: Iterable[tuple[str, Reading]], comparison: Comparison
) -> Summary:
    """Count what the intake found.

    Args:
        readings: the journal's, by path.
        comparison: gets each of them.
    """
    used = [row for row in taken.rows if row.reason is None and row.listed]
    burned_in, identifying = 0, Counter[str]()
    refused = dict(taken.absent)
    by_path = {taken.names[row.film]: row for row in used}
    films: list[str] = []
    seen = IntakeFeatures()
    for path, reading in readings:
        comparison.add(path, reading)
        if (row := by_path.get(path)) is not None:
            films.append(row.film)
            seen.add(path, row, reading)
        burned_in += bool(reading.burned_in)
        identifying.update(reading.identifying)
        if reading.refused is not None:
            refused[path] = reading.refused
    findings = _findings(taken)
    shortcuts = measure_shortcuts(taken, films, seen.features())
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
        shortcuts=shortcuts,
        problems=(
            *_problems(site, taken, findings, burned_in, identifying, refused),
            *table_problems(site, taken),
            *disagreement_problems(comparison.found()),
            *shortcut_problems(shortcuts, findings),
        ),
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
    refused: Mapping[str, str],
) -> Iterable[Problem]:
    yield from _set_aside(taken, refused)
    unlisted = sum(row.reason is None and not row.listed for row in taken.rows)
    table = taken.table
    behind: Weight = "act" if any(row.reason is SetAside.MISSING_FILE for row in taken.rows) else "note"
    others: Sequence[tuple[str, int, Weight, str, str]] = (
        (
            "respelled",
            taken.respelled,
            "note",
            "names in the label file are spelt otherwise than the files (capitals, endings, accents, backslashes)",
            "nothing: each stands for one file only",
        ),
        (
            "folders_not_entered",
            len(taken.closed),
            behind,
            f"folders may not be entered{_of_systems(taken.closed)}",
            "nothing if no films are in them; the page names them",
        ),
        (
            "links_not_followed",
            len(taken.links),
            behind,
            "links to folders are not followed",
            "nothing if no films are behind them; the page names them",
        ),
        (
            "not_searchable",
            taken.passed_over,
            "act",
            "films are in the archive, and it fails over them when it is searched",
            "ask who runs the archive to look for damaged files in it",
        ),
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


def _set_aside(taken: Intake, refused: Mapping[str, str]) -> Iterable[Problem]:
    """A problem for each reason: one of the films that the label file lists, one of the other files."""
    views = dict(zip(taken.images, taken.table.views, strict=True))
    counts: Counter[tuple[SetAside, bool]] = Counter()
    values: defaultdict[tuple[SetAside, bool], Counter[str]] = defaultdict(Counter)
    for row in taken.rows:
        if row.reason is None:
            continue
        kind = row.reason, row.listed
        counts[kind] += 1
        value = refused.get(taken.names[row.film])
        if value is None and row.reason is SetAside.NOT_FRONTAL:
            value = views.get(row.film)
        if value is not None and row.reason not in REPEATED:
            values[kind][value] += 1
    for (reason, listed), count in sorted(counts.items(), key=lambda one: (one[0][0], not one[0][1])):
        advice = ADVICE[reason]
        told = dict(values[reason, listed].most_common(VALUES_TOLD))
        if listed and reason not in REPEATED:
            what = f"{advice.what}; the label file lists them"
            yield Problem(reason.value, count, "act", what, advice.listed, told)
        else:
            yield Problem(reason.value, count, advice.weight, advice.what, advice.do, told)


def _of_systems(folders: Iterable[str]) -> str:
    """Names that an operating system gives, which name no patient."""
    names = sorted({name for name in folders if name.casefold() in _SYSTEM_FOLDERS})
    return f" ({', '.join(names)})" if names else ""


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
