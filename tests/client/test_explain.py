"""`python -m client.explain`: the maps that a person sees are the model's, on a page that stays."""

from __future__ import annotations

import base64
import io
import re
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import SIZES, address_of, chromium, expect_readable, opened
from deployments import deployed
from hospitals import FINDINGS, federation, hospital, site
from PIL import Image

from acm_core.config import dump_config
from acm_core.config.sections import ModelConfig
from acm_core.data.film import read_film
from acm_core.data.shrink import square_film
from acm_core.data.site_films import FilmSet, load_site
from acm_core.deployment import OperatingPoint
from acm_core.federated.cohort import Cohort
from acm_core.nn import build_classifier, normalised
from client.explain import main
from client.model_use import overlay
from client.model_use.explanation import chosen_modules, explain, telling_cases

POINTS = (
    OperatingPoint(specificity=0.5, threshold=0.0, sensitivity=1.0),
    OperatingPoint(specificity=0.9, threshold=1.0, sensitivity=0.0),
)


def exported(folder: Path, config: ModelConfig) -> Path:
    network = build_classifier(config, len(FINDINGS), seed=4)
    deployed(folder, config, network, {**dict.fromkeys(FINDINGS, ()), FINDINGS[0]: POINTS})
    return folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with films and the exported model `acm`, and `none` without attend-and-compare."""
    folder = tmp_path_factory.mktemp("explain")
    hospital(folder, "A", patients=40)
    (folder / "sites").mkdir()
    (folder / "sites" / "A.yaml").write_text(dump_config(site(folder, "A")), encoding="utf-8")
    model = federation().model
    exported(folder / "acm", model)
    exported(folder / "none", model.model_copy(update={"context": "none"}))
    return folder


def run(given: Path, *options: str, model: str = "acm") -> int:
    return main(["--site=A", "--sites", str(given / "sites"), "--model", str(given / model), *options])


def a_film(given: Path) -> Path:
    return next(path for path in sorted((given / "A" / "films").rglob("*")) if path.is_file())


def test_maps_are_coloured_by_sign_and_strength() -> None:
    map_ = np.array([[1.0, 0.0], [0.0, -1.0]], np.float32)
    pixels = overlay.tint(map_, 1.0, "both")
    assert pixels.shape == (64, 64, 4)
    assert (tuple(pixels[0, 0, :3]), tuple(pixels[-1, -1, :3])) == (overlay.ABOVE, overlay.BELOW)
    assert pixels[0, 0, 3] == pixels[-1, -1, 3] > 180
    assert pixels[0, -1, 3] == 0
    assert tuple(overlay.tint(np.abs(map_), 1.0, "below")[0, 0, :3]) == overlay.BELOW
    assert not overlay.tint(np.zeros((2, 2), np.float32), 0.0, "both")[..., 3].any()


@pytest.mark.parametrize("head", ["max", "projected"])
def test_a_case_has_the_models_scores_and_maps(head: str) -> None:
    config = federation(model={"head": head, "dimensions": 8, "weights_sha256": "a" * 64}).model
    network = build_classifier(config, len(FINDINGS), seed=4).eval()
    film = np.random.default_rng(0).random((32, 32), np.float32)
    (module,) = chosen_modules(network, ["layer2.1.context"])
    case = explain(network, film, film, FINDINGS, FINDINGS[:1], [module], [], "film")
    images = normalised(torch.from_numpy(film)[None, None])
    with torch.no_grad():
        expected = torch.sigmoid(network(images).logits)[0].tolist()
    assert list(case.probabilities.values()) == pytest.approx(expected, abs=1e-5)
    assert [panel.title for panel in case.scores] == [f"{FINDINGS[0]}: score map"]
    maps = network.attention_maps(images)[module]
    apart = (maps.key - maps.query)[0].abs().sum((1, 2)) / 2
    furthest = int(apart.argmax())
    assert case.rows[1][0].title.startswith(f"{module}, group {furthest}: K")
    # The brightest place of the picture of K is where K is largest.
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(case.rows[1][0].png))))[..., 3]
    row, column = np.unravel_index(int(maps.key[0, furthest].argmax()), maps.key.shape[2:])
    side = 64 // maps.key.shape[2]
    there = shown[row * side : (row + 1) * side, column * side : (column + 1) * side]
    assert there.max() == shown.max() > 0


def test_telling_cases_are_the_ends_of_either_label() -> None:
    labels = np.array([[1], [1], [1], [0], [0], [np.nan]], np.float32)
    scores = np.array([[0.2], [0.9], [0.5], [0.6], [0.1], [0.99]])
    films = FilmSet(np.zeros((6, 4, 4), np.float16), labels, np.arange(6))
    assert list(telling_cases(scores, films, 0, 1)) == [
        ("present, scored highest", 1),
        ("present, scored lowest", 0),
        ("absent, scored highest", 3),
        ("absent, scored lowest", 4),
    ]
    rows = [row for _, row in telling_cases(scores, films, 0, 5)]
    assert sorted(rows) == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_a_film_of_the_hospital_on_a_page_at_the_site(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(given, "--film", str(a_film(given))) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.is_relative_to(site(given, "A").state)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text(encoding="utf-8")
    assert a_film(given).stem not in text
    with chromium() as browser:
        for size in SIZES:
            with opened(browser, address_of(path), size) as (page, complaints):
                expect_readable(page, size)
                assert complaints == []
                pictures = page.locator(".film img")
                assert pictures.count() == len(FINDINGS) + 4 * 3 * 3
                broken = "[...document.images].filter(one => !one.naturalWidth).length"
                assert page.evaluate(broken) == 0
                page.emulate_media(media="print")
                assert page.locator("details .film").first.is_visible()
                assert (
                    page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
                )


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_a_film_lies_under_its_maps_as_the_model_sees_it(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, int]
) -> None:
    rows, columns = np.indices(shape)
    spot = np.exp(-((rows - 60) ** 2 + (columns - 40) ** 2) / 800)
    file = tmp_path / "film.png"
    Image.fromarray(overlay.grey((0.2 + 0.8 * spot).astype(np.float32))).save(file)
    assert run(given, "--film", str(file), "--finding", FINDINGS[0], "--group", "3", "--group", "0") == 0
    text = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert re.findall(r"<b>layer4\.\d\.context, (.*?): K", text) == [
        "mean of 32 groups",
        "group 0",
        "group 3",
    ]
    ((film, ratio),) = re.findall(r"url\(data:image/png;base64,([^)]*)\); aspect-ratio: ([^;]*);", text)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(film))), np.float32) / 255
    assert (shown.shape[0], ratio) == (shown.shape[1], "1")
    seen = square_film(read_film(file).pixels, 32)
    places = [np.argwhere(film > 0.6).mean(0) / film.shape[0] for film in (shown, seen)]
    np.testing.assert_allclose(*places, atol=1 / 32)


@pytest.mark.slow
def test_test_films_by_finding(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(given, "--finding", FINDINGS[0], "--module", "layer4.1.context", "--each", "1") == 0
    text = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert "32 × 32 pixels" in text
    titles = re.findall(r"<h2>(.*)</h2>", text)
    called = "true positive at specificity 0.5, false negative at specificity 0.9"
    assert titles[0] == f"{FINDINGS[0]} present, scored highest: {called}"
    called = "false positive at specificity 0.5, true negative at specificity 0.9"
    assert titles[-1] == f"{FINDINGS[0]} absent, scored lowest: {called}"
    films = load_site(site(given, "A"), FINDINGS, 32).test
    assert len(titles) == sum(min(2, int((films.labels[:, 0] == label).sum())) for label in (0, 1))


def shown(given: Path, capsys: pytest.CaptureFixture[str], *cohorts: Cohort) -> str:
    """The page of test films by a model of these cohorts."""
    shutil.rmtree(given / "of", ignore_errors=True)
    config = federation().model.model_copy(update={"context": "none"})
    deployed(given / "of", config, build_classifier(config, len(FINDINGS), seed=4), {}, cohorts)
    assert run(given, "--finding", FINDINGS[0], "--each", "1", model="of") == 0
    return Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")


def test_films_that_may_be_training_films_are_not_shown_as_test_films(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = load_site(site(given, "A"), FINDINGS, 32).fingerprint
    assert '<p class="bad">' not in shown(given, capsys, Cohort(site="A", fingerprint=now))
    doubts = {
        "films, labels or split of site A are not those of run test.": [
            Cohort(site="A", fingerprint="0b" * 32)
        ],
        "Site A took no part in run test, as": [Cohort(site="B", fingerprint=now)],
        "does not say which sites took part": [],
    }
    for doubt, cohorts in doubts.items():
        text = shown(given, capsys, *cohorts)
        assert doubt in re.findall('<p class="bad">(These may be training films. .*)</p>', text)[0]


def test_a_site_that_withholds_its_fingerprint_knows_its_own(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = site(given, "A")
    own = settings.state / "models" / "test"
    own.parent.mkdir(exist_ok=True)
    config = federation().model
    cohort = Cohort(site="A", fingerprint=load_site(settings, FINDINGS, 32).fingerprint)
    deployed(own, config, build_classifier(config, len(FINDINGS), seed=4), {}, (cohort,))
    try:
        assert '<p class="bad">' not in shown(given, capsys, Cohort(site="A"))
    finally:
        shutil.rmtree(own)
    assert '<p class="bad">' in shown(given, capsys, Cohort(site="A"))


def test_a_model_of_invented_films_says_so_above_a_film(
    given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = federation().model.model_copy(update={"context": "none"})
    network = build_classifier(config, len(FINDINGS), seed=4)
    deployed(given / "phantoms", config, network, {}, (Cohort(site="B", invented=True),))
    assert run(given, "--film", str(a_film(given)), model="phantoms") == 0
    path = Path(capsys.readouterr().out.strip())
    text = path.read_text(encoding="utf-8")
    assert '<p class="bad">Trained on invented films.' in text
    assert "may be training films" not in text
    with chromium() as browser:
        for size in SIZES:
            with opened(browser, address_of(path), size) as (page, complaints):
                expect_readable(page, size)
                assert complaints == []
                assert (
                    page.evaluate("getComputedStyle(document.querySelector('.bad')).color")
                    == "rgb(255, 138, 138)"
                )


@pytest.mark.slow
def test_a_model_without_attend_and_compare_says_so(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(given, "--film", str(a_film(given)), model="none") == 0
    text = Path(capsys.readouterr().out.strip()).read_text(encoding="utf-8")
    assert "no attend-and-compare module" in text


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--finding", "Hernia"], 2, f"--finding: expected some of {FINDINGS[0]}, {FINDINGS[1]}, got Hernia"),
        (["--group", "32"], 2, "--group: expected some of 0 to 31, got 32"),
        (["--module", "layer9"], 2, "expected some of layer1.0.context, "),
        (["--model", "nowhere"], 2, "expected a folder that server.export wrote"),
        (["--film", __file__], 1, "cannot be used (not_an_image)"),
    ],
)
def test_wrong_input_is_said(
    given: Path, options: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(given, *options) == code
    assert says in capsys.readouterr().err
