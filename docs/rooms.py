"""`python docs/rooms.py`: draws docs/rooms.svg: the rooms of the code by their own first lines."""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = Path(__file__).with_name("rooms.svg")
_WIDTH, _MARGIN, _GAP = 1200, 20, 10
_LINE, _TITLE, _PAD = 14, 18, 8
_COLOURS = {"simulations": "#f3e9d8", "server": "#dce9f5", "client": "#dff0e2", "acm_core": "#eee8f5"}
_LETTERS_A_PIXEL = 1 / 6.7
_RULE = (
    "A house uses those below it. In acm_core a row uses the rows below it, and no room uses its neighbour."
)


@dataclass(frozen=True)
class Room:
    """A package or a module.

    Attributes:
        name: as it is imported, below its house.
        says: the first sentence of its docstring.
    """

    name: str
    says: str


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(drawing(), encoding="utf-8")


def drawing() -> str:
    """The picture as it is to be."""
    parts: list[str] = []
    y = _MARGIN
    inner = _WIDTH - 2 * _MARGIN
    y = _house(parts, "simulations", [rooms("simulations")], _MARGIN, y, inner, columns=4) + 2 * _GAP
    half = (inner - 2 * _GAP) // 2
    left = _house(parts, "server", [rooms("server")], _MARGIN, y, half, columns=2)
    right = _house(parts, "client", [rooms("client")], _MARGIN + half + 2 * _GAP, y, half, columns=2)
    y = max(left, right) + 2 * _GAP
    y = _house(parts, "acm_core", layers(), _MARGIN, y, inner, columns=5) + _TITLE
    parts.append(f'<text x="{_MARGIN}" y="{y}" font-size="13">{_RULE}</text>')
    y += _MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" '
        'font-family="Helvetica, Arial, sans-serif" role="img" aria-label="The rooms of the code">'
    )
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>', *parts, "</svg>", ""])


def rooms(house: str) -> list[Room]:
    """The packages of a house; its modules are commands, and stand in one room with their names."""
    folder = ROOT / house
    commands = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))
    packages = [
        Room(path.parent.name, _says(path) or _says(path.with_name("__main__.py")))
        for path in sorted(folder.glob("*/__init__.py"))
    ]
    return [Room("commands and applications", ", ".join(commands)), *packages]


def layers() -> list[list[Room]]:
    """The layers of acm_core, the highest first, as the contract in pyproject.toml has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (
        contract
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract.get("containers") == ["acm_core"]
    )
    return [[_room(name.strip()) for name in layer.split("|")] for layer in contract["layers"]]


def _room(name: str) -> Room:
    module = ROOT / "acm_core" / f"{name}.py"
    return Room(name, _says(module if module.exists() else ROOT / "acm_core" / name / "__init__.py"))


def _says(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    return " ".join((text or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".").replace("`", "")


def _house(
    parts: list[str], name: str, rows: list[list[Room]], x: int, y: int, width: int, columns: int
) -> int:
    """Draw a house; returns where it ends."""
    start, place = len(parts), y + _TITLE + _PAD
    for row in rows:
        for some in _lines(row, columns):
            each = (width - 2 * _PAD - (len(some) - 1) * _GAP) // len(some)
            tall = max(_height(room, each) for room in some)
            for number, room in enumerate(some):
                _draw(parts, room, x + _PAD + number * (each + _GAP), place, each, tall)
            place += tall + _GAP
    height = place - y
    parts.insert(
        start,
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{_COLOURS[name]}"/>'
        f'<text x="{x + _PAD}" y="{y + _TITLE}" font-size="16" font-weight="bold">{name}</text>',
    )
    return y + height


def _lines(row: list[Room], columns: int) -> Iterator[list[Room]]:
    """A row of rooms in as few lines of about the same length as fit."""
    lines = -(-len(row) // columns)
    for number in range(lines):
        yield row[number * len(row) // lines : (number + 1) * len(row) // lines]


def _text(room: Room, width: int) -> list[str]:
    return textwrap.wrap(room.says, int((width - 2 * _PAD) * _LETTERS_A_PIXEL))


def _height(room: Room, width: int) -> int:
    return _TITLE + _LINE * len(_text(room, width)) + _PAD


def _draw(parts: list[str], room: Room, x: int, y: int, width: int, height: int) -> None:
    parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="#ffffff"/>')
    parts.append(
        f'<text x="{x + _PAD}" y="{y + _TITLE - 2}" font-size="13" font-weight="bold">{escape(room.name)}</text>'
    )
    parts += [
        f'<text x="{x + _PAD}" y="{y + _TITLE + _LINE * (number + 1) - 2}" font-size="12">{escape(line)}</text>'
        for number, line in enumerate(_text(room, width))
    ]


if __name__ == "__main__":
    main()
