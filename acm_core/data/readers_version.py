"""What a reading of a film file depends on besides the file: this code, and the packages that decode."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version

_VERSION = 8
"""Raise when the same file gives another reading."""
_READERS = ("imagecodecs", "numpy", "pillow", "pydicom", "python-gdcm", "scipy")
"""Packages whose next version may give other pixels."""


@cache
def readers_version() -> str:
    """Changes when the same file may give another reading."""
    made_by = [str(_VERSION), *(f"{name} {version(name)}" for name in _READERS)]
    return hashlib.sha256("\n".join(made_by).encode()).hexdigest()[:16]
