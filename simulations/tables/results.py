"""What the finished cells of an experiment say: rows of the tables, and differences between them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from acm_core.config.explanation import nearest
from server.round.results import DELIVERED
from simulations.tables.cells import CellFile, SiteFigures, standing
from simulations.tables.experiment import Comparison, Experiment, Term, load_experiment
from simulations.tables.intervals import Combined, Measured, combine

TITLES = {
    "received": "the others' model as it comes",
    "adapted": "the others' model with own normalisation",
    **{f"own_{films}": f"alone, {films} films" for films in (25, 50, 100, 200)},
    "local_only": "alone",
    "federated": "federated",
    "fine_tuned": "fine-tuned",
    "mixture": "mixture",
    DELIVERED: "delivered",
    "pooled": "pooled",
}
"""Models in the order of their rows, and what the tables call them; others follow by name."""

Cells = dict[str, dict[int, CellFile]]
"""Variant → seed → finished cell."""


class UnknownModelError(ValueError):
    """A model that no finished cell has."""


class UnlikeFilmsError(ValueError):
    """A difference between models that were measured on other test films."""


class Row(NamedTuple):
    """A model of a variant, or what needs none.

    Attributes:
        mean: over sites; None where no finding counts anywhere.
        ends: of the mean's 95 % interval; None for what has none.
        sites: mean AUROC over the findings that count at a site.
        findings: mean AUROC over the sites where a finding counts.
    """

    title: str
    mean: float | None
    ends: tuple[float, float] | None
    sites: dict[str, float]
    findings: dict[str, float]
    seeds: int


class Unlabelled(NamedTuple):
    """A finding that a hospital does not label.

    Attributes:
        models: what a model is called → its AUROC with each seed.
    """

    site: str
    finding: str
    models: dict[str, list[float]]


class Difference(NamedTuple):
    """A comparison's outcome."""

    title: str
    combined: Combined


