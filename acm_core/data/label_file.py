"""How a label file is written, encoding and separator, found out before it is read."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

SEPARATORS = (",", ";", "\t", "|")
_CHUNK = 2**20
_SAMPLE = 4096
_SEPARATOR_LINE = "sep="
"""A first line such as `sep=;` tells a spreadsheet the separator; it is no row."""


class LabelError(ValueError):
    """The label file cannot be used. The text names lines and columns, never what stands in a patient's row."""


@dataclass(frozen=True)
class Written:
    """How a label file is written.

    Attributes:
        encoding: "UTF-8", "UTF-16" or "Latin-1".
        separator: between columns.
        skipped: lines before the column names.
    """

    encoding: str = "UTF-8"
    separator: str = ","
    skipped: int = 0


@contextmanager
def opened(path: Path, columns: Collection[str]) -> Iterator[tuple[TextIO, Written]]:
    """The file as text behind the lines that are skipped, and how it is written.

    UTF-8 and UTF-16 are told by their marks, or by what they can hold; all else is read as Windows' Latin-1, in which
    every file is a text. The separator is the one that gives the line of column names most of `columns`.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is in no encoding.
    """
    encoding, name = _encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        written = _separated(file, name, columns)
        file.seek(0)
        for _ in range(written.skipped):
            file.readline()
        yield file, written


def _encoding(path: Path) -> tuple[str, str]:
    """For Python, and for people."""
    with path.open("rb") as file:
        begin = file.read(_SAMPLE)
        if begin.startswith(codecs.BOM_UTF8):
            return "utf-8-sig", "UTF-8"
        if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16", "UTF-16"
        for encoding, place in (("utf-16-le", 1), ("utf-16-be", 0)):
            if len(begin) >= 4 and begin[place::2].count(0) > len(begin) // 4:
                return encoding, "UTF-16"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while begin:
                decoder.decode(begin)
                begin = file.read(_CHUNK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return _latin(path), "Latin-1"
    return "utf-8", "UTF-8"


def _latin(path: Path) -> str:
    """Windows' form of Latin-1, unless the file has one of the five bytes that it has no letter for."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            try:
                chunk.decode("cp1252")
            except UnicodeDecodeError:
                return "latin-1"
    return "cp1252"


def _separated(file: TextIO, encoding: str, columns: Collection[str]) -> Written:
    first = file.readline().strip()
    if first.casefold().startswith(_SEPARATOR_LINE) and len(first) == len(_SEPARATOR_LINE) + 1:
        return Written(encoding, first[-1], 1)
    best, most = ",", (0, 0)
    for separator in SEPARATORS:
        file.seek(0)
        try:
            names = [name.strip() for name in next(csv.reader(file, delimiter=separator, strict=True), [])]
        except csv.Error:
            continue
        found = (len(set(columns) & set(names)), len(names))
        if found > most:
            best, most = separator, found
    return Written(encoding, best)
