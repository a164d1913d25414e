"""The card of a start: which films, how it learnt, how well it does by itself, and how a run begins from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_core.installation import software
from server.round.results import interval_text

if TYPE_CHECKING:
    from pathlib import Path

    from acm_core.training.metrics import FindingMetrics
    from simulations.pretrain.films import Pretraining, PublicFilms

_SHOWN = 10


@dataclass(frozen=True)
class Start:
    """A start that was written.

    Attributes:
        path, card, sha256: of the file, of the page beside it, of the file's content.
        figures: finding → how well the start does on the films held out.
        directions: independent directions that the pooled features of these films have: (Σλ)²/Σλ² over the
            eigenvalues of their covariance; about 1 says that the features have collapsed.
    """

    path: Path
    card: Path
    sha256: str
    figures: dict[str, FindingMetrics]
    directions: float


def start_card(start: Start, settings: Pretraining, films: PublicFilms) -> str:
    """The card's text in Markdown."""
    model, training = settings.model, settings.training
    if films.findings:
        learnt = f"with labels of {', '.join(films.findings)}"
    else:
        learnt = "without labels, by VICReg (arXiv 2105.04906): the file has no head"
    lines = [
        f"# Start: {start.path.name}",
        "",
        "For research only. Not a medical device; no claim of diagnostic performance.",
        "",
        f"- SHA-256: `{start.sha256}`",
        f"- {model.architecture} with context module `{model.context}`, {model.norm} normalisation, films of "
        f"{model.image_size} × {model.image_size}",
        f"- learnt {learnt}",
        f"- {training.epochs} epochs of batches of {training.batch_size}, {training.optimizer}, learning rate "
        f"{training.learning_rate:g} ({training.schedule}), seed {settings.seed}, acm-fed {software()['acm-fed']}",
        "",
        "## Films",
        "",
        f"- folder `{films.name}`, dataset `{films.fingerprint}` (the hash of its manifest)",
        f"- trained on {len(films.train)} films of {films.patients} patients; held out: {len(films.held_out)} "
        f"films of {films.held_out_patients} other patients",
        *_said("licence", films.licences),
        *_said("source", films.sources),
        "",
        "## On the films held out",
        "",
    ]
    if start.figures:
        lines += [
            "| finding | films with / without | AUROC (95 % patient-bootstrap interval) |",
            "| --- | --- | --- |",
        ]
        for finding, figures in start.figures.items():
            auroc = interval_text(figures.auroc)
            lines.append(f"| {finding} | {figures.positives} / {figures.negatives} | {auroc} |")
        lines.append("")
    lines += [
        f"The features of these films have about {start.directions:.0f} independent directions (1: they have "
        "collapsed). The centre and main axes of the training films' features, found without labels, are in the file, "
        "for `model.head: projected`.",
        "",
        "## How a run begins from it",
        "",
        "```yaml",
        "model:",
        f"  architecture: {model.architecture}",
        f"  context: {model.context}",
        f"  norm: {model.norm}",
        f"  standardise_weights: {str(model.standardise_weights).lower()}",
        f"  groups: {model.groups}",
        f"  image_size: {model.image_size}",
        f"  weights: {start.path.name}",
        f"  weights_sha256: {start.sha256}",
        "```",
        "",
        "Rows of the head come from the start for findings of the same name; others begin anew.",
        "",
        "## Limits",
        "",
        "- Measure the start alone beside every model that began from it: it may be the better one.",
        "- If hospitals of a run treated patients of these films, its figures say too much.",
        "- Labels are the folder's as they are; errors in them are in the start and in the figures.",
        "",
    ]
    return "\n".join(lines)


def _said(column: str, values: dict[str, int]) -> list[str]:
    """What a column of the label file says, where it says it of groups of films and not of each by itself."""
    if not values:
        return [f"- {column}: the label file does not say"]
    if len(values) > _SHOWN:
        return [
            f"- {column}: one of {len(values)} for each film; see the column `{column}` of the label file"
        ]
    return [f"- {column}: {' '.join(text.split())} ({count} films)" for text, count in values.items()]
