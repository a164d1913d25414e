"""A command as a program: whatever becomes of its terminal, it goes on, and its exit code is its own."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TextIO

from acm_core.files import keep_files_private

if TYPE_CHECKING:
    from typing_extensions import Buffer

_PLAIN = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "…": "...",
        "→": "->",
        "×": "x",
        "≤": "<=",
        "≥": ">=",
        "²": "2",
        "ε": "epsilon",
        "δ": "delta",
        "σ": "sigma",
        "─": "-",
        "│": "|",
    }
)
_ERRORS = "acm_fed.plain"


def run_command(main: Callable[[], int], *, private: bool = True) -> NoReturn:
    """Run `main` and end this process with its exit code.

    - Characters that the terminal's encoding has not are written by others.
    - A terminal or pipe that is gone (`| head`), or a full disk behind `>`, takes nothing more, and nothing ends by it.
    - What is written is for this user alone, unless `private` is False.
    """
    if private:
        keep_files_private()
    codecs.register_error(_ERRORS, _plainly)
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def say(*lines: str) -> None:
    """Print lines of a command's answer."""
    print(*lines, sep="\n")  # noqa: T201  # the command's own output


def fail(text: str, code: int) -> int:
    """Say on stderr what is wrong; returns the exit code."""
    print(text, file=sys.stderr)  # noqa: T201  # the command's own output
    return code


class _Output(io.RawIOBase):
    """A file of this process which, from its first error on, takes all and keeps nothing."""

    def __init__(self, file: int) -> None:
        self._file = file

    def fileno(self) -> int:
        return self._file

    def isatty(self) -> bool:
        return os.isatty(self._file)

    def writable(self) -> bool:
        return True

    def write(self, content: Buffer) -> int:
        try:
            return os.write(self._file, content)
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._file)
            os.close(nothing)
            return memoryview(content).nbytes


def _lasting(stream: TextIO | None, file: int) -> TextIO:
    """`stream`, whose file this is; one that was closed before the command began takes all and keeps nothing."""
    if stream is None:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), file)
    else:
        stream.flush()
    encoding = "utf-8" if stream is None else stream.encoding
    output = _Output(file)
    return io.TextIOWrapper(
        io.BufferedWriter(output), encoding, _ERRORS, line_buffering=file == 2 or output.isatty()
    )


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding has not."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "replace").decode("ascii"), error.end