class Results:
    """The finished cells of an experiment, and of those that it is compared with.

    Args:
        folder: of all experiments' cells.

    Raises:
        ConfigError: another experiment's file that cannot be used.
        DamagedCellError: a cell's file that cannot be read.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.experiment = experiment
        self._experiments = {experiment.name: experiment}
        for term in (term for comparison in experiment.settings.compared() for term in comparison):
            if (name := term.experiment) and name not in self._experiments:
                self._experiments[name] = load_experiment(experiment.path.with_name(f"{name}.yaml"))
        self._cells = {name: _done(one, folder) for name, one in self._experiments.items()}

    @property
    def cells(self) -> Cells:
        """Of the experiment itself."""
        return self._cells[self.experiment.name]

    def sites(self) -> list[str]:
        """All sites, in the order of the configurations."""
        return list(
            dict.fromkeys(site for cell in self.experiment.cells for site in cell.config.federation.sites)
        )

    def rows(self) -> list[Row]:
        """A row a variant and model.

        Raises:
            UnknownModelError: a model asked for that none of the variant's finished cells has.
        """
        settings = self.experiment.settings
        rows = []
        for variant, cells in self.cells.items():
            there = _models(cells)
            asked = settings.variants[variant].models or there
            for model in asked if cells else ():
                if model not in there:
                    raise UnknownModelError(
                        f"{self.experiment.path}: variants.{variant}.models: expected some of {', '.join(there)}, got "
                        f"{model!r}{nearest(model, there)}"
                    )
                rows.append(_row(self._title(variant, model), cells, model))
        return [*rows, *self._shortcuts()]

    def differences(self) -> list[Difference]:
        """What the experiment asks for, as far as both sides are finished.

        Raises:
            UnknownModelError: a model that no finished cell of its variant has; in a comparison within each variant: of
                no variant.
            UnlikeFilmsError: two runs of one seed had other test films.
        """
        found = []
        for comparison in self.experiment.settings.compared():
            if not all(self._has(term) for term in comparison):
                continue
            sides = [_measured(self._of(term), term.model) for term in comparison]
            paired = {
                site: {
                    seed: sides[0][site][seed].less(sides[1][site][seed])
                    for seed in sides[0][site].keys() & sides[1][site].keys()
                }
                for site in sides[0].keys() & sides[1].keys()
            }
            self._expect_same_films(comparison, paired)
            ordered = {site: paired[site] for site in sides[0] if site in paired}
            if (combined := combine(ordered)) is not None:
                found.append(Difference(self._titled(comparison), combined))
        return found

    def unlabelled(self) -> list[Unlabelled]:
        """What models know of findings that a synthetic hospital does not label, a row a variant, site and finding."""
        found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
        for variant, cells in self.cells.items():
            for _, site, figures in _figures(cells):
                for finding, models in figures.unlabelled.items():
                    for model, value in models.items():
                        found.setdefault((variant, site, finding), {}).setdefault(model, []).append(value)
        several = len(self.experiment.settings.variants) > 1
        return [
            Unlabelled(
                f"{self.experiment.settings.title_of(variant)}: {site}" if several else site,
                finding,
                {_model_title(model): models[model] for model in _ordered(models)},
            )
            for (variant, site, finding), models in found.items()
        ]

    def _shortcuts(self) -> list[Row]:
        """A row for each thing that needs no medicine, where sites report them: they are the same for all variants."""
        found: dict[str, dict[str, dict[int, list[tuple[str, float]]]]] = {}
        for cells in self.cells.values():
            for seed, site, figures in _figures(cells):
                for shortcut, aurocs in figures.shortcuts.items():
                    # One that gives all films the same score tells nothing: 0.5.
                    found.setdefault(shortcut, {}).setdefault(site, {})[seed] = [
                        (finding, 0.5 if auroc is None else auroc)
                        for finding, auroc, counts in zip(
                            cells[seed].findings, aurocs, figures.counted, strict=True
                        )
                        if counts
                    ]
        return [_shortcut_row(f"only the {shortcut}", of_sites) for shortcut, of_sites in found.items()]

    def _has(self, term: Term) -> bool:
        """Whether the model is there; False where nothing of its variant is finished, or another variant has it."""
        cells = self._of(term)
        there = _models(cells)
        if not cells or term.model in there:
            return bool(cells)
        elsewhere = [
            model
            for variant in self._cells[term.experiment or self.experiment.name].values()
            for model in _models(variant)
        ]
        if term.model in elsewhere:
            return False
        raise UnknownModelError(
            f"{self.experiment.path}: comparisons: expected some of {', '.join(there)}, got {term.model!r}"
            f"{nearest(term.model, there)}"
        )

    def _of(self, term: Term) -> Mapping[int, CellFile]:
        return self._cells[term.experiment or self.experiment.name].get(term.variant, {})

    def _expect_same_films(
        self, comparison: Comparison, paired: Mapping[str, Mapping[int, Measured]]
    ) -> None:
        left, right = (self._of(term) for term in comparison)
        for site, of_seeds in paired.items():
            for seed in of_seeds:
                if left[seed].sites[site].tested != right[seed].sites[site].tested:
                    raise UnlikeFilmsError(
                        f"{self._titled(comparison)}: expected the same test films of {site} with seed {seed}, got "
                        "others: compare variants with the same findings, label files and least_patients"
                    )

    def _titled(self, comparison: Comparison) -> str:
        left, right = comparison
        if (left.experiment, left.variant) == (right.experiment, right.variant):
            return f"{self._title(left.variant, left.model)} less {_model_title(right.model)}"
        sides = [self._variant_title(term) for term in comparison]
        if left.model == right.model:
            return f"{_model_title(left.model)}: {sides[0]} less {sides[1]}"
        return f"{sides[0]}, {_model_title(left.model)}, less {sides[1]}, {_model_title(right.model)}"

    def _title(self, variant: str, model: str) -> str:
        settings = self.experiment.settings
        before = f"{settings.title_of(variant)}: " if len(settings.variants) > 1 else ""
        return f"{before}{_model_title(model)}"

    def _variant_title(self, term: Term) -> str:
        experiment = self._experiments[term.experiment or self.experiment.name]
        if term.variant not in experiment.settings.variants:
            raise UnknownModelError(
                f"{self.experiment.path}: comparisons: expected a variant of {experiment.name}, got {term.variant!r}"
                f"{nearest(term.variant, experiment.settings.variants)}"
            )
        title = experiment.settings.title_of(term.variant)
        return title if experiment is self.experiment else f"{title} ({experiment.name})"


def _done(experiment: Experiment, folder: Path) -> Cells:
    cells: Cells = {variant: {} for variant in experiment.settings.variants}
    for cell in experiment.cells:
        state, file, _ = standing(folder, experiment, cell)
        if state == "done" and file is not None:
            cells[cell.variant][cell.seed] = file
    return cells


def _models(cells: Mapping[int, CellFile]) -> list[str]:
    """The models that any of the cells has, in the order of their rows."""
    sites = [site for cell in cells.values() for site in cell.sites.values()]
    there = {model for site in sites for model in site.models}
    there |= {DELIVERED for site in sites if site.delivered}
    return _ordered(there)


def _ordered(models: Collection[str]) -> list[str]:
    return [*(model for model in TITLES if model in models), *sorted(set(models) - TITLES.keys())]


def _measured(cells: Mapping[int, CellFile], model: str) -> dict[str, dict[int, Measured]]:
    """Site → seed → the model's mean AUROC."""
    found: dict[str, dict[int, Measured]] = {}
    for seed, site, figures in _figures(cells):
        if (measured := figures.measured(model)) is not None:
            found.setdefault(site, {})[seed] = measured
    return found


