"""What two people have to compare before one of them is let in."""

from __future__ import annotations


def confirmed(question: str) -> bool:
    """Whether the person at the terminal answers yes; nobody there, or Ctrl-C, is a no."""
    try:
        return input(f"{question} [yes/no] ").strip().lower() == "yes"
    except (EOFError, KeyboardInterrupt):
        print()  # noqa: T201  # ends the question's line
        return False
