"""docs/REFERENCE.md is what the code says, and the code says what every key means."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from acm_core.audit_events import KINDS
from acm_core.federated.messages import Reply
from acm_core.federated.report import SiteReport
from simulations.phantoms.scanner import SCANNERS

REPOSITORY = Path(__file__).resolve().parents[1]
WRITTEN = (REPOSITORY / "docs" / "REFERENCE.md").read_text(encoding="utf-8")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@pytest.fixture(scope="module")
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("reference", REPOSITORY / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="other versions of Python lay out help differently"
)
def test_the_reference_is_the_codes(generator: Any) -> None:
    text = generator.reference()
    assert text == WRITTEN, "run `python docs/reference.py`"
    rows = re.findall(r"^\| `(\S+)` \|.*\| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 90
    assert [key for key, meaning in rows if not meaning] == []


def test_every_exception_stands_in_it_below_what_it_is_a_kind_of(generator: Any, tmp_path: Path) -> None:
    declared = {
        name
        for package in generator.PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        for name in re.findall(r"^class ([A-Z]\w*)\((?:\w*Error|Exception)\)", path.read_text(), re.MULTILINE)
    }
    lines = re.findall(r"^ +- `(\w+)` \([\w.]+\): (.*)$", WRITTEN.partition("## The errors")[2], re.MULTILINE)
    assert len(declared) > 40
    assert declared == {name for name, _ in lines}
    assert [name for name, meaning in lines if not meaning] == []
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "new.py").write_text(
        'class AError(ValueError):\n    """One."""\n\nclass BError(AError):\n    """Two\n    lines."""\n'
    )
    assert generator.errors(tmp_path) == [
        "- `ValueError`",
        "  - `AError` (client.new): One.",
        "    - `BError` (client.new): Two lines.",
    ]


def test_what_leaves_a_private_run_stands_in_the_page_on_privacy(generator: Any) -> None:
    page = (REPOSITORY / "docs" / "PRIVACY.md").read_text(encoding="utf-8")
    assert generator.with_leaves(page) == page, "run `python docs/reference.py`"
    rows = re.findall(r"^\| `(.+?)` \|(.*)\|$", generator.leaves(), re.MULTILINE)
    by_field = {field: [cell.strip() for cell in cells.split("|")] for field, cells in rows}
    assert set(Reply.__dataclass_fields__) <= by_field.keys()
    named = " ".join(by_field)
    assert [name for name in SiteReport.model_fields if name not in named] == ["models", "counts"]
    assert by_field["training_films"] == ["–", "–", "changed", "–", "yes"]
    assert by_field["a finding's auroc"] == ["–", "yes", "changed", "changed", "yes"]
    assert by_field["a finding's auprc"] == ["–", "–", "–", "–", "yes"]


@pytest.mark.parametrize("command", ["server.audit", "client.audit"])
@pytest.mark.parametrize("word", ["verify", "show"])
def test_every_option_of_a_sub_command_is_in_it(
    command: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(command).main([word, "--help"])
    options = set(OPTION.findall(capsys.readouterr().out))
    assert options > {"--help"}
    _, heading, after = WRITTEN.partition(f"\n### {command} {word}\n")
    assert heading
    assert options - set(OPTION.findall(after.partition("\n#")[0])) == set()


def test_every_argument_has_a_meaning_and_says_its_default(generator: Any) -> None:
    silent = [
        f"{command} {action.dest}"
        for command, parser in generator.parsers().items()
        for action in parser._actions
        if action.nargs != argparse.PARSER and not says_enough(action)
    ]
    assert silent == []


def says_enough(action: argparse.Action) -> bool:
    help_ = action.help or ""
    if action.default in (None, False, "", [], [None], argparse.SUPPRESS):
        return bool(help_)
    return "default" in help_ and str(action.default) in help_


def test_names_that_are_a_value_are_in_it() -> None:
    assert [kind for kind in KINDS if f"\n| `{kind}` |" not in WRITTEN] == []
    (row,) = re.findall(r"^\| `\S+\.scanner` \|.*$", WRITTEN, re.MULTILINE)
    assert [name for name in SCANNERS if name not in row] == []


def test_every_command_of_the_readme_is_in_it() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    commands = set(re.findall(r"python -m ((?:server|client|simulations)\.\w+)", readme))
    assert commands
    assert {command for command in commands if f"### {command}\n" not in WRITTEN} == set()