def _row(title: str, cells: Mapping[int, CellFile], model: str) -> Row:
    measured = _measured(cells, model)
    combined = combine(measured)
    seeds = len({seed for of_seeds in measured.values() for seed in of_seeds})
    findings = _findings(cells, model)
    if combined is None:
        return Row(title, None, None, {}, findings, seeds)
    sites = {site: interval.value for site, interval in combined.sites.items()}
    mean = combined.mean
    return Row(title, mean.value, (mean.low, mean.high), sites, findings, seeds)


def _shortcut_row(title: str, of_sites: Mapping[str, Mapping[int, list[tuple[str, float]]]]) -> Row:
    sites = {
        site: float(np.mean(means))
        for site, of_seeds in of_sites.items()
        if (means := [np.mean([value for _, value in pairs]) for pairs in of_seeds.values() if pairs])
    }
    by_finding: dict[str, dict[str, list[float]]] = {}
    for site, of_seeds in of_sites.items():
        for finding, value in (pair for pairs in of_seeds.values() for pair in pairs):
            by_finding.setdefault(finding, {}).setdefault(site, []).append(value)
    seeds = {seed for of_seeds in of_sites.values() for seed in of_seeds}
    mean = float(np.mean([*sites.values()])) if sites else None
    return Row(title, mean, None, sites, _over_sites(by_finding), len(seeds))


def _over_sites(values: Mapping[str, Mapping[str, list[float]]]) -> dict[str, float]:
    """Finding → mean over seeds and then over sites."""
    return {
        finding: float(np.mean([np.mean(of_seeds) for of_seeds in of_sites.values()]))
        for finding, of_sites in values.items()
    }


def _findings(cells: Mapping[int, CellFile], model: str) -> dict[str, float]:
    """Finding → AUROC, mean over seeds and then over the sites where it counts."""
    values: dict[str, dict[str, list[float]]] = {}
    for seed, site, figures in _figures(cells):
        if (there := figures.model(model)) is None:
            continue
        of_model = zip(cells[seed].findings, there.aurocs, figures.counted, strict=True)
        for finding, value, counts in of_model:
            if counts and value is not None:
                values.setdefault(finding, {}).setdefault(site, []).append(value)
    return _over_sites(values)


def _figures(cells: Mapping[int, CellFile]) -> Iterator[tuple[int, str, SiteFigures]]:
    return ((seed, site, figures) for seed, cell in cells.items() for site, figures in cell.sites.items())


def _model_title(model: str) -> str:
    return TITLES.get(model, model.replace("_", " "))
