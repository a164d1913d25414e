"""A site's films, labels and patients stay together."""

from __future__ import annotations

from pathlib import Path

import hospitals
import numpy as np
import pytest
from PIL import Image

from acm_core.config.site import SiteConfig
from acm_core.data.site_films import FilmSet, SiteFilms, concatenate, load_site
from acm_core.data.splits import Split


def small_site(folder: Path, **changes: object) -> SiteConfig:
    """30 patients of 3 films each. Film f of patient p says in its corner who it is; Pneumonia is labelled for films 0
    and 1, Nodule for film 1, nothing for film 2."""
    films = folder / "films"
    films.mkdir(parents=True)
    rows = ["patient_id,image,Pneumonia,Nodule"]
    for patient in range(30):
        for film in range(3):
            pixels = np.random.default_rng((patient, film)).integers(0, 256, (32, 32), np.uint8)
            pixels[:16, :16], pixels[16:, 16:] = 8 * patient + 4, 80 * film + 40
            Image.fromarray(pixels).save(films / f"{patient}-{film}.png")
            labels = [f"{patient % 2},", f"{patient % 2},{patient % 3 // 2}", ","][film]
            rows.append(f"P{patient},{patient}-{film}.png,{labels}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return hospitals.site(folder, "A", films=films, labels=folder / "labels.csv", **changes)


def sets(films: SiteFilms) -> list[FilmSet]:
    return [films.train, films.validation, films.test]


def who(films: FilmSet) -> list[tuple[int, int]]:
    """Patient and film as the pixels say."""
    corner = np.rint(np.asarray(films.images)[:, 0, 0].astype(float) * 255).astype(int)
    other = np.rint(np.asarray(films.images)[:, -1, -1].astype(float) * 255).astype(int)
    return list(zip(((corner - 4) // 8).tolist(), ((other - 40) // 80).tolist(), strict=True))


def test_films_labels_and_patients_belong_together(tmp_path: Path) -> None:
    films = load_site(small_site(tmp_path), ["Nodule", "Pneumonia"], 32)
    for part in sets(films):
        assert part.images.shape == (len(part), 32, 32)
        assert part.labels.dtype == np.float32
        assert part.patients.dtype == np.int64
        for (patient, film), labels in zip(who(part), part.labels, strict=True):
            assert film in (0, 1)  # film 2 is labelled for nothing
            assert labels[1] == patient % 2
            assert np.isnan(labels[0]) if film == 0 else labels[0] == patient % 3 // 2
    assert sorted(film for part in sets(films) for film in who(part)) == [
        (p, f) for p in range(30) for f in range(2)
    ]
    assert len(films.train) > len(films.test) > 0
    assert films.train.labelled().tolist() == [len(films.train) // 2, len(films.train)]


def test_films_without_a_label_for_the_runs_findings_are_dropped(tmp_path: Path) -> None:
    films = load_site(small_site(tmp_path), ["Nodule", "Effusion"], 32)
    assert sum(len(part) for part in sets(films)) == 30
    assert films.train.labelled().tolist() == [len(films.train), 0]
    nothing = load_site(small_site(tmp_path / "B"), ["Effusion"], 32)
    assert [len(part) for part in sets(nothing)] == [0, 0, 0]
    assert nothing.train.labels.shape == (0, 1)


def test_a_patient_stands_in_one_split_under_one_number(tmp_path: Path) -> None:
    films = load_site(small_site(tmp_path), ["Pneumonia"], 32)
    patients = [{patient for patient, _ in who(part)} for part in sets(films)]
    assert sum(len(part) for part in patients) == 30
    numbers = {}
    for part in sets(films):
        for (patient, _), number in zip(who(part), part.patients.tolist(), strict=True):
            assert numbers.setdefault(patient, number) == number
    assert len(set(numbers.values())) == 30


def test_what_the_manifest_says_of_a_film_belongs_to_it(tmp_path: Path) -> None:
    """A film's shape and view say which patient it is of, and so do its pixels."""
    folder = tmp_path / "films"
    folder.mkdir()
    views = ["PA", "AP", ""]
    rows = ["patient_id,image,view,Pneumonia"]
    for patient in range(30):
        pixels = np.random.default_rng(patient).integers(0, 256, (32 + patient, 40), np.uint8)
        pixels[:, :20] = 8 * patient + 4
        Image.fromarray(pixels).save(folder / f"{patient}.png")
        rows.append(f"P{patient},{patient}.png,{views[patient % 3]},{patient % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    site = hospitals.site(
        tmp_path, "A", films=folder, labels=tmp_path / "labels.csv", label_map={"view": "view"}
    )
    films = load_site(site, ["Pneumonia"], 64)
    for part, split in zip(sets(films), Split, strict=True):
        facts = films.facts[split]
        middle = np.asarray(part.images)[:, 32, 16].astype(float) * 255
        patients = np.rint((middle - 4) / 8).astype(int)
        assert facts.shapes.tolist() == [[32 + patient, 40] for patient in patients]
        assert facts.views.tolist() == [["PA", "AP", "unknown"][patient % 3] for patient in patients]
    assert films.facts[Split.TEST].views.tolist() == films.test_groups["view"].tolist()
    assert len(films.facts[Split.TRAIN].shapes) == len(films.train) > 0


def test_splits_stay_when_films_come(tmp_path: Path) -> None:
    site = small_site(tmp_path)
    before = [{patient for patient, _ in who(part)} for part in sets(load_site(site, ["Pneumonia"], 32))]
    lines = site.labels.read_text().splitlines()
    site.labels.write_text("\n".join([lines[0], *reversed(lines[10:])]) + "\n")
    after = [{patient for patient, _ in who(part)} for part in sets(load_site(site, ["Pneumonia"], 32))]
    for kept, all_of_it in zip(after, before, strict=True):
        assert kept <= all_of_it


def test_films_that_cannot_be_used_are_counted_and_the_rest_keeps_its_labels(tmp_path: Path) -> None:
    site = small_site(tmp_path)
    (site.films / "0-0.png").unlink()
    (site.films / "5-1.png").write_bytes(b"nothing")
    films = load_site(site, ["Pneumonia"], 32)
    assert films.set_aside == {"missing_file": 1, "not_an_image": 1}
    kept = sorted(film for part in sets(films) for film in who(part))
    assert kept == [(p, f) for p in range(30) for f in range(2) if (p, f) not in ((0, 0), (5, 1))]
    for part in sets(films):
        assert [patient % 2 for patient, _ in who(part)] == part.labels[:, 0].tolist()


def test_dicom_of_a_synthetic_hospital(tmp_path: Path) -> None:
    hospitals.hospital(tmp_path, "A", patients=12, films_per_patient=(1, 2), scanner="cr_mono2_12bit_rescale")
    calls: list[tuple[int, int]] = []
    films = load_site(
        hospitals.site(tmp_path, "A"),
        hospitals.FINDINGS,
        64,
        progress=lambda done, of: calls.append((done, of)),
    )
    total = sum(len(part) for part in sets(films))
    assert films.set_aside == {}
    files = total + 2  # the hospital's own record and truth lie beside its films
    assert calls == [(done, files) for done in range(1, files + 1)]
    assert len({number for part in sets(films) for number in part.patients.tolist()}) == 12


def test_concatenation_keeps_patients_apart() -> None:
    def films(numbers: list[int], grey: float) -> FilmSet:
        count = len(numbers)
        return FilmSet(
            np.full((count, 4, 4), grey, np.float16),
            np.full((count, 2), grey, np.float32),
            np.array(numbers, np.int64),
        )

    whole = concatenate([films([0, 2, 2], 0.25), films([], 0), films([0, 1], 0.5)])
    assert whole.patients.tolist() == [0, 2, 2, 3, 4]
    assert whole.images[:, 0, 0].tolist() == whole.labels[:, 0].tolist() == [0.25, 0.25, 0.25, 0.5, 0.5]
    assert whole.patients.dtype == np.int64


def test_a_film_set_shows_no_pixels_and_no_labels() -> None:
    films = FilmSet(np.ones((1, 2, 2), np.float16), np.ones((1, 1), np.float32), np.zeros(1, np.int64))
    assert repr(films) == "FilmSet()"


@pytest.mark.parametrize(
    ("name", "count", "patients", "labelled"),
    [
        ("NIH_PA", 408, 399, [408, 408, 0]),
        ("NIH_AP", 308, 256, [308, 308, 0]),
        ("GUANGZHOU", 300, 294, [300, 300, 0]),
        ("HANNOVER", 106, 70, [0, 0, 106]),
    ],
)
def test_real_sites(
    real: Path, tmp_path: Path, name: str, count: int, patients: int, labelled: list[int]
) -> None:
    folder = real / "sites" / name
    site = hospitals.site(tmp_path, name, films=folder, labels=folder / "labels.csv")
    films = load_site(site, ["No Finding", "Pneumonia", "COVID-19"], 32)
    assert films.set_aside == {}
    assert sum(len(part) for part in sets(films)) == count
    by_split = [set(part.patients.tolist()) for part in sets(films)]
    assert sum(len(part) for part in by_split) == len(set.union(*by_split)) == patients
    assert sum(part.labelled() for part in sets(films)).tolist() == labelled
