"""An experiment's file: a simulation, variants of it, seeds, and which differences are asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from acm_core.config.explanation import explain, nearest
from acm_core.config.loading import ConfigError, load_config, with_paths_from
from acm_core.config.section import Section
from acm_core.config.yaml_lines import LocatedData, Location, Problem
from simulations.settings import SimulationConfig

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.]{0,31}"
_TERM = rf"(?:(?P<experiment>{_NAME})/)?(?:(?P<variant>{_NAME}):)?(?P<model>[a-z][a-z0-9_]*)"
_DECIDED_HERE = ("name", "seed")

VariantName = Annotated[str, StringConstraints(pattern=rf"^{_NAME}$")]
Kind = Literal["federation", "leave_one_out"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Term(NamedTuple):
    """A model of a variant: `MODEL`, `VARIANT:MODEL` or, of another experiment, `EXPERIMENT/VARIANT:MODEL`."""

    experiment: str | None
    variant: str
    model: str


class Comparison(NamedTuple):
    """`left` less `right`: mean AUROC on the same test films, of the seeds that both have."""

    left: Term
    right: Term


def _terms(text: str) -> list[re.Match[str]]:
    """The two sides of a comparison.

    Raises:
        ValueError: it is none.
    """
    found = [match for term in text.split(" less ") if (match := re.fullmatch(_TERM, term))]
    if len(found) != 2 or text.count(" less ") != 1:
        raise ValueError(
            "expected a difference such as 'mixture less local_only', or 'one:federated less other:federated' between "
            f"variants, got {text!r}"
        )
    if len({match["variant"] is None for match in found}) > 1 or any(
        match["experiment"] and not match["variant"] for match in found
    ):
        raise ValueError(f"expected the variant of both models or of neither, got {text!r}")
    return found


def _comparison(text: str) -> str:
    _terms(text)
    return text


class VariantSection(Section):
    """What is different in one variant of the simulation."""

    title: str | None = Field(None, min_length=1, description="its name in the tables; default: its key")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="keys of the simulation's file that are different in this variant",
    )
    seeds: tuple[Seed, ...] | None = Field(
        None, min_length=1, description="values of seed; default: the experiment's"
    )
    models: tuple[str, ...] = Field(
        (), description="which of its models have a row; default: all that were measured"
    )


class ExperimentConfig(Section):
    """Variants of a simulation, each run with several seeds."""

    title: str = Field(min_length=1, description="heading of the page")
    text: str = Field("", description="what a reader should know before the tables")
    base: Path = Field(description="the simulation's file that every variant starts from")
    kind: Kind = Field(
        "federation",
        description="leave_one_out: each site in turn is left out, and gets the model that the others train; see "
        "docs/results/README.md",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="keys of the simulation's file that are different in all variants, laid out as there; null takes "
        "one away",
    )
    seeds: tuple[Seed, ...] = Field(min_length=1, description="values of seed")
    least_patients: int = Field(
        1,
        ge=1,
        description="a finding counts at a site if so many of its test patients have it, and as many have not",
    )
    variants: dict[VariantName, VariantSection] = Field(min_length=1, description="name → what is different")
    comparisons: tuple[Annotated[str, AfterValidator(_comparison)], ...] = Field(
        (),
        description="differences to show: 'mixture less local_only' within each variant, 'one:federated less "
        "other:federated' between two, 'experiment/one:federated' of another experiment",
    )

    @model_validator(mode="after")
    def _consistent(self) -> ExperimentConfig:
        of_variants = {f"variants.{name}.": variant.settings for name, variant in self.variants.items()}
        for where, settings in {"": self.settings, **of_variants}.items():
            if wrong := [key for key in _DECIDED_HERE if key in settings]:
                raise ValueError(f"{where}settings.{wrong[0]}: expected none, as the experiment gives it")
        for term in (term for text in self.comparisons for term in _terms(text)):
            variant = term["variant"]
            if variant and not term["experiment"] and variant not in self.variants:
                hint = nearest(variant, self.variants)
                raise ValueError(f"comparisons: expected a variant, got {variant!r}{hint}")
        return self

    def seeds_of(self, variant: str) -> tuple[int, ...]:
        """The seeds with which a variant is run."""
        return self.variants[variant].seeds or self.seeds

    def title_of(self, variant: str) -> str:
        """What a variant is called in the tables."""
        return self.variants[variant].title or variant.replace("_", " ")

    def compared(self) -> Iterator[Comparison]:
        """The differences asked for, those within a variant once for each."""
        for text in self.comparisons:
            terms = _terms(text)
            for variant in self.variants if terms[0]["variant"] is None else ("",):
                yield Comparison(
                    *(Term(term["experiment"], variant or term["variant"], term["model"]) for term in terms)
                )


@dataclass(frozen=True)
class Cell:
    """One run of an experiment: a variant with a seed."""

    variant: str
    seed: int
    config: SimulationConfig


@dataclass(frozen=True)
class Experiment:
    """An experiment's file, read.

    Attributes:
        cells: in the order in which they are run: a seed of each variant, then the next seed.
    """

    name: str
    path: Path
    settings: ExperimentConfig
    cells: tuple[Cell, ...]

    def cell(self, variant: str, seed: int) -> Cell:
        """The cell of a variant and seed.

        Raises:
            KeyError: it has none.
        """
        for cell in self.cells:
            if (cell.variant, cell.seed) == (variant, seed):
                return cell
        raise KeyError(variant, seed)


def load_experiment(path: Path) -> Experiment:
    """Read an experiment and the simulation it starts from, and make every variant's settings.

    Relative paths in a variant's settings are taken from the experiment's own folder, as those of the file.

    Raises:
        ConfigError: a file cannot be used, or a variant's settings are none of a simulation; with file and line.
    """
    settings = load_config(path, ExperimentConfig)
    base = load_config(settings.base, SimulationConfig)
    document = LocatedData(path.read_text(encoding="utf-8-sig"))
    made: dict[tuple[str, int], SimulationConfig] = {}
    problems: list[Problem] = []
    common = merge_patch(base.model_dump(mode="json"), settings.settings)
    for variant, section in settings.variants.items():
        for seed in settings.seeds_of(variant):
            merged = merge_patch(common, section.settings)
            merged |= {"name": f"{path.stem}-{variant}-{seed}", "seed": seed}
            try:
                config = SimulationConfig.model_validate_json(json.dumps(merged), strict=True)
            except ValidationError as error:
                problems += [
                    _problem(document, variant, location, message)
                    for location, message in explain(error, SimulationConfig)
                ]
                break
            made[variant, seed] = with_paths_from(path.absolute().parent, config)
    if problems:
        raise ConfigError(path, problems)
    longest = max(len(settings.seeds_of(variant)) for variant in settings.variants)
    cells = [
        Cell(variant, seeds[turn], made[variant, seeds[turn]])
        for turn in range(longest)
        for variant in settings.variants
        if turn < len(seeds := settings.seeds_of(variant))
    ]
    return Experiment(path.stem, path, settings, tuple(cells))


def _problem(document: LocatedData, variant: str, location: Location, message: str) -> Problem:
    """Where it stands in the file: with the variant, or else with what all variants have."""
    of_variant, of_all = ("variants", variant, "settings", *location), ("settings", *location)
    at = of_all if location and document.holds(of_all) and not document.holds(of_variant) else of_variant
    return Problem(document.line(at), at, message)


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396): mappings are merged, null takes a key away, anything else takes the place."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged
