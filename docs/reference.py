"""`python docs/reference.py`: writes docs/REFERENCE.md, every command and every key of every file, from the code."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from acm_core.config.explanation import expected
from acm_core.config.sections import FederationConfig, SiteConfig
from simulations.settings import SimulationSection

COMMANDS = (
    "server.init",
    "server.approve",
    "server.remove",
    "server.run",
    "server.report",
    "server.export",
    "server.audit",
    "client.enrol",
    "client.doctor",
    "client.preflight",
    "client.run",
    "client.predict",
    "client.explain",
    "client.privacy",
    "client.audit",
    "simulations.run",
    "simulations.compare",
    "simulations.pointing",
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
)
_WIDTH = "110"


def reference() -> str:
    """The page's text."""
    lines = [
        "# Every command and every key",
        "",
        "Written from the code by `python docs/reference.py`; a test compares it with the code.",
        "",
        "## Commands",
    ]
    for command in COMMANDS:
        lines += ["", f"### {command}", "", "```", _help(command).rstrip(), "```"]
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
    return "\n".join(lines) + "\n"


def _help(command: str) -> str:
    """What --help says, folded to a fixed width."""
    module = importlib.import_module(command)
    if not hasattr(module, "main"):
        module = importlib.import_module(f"{command}.__main__")
    text, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            module.main(["--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return text.getvalue()


def _rows(kind: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, what it takes, its default and what it means, those of sections under the section's name."""
    for name, field in kind.model_fields.items():
        key = prefix + name
        section = _section(field.annotation)
        if section is not None and get_origin(_without_none(field.annotation)) is None:
            if (not field.is_required() and field.default is None) or "privacy" in key:
                yield key, "a section, see below", _default(field), _cell(field.description or "")
            yield from _rows(section, f"{key}.")
            continue
        annotation: Any = field.annotation
        if field.metadata:
            annotation = Annotated[(annotation, *field.metadata)]
        yield key, _cell(expected(annotation)), _default(field), _cell(field.description or "")
        if section is not None:
            yield from _rows(section, f"{key}[].")


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


def main() -> None:
    """Write the page."""
    (Path(__file__).parent / "REFERENCE.md").write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
