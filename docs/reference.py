"""`python docs/reference.py`: writes docs/REFERENCE.md, every command and every key of every file, from the code."""

from __future__ import annotations

import argparse
import ast
import builtins
import functools
import importlib
import inspect
import json
from collections.abc import Collection, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from annotated_types import MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from acm_core.audit_events import AnyEvent
from acm_core.config.explanation import expected
from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig, SitePrivacy
from acm_core.federated.messages import Reply
from acm_core.federated.report import SiteReport
from client.round.release import noised_model, released
from simulations.phantoms.scanner import SCANNERS, Scanner
from simulations.settings import SimulationSection
from simulations.tables.experiment import ExperimentConfig

COMMANDS = (
    "server.init",
    "server.doctor",
    "server.approve",
    "server.remove",
    "server.roster",
    "server.run",
    "server.report",
    "server.export",
    "server.audit",
    "client.enrol",
    "client.roster",
    "client.doctor",
    "client.preflight",
    "client.run",
    "client.predict",
    "client.explain",
    "client.adapt",
    "client.export",
    "client.privacy",
    "client.audit",
    "client.audit verify",  # what reads the log has a parser of its own
    "simulations.run",
    "simulations.pretrain",
    "simulations.expected_accuracy",
    "simulations.tables",
    "simulations.pointing",
    "simulations.comparing",
    "simulations.benchmark",
)
FILES: tuple[tuple[str, str, type[BaseModel], str], ...] = (
    ("The federation file", "configs/federation.yaml; the same for every site", FederationConfig, ""),
    ("A site's file", "configs/sites/NAME.yaml; it never leaves the site", SiteConfig, ""),
    (
        "A simulation's file",
        "configs/demo.yaml: a federation file, and these keys besides",
        SimulationSection,
        "simulation.",
    ),
    ("An experiment's file", "configs/experiments/NAME.yaml", ExperimentConfig, ""),
)
NAMED: dict[type[BaseModel], Collection[str]] = {Scanner: SCANNERS}
"""Sections that a file may also give by name."""
_WIDTH = 108


def reference() -> str:
    """The page's text."""
    lines = [
        "# Every command and every key",
        "",
        "Written from the code by `python docs/reference.py`; a test compares it with the code.",
        "",
        "## Commands",
    ]
    for command, parser in parsers().items():
        lines += ["", f"### {command}", "", "```", _help(parser), "```"]
    lines += [
        "",
        "## The rows of an audit log",
        "",
        "What `--kind` of `server.audit show` and `client.audit show` takes.",
        "",
        "| kind | fields | meaning |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{kind}` | {fields} | {meaning} |" for kind, fields, meaning in _events()]
    for title, where, kind, prefix in FILES:
        lines += [
            "",
            f"## {title}",
            "",
            f"{where}.",
            "",
            "| key | value | default | meaning |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| `{prefix}{key}` | {value} | {default} | {meaning} |"
            for key, value, default, meaning in _rows(kind, "")
        ]
    lines += [
        "",
        "## The errors",
        "",
        "Every exception that a caller may meet, below what it is a kind of.",
        "",
        *errors(Path(__file__).parents[1]),
    ]
    return "\n".join(lines) + "\n"


PACKAGES = ("acm_core", "client", "server", "simulations")


