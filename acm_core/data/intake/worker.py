"""A process that reads films for its parent: a decoder that crashes, hangs or eats memory takes no more than it along.

Started by `readers`. Requests come as JSON lines on standard input; answers go to standard output: a length (4 bytes,
little endian), a JSON text and the bytes of a prepared film.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

from acm_core.data.intake.reading import read_file
from acm_core.data.source.choice import source_at
from acm_core.data.terms import Accepted

ANSWER = struct.Struct("<II")
"""Lengths of an answer's text and film in bytes."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> None:
    """Answer until the parent closes the pipe."""
    parent, memory = int(sys.argv[1]), int(sys.argv[2])
    _end_with(parent)
    # Decoders write to standard output and error as they please, and quote what they read.
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    _bound_memory(memory)
    place: Any = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        accepted = Accepted(*(tuple(map(_frozen, words)) for words in request["accepted"]))
        if request["place"] != place:
            place = request["place"]
            source = source_at(place)
        time.sleep(max(0.0, request["turn"] - time.monotonic()))
        reading, film = read_file(
            source, request["name"], bytes.fromhex(request["salt"]), request["image_size"], accepted
        )
        text = reading.to_json().encode()
        pixels = b"" if film is None else film.tobytes()
        answers.write(ANSWER.pack(len(text), len(pixels)) + text + pixels)
        answers.flush()


def _frozen(word: Any) -> Any:
    return tuple(word) if isinstance(word, list) else word


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _bound_memory(more: int) -> None:
    """Let the process take `more` bytes beyond what it has now."""
    pages = (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) if sys.platform == "linux" else 0
    )
    if pages:
        bound = pages * os.sysconf("SC_PAGE_SIZE") + more
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


if __name__ == "__main__":
    main()
