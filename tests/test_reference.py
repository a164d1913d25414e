"""docs/REFERENCE.md is what the code says, and the code says what every key means."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="other versions of Python lay out help differently"
)
def test_the_reference_is_the_codes() -> None:
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.reference()
    written = (REPOSITORY / "docs" / "REFERENCE.md").read_text(encoding="utf-8")
    assert written == text, "run `python docs/reference.py`"
    rows = re.findall(r"^\| `(\S+)` \|.*\| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 90
    assert [key for key, meaning in rows if not meaning] == []


def test_every_command_of_the_readme_is_in_it() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    reference = (REPOSITORY / "docs" / "REFERENCE.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"python -m ((?:server|client|simulations)\.\w+)", readme))
    assert commands
    assert {command for command in commands if f"### {command}\n" not in reference} == set()