def errors(folder: Path) -> list[str]:
    """The tree of the public exceptions of the packages that lie in `folder`, read from their sources."""
    classes = {
        node.name: (".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"), node)
        for package in PACKAGES
        for path in sorted((folder / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.bases and not node.name.startswith("_")
    }

    def below(base: str, depth: int) -> Iterator[str]:
        for name, (module, node) in sorted(classes.items()):
            if base in map(ast.unparse, node.bases):
                meaning = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
                yield f"{'  ' * depth}- `{name}` ({module}): {meaning}"
                yield from below(name, depth + 1)

    kinds = [name for name, kind in vars(builtins).items() if _is_exception(kind)]
    trees = {kind: list(below(kind, 1)) for kind in sorted(kinds)}
    return [line for kind, tree in trees.items() if tree for line in (f"- `{kind}`", *tree)]


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


class _BuiltError(Exception):
    """The parser is made; nothing of the command is done."""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command and sub-command."""
    found: dict[str, argparse.ArgumentParser] = {}
    for command in COMMANDS:
        for parser in _family(_parser(command)):
            found.setdefault(parser.prog.removeprefix("python -m "), parser)
    return found


def _family(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, then those of its sub-commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _family(below)


def _parser(command: str) -> argparse.ArgumentParser:
    """The parser that a command makes."""
    name, *words = command.split()
    module = importlib.import_module(name)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{name}.__main__")

    def stop(parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _BuiltError(parser)

    before = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = stop  # type: ignore[method-assign, assignment]
    try:
        module.main(words)
    except _BuiltError as built:
        parser: argparse.ArgumentParser = built.args[0]
        return parser
    finally:
        argparse.ArgumentParser.parse_args = before  # type: ignore[method-assign]
    raise ValueError(f"expected {name} to read options")


def _help(parser: argparse.ArgumentParser) -> str:
    """What --help says, folded to a fixed width."""
    parser.formatter_class = functools.partial(argparse.HelpFormatter, width=_WIDTH)
    return parser.format_help().rstrip()


def _events() -> Iterator[tuple[str, str, str]]:
    """Kind, fields and meaning of every row that an audit log can have."""
    for event in get_args(AnyEvent):
        fields = [f"`{name}`" for name in event.model_fields if name != "kind"]
        yield event.model_fields["kind"].default, ", ".join(fields), _summary(event)


def _summary(section: type[BaseModel]) -> str:
    """The first paragraph of its docstring."""
    return _cell(inspect.cleandoc(section.__doc__ or "").partition("\n\n")[0])


def _rows(kind: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, what it takes, its default and what it means, those of sections under the section's name."""
    for name, field in kind.model_fields.items():
        key = prefix + name
        section = _section(field.annotation)
        if section is not None and get_origin(_without_none(field.annotation)) is None:
            if section in NAMED or (not field.is_required() and field.default is None) or "privacy" in key:
                meaning = field.description or _summary(section)
                yield key, _section_text(section), _default(field), _cell(meaning)
            yield from _rows(section, f"{key}.")
            continue
        annotation: Any = field.annotation
        if field.metadata:
            annotation = Annotated[(annotation, *field.metadata)]
        yield key, _cell(expected(annotation)), _default(field), _cell(field.description or "")
        if section is not None:
            alone = get_origin(_without_none(field.annotation)) is Union  # one of several things
            yield from _rows(section, f"{key}." if alone else f"{key}[].")


def _section_text(section: type[BaseModel]) -> str:
    names = NAMED.get(section)
    return f"one of {', '.join(names)}, or a section, see below" if names else "a section, see below"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation holds, alone or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = [section for part in get_args(annotation) if (section := _section(part)) is not None]
    return found[0] if found else None


def _without_none(annotation: Any) -> Any:
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return parts[0] if len(parts) == 1 and type(None) in get_args(annotation) else annotation


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple | list | dict | Path | str):
        return f"`{_cell(_plain(value))}`"
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def _plain(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value) or '""'


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# What leaves a private run, for docs/PRIVACY.md.

_SETTINGS = {  # column → (counts, metrics)
    "withheld": ("withheld", "withheld"),
    "noised": ("withheld", "noised"),
    "coarsened": ("coarsened", "coarsened"),
    "exact figures": ("withheld", "exact"),
    "all exact": ("exact", "exact"),
}
LEAVES_BEGIN, LEAVES_END = "<!-- python docs/reference.py writes from here -->", "<!-- to here -->"


