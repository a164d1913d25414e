"""Which films each row of a label file means: by path, or as an archive names them, by UID or accession number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from acm_core.config.site import LabelMap
from acm_core.data.intake.journal import Journal
from acm_core.data.intake.names import Match, match
from acm_core.data.intake.reading import identifier_hash
from acm_core.data.set_aside import SetAside
from acm_core.data.source.film_source import Listing

_CALLED = {
    "instance": "SOP Instance UID",
    "series": "Series Instance UID",
    "study": "Study Instance UID",
    "accession": "Accession Number",
}


def films_meant(
    images: Sequence[str], label_map: LabelMap, found: Listing, journal: Journal, salt: bytes
) -> tuple[list[Match], Sequence[int]]:
    """The films of each row of a label file, and for each film its row.

    Args:
        images: of the rows, see `LabelMap.image_is`.
    """
    if label_map.image_is != "path":
        return _by_identifier(images, label_map.image_is, journal, salt)
    matches = match(
        [file.name for file in found.files],
        images,
        suffix=label_map.image_suffix,
        no_films=journal.no_films(),
        closed=found.closed,
        linked=found.linked,
    )
    return matches, range(len(matches))


def _by_identifier(
    images: Sequence[str], kind: str, journal: Journal, salt: bytes
) -> tuple[list[Match], list[int]]:
    """A row stands for each film that can be used and has the identifier in its header.

    A study's labels are those of its frontal films. Where none of them can be used, it stands for all, so that what is
    lost is seen.
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
