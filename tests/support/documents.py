"""What the documentation tells people to type, taken out of its Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        REPOSITORY / "README.md",
        REPOSITORY / "CONTRIBUTING.md",
        *(path for path in (REPOSITORY / "docs").rglob("*.md") if path.name != "REFERENCE.md"),
    ]
)

_FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(python -m [^`]+)`")
_COMMENT = re.compile(r"(^|\s)#\s.*$")
_HERE_DOCUMENT = re.compile(r"^(.*)<<'(\w+)'\n.*?^\2$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block; `language` is "" where the fence names none."""

    language: str
    text: str


def blocks(document: Path, *languages: str) -> list[Block]:
    """The fenced blocks of these languages, in their order."""
    found = (
        Block(language, text) for language, text in _FENCED.findall(document.read_text(encoding="utf-8"))
    )
    return [block for block in found if block.language in languages]


def lines(block: Block) -> list[str]:
    """The commands of a shell block, one each, without comments and without what a here-document holds."""
    text = _HERE_DOCUMENT.sub(r"\1", block.text.replace("\\\n", " "))
    found = (_COMMENT.sub("", line).strip() for line in text.splitlines())
    return [line for line in found if line]


def commands(document: Path) -> list[str]:
    """Every command of the shell blocks, and every `python -m …` in the text."""
    prose = _FENCED.sub("", document.read_text(encoding="utf-8"))
    inline = [" ".join(text.split()) for text in _INLINE.findall(prose)]
    return [line for block in blocks(document, "", "sh") for line in lines(block)] + inline
