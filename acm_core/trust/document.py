"""The files that travel between hospitals and the operator: JSON of declared fields, verified when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import ValidationError

from acm_core.files import write_text_atomically
from acm_core.hash_chain import Strict
from acm_core.trust import TrustError

_MOST_BYTES = 2**17
_MOST_PROBLEMS = 3


class Document(Strict):
    """A file.

    Attributes:
        called: what messages call it.
        error: what is raised where it is something else.
    """

    called: ClassVar[str]
    error: ClassVar[type[TrustError]]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The document in a file, verified.

        Raises:
            TrustError: the document's `error`: it is not there, something else, or not as it was written.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise cls.error(f"expected a readable file {path}, got {error.strerror}") from None
        if len(content) > _MOST_BYTES:
            raise cls.error(f"expected at most {_MOST_BYTES} bytes in {path}, got more")
        try:
            return cls.parse(content)
        except cls.error as error:
            raise cls.error(f"{path}: {error}") from None

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """The document, verified.

        Raises:
            TrustError: the document's `error`: `content` is something else, or not as it was written.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise cls.error(
                f"expected {cls.called} as it was written, got something else; have it sent again: {_problems(error)}"
            ) from None

    def write(self, path: Path) -> None:
        """Write the document, in place of an earlier one."""
        write_text_atomically(path, self.model_dump_json(indent=2) + "\n")


def _problems(error: ValidationError) -> str:
    """What is wrong, without the content: it is a stranger's."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    rows = []
    for problem in found[:_MOST_PROBLEMS]:
        place = ".".join(ascii(str(step))[1:-1][:60] for step in problem["loc"])
        rows.append(": ".join(part for part in (place, problem["msg"].removeprefix("Value error, ")) if part))
    return "; ".join(rows)
