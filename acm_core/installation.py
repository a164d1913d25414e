"""What is installed here: enough to say later which code made a result."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("acm_core", "client", "server", "simulations")


def software() -> dict[str, str]:
    """Name → version of what computes and carries a run; `sources` for every line of this project's own code."""
    return {
        **{name: version(name) for name in ("acm-fed", "flwr", "torch")},
        "python": platform.python_version(),
        "sources": sources_digest(Path(__file__).parents[1])[:16],
    }


def sources_digest(folder: Path) -> str:
    """SHA-256 over the paths and bytes of this project's Python files, which lie in `folder`, in hexadecimal."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((folder / package).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()
