"""What a machine has to give, each thing there and not there."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from processes import REPOSITORY

from acm_core.checks import disk, open_files, proxies, shared_memory, show_checks, temporary_folder, versions


def test_the_versions_are_those_installed() -> None:
    assert versions().passed
    assert "acm-fed 0" in versions().found


def test_a_disk_with_and_without_room(tmp_path: Path) -> None:
    folder = tmp_path / "to" / "be" / "made"
    assert disk(folder, 0.0, "models").passed
    assert disk(folder, 1e9, "models").fix == "at least 1000000000 GB for models"
    assert not folder.parent.parent.exists()


@pytest.fixture
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The temporary folder is looked for at each question."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    return monkeypatch


def test_a_temporary_folder_that_takes_files(tmp_path: Path, asked_anew: pytest.MonkeyPatch) -> None:
    asked_anew.setattr(tempfile, "tempdir", "/tmp")  # noqa: S108  # the usual one
    assert temporary_folder().passed
    long = tmp_path / ("x" * 80)
    long.mkdir()
    asked_anew.setattr(tempfile, "tempdir", str(long))
    assert "TMPDIR" in temporary_folder().fix
    asked_anew.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert "none that takes files: No such file or directory" in temporary_folder().found
    assert not temporary_folder().passed


def test_how_many_files_a_process_may_have() -> None:
    assert open_files().passed == (resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 1024)
    program = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)); "
    program += "from acm_core.checks import open_files; print(open_files())"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert "at most 100" in said
    assert "ulimit -Hn" in said


def test_shared_memory_is_said() -> None:
    assert "/dev/shm" in shared_memory().found  # noqa: S108  # it is asked for its size


def test_proxies_have_a_row_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ACM_FED_NO_PROXY"):
        for spelt in (name, name.upper()):
            monkeypatch.setenv(spelt, "")
    assert proxies() is None
    monkeypatch.setenv("HTTPS_PROXY", "http://nurse:kept@proxy.example:3128")
    found = proxies()
    assert found is not None
    assert found.passed
    assert "kept" not in found.found
    monkeypatch.setenv("HTTPS_PROXY", "socks5://proxy.example:1080")
    found = proxies()
    assert found is not None
    assert "HTTPS_PROXY" in found.found
    assert not found.passed


def test_rows_are_shown_with_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert show_checks([disk(tmp_path, 0.0, "models")], "all is well", "to mend") == 0
    assert "all is well" in capsys.readouterr().out
    assert show_checks([disk(tmp_path, 1e9, "models"), versions()], "all is well", "to mend") == 1
    shown = capsys.readouterr().out
    assert "!!  disk" in shown
    assert "→ at least" in shown
    assert shown.endswith("1 to mend\n")
