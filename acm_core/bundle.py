"""The Flower app bundle (FAB): server and sites build the same bytes, and a site takes none from the server."""

from __future__ import annotations

from importlib.metadata import version

from flwr.cli.build import build_fab_from_files

# The bundle names the applications and holds no code: the server and every site run what they installed themselves.
_BUNDLE = """
[project]
name = "acm-fed"
version = "{version}"
description = "Names the installed applications; holds no code."
license = {{ file = "LICENSE" }}
dependencies = ["flwr>={flower}"]

[tool.flwr.app]
publisher = "acm-fed"
fab-format-version = 1
flwr-version-target = "{flower}"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
"""


def build_bundle() -> bytes:
    """The Flower app bundle: the same bytes wherever the same versions are installed."""
    text = _BUNDLE.format(version=version("acm-fed"), flower=version("flwr"))
    bundle, _ = build_fab_from_files(
        {
            "pyproject.toml": text.encode(),
            "LICENSE": b"Apache-2.0\n",
            "README.md": b"See the installed package.\n",
        }
    )
    return bundle
