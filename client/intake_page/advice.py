"""What a site should know, and what to do about it: of each reason for which a file is set aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from acm_core.data.set_aside import SetAside

Weight = Literal["act", "note"]

REPEATED = frozenset({SetAside.DUPLICATE, SetAside.NEAR_DUPLICATE})
"""Reasons for which nothing is lost: another file shows the same film."""

VALUES_TOLD = 20
"""Values of a problem that are told, the most frequent ones."""
_TAKE_OUT = "or take their rows out"


@dataclass(frozen=True)
class Problem:
    """Something the site should know.

    Attributes:
        code: stable, for programs.
        count: of files, patients or values.
        weight: "act" where something should be done, "note" where it is enough to know.
        what: the sentence after the count.
        do: what to do.
        values: what the headers or the label file say → number of files, most frequent first: the body parts, views,
            transfer syntaxes that refused them.
    """

    code: str
    count: int
    weight: Weight
    what: str
    do: str
    values: Mapping[str, int] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """What, with the values."""
        values = ", ".join(f"{value} ({count:,})" for value, count in self.values.items())
        return f"{self.what}: {values}" if values else self.what


class Advice(NamedTuple):
    """Of one reason.

    Attributes:
        what: the sentence after the count.
        do: what to do about files that the label file does not list.
        listed: what to do about those that it lists, each of which is a labelled film lost.
        weight: of those that it does not list.
    """

    what: str
    do: str
    listed: str
    weight: Weight = "note"


ADVICE: Mapping[SetAside, Advice] = {
    SetAside.MISSING_FILE: Advice(
        "films are not in the folder",
        "nothing",
        f"export them again, {_TAKE_OUT}; names are relative to the films folder",
    ),
    SetAside.AMBIGUOUS_NAME: Advice(
        "names stand for several files each",
        "nothing",
        "write the folder with the name, as it is below the films folder",
    ),
    SetAside.NO_ENDING: Advice(
        "names lack their ending, and files of several endings have them",
        "nothing",
        "set label_map.image_suffix to the ending that is meant",
    ),
    SetAside.OTHER_ENDING: Advice(
        "names have another ending than the files",
        "nothing",
        "correct the ending in the label file",
    ),
    SetAside.CLOSED_FOLDER: Advice(
        "films are in folders that may not be entered",
        "nothing",
        "let the user that runs preflight enter the folders; the page names them",
    ),
    SetAside.BEHIND_LINK: Advice(
        "films are behind links to folders, which are not followed",
        "nothing",
        "put the folders themselves there (a bind mount will do); the page names the links",
    ),
    SetAside.CANNOT_OPEN: Advice(
        "files cannot be opened",
        "let the user that runs preflight read them",
        "let the user that runs preflight read them; if it may, look after the disk",
        "act",
    ),
    SetAside.NOT_SENT: Advice(
        "films are listed by the archive and not sent",
        "run preflight again; if they still do not come, ask who runs the archive",
        "run preflight again; if they still do not come, ask who runs the archive",
        "act",
    ),
    SetAside.NOT_AN_IMAGE: Advice(
        "files are neither DICOM, PNG nor JPEG",
        "nothing, unless films were meant to be among them",
        f"fetch them again, {_TAKE_OUT}",
    ),
    SetAside.UNREADABLE: Advice(
        "films break off, or their frame is not what the header says",
        "export them again from the archive",
        f"export them again from the archive, {_TAKE_OUT}",
        "act",
    ),
    SetAside.INCOMPLETE_HEADER: Advice(
        "films lack an element of the header without which no pixel can be read",
        "export them without the step that takes it away",
        "look after the de-identification, or the device, that takes it away, and export them without",
        "act",
    ),
    SetAside.BAD_NUMBER: Advice(
        "films have an element of the header that should hold a number and does not",
        "correct the element, or ask the vendor",
        "correct the element, or ask the vendor",
        "act",
    ),
    SetAside.NO_DECODER: Advice(
        "films are compressed in a way that no decoder here reads",
        "export them uncompressed or as JPEG 2000 lossless",
        "export them uncompressed or as JPEG 2000 lossless; the same export brings the same files",
        "act",
    ),
    SetAside.CONTRADICTION: Advice(
        "films have a header that contradicts their pixels",
        "export them again; ask the vendor if it stays",
        "export them again; ask the vendor if it stays",
        "act",
    ),
    SetAside.TOO_LARGE: Advice(
        "files are larger than any radiograph",
        "nothing, unless they are films",
        f"export them at the detector's size, {_TAKE_OUT}",
    ),
    SetAside.TOO_SMALL: Advice(
        "images are smaller than any radiograph",
        "export the full films, not their previews",
        "export the full films, not their previews",
    ),
    SetAside.NO_PIXELS: Advice(
        "DICOM objects have no pixels (reports, plans, a DICOMDIR)",
        "nothing",
        f"export the images with their pixels, {_TAKE_OUT}",
    ),
    SetAside.MODALITY: Advice(
        "images are of another modality than CR and DX",
        "nothing, unless the export should be films only",
        "if they are radiographs, write the modality into accept: modality in the site file; else take their rows out",
    ),
    SetAside.FOR_PROCESSING: Advice(
        "films are the detector's raw signal (FOR PROCESSING), which no one reads",
        "nothing",
        "list the films FOR PRESENTATION of the same exposures in their place",
    ),
    SetAside.PHANTOM: Advice(
        "images are of phantoms or of quality control",
        "nothing",
        "if they are patients' films, correct the header; else take their rows out",
    ),
    SetAside.NOT_HUMAN: Advice(
        "films are of animals",
        "look whose archive was exported",
        f"look whose archive was exported, {_TAKE_OUT}",
    ),
    SetAside.BODY_PART: Advice(
        "films are of other parts of the body",
        "nothing, unless the header is wrong",
        "if they are chest films, write the value into accept: body_part in the site file; else take their rows out",
    ),
    SetAside.NOT_FRONTAL: Advice(
        "films are lateral, oblique or decubitus, or of a view that is not known here",
        "nothing: the model reads frontal films",
        "if they are frontal, write the value into accept: view in the site file; else take their rows out: the model "
        "reads frontal films",
    ),
    SetAside.UNKNOWN_VIEW: Advice(
        "films have a view that nobody states",
        "give the label file a view column, or set unknown_view: keep",
        "give the label file a view column, or set unknown_view: keep",
        "act",
    ),
    SetAside.MULTI_FRAME: Advice(
        "images have several frames",
        "nothing",
        f"export each film as an image of its own, {_TAKE_OUT}",
    ),
    SetAside.COLOUR: Advice(
        "images are in colour (screenshots, report pages)",
        "nothing",
        f"export the films, not pictures of a screen, {_TAKE_OUT}",
    ),
    SetAside.BLANK: Advice(
        "films are of one even grey",
        "look whether the export failed for them",
        f"look whether the export failed for them; export them again, {_TAKE_OUT}",
    ),
    SetAside.SATURATED: Advice(
        "films are black and white only",
        "export them with their window, or without any",
        "export them with their window, or without any",
        "act",
    ),
    SetAside.TOO_SLOW: Advice(
        "files took longer to read than a file may",
        "look at them; if the disk was busy, run preflight again after `touch`ing them",
        "look at them; if the disk was busy, run preflight again after `touch`ing them",
        "act",
    ),
    SetAside.READER_CRASHED: Advice(
        "files crashed the reader",
        "treat them as suspicious: export them again, and report them to us",
        "treat them as suspicious: export them again, and report them to us",
        "act",
    ),
    SetAside.DUPLICATE: Advice(
        "films are there a second time", "nothing: one of each is kept", "nothing: one of each is kept"
    ),
    SetAside.NEAR_DUPLICATE: Advice(
        "films are there again in another encoding or window",
        "nothing: one of each is kept; the page shows the pairs",
        "nothing: one of each is kept; the page shows the pairs",
    ),
}
