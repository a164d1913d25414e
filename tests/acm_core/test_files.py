"""A file is the old one or the new one, whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from acm_core.files import write_atomically, write_text_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_text_atomically(path, "old")

    def fails(temporary: Path) -> None:
        temporary.write_text("half", encoding="utf-8")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fails)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_the_file_and_makes_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state.json"
    write_text_atomically(path, "old")
    write_text_atomically(path, "ε = 1")
    assert path.read_text(encoding="utf-8") == "ε = 1"
    assert list(path.parent.iterdir()) == [path]
