"""What server and sites have to agree on: the versions installed, and the app bundle that names the applications."""

from __future__ import annotations

from importlib.metadata import version

VERSIONS_HEADER = "x-acm-fed-versions"
"""In a server's answer to a site that greets it: what `versions` is at the server."""

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


def versions() -> str:
    """What the bundle depends on: a site runs the tasks of servers where this is the same."""
    return ", ".join(f"{name} {version(name)}" for name in ("acm-fed", "flwr"))


def bundle_files() -> dict[str, bytes]:
    """The files of the app bundle. It holds no code: the server and every site run what they installed themselves."""
    text = _BUNDLE.format(version=version("acm-fed"), flower=version("flwr"))
    return {
        "pyproject.toml": text.encode(),
        "LICENSE": b"Apache-2.0\n",
        "README.md": b"See the installed package.\n",
    }
