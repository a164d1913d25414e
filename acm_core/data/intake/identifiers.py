"""Which films the label file means where it names them as an archive does: by UID or accession number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from acm_core.data.intake.journal import Journal
from acm_core.data.intake.names import Match
from acm_core.data.intake.reading import identifier_hash
from acm_core.data.set_aside import SetAside

_CALLED = {
    "instance": "SOP Instance UID",
    "series": "Series Instance UID",
    "study": "Study Instance UID",
    "accession": "Accession Number",
}


def match_identifiers(
    journal: Journal, images: Sequence[str], kind: str, salt: bytes
) -> tuple[list[Match], list[int]]:
    """The films of each row of a label file, and for each film its row.

    A row stands for each film that can be used and has the identifier in its header: a study's labels are those of its
    frontal films. Where none of them can be used, it stands for all, so that what is lost is seen.

    Args:
        images: identifiers, a row each.
        kind: see `IDENTIFIERS`.
    """
    films: defaultdict[str, list[str]] = defaultdict(list)
    others: defaultdict[str, list[str]] = defaultdict(list)
    for hash_, name, is_film in journal.known_as(kind):
        (films if is_film else others)[hash_].append(name)
    matches: list[Match] = []
    rows: list[int] = []
    for row, image in enumerate(images):
        hash_ = identifier_hash(kind, image, salt)
        found = films.get(hash_) or others.get(hash_)
        if found:
            meant = [Match(name) for name in found]
        else:
            meant = [Match(image, SetAside.MISSING_FILE, f"no film with this {_CALLED[kind]}")]
        matches += meant
        rows += [row] * len(meant)
    return matches, rows
