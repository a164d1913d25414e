"""A task or a reply as a file: what is weighed, hashed, carried in pieces and kept; the message beside it is small.

The file is a safetensors file: the arrays, and the other fields as JSON in its metadata. The `audit` heads travel in
the message, so that the same task has the same file whenever it is sent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
from safetensors.numpy import save_file

from acm_core.arrays import Arrays
from acm_core.federated.messages import MessageError, Reply, Task
from acm_core.files import file_sha256

MOST_BYTES = 2**30
"""Of a payload: about 270 million float32."""
_FIELDS = "acm_fed"


@dataclass(frozen=True)
class Payload:
    """A file whose name is its SHA-256 in hex."""

    path: Path
    size: int

    @property
    def sha256(self) -> str:
        """In hex."""
        return self.path.name


def write_payload(message: Task | Reply, folder: Path) -> Payload:
    """Write a message into `folder`, which is created where it is missing; the same message is written once."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".writing.tmp"
    fields = json.dumps(replace(message, audit="").to_wire(), sort_keys=True)
    save_file(message.arrays, temporary, {_FIELDS: fields})
    path = folder / file_sha256(temporary)
    temporary.replace(path)
    return Payload(path, path.stat().st_size)


def read_task(path: Path, audit: str) -> Task:
    """The task in a file, with the head of the server's audit log that came with it.

    Raises:
        MessageError: the file holds anything else.
        OSError: it cannot be read.
    """
    fields, arrays = _read(path)
    return Task.from_wire({**fields, "audit": audit}, arrays)


def read_reply(path: Path, audit: str) -> Reply:
    """The reply in a file; as `read_task`."""
    fields, arrays = _read(path)
    return Reply.from_wire({**fields, "audit": audit}, arrays)


def _read(path: Path) -> tuple[dict[str, Any], Arrays]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            fields = json.loads((file.metadata() or {})[_FIELDS])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except OSError:
        raise
    except Exception as error:  # a file from elsewhere: safetensors, NumPy and JSON have kinds of their own
        raise MessageError(f"expected a payload, got something else: {type(error).__name__}") from None
    if not isinstance(fields, dict):
        raise MessageError("expected a JSON object in a payload, got something else")
    return fields, arrays
