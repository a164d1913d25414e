"""Why a film is not used: stable reason codes that may leave the site, and the one exception that carries them."""

from __future__ import annotations

from enum import StrEnum


class SetAside(StrEnum):
    """Reason codes. Their values are stored and counted, so they never change meaning."""

    MISSING_FILE = "missing_file"
    """The label file names a film that is not in the films folder."""
    AMBIGUOUS_NAME = "ambiguous_name"
    """The label file names a film, and several files in the films folder have that name."""
    NO_ENDING = "no_ending"
    """The label file names a film without its ending, and several files differ in nothing but that."""
    OTHER_ENDING = "other_ending"
    """The label file names a film with one ending; the file has another."""
    CLOSED_FOLDER = "closed_folder"
    """The label file names a film in a folder that may not be entered."""
    BEHIND_LINK = "behind_link"
    """The label file names a film behind a link to a folder; such links are not followed."""
    CANNOT_OPEN = "cannot_open"
    """The file system refuses to open it."""
    NOT_SENT = "not_sent"
    """The archive lists it and does not send it."""
    NOT_AN_IMAGE = "not_an_image"
    """The content is neither DICOM, PNG nor JPEG, whatever the file is called."""
    UNREADABLE = "unreadable"
    """It begins as a film and then breaks off, or its frame is not one of its header's size or cannot be decoded."""
    INCOMPLETE_HEADER = "incomplete_header"
    """The header lacks an element without which its pixels cannot be read."""
    BAD_NUMBER = "bad_number"
    """An element of the header that the pixels depend on is to hold a number and holds something else."""
    TOO_LARGE = "too_large"
    """The file or the decoded film is larger than any radiograph; found before decoding."""
    NO_PIXELS = "no_pixels"
    """A DICOM object without pixel data: a report, a plan, a header only."""
    MODALITY = "modality"
    """Not a projection radiograph: Modality is absent or other than CR and DX."""
    FOR_PROCESSING = "for_processing"
    """The detector's raw signal, which is not for display."""
    PHANTOM = "phantom"
    """An image of a phantom or of quality control, as the header says."""
    NOT_HUMAN = "not_human"
    """The header speaks of an animal."""
    BODY_PART = "body_part"
    """The header names another part of the body than the chest."""
    NOT_FRONTAL = "not_frontal"
    """A lateral, oblique or decubitus view."""
    MULTI_FRAME = "multi_frame"
    """More than one frame."""
    COLOUR = "colour"
    """A colour image: a screenshot, a photograph, a report page."""
    TOO_SMALL = "too_small"
    """A preview, an icon: fewer pixels than a film made smaller for research."""
    NO_DECODER = "no_decoder"
    """Compressed in a way that no decoder here reads, such as a retired transfer syntax."""
    CONTRADICTION = "contradiction"
    """The header says what the pixels are not: other bits, another size, pixels of an impossible shape."""
    SATURATED = "saturated"
    """Black and white only: nearly no pixel between."""
    BLANK = "blank"
    """Every pixel shows the same grey."""
    TOO_SLOW = "too_slow"
    """Reading it took longer than the limit a file has."""
    READER_CRASHED = "reader_crashed"
    """The process that read it died, of the file's bytes or of the memory that they asked for."""
    UNKNOWN_VIEW = "unknown_view"
    """Neither the header nor the label file says how the film was taken, and the site wants to know."""
    DUPLICATE = "duplicate"
    """Its pixels are those of another film of the site, which is kept."""
    NEAR_DUPLICATE = "near_duplicate"
    """It shows what another film of the site shows, in another encoding or window; that one is kept."""


_SHOWN = 64


class FilmSetAside(Exception):  # noqa: N818  (a verdict about a film, counted by the caller, not an error of the program)
    """This film cannot be used. The text holds the reason code only: no path, name, identifier or header value.

    Attributes:
        value: what refused it, such as the body part that the header names; for the site's own eyes, of printable
            characters and short. None where there is nothing to say.
    """

    def __init__(self, reason: SetAside, value: object = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = None if value is None else _shown(str(value))

    def __str__(self) -> str:
        return f"film set aside: {self.reason.value}"


def _shown(value: str) -> str | None:
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in value).split())
    return text[:_SHOWN] or None
