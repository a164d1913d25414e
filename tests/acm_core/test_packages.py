"""What the packages say of themselves is so, and asking one costs no import of a framework."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import acm_core

ROOT = Path(acm_core.__file__).parent
LISTING = (
    "acm_core",
    "acm_core.federated",
    "acm_core.ops",
    "acm_core.privacy",
    "acm_core.secure_aggregation",
    "acm_core.training",
    "acm_core.trust",
)
LIGHT = ("acm_core", "acm_core.config", "acm_core.data", *LISTING[1:])


def _inside(package: str) -> set[str]:
    folder = ROOT.joinpath(*package.split(".")[1:])
    found = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    return {name for name in found if not name.startswith("__")}


@pytest.mark.parametrize("package", LISTING)
def test_a_package_names_each_of_its_modules_once(package: str) -> None:
    text = importlib.import_module(package).__doc__ or ""
    listed = [
        name for line in re.findall(r"^[- ] .*", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)
    ]
    assert set(listed) - {"pyproject"} == _inside(package)


@pytest.mark.parametrize("package", LIGHT)
def test_importing_a_package_loads_no_framework(package: str) -> None:
    code = f"import sys; import {package}; print({{'torch', 'numpy', 'flwr', 'monai', 'opacus'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT.parent, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"
