"""The server's pages: templates, and what they have in common."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def pages() -> Environment:
    """The templates of this folder; what is put into them cannot write HTML, and what is missing is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
