"""YAML text as plain data plus the line that each value came from, for messages a person can act on.

Scalars follow the YAML 1.2 core schema, so that a site named NO is not a boolean and 1e-3 is a number (both
differ in the YAML 1.1 that PyYAML implements). Values that no configuration needs and that hide mistakes or
attacks are refused: duplicate keys, aliases (a few lines of them expand to gigabytes), tags and deep nesting.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import yaml

Location = tuple[str | int, ...]
"""Keys and list indices from the top of the file to a value."""

_MAX_DEPTH = 50
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": (re.compile(r"~|null|Null|NULL|"), "~nN"),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    "int": (re.compile(r"[-+]?[0-9]{1,18}"), "-+0123456789"),
    "float": (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), "-+.0123456789"),
}


@dataclass(frozen=True)
class Problem:
    """One thing to mend in a configuration file."""

    line: int | None
    location: Location
    message: str


class LocatedData:
    """One YAML document.

    Attributes:
        data: None, bool, int, float, str, list and dict; None where a value had to be refused.
        empty: there is no data, for a reason among the problems.
        problems: what was refused.
        lost: locations of refused values.
    """

    def __init__(self, text: str) -> None:
        self.data: Any = None
        self.empty = True
        self.problems: list[Problem] = []
        self.lost: set[Location] = set()
        self._lines: dict[Location, int] = {}
        try:
            node = _Loader(text).get_single_node()
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self._lose(line, (), f"expected printable text, got the character {error.character!r}")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._lose(
                mark.line + 1 if mark else 1, (), f"expected valid YAML: {error.problem or error.context}"
            )
        except (yaml.YAMLError, ValueError, OverflowError):
            # PyYAML lets chr() and int() fail on an escape or a directive out of range, without a position.
            self._lose(1, (), "expected valid YAML: an escape or a directive is out of range")
        else:
            if node is None:
                self._lose(1, (), "expected keys and values, got an empty file")
            else:
                self.empty = False
                self._lines[()] = node.start_mark.line + 1
                self.data = self._value(node, ())

    def line(self, location: Location) -> int:
        """The line of a value, or of the nearest one around it that the file holds."""
        while location not in self._lines and location:
            location = location[:-1]
        return self._lines.get(location, 1)

    def holds(self, location: Location) -> bool:
        """Whether the file has a value there."""
        return location in self._lines

    def _lose(self, line: int, location: Location, message: str) -> None:
        self.problems.append(Problem(line, location, message))
        self.lost.add(location)

    def _value(self, node: yaml.Node, location: Location) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            items = []
            for index, item in enumerate(node.value):
                self._lines[(*location, index)] = item.start_mark.line + 1
                items.append(self._value(item, (*location, index)))
            return items
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, location)
        self._lose(node.start_mark.line + 1, location, f"expected no tag, got {str(node.tag)[:40]!r}")
        return None

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or not _is_text(key_node.value):
                self._lose(line, location, "expected text as a key")
                continue
            key = key_node.value
            if key in mapping:
                first = self._lines[(*location, key)]
                message = f"duplicate key: it stands in line {first} already"
                self.problems.append(Problem(line, (*location, key), message))
                continue
            self._lines[(*location, key)] = line
            mapping[key] = self._value(value_node, (*location, key))
        return mapping

    def _scalar(self, node: yaml.ScalarNode, location: Location) -> Any:
        text, kind, line = node.value, node.tag.removeprefix(_TAG), node.start_mark.line + 1
        if kind != "str" and (kind not in _SCALARS or not _SCALARS[kind][0].fullmatch(text)):
            self._lose(line, location, f"expected no tag, got {str(node.tag)[:40]!r}")
            return None
        if not _is_text(text):
            self._lose(line, location, "expected text, got a NUL or half a surrogate pair in it")
            return None
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text)
            case "float" if math.isfinite(float(text)):
                return float(text)
        return text


def _is_text(text: str) -> bool:
    """Neither a NUL, which no path may hold, nor half a surrogate pair, which no file may."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


class _Loader(yaml.SafeLoader):
    """Composes nodes only; nothing is constructed, so no tag can run anything."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        if isinstance(event, yaml.AliasEvent):
            raise _refused("an alias is not supported, write the value out", event)
        if self._depth == _MAX_DEPTH:
            raise _refused(f"it is nested more than {_MAX_DEPTH} deep", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _refused(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)  # type: ignore[arg-type]  # C or Python


class Dumper(yaml.SafeDumper):
    """Quotes text that a YAML 1.1 or a YAML 1.2 reader would take for something else."""

    def represent_text(self, text: str) -> yaml.Node:
        """Escape what does not print: PyYAML would fold some of it (U+0085) into a space when it reads it back."""
        return self.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


Dumper.add_representer(str, Dumper.represent_text)
for _name, (_pattern, _first) in _SCALARS.items():
    _whole = re.compile(f"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(_TAG + _name, _whole, [*_first, *([""] if _name == "null" else [])])
    Dumper.add_implicit_resolver(_TAG + _name, _whole, list(_first))
