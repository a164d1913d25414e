"""A site's file as text, with comments for the person who looks it over."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from acm_core.config.site import LabelMap

_WIDTH = 100
_EXPLAINED = ("patient_pattern", "image_suffix", "columns", "list_column", "list_findings")


def site_file_text(
    site: str,
    paths: Mapping[str, Path],
    label_map: Mapping[str, Any],
    comments: Sequence[str],
    to_decide: Sequence[str],
) -> str:
    """The file's text.

    Args:
        paths: films, labels and state.
        comments: sentences for the head of the file.
        to_decide: what a person has to decide.
    """
    lines = [
        f"# Site {site}, proposed by client.preflight --propose. Look it over; then run preflight without it.",
        "#",
        *_comments(comments),
        *(["#", "# To decide:"] if to_decide else []),
        *_comments(f"- {text}" for text in to_decide),
        "",
        entry("site", site),
        entry("films", str(paths["films"])),
        entry("labels", str(paths["labels"])),
        "# Salt, manifest, prepared films, models of the site: on a disk with room, and closed to others.",
        entry("state", str(paths["state"])),
        "label_map:",
    ]
    for key, about in LabelMap.model_fields.items():
        if key in label_map:
            lines += [f"  # {about.description}"] if key in _EXPLAINED else []
            lines += [f"  {line}" for line in entry(key, label_map[key]).splitlines()]
    return "\n".join(lines) + "\n"


def entry(key: str, value: object) -> str:
    """A line of YAML, or several where a list is long."""
    written = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=_WIDTH, sort_keys=False
    )
    return f"{key}: " + written.removesuffix("...\n").strip().replace("\n", "\n  ")


def _comments(texts: Iterable[str]) -> list[str]:
    lines = []
    for text in texts:
        printable = "".join(letter if letter.isprintable() else " " for letter in text)
        sentence = f"{printable[0].upper()}{printable[1:]}"
        lines += textwrap.wrap(sentence, _WIDTH, initial_indent="# ", subsequent_indent="#   ")
    return lines
