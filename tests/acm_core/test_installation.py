"""Which code made a result."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from acm_core.installation import software, sources_digest


def test_every_line_and_name_of_the_code_counts_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "server" / "report").mkdir(parents=True)
    one, two = tmp_path / "server" / "run.py", tmp_path / "server" / "report" / "page.py"
    one.write_text("a = 1\n")
    two.write_text("b = 2\n")
    first = sources_digest(tmp_path)
    (tmp_path / "server" / "run.pyc").write_bytes(b"compiled")
    (tmp_path / "setup.py").write_text("not ours\n")
    assert sources_digest(tmp_path) == first
    two.write_text("b = 3\n")
    assert sources_digest(tmp_path) != first
    two.write_text("b = 2\n")
    assert sources_digest(tmp_path) == first
    two.rename(two.with_name("pages.py"))
    assert sources_digest(tmp_path) != first


def test_the_software_of_a_run() -> None:
    found = software()
    assert set(found) == {"acm-fed", "flwr", "torch", "python", "sources"}
    assert found["torch"] == version("torch")
    assert len(found["sources"]) == 16
