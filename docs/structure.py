"""`python docs/structure.py [COMMIT …]`: what of Flower's insides the code uses, and how long it is; also at commits.

Public are Flower's documented packages: `flwr.app`, `flwr.clientapp`, `flwr.serverapp` and `flwr.simulation`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("acm_core", "server", "client", "simulations")
PUBLIC = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation")


def main() -> None:
    """Print a column for each commit, and one for the files as they are."""
    columns = {commit: counts(dict(files_at(commit))) for commit in sys.argv[1:]}
    columns["now"] = counts(dict(files_here()))
    rows = list(columns["now"])
    width = max(map(len, rows))
    print(" " * width + "".join(f"{name[:10]:>12}" for name in columns))  # noqa: T201  # the command's own output
    for row in rows:
        print(f"{row:{width}}" + "".join(f"{column[row]:12}" for column in columns.values()))  # noqa: T201  # as above


def counts(files: dict[str, str]) -> dict[str, int]:
    """Name of a figure → figure, of the Python files of a tree by their paths."""
    product = {path: ast.parse(text) for path, text in files.items() if _part(path) in SOURCE[:3]}
    names = {name for tree in product.values() for name in inner_names(tree)}
    reaching = [path for path, tree in product.items() if set(inner_names(tree))]
    found = {
        "names of Flower that are not public": len(names),
        "files that use them": len(reaching),
        "changes of its modules": sum(len(list(patches(tree))) for tree in product.values()),
        "files with queries of its tables": sum(
            any("sqlalchemy" in name for name in _imports(tree)) for tree in product.values()
        ),
    }
    for part in (*SOURCE, "tests"):
        found[f"lines of {part}"] = sum(
            text.count("\n") for path, text in files.items() if _part(path) == part
        )
    return found


def inner_names(tree: ast.AST) -> Iterator[str]:
    """Names that a file imports from inside of Flower; a module of messages is one name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
            module = str(node.module)
            if module == "flwr":
                yield from (f"flwr.{name.name}" for name in node.names if f"flwr.{name.name}" not in PUBLIC)
            elif module not in PUBLIC:
                yield from (f"{module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names if name.name.split(".")[0] == "flwr"]
            yield from (name for name in names if name not in PUBLIC)


def patches(tree: ast.AST) -> Iterator[str]:
    """Attributes of what a file imports from Flower that it sets."""
    imported = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom | ast.Import)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).split(".")[0] == "flwr"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if (
                    isinstance(target, ast.Attribute)
                    and isinstance(target.value, ast.Name)
                    and target.value.id in imported
                ):
                    yield f"{target.value.id}.{target.attr}"


def files_here() -> Iterator[tuple[str, str]]:
    """The Python files of this folder, by their paths."""
    for part in (*SOURCE, "tests"):
        for path in (ROOT / part).rglob("*.py"):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def files_at(commit: str) -> Iterator[tuple[str, str]]:
    """The Python files of a commit, by their paths."""
    for path in _git("ls-tree", "-r", "--name-only", commit).splitlines():
        if path.endswith(".py") and _part(path) in (*SOURCE, "tests"):
            yield path, _git("show", f"{commit}:{path}")


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def _part(path: str) -> str:
    return path.partition("/")[0]


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603  # our own


if __name__ == "__main__":
    main()
