"""A finished cell: one small JSON file with all that the tables need, which outlives the run that made it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from acm_core.files import file_sha256, write_text_atomically
from acm_core.installation import software
from server.round.results import DELIVERED
from simulations.settings import SimulationConfig
from simulations.tables.experiment import Cell, Experiment, Kind
from simulations.tables.intervals import Measured
from simulations.tables.replicates import unpack

_ROOT = Path(__file__).parents[2]
_CODE = ("acm_core", "client", "server", "simulations", "configs", "pyproject.toml", "constraints.txt")
# What no figure depends on: names, places, addresses, and how long is waited.
_NO_MATTER = (
    ("name",),
    ("server",),
    ("simulation", "data"),
    ("simulation", "processes"),
    ("model", "weights_sha256"),  # `files_of` has it
    ("federation", "join_deadline"),
    ("federation", "round_deadline"),
    ("federation", "round_attempts"),
)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelFigures(_Strict):
    """A model at a site: see `replicates.measure`."""

    aurocs: tuple[float | None, ...]
    mean: float | None
    resampled: str | None
    less_local_only: tuple[float, float | None] | None = None
    """Mean AUROC less that of the site's own model, and the standard error of the difference."""


class SiteFigures(_Strict):
    """A site's test films and what models reach on them."""

    fingerprint: str
    training_films: int
    films: int
    patients: int
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    counted: tuple[bool, ...]
    models: dict[str, ModelFigures]
    shortcuts: dict[str, tuple[float | None, ...]]
    """What needs no medicine, such as the film's mean grey → its AUROC for each finding; None: it tells nothing."""
    delivered: str | None = None
    """Which of the models the site has in the end."""
    unlabelled: dict[str, dict[str, float]] = {}
    """Finding that the hospital does not label → model → AUROC, of synthetic hospitals, whose truth is known."""

    def model(self, name: str) -> ModelFigures | None:
        """A model's figures, or those of the one `delivered`; None where it was not measured."""
        return self.models.get(self.delivered or "" if name == DELIVERED else name)

    def measured(self, model: str) -> Measured | None:
        """The model's mean AUROC with its resampled values; None where it has none."""
        figures = self.model(model)
        if figures is None or figures.mean is None or figures.resampled is None:
            return None
        return Measured(figures.mean, unpack(figures.resampled))

    @property
    def tested(self) -> tuple[object, ...]:
        """What is the same where two models were measured on the same films."""
        return self.films, self.patients, self.positives, self.negatives, self.counted


class Code(_Strict):
    """Which code made a cell: git's commit (None without git), and whether its files were as committed."""

    commit: str | None
    clean: bool


class CellFile(_Strict):
    """What stands in `RESULTS/EXPERIMENT/VARIANT-SEED.json`."""

    experiment: str
    kind: Kind = "federation"
    variant: str
    seed: int
    least_patients: int
    digest: str
    """Of the settings that are not at their defaults: see `digest`."""
    settings: dict[str, Any]
    """All of them, by which a default that has changed since is noticed."""
    files: dict[str, str]
    """Path of a file named by the settings → its SHA-256."""
    code: Code
    software: dict[str, str]
    cores: int
    seconds: float
    findings: tuple[str, ...]
    sites: dict[str, SiteFigures]


class Standing(NamedTuple):
    """Whether a cell is done; `why` says which settings a stale one was made with others of."""

    state: Literal["done", "missing", "stale"]
    file: CellFile | None = None
    why: str = ""


class DamagedCellError(RuntimeError):
    """A cell's file is none."""


def cell_path(results: Path, experiment: str, variant: str, seed: int) -> Path:
    """Where a cell's file lies."""
    return results / experiment / f"{variant}-{seed}.json"


def write_cell(results: Path, file: CellFile) -> None:
    """Write a finished cell, atomically."""
    path = cell_path(results, file.experiment, file.variant, file.seed)
    write_text_atomically(path, _text(file.model_dump(mode="json", exclude_defaults=True)) + "\n")


