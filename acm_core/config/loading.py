"""Configuration files: YAML in, a validated and frozen Section out, or every problem of the file in one message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from acm_core.config.explanation import explain, nearest
from acm_core.config.section import Section
from acm_core.config.yaml_lines import Dumper, LocatedData, Problem

MAX_BYTES = 64 * 1024
"""Largest file that is read: a federation of some thousand sites takes a quarter of it."""

_SHOWN_KEY = 60

S = TypeVar("S", bound=Section)


class ConfigError(ValueError):
    """A configuration file that cannot be used.

    The text has one row a problem: `configs/demo.yaml:12: model.contxt: unknown key; did you mean
    'context'?`.
    """

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(_row(path, problem) for problem in self.problems))


def load_config(path: str | Path, kind: type[S]) -> S:
    """Read a `kind` from a YAML file; relative paths in it are taken from the file's own folder.

    Types are strict: 1.5 is no integer, true is no number, and text that looks like a number needs quotes.

    Raises:
        ConfigError: the file cannot be read, is no YAML mapping, or does not validate; all problems at once.
    """
    path = Path(path)
    document = LocatedData(_read(path))
    if document.empty:
        raise ConfigError(path, document.problems)
    problems = list(document.problems)
    try:
        # As JSON, because strict types then mean those of a text format: a list is a tuple, text a path.
        config = kind.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        problems += [
            Problem(document.line(location), location, message)
            for location, message in explain(error, kind)
            if location not in document.lost
        ]
        raise ConfigError(path, problems) from None
    if problems:
        raise ConfigError(path, problems)
    return with_paths_from(path.absolute().parent, config)


def dump_config(config: Section) -> str:
    """The whole configuration as YAML, defaults written out; `load_config` reads it back."""
    return str(yaml.dump(config.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(path, f"expected a file, got none of that name{_nearest_file(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a file name"
        raise _unreadable(path, f"expected a readable file: {reason}") from None
    if len(content) > MAX_BYTES:
        raise _unreadable(path, f"expected at most {MAX_BYTES} bytes, got more")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem(line, (), f"expected UTF-8 text, got the byte 0x{content[error.start]:02x}")
        raise ConfigError(path, [problem]) from None


def _unreadable(path: Path, message: str) -> ConfigError:
    return ConfigError(path, [Problem(None, (), message)])


def _nearest_file(path: Path) -> str:
    try:
        names = [file.name for file in path.parent.iterdir() if file.is_file()]
    except OSError:
        return f"; there is no folder {path.parent} either"
    return nearest(path.name, names)


def with_paths_from(folder: Path, section: S) -> S:
    """The section with its relative paths taken from `folder`."""
    moved = {name: _moved(folder, getattr(section, name)) for name in type(section).model_fields}
    return section.model_copy(update=moved)


def _moved(folder: Path, value: object) -> object:
    if isinstance(value, Path):
        with suppress(RuntimeError):  # of a user without a home
            value = value.expanduser()
        return value if value.is_absolute() else (folder / value).resolve()
    if isinstance(value, Section):
        return with_paths_from(folder, value)
    if isinstance(value, dict):
        return {key: _moved(folder, item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_moved(folder, item) for item in value)
    return value


def _row(path: Path, problem: Problem) -> str:
    place = f"{path}:{problem.line}" if problem.line else str(path)
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{_shown(step)}" for step in problem.location)
    return ": ".join(part for part in (place, key.removeprefix("."), problem.message) if part)


def _shown(key: str) -> str:
    return key if key.isprintable() and len(key) <= _SHOWN_KEY else repr(key)[:_SHOWN_KEY] + "…"
