"""What a drawn film shows: anatomy where it belongs, findings where the truth says, nothing that gives a label away."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from acm_core.randomness import stream
from simulations.phantoms.anatomy import draw_anatomy
from simulations.phantoms.film import Box, PhantomFilm, draw_film
from simulations.phantoms.findings import FINDINGS, Finding, PlantedFinding, apply_finding, draw_finding
from simulations.phantoms.geometry import LEFT, RIGHT, BodyGrid, Canvas, draw_positioning
from simulations.phantoms.thorax import lung_space

CANVAS = Canvas(36, 43, 160)
ONE_SIDED: tuple[Finding, ...] = ("Lung Opacity", "Pneumothorax", "Pleural Effusion", "Nodule")


def film(
    patient: int, planted: tuple[PlantedFinding, ...] = (), canvas: Canvas = CANVAS, view: str = "PA"
) -> PhantomFilm:
    anatomy = draw_anatomy(stream(patient, "anatomy"), "F" if patient % 2 else "M")
    positioning = draw_positioning(stream(patient, "positioning"), view)
    return draw_film(anatomy, positioning, planted, canvas, stream(patient, "texture"))


def planted(finding: Finding, seed: int, difficulty: float = 0.3) -> PlantedFinding:
    return draw_finding(stream(seed, "finding", finding), finding, difficulty)


def centre(box: Box) -> float:
    return (box.left + box.right) / 2


def test_the_same_draws_give_the_same_film_and_other_patients_another() -> None:
    finding = planted("Lung Opacity", 1)
    assert np.array_equal(film(1, (finding,)).image, film(1, (finding,)).image)
    assert not np.allclose(film(1).image, film(2).image, atol=0.05)


@pytest.mark.parametrize("patient", range(6))
def test_a_healthy_film_shows_the_chest_the_right_way_round(patient: int) -> None:
    image = film(patient).image
    assert image.shape == (160, 134)
    assert image.dtype == np.float32
    assert 0 <= image.min() < 0.1
    assert 0.85 < image.max() <= 1
    anatomy = draw_anatomy(stream(patient, "anatomy"), "F" if patient % 2 else "M")
    grid = BodyGrid.of(CANVAS, draw_positioning(stream(patient, "positioning"), "PA"))

    def grey(x: float, y: float) -> float:
        near = (np.abs(grid.x - x) < 1) & (np.abs(grid.y - y) < 1)
        return float(image[near].mean())

    lungs = (grey(-8.5, 0), grey(8.5, 0))
    assert max(lungs) + 0.15 < min(
        grey(0, 3), grey(0, 14)
    )  # mediastinum and abdomen are white, lungs are not
    assert grey(16.5, -19) < 0.1  # air beside the neck
    heart_level = anatomy.dome[0] - 3.5
    assert grey(5.5, heart_level) > grey(-6.5, heart_level)  # the heart lies on the viewer's right
    # Straight below the right dome there is liver where the left side may still be lung: the right dome is higher.
    assert anatomy.dome[0] < anatomy.dome[1] + 0.5


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
def test_a_finding_changes_the_film_in_its_region_and_hardly_elsewhere(
    finding: Finding, difficulty: float
) -> None:
    for patient in range(3):
        with_finding = film(patient, (planted(finding, patient, difficulty),))
        (truth,) = with_finding.truth
        change = np.abs(with_finding.image - film(patient).image)
        assert truth.finding == finding
        assert change[truth.region].mean() > 0.002
        assert change[truth.region].mean() > 8 * change[~truth.region].mean()


@pytest.mark.parametrize("finding", FINDINGS)
def test_findings_get_harder_with_difficulty(finding: Finding) -> None:
    def total(difficulty: float) -> float:
        return sum(
            float(np.abs(film(p, (planted(finding, p, difficulty),)).image - film(p).image).sum())
            for p in range(4)
        )

    assert total(0.0) > total(0.5) > total(1.0) > 0


def test_opacity_effusion_and_nodule_whiten_and_pneumothorax_darkens() -> None:
    for finding, sign in (("Lung Opacity", 1), ("Pleural Effusion", 1), ("Nodule", 1), ("Pneumothorax", -1)):
        shown = film(3, (planted(finding, 3, 0.0),))
        change = (shown.image - film(3).image)[shown.truth[0].region]
        assert sign * change.mean() > 0.005, finding


@pytest.mark.parametrize("finding", ONE_SIDED)
@pytest.mark.parametrize("side", [LEFT, RIGHT])
def test_box_and_mirror_lie_on_the_sides_they_name(finding: Finding, side: int) -> None:
    for patient in range(4):
        chosen = dataclasses.replace(planted(finding, patient), side=side)
        (truth,) = film(patient, (chosen,)).truth
        assert truth.side == ("left" if side == LEFT else "right")
        box, mirror = truth.box, truth.mirror
        # The patient's left is the viewer's right.
        assert (centre(box) > centre(mirror)) == (side == LEFT)
        rows, columns = np.nonzero(truth.region)
        assert (box.top, box.bottom) == (rows.min(), rows.max() + 1)
        assert (box.left, box.right) == (columns.min(), columns.max() + 1)
        for corner in (box, mirror):
            assert 0 <= corner.top < corner.bottom <= CANVAS.shape[0]
            assert 0 <= corner.left < corner.right <= CANVAS.shape[1]
        assert abs((box.bottom - box.top) - (mirror.bottom - mirror.top)) <= 8


def test_several_findings_are_told_apart_and_the_heart_has_no_side() -> None:
    shown = film(5, tuple(planted(f, 5) for f in FINDINGS))
    assert [t.finding for t in shown.truth] == list(FINDINGS)
    assert {t.finding: t.side for t in shown.truth}["Cardiomegaly"] == "both"


def test_an_enlarged_heart_passes_half_the_chest_only_when_enlarged() -> None:
    ratios = []
    for patient in range(20):
        finding = planted("Cardiomegaly", patient, 0.0)
        anatomy = draw_anatomy(stream(patient, "anatomy"), "M")
        ratios.append((anatomy.heart_ratio, anatomy.heart_ratio + finding.size))
    healthy, enlarged = np.array(ratios).T
    assert healthy.max() < 0.5
    assert np.median(enlarged) > 0.53


def test_the_heart_looks_larger_on_ap_films() -> None:
    heart = planted("Cardiomegaly", 2)
    boxes = [film(2, (heart,), view=view).truth[0].box for view in ("PA", "AP")]
    widths = [box.right - box.left for box in boxes]
    assert widths[1] > widths[0]


def test_drawing_the_heart_as_a_lung_finding_is_refused() -> None:
    anatomy = draw_anatomy(stream(0, "anatomy"), "F")
    grid = BodyGrid.of(CANVAS, draw_positioning(stream(0, "p"), "PA"))
    lungs = lung_space(anatomy, grid)
    with pytest.raises(ValueError, match="expected a finding of one lung, got Cardiomegaly"):
        apply_finding(planted("Cardiomegaly", 0), lungs, np.ones(CANVAS.shape, np.float32), 0.7)


def test_a_finding_beside_the_film_is_an_error() -> None:
    anatomy = draw_anatomy(stream(0, "anatomy"), "F")
    away = dataclasses.replace(draw_positioning(stream(0, "p"), "PA"), shift=(90.0, 0.0))
    with pytest.raises(ValueError, match="expected the finding to lie on the film"):
        draw_film(anatomy, away, (planted("Cardiomegaly", 0),), CANVAS, stream(0))


def test_neither_mean_nor_border_tells_the_label() -> None:
    """Overall brightness must not replace looking: half of the patients have the finding, the others nothing."""
    small = Canvas(36, 43, 64)
    patients = 80

    def shortcuts(image: np.ndarray) -> tuple[float, float]:
        return float(image.mean()), float(np.concatenate([image[:4], image[-4:]]).mean())

    healthy = [shortcuts(film(seed, (), small).image) for seed in range(patients)]
    for number, finding in enumerate(ONE_SIDED):
        seeds = range(1000 * (number + 1), 1000 * (number + 1) + patients)
        ill = [shortcuts(film(seed, (planted(finding, seed, 0.3),), small).image) for seed in seeds]
        labels = [0] * patients + [1] * patients
        for values in zip(*(healthy + ill), strict=True):
            # Three standard errors of an AUROC of 0.5 with 80 films a class are 0.14.
            assert abs(roc_auc_score(labels, values) - 0.5) < 0.14, finding


def test_one_sided_findings_are_as_often_left_as_right() -> None:
    sides = [planted(f, seed).side for f in ONE_SIDED for seed in range(200)]
    assert set(sides) == {LEFT, RIGHT}
    assert abs(np.mean(sides)) < 0.11  # three standard errors


@settings(max_examples=25, deadline=None)
@given(
    x=st.floats(-15, 15),
    y=st.floats(-18, 18),
    seed=st.integers(0, 10_000),
    longest=st.integers(64, 400),
)
def test_body_coordinates_and_pixels_are_inverse(x: float, y: float, seed: int, longest: int) -> None:
    canvas = Canvas(36, 43, longest)
    grid = BodyGrid.of(canvas, draw_positioning(stream(seed, "p"), "PA"))
    row, column = grid.pixels(grid.x, grid.y)
    rows, columns = canvas.shape
    assert np.allclose(row, np.arange(rows)[:, None], atol=1e-2)
    assert np.allclose(column, np.arange(columns), atol=1e-2)
    # A point deposits its whole volume: the film's integral is the volume, if it lies on the film.
    (at_row,), (at_column,) = grid.pixels(np.array([x]), np.array([y]))
    total = float(grid.deposit(np.array([x]), np.array([y]), np.array([2.0])).sum()) * canvas.spacing**2
    on_film = 0 <= at_row < rows - 1 and 0 <= at_column < columns - 1
    assert total == pytest.approx(2.0 if on_film else 0.0, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    patient=st.integers(0, 2**20),
    difficulty=st.floats(0, 1),
    chosen=st.sets(st.sampled_from(FINDINGS)),
    size=st.sampled_from([(36.0, 43.0), (43.0, 36.0), (43.0, 43.0)]),
    view=st.sampled_from(["PA", "AP"]),
)
def test_any_patient_can_be_drawn(
    patient: int, difficulty: float, chosen: set[Finding], size: tuple[float, float], view: str
) -> None:
    findings = tuple(planted(f, patient, difficulty) for f in FINDINGS if f in chosen)
    canvas = Canvas(*size, 64)
    shown = film(patient, findings, canvas, view)
    assert shown.image.shape == canvas.shape
    assert np.isfinite(shown.image).all()
    assert shown.image.min() >= 0
    assert shown.image.max() <= 1
    assert {t.finding for t in shown.truth} == chosen
