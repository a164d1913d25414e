"""What a failed validation means for the person who wrote the file: expected, got, and the nearest valid name."""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from acm_core.config.yaml_lines import Location

_TYPES = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}
_LIMITS = (
    ("ge", "≥"),
    ("gt", ">"),
    ("le", "≤"),
    ("lt", "<"),
    ("min_length", "of length ≥"),
    ("max_length", "of length ≤"),
    ("pattern", "that matches"),
)
_SHOWN = 60


def explain(error: ValidationError, kind: type[BaseModel]) -> list[tuple[Location, str]]:
    """Location and message of each problem."""
    details = error.errors(include_url=False)
    return [
        (_found(kind, detail["loc"])[0], _message(detail, kind))
        for detail in details
        if not _follows_from_another(detail, details)
    ]


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'name'?` or nothing."""
    known = list(names)
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[close[0]]!r}?" if close else ""


def _follows_from_another(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """A list is also reported as too short when one of its items is wrong."""
    depth = len(detail["loc"])
    return detail["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == detail["loc"] for other in details
    )


def _message(detail: ErrorDetails, kind: type[BaseModel]) -> str:
    location, got = detail["loc"], detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            names = _keys(_annotation(kind, location[:-1]))
            return "unknown key" + (
                nearest(str(location[-1]), names) or f"; expected one of {', '.join(names)}"
            )
        case "missing":
            return f"missing; expected {expected(_annotation(kind, location))}"
        case "value_error":
            return detail["msg"].removeprefix("Value error, ")
    annotation = _annotation(kind, location)
    message = f"expected {expected(annotation)}, got {_shown(got)}"
    if detail["type"] == "literal_error" and isinstance(got, str):
        return message + nearest(got, [str(choice) for choice in get_args(_bare(annotation))])
    if detail["type"] == "string_type" and isinstance(got, int | float):
        return message + "; put it in quotes"
    return message


def _annotation(kind: type[BaseModel], location: Location) -> Any:
    """The annotation of the value at `location`, its constraints included."""
    return _found(kind, location)[1]


def _found(kind: type[BaseModel], location: Location) -> tuple[Location, Any]:
    """A location as the file has it, without pydantic's tags of a union's options, and the annotation there."""
    annotation: Any = kind
    steps: list[str | int] = []
    for step in location:
        if (option := _tagged(annotation, step)) is not None:
            annotation = option
            continue
        steps.append(step)
        bare = _bare(annotation)
        if isinstance(bare, type) and issubclass(bare, BaseModel):
            field = bare.model_fields.get(str(step))
            if field is None:  # an unknown key
                annotation = None
                continue
            annotation = field.annotation
            if field.metadata:
                annotation = Annotated[(annotation, *field.metadata)]
        elif get_origin(bare) in (tuple, list):
            annotation = get_args(bare)[0]
        elif get_origin(bare) is dict:
            annotation = get_args(bare)[1]
    return tuple(steps), annotation


def _tagged(annotation: Any, tag: str | int) -> Any:
    """The option of a union that has this tag, or None."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, types.UnionType):
        return None
    for option in get_args(annotation):
        if get_origin(option) is Annotated and Tag(str(tag)) in get_args(option)[1:]:
            return get_args(option)[0]
    return None


def _bare(annotation: Any) -> Any:
    """Without constraints and without `| None`."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _bare(next(option for option in get_args(annotation) if option is not type(None)))
    return annotation


def _keys(annotation: Any) -> list[str]:
    bare = _bare(annotation)
    return list(bare.model_fields) if isinstance(bare, type) and issubclass(bare, BaseModel) else []


def expected(annotation: Any) -> str:
    """What a value of this type looks like in a file, in words."""
    if get_origin(annotation) is Annotated:
        base, *constraints = get_args(annotation)
        limits = [limit for constraint in constraints for limit in _limits(constraint)]
        return " ".join([expected(base), " and ".join(limits)]).rstrip()
    if get_origin(annotation) in (Union, types.UnionType):
        options = [option for option in get_args(annotation) if option is not type(None)]
        return " or ".join([*map(expected, options), *(["null"] * (type(None) in get_args(annotation)))])
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(annotation))
    if get_origin(annotation) in (tuple, list):
        return "a list"
    if keys := _keys(annotation):
        return "a mapping with the keys " + ", ".join(keys)
    return "a mapping" if get_origin(annotation) is dict else _TYPES.get(annotation, str(annotation))


def _limits(constraint: Any) -> list[str]:
    parts = getattr(constraint, "metadata", [constraint])  # a Field(...) inside Annotated holds several
    values = [(text, getattr(part, name, None)) for part in parts for name, text in _LIMITS]
    return [f"{text} {value}" for text, value in values if value is not None]


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return ("a mapping" if isinstance(value, dict) else "a list") + ("" if value else " without entries")
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