def read_cell(path: Path) -> CellFile | None:
    """A cell's file, or None where there is none.

    Raises:
        DamagedCellError: it cannot be read as one.
    """
    try:
        return CellFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamagedCellError(
            f"{path}: expected a cell as `python -m simulations.tables` writes it; remove it, and the cell is run "
            f"again: {error}"
        ) from None


def standing(results: Path, experiment: Experiment, cell: Cell) -> Standing:
    """Whether the cell has a file that was made with the present settings.

    A key that is new in the schema and at its default is no difference; a default that is another one now is.

    Raises:
        DamagedCellError: its file cannot be read.
    """
    file = read_cell(cell_path(results, experiment.name, cell.variant, cell.seed))
    if file is None:
        return Standing("missing")
    folder = experiment.path.absolute().parent
    before, now = dict(_leaves(file.settings)), dict(_leaves(settings_of(cell.config, folder)))
    changed = {key for key in before.keys() & now.keys() if before[key] != now[key]}
    if file.digest != digest(cell.config, folder) and not changed:
        changed = before.keys() ^ now.keys()
    for key in ("kind", "least_patients"):
        if getattr(file, key) != getattr(experiment.settings, key):
            changed |= {key}
    named = files_of(cell.config, folder)
    changed |= {path for path, seal in named.items() if file.files.get(path, seal) != seal}
    return Standing("stale", file, ", ".join(sorted(changed))) if changed else Standing("done", file)


def digest(config: SimulationConfig, folder: Path) -> str:
    """Of what the figures depend on, as far as it is not at its default, in 16 hexadecimal digits.

    Args:
        folder: from which paths are told.
    """
    settings = _told_from(folder, _that_matter(config.model_dump(exclude_defaults=True)))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def settings_of(config: SimulationConfig, folder: Path) -> dict[str, Any]:
    """All that the figures depend on, JSON-ready; paths are told from `folder`."""
    told: dict[str, Any] = _told_from(folder, _that_matter(config.model_dump()))
    return told


def files_of(config: SimulationConfig, folder: Path) -> dict[str, str]:
    """Path, told from `folder`, → SHA-256 of every file that the settings name and that is there."""
    paths = (value for _, value in _leaves(_that_matter(config.model_dump())) if isinstance(value, Path))
    return {_told_from(folder, path): file_sha256(path) for path in paths if path.is_file()}


def code() -> Code:
    """The code that runs here."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return Code(commit=commit, clean=not _git("status", "--porcelain", "--", *_CODE).strip())
    except (OSError, subprocess.CalledProcessError):
        return Code(commit=None, clean=False)


def made_by() -> dict[str, Any]:
    """The parts of a cell's file that say what made it."""
    return {"code": code(), "software": software(), "cores": len(os.sched_getaffinity(0))}


def _text(value: Any, indent: str = "") -> str:
    """JSON with a line a key, but lists of numbers in one."""
    if isinstance(value, dict) and value:
        inner = f"{indent} "
        rows = (
            f"{inner}{json.dumps(key, ensure_ascii=False)}: {_text(item, inner)}"
            for key, item in value.items()
        )
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    return json.dumps(value, ensure_ascii=False)


def _git(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603  # arguments of our own
        ["git", *arguments],  # noqa: S607
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _that_matter(settings: dict[str, Any]) -> dict[str, Any]:
    for *sections, key in _NO_MATTER:
        section = settings
        for name in sections:
            section = section.get(name, {})
        section.pop(key, None)
    return settings


def _told_from(folder: Path, value: Any) -> Any:
    """The value with paths as text, such as `../../shared/films`: the same on every machine that is laid out so."""
    if isinstance(value, Path):
        return Path(os.path.relpath(value, folder)).as_posix()
    if isinstance(value, Mapping):
        return {key: _told_from(folder, item) for key, item in value.items()}
    return [_told_from(folder, item) for item in value] if isinstance(value, list | tuple) else value


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """`section.key` → value, of everything that is neither a mapping nor a list."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, item in items:
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
