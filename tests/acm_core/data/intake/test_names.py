"""Which file a label file's name means: every way of writing a name that sites were seen to use, and no guess."""

from __future__ import annotations

import unicodedata

import pytest

from acm_core.data.intake.names import Match, match
from acm_core.data.set_aside import SetAside

NFC, NFD = (unicodedata.normalize(form, "Röntgen") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("files", "image", "means"),
    [
        (["sub/0.png"], "sub\\0.png", "sub/0.png"),
        (["a/b/0.png"], "a\\b/0.png", "a/b/0.png"),
        ([f"{NFD}.png"], f"{NFC}.png", f"{NFD}.png"),
        ([f"{NFC}/1.png"], f"{NFD}\\1.png", f"{NFC}/1.png"),
        (["IMG_1.PNG"], "img_1.png", "IMG_1.PNG"),
        (["deep/IMG_1.PNG"], "img_1.png", "deep/IMG_1.PNG"),
        (["COVID-1.png", "COVID-10.png"], "COVID-1", "COVID-1.png"),
        (["1.2.840.1.dcm", "1.2.840.10.dcm"], "1.2.840.1", "1.2.840.1.dcm"),
        (["series/1.2.840.1.dcm"], "1.2.840.1", "series/1.2.840.1.dcm"),
        (["Sub/Film.DCM"], "sub\\film", "Sub/Film.DCM"),
    ],
)
def test_a_film_that_is_evidently_there_is_taken(files: list[str], image: str, means: str) -> None:
    assert match([*files, "other.png"], [image]) == [Match(means, respelled=True)]


@pytest.mark.parametrize(
    ("files", "image", "means"),
    [
        (["a.png", "A.png"], "a.png", "a.png"),
        (["0.png", "raw/0.png"], "0.png", "0.png"),
        (["odd\\name.png", "odd/name.png"], "odd\\name.png", "odd\\name.png"),
        (["deep/0.png"], "0.png", "deep/0.png"),
        (["1.5", "1.5.png"], "1.5", "1.5"),
    ],
)
def test_the_exact_name_goes_first(files: list[str], image: str, means: str) -> None:
    assert match(files, [image]) == [Match(means)]


@pytest.mark.parametrize(
    ("files", "image", "reason", "value"),
    [
        (["raw/0.png", "processed/0.png"], "0.png", SetAside.AMBIGUOUS_NAME, None),
        (["a/0.png", "b/0.dcm"], "0", SetAside.AMBIGUOUS_NAME, None),
        (["Film.png", "FILM.png"], "film.png", SetAside.AMBIGUOUS_NAME, None),
        (["0.png", "0.dcm"], "0", SetAside.NO_ENDING, ".dcm or .png"),
        (["0.png"], "0.jpg", SetAside.OTHER_ENDING, ".jpg instead of .png"),
        (["sub/0.dcm"], "sub/0.png", SetAside.OTHER_ENDING, ".png instead of .dcm"),
        (["other/0.png"], "sub/0.png", SetAside.MISSING_FILE, None),
        (["10.png"], "1.png", SetAside.MISSING_FILE, None),
        (["1.2.3.4"], "1.2.3", SetAside.MISSING_FILE, None),  # another UID: its last number is no ending
        ([], "locked/0.png", SetAside.CLOSED_FOLDER, None),
        ([], "locked\\0.png", SetAside.CLOSED_FOLDER, None),
        ([], "link/deep/0.png", SetAside.BEHIND_LINK, None),
        ([], "lockedalike/0.png", SetAside.MISSING_FILE, None),
    ],
)
def test_a_film_that_is_not_taken_has_the_cause(
    files: list[str], image: str, reason: SetAside, value: str | None
) -> None:
    found = match(files, [image], closed=["locked"], linked=["link"])
    assert found == [Match(image, reason, value)]


def test_a_report_beside_a_film_does_not_make_its_name_ambiguous() -> None:
    names = ["0.png", "0.txt", "1.png", "1.json"]
    assert match(names, ["0", "1.PNG"], no_films={"0.txt", "1.json"}) == [
        Match("0.png", respelled=True),
        Match("1.png", respelled=True),
    ]


def test_the_sites_ending_decides_between_two() -> None:
    names = ["0.png", "0.dcm", "1.png"]
    found = match(names, ["0", "1", "1.png", "2"], suffix=".png")
    assert [one.name for one in found] == ["0.png", "1.png", "1.png", "2"]
    assert found[3].reason is SetAside.MISSING_FILE
