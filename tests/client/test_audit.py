"""The privacy test, `python -m client.audit`, as a hospital's engineer runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from acm_core.nn import resnet
from acm_core.privacy import loop_test as module
from acm_core.privacy.canaries import Guesses
from acm_core.privacy.loop_test import Claim, LoopTest
from acm_core.privacy.measurement import Check
from client import audit

ROOT = Path(__file__).resolve().parents[2]
PRIVACY = {"epsilon": 8.0, "expected_batch": 16, "accountant": "rdp"}


def files(folder: Path, privacy: object = PRIVACY, policy: object = None, **more: Any) -> list[str]:
    (folder / "films").mkdir()
    (folder / "labels.csv").write_text("patient_id,image\n")
    site: dict[str, Any] = {
        "site": "A",
        "films": str(folder / "films"),
        "labels": str(folder / "labels.csv"),
        "state": str(folder / "state"),
        "privacy": {"epsilon": 8.0, "population": 200} if policy is None else policy,
    }
    (folder / "A.yaml").write_text(yaml.safe_dump({name: value for name, value in site.items() if value}))
    config = {
        "name": "run",
        "findings": ["Pneumothorax"],
        "privacy": privacy,
        "model": {"norm": "group"},
        "federation": {"sites": ["A"], "rounds": 4},
        **more,
    }
    (folder / "federation.yaml").write_text(yaml.safe_dump(config))
    return ["--site", "A", "--sites", str(folder), "--config", str(folder / "federation.yaml")]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers as many and of as many kinds as ever, of fewer numbers."""
    monkeypatch.setattr(resnet, "_STAGE_WIDTHS", (64, 64, 128, 128))


def test_a_sound_site_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = files(tmp_path)
    # Fails by chance once in a thousand times; twice, once in a million.
    assert audit.PASSED in (audit.main(arguments) for _ in range(2))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "run run: the claim is that one patient is hidden at ε = 8, δ = 1e-05 in 48 steps (4 rounds of 12)"
        in said
    )
    assert "tested: all of them; these cost ε = " in said
    of_layers = ("rows", "noise of each layer", "repetition", "clipping of each unit")
    for name in ("steps", "noise", "clipping norm", "sampling", "correlation", "canaries", *of_layers):
        assert f"pass {name}: claimed " in said
    assert "all right, and 1000 would show 5.78" in said
    assert (
        "PASS: The training loop keeps the privacy that it claims, as far as this test can see. tested:"
        in said
    )
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("passes", [True, False])
def test_verdict_and_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    meaning = "" if passes else "it is smaller"

    def found(claim: Claim) -> LoopTest:
        checks = (Check("noise", "2·C", "1·C", meaning), Check("canaries", "ε = 3", "ε ≥ 1"))
        return LoopTest(claim, 3.0, 9.0, checks, Guesses(100, 99, 1.0, 2.0, 1.5))

    monkeypatch.setattr(module, "check_loop", found)
    long_run = {"federation": {"sites": ["A"], "rounds": 400}}
    code = audit.main(files(tmp_path, **long_run))
    said = " ".join(capsys.readouterr().out.split())
    assert code == (audit.PASSED if passes else audit.FAILED)
    assert ("FAIL noise: claimed 2·C; measured 1·C" in said) == (not passes)
    assert ("4,800 steps (400 rounds of 12) FAIL: Do not train with privacy" in said) == (not passes)
    assert ("PASS: " in said) == passes
    assert "so that it takes seconds" in said
    assert "they alone could not refute 3" in said


@pytest.mark.parametrize(
    ("privacy", "policy", "text"),
    [
        ("off", None, "federation.yaml: privacy: expected a run with differential privacy, got off"),
        (PRIVACY, {}, "A.yaml: privacy: expected what the site permits"),
        ({**PRIVACY, "delta": 0.1}, None, "expected the run's delta below 1/population"),
        ({"epsilon": 8.0}, None, "expected_batch"),
        (PRIVACY, {"epsilon": 8.0}, "population"),
    ],
)
def test_wrong_configurations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], privacy: object, policy: object, text: str
) -> None:
    assert audit.main(files(tmp_path, privacy, policy)) == audit.WRONG
    shown = capsys.readouterr()
    assert text in " ".join(shown.err.split())
    assert shown.out == ""


def test_help_is_light() -> None:
    loaded = (
        "import sys; from client import audit\n"
        "try: audit.main(['--help'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", loaded], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert "exit codes: 0" in done.stdout
    assert not {"torch", "numpy", "pydantic", "rich"} & set(done.stdout.splitlines()[-1].split())
