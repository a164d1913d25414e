"""Hash chains as they were written, forged, damaged, and left by a process that was killed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st


def in_child(work: Callable[[], object]) -> int:
    """Do `work` in another process; its exit code, 0 where it did not raise."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def chained(rows: list[dict[str, Any]]) -> list[bytes]:
    """The lines of rows with the hashes that belong to them, as the design says, not as the code does."""
    previous, lines = "0" * 64, []
    for values in rows:
        row = {name: value for name, value in values.items() if name != "hash"}
        row["previous"] = previous
        text = json.dumps(row, sort_keys=True, separators=(",", ":"))
        previous = hashlib.sha256(text.encode()).hexdigest()
        text = json.dumps({**row, "hash": previous}, sort_keys=True, separators=(",", ":"))
        lines.append(text.encode() + b"\n")
    return lines


def write_head(path: Path, lines: list[bytes]) -> None:
    """A mark that says that the chain ends with these lines."""
    path.write_text(json.dumps({"rows": len(lines), "hash": json.loads(lines[-1])["hash"]}))


def fails(code: int) -> Callable[..., Any]:
    """A system call that the disk refuses."""

    def call(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    return call


class Killed:
    """Lets the process end at its n-th call that changes the disk; a write is cut in two."""

    NAMES = ("open", "write", "fsync", "replace", "ftruncate", "mkdir", "unlink")

    def __init__(self, at: int) -> None:
        self._at, self._calls = at, 0
        for name in self.NAMES:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self._calls += 1
            if self._calls == self._at:
                if name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os._exit(9)
            # What is written survives a killed process; only a power cut needs fsync, and it takes the time.
            return None if name == "fsync" else real(*arguments, **more)

        return call


def mutate(path: Path, data: st.DataObject) -> None:
    """Damage a file in some way, or remove it."""
    content = path.read_bytes()
    how = data.draw(st.sampled_from(["random", "flip", "cut", "drop", "insert", "remove"]))
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start, len(content)))
    junk = data.draw(st.binary(max_size=300))
    if how == "remove":
        path.unlink()
        return
    path.write_bytes(
        {
            "random": junk,
            "flip": content[:start]
            + bytes([content[start] ^ data.draw(st.integers(1, 255))])
            + content[start + 1 :],
            "cut": content[:start],
            "drop": content[:start] + content[end:],
            "insert": content[:start] + junk + content[start:],
        }[how]
    )