def leaves() -> str:
    """Every field of a site's reply and of the report in it, and what becomes of it by `counts` and `metrics`."""
    lines = ["| in a reply | |", "| --- | --- |"]
    lines += [f"| `{name}` | {_cell(what)} |" for name, what in _attributes(Reply)]
    lines += ["", f"| in its report | {' | '.join(_SETTINGS)} |", f"| --- |{' --- |' * len(_SETTINGS)}"]
    whole = SiteReport.model_validate_json(json.dumps({**_example(SiteReport), "fingerprint": "0a" * 32}))
    kept = {name: dict(_leaves(_released(whole, *how))) for name, how in _SETTINGS.items()}
    for path, value in _leaves(whole.model_dump(mode="json")):
        cells = [_fate(value, of_setting.get(path)) for of_setting in kept.values()]
        line = f"| `{_field(path)}` | {' | '.join(cells)} |"
        if line not in lines and path not in ("metrics", "counts"):  # they say which setting it is
            lines.append(line)
    return "\n".join(lines)


def _field(path: str) -> str:
    """A path without what every one has, and short of details that leave together or not at all."""
    path = path.replace("models.federated.findings.FINDING.", "a finding's ").replace("models.federated.", "")
    path = path.replace(".grey.FINDING.", ".").replace("margins.federated", "margins")
    for detail in ("operating_points", "calibration", "histogram", "subgroups", "set_aside"):
        if detail in path:
            return path[: path.index(detail) + len(detail)]
    stem, _, last = path.rpartition(".")
    if last == "value":
        return stem
    if last == "dropped":
        return f"{stem}, resamples without both classes"
    return f"{stem}, its interval" if last in ("low", "high", "standard_error") else path


def _released(report: SiteReport, counts: str, metrics: str) -> dict[str, Any]:
    policy = SitePrivacy.model_validate({"epsilon": 1, "population": 1, "counts": counts, "metrics": metrics})
    kept = released(report, policy)
    if metrics == "noised":
        kept = kept.model_copy(update={"models": {"federated": noised_model({"FINDING": 0.81234})}})
    return kept.model_dump(mode="json")


def _fate(before: Any, after: Any) -> str:
    if after is None or (before == 123 and after == 0):
        return "–"
    return "yes" if after == before else "changed"


def _attributes(message: type[Any]) -> Iterator[tuple[str, str]]:
    """Name and meaning of each attribute, from the docstring."""
    text = inspect.getdoc(message) or ""
    for line in text.partition("Attributes:\n")[2].splitlines():
        name, _, meaning = line.strip().partition(": ")
        yield name, meaning


def _example(kind: Any) -> Any:
    """A value of this kind with every field in it, ready for JSON."""
    kind = _without_none(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        value, rules = _example(arguments[0]), [*arguments[1:], *getattr(arguments[1], "metadata", ())]
        fewest = [rule.min_length for rule in rules if isinstance(rule, MinLen)]
        return value * fewest[0] if fewest and isinstance(value, list) else value
    if is_dataclass(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        hints = get_type_hints(kind, include_extras=True)
        return {name: _example(hint) for name, hint in hints.items() if get_origin(hint) is not ClassVar}
    if origin is dict:
        key = "FINDING" if _without_none(arguments[0]) is str else _example(arguments[0])
        return {key: _example(arguments[1])}
    if origin is tuple:
        return [_example(argument) for argument in arguments if argument is not Ellipsis]
    if origin is Literal:
        return arguments[0]
    return {int: 123, float: 0.81234, bool: True}.get(kind, "code")


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    elif isinstance(values, list):
        for value in values:
            yield from _leaves(value, f"{path}[]")
    else:
        yield path, values


def with_leaves(page: str) -> str:
    """A page whose marked part is what `leaves` says."""
    before, begin, rest = page.partition(LEAVES_BEGIN)
    _, end, after = rest.partition(LEAVES_END)
    if not (begin and end):
        raise ValueError(f"expected {LEAVES_BEGIN} and {LEAVES_END} in the page")
    return f"{before}{begin}\n\n{leaves()}\n\n{end}{after}"


def main() -> None:
    """Write the pages."""
    folder = Path(__file__).parent
    (folder / "REFERENCE.md").write_text(reference(), encoding="utf-8")
    privacy = folder / "PRIVACY.md"
    privacy.write_text(with_leaves(privacy.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
