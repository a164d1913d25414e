"""The page and the drawing of an experiment, from cells made by hand."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from browser import chromium, opened
from experiments import experiment, figures, finish
from hospitals import FINDINGS

from simulations.tables.experiment import Experiment
from simulations.tables.forest import drawing
from simulations.tables.page import write_page
from simulations.tables.replicates import RESAMPLES, pack
from simulations.tables.results import Results, UnknownModelError, UnlikeFilmsError

SVG = "{http://www.w3.org/2000/svg}"


def finished(folder: Path, **settings: object) -> Experiment:
    """Two variants with two seeds at A and B; the federated model is 0.05 above alone, with little spread."""
    made = experiment(
        folder,
        **{"comparisons": ["federated less local_only", "one:federated less other:federated"], **settings},
    )
    for variant, more in (("one", 0.0), ("other", 0.1)):
        for seed in (1, 2):
            level = 0.6 + 0.02 * seed
            sites = {
                site: figures({"local_only": level, "federated": level + 0.05 + more}, 0.001)
                for site in ("A", "B")
            }
            finish(folder / "results", made, variant, seed, sites)
    return made


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]


def test_a_row_a_model_and_a_column_a_site(tmp_path: Path) -> None:
    page = write_page(finished(tmp_path), tmp_path / "results")
    table = rows(page.read_text(encoding="utf-8"))
    assert table[0] == ["model", "A", "B", "mean over sites", "seeds"]
    assert table[2][:3] == ["one: alone", "0.630", "0.630"]
    assert re.fullmatch(r"0\.630 \(0\.6[12]–0\.64\)", table[2][3])
    assert [row[0] for row in table[3:6]] == ["one: federated", "other: alone", "other: federated"]
    assert ["other: federated", "0.780", "0.780"] in table  # by finding


def test_differences_are_paired_and_stand_with_their_intervals(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    page = write_page(finished(tmp_path), tmp_path / "results")
    text = page.read_text(encoding="utf-8")
    assert (
        "| site | one: federated less alone | other: federated less alone | federated: one less other |"
        in text
    )
    exact = "| A | +0.050 (+0.050 to +0.050) | +0.150 (+0.150 to +0.150) | −0.100 (−0.100 to −0.100) |"
    assert exact in text
    assert "| **mean over sites** | **+0.050 (+0.050 to +0.050)** |" in text
    assert "![The differences with their intervals, by site and in the mean](study.svg)" in text
    assert "- 4 of 4 cells are finished." in text


def test_a_variant_that_has_other_seeds_is_compared_on_those_of_both(tmp_path: Path) -> None:
    made = experiment(
        tmp_path,
        variants={"one": {"seeds": [1, 2, 3]}, "other": {"seeds": [2, 3, 4]}},
        comparisons=["one:federated less other:federated"],
    )
    for variant, level in (("one", 0.0), ("other", 0.1)):
        for seed in made.settings.seeds_of(variant):
            site = figures({"federated": 0.1 * seed + level}, 0.001)
            finish(tmp_path / "results", made, variant, seed, {"A": site})
    (difference,) = Results(made, tmp_path / "results").differences()
    assert difference.combined.mean.value == pytest.approx(-0.1)
    assert difference.combined.mean.seeds == 2


def test_a_difference_to_another_experiment(tmp_path: Path) -> None:
    other = experiment(tmp_path, "former", variants={"old": {"title": "before"}})
    made = experiment(tmp_path, variants={"one": {}}, comparisons=["one:federated less former/old:federated"])
    finish(tmp_path / "results", other, "old", 1, {"A": figures({"federated": 0.6})})
    finish(tmp_path / "results", made, "one", 1, {"A": figures({"federated": 0.7}), "B": figures({})})
    (difference,) = Results(made, tmp_path / "results").differences()
    assert difference.title == "federated: one less before (former)"
    assert difference.combined.sites.keys() == {"A"}
    assert difference.combined.mean.value == pytest.approx(0.1)


def test_models_that_saw_other_test_films_are_not_compared(tmp_path: Path) -> None:
    made = finished(tmp_path)
    fewer = figures({"local_only": 0.6, "federated": 0.6}, positives=[19] * len(FINDINGS))
    finish(tmp_path / "results", made, "other", 2, {"A": fewer})
    message = r"federated: one less other: expected the same test films of A with seed 2"
    with pytest.raises(UnlikeFilmsError, match=message):
        Results(made, tmp_path / "results").differences()


def test_a_model_that_nobody_has_is_said(tmp_path: Path) -> None:
    made = finished(tmp_path, comparisons=["one:federatd less one:local_only"])
    with pytest.raises(UnknownModelError, match="got 'federatd'; did you mean 'federated'"):
        Results(made, tmp_path / "results").differences()
    asked = finished(tmp_path, variants={"one": {"models": ["pooled"]}, "other": {}})
    with pytest.raises(
        UnknownModelError, match=r"variants\.one\.models: expected some of local_only, federated"
    ):
        Results(asked, tmp_path / "results").rows()


def test_within_variants_only_those_that_have_the_models_are_compared(tmp_path: Path) -> None:
    made = finished(tmp_path, comparisons=["pooled less federated"])
    finish(tmp_path / "results", made, "one", 1, {"A": figures({"federated": 0.6, "pooled": 0.7})})
    titles = [difference.title for difference in Results(made, tmp_path / "results").differences()]
    assert titles == ["one: pooled less federated"]


def test_only_the_models_asked_for_have_rows(tmp_path: Path) -> None:
    made = finished(
        tmp_path,
        variants={
            "one": {"title": "the first", "models": ["federated"]},
            "other": {"settings": {"model": {"context": "none"}}, "models": ["federated", "local_only"]},
        },
    )
    titles = [row.title for row in Results(made, tmp_path / "results").rows()]
    assert titles == ["the first: federated", "other: federated", "other: alone"]


def test_before_the_first_cell_the_page_says_what_is_missing(tmp_path: Path) -> None:
    made = experiment(tmp_path, comparisons=["federated less local_only"])
    page = write_page(made, tmp_path / "results")
    text = page.read_text(encoding="utf-8")
    assert (
        "- 0 of 4 cells are finished.\n- Missing (variant and seed): one 1, other 1, one 2, other 2." in text
    )
    assert not page.with_suffix(".svg").exists()


def test_a_cell_made_with_other_settings_is_in_no_table(tmp_path: Path) -> None:
    finished(tmp_path)
    made = finished_with_other_rounds(tmp_path)
    assert Results(made, tmp_path / "results").rows() == []


def finished_with_other_rounds(folder: Path) -> Experiment:
    return experiment(folder, settings={"federation": {"rounds": 9}})


def test_what_needs_no_medicine_has_rows_of_its_own(tmp_path: Path) -> None:
    made = experiment(tmp_path, variants={"one": {}})
    grey = figures({"federated": 0.7}, shortcuts={"grey": [0.6, None], "view": [None, None]})
    finish(tmp_path / "results", made, "one", 1, {"A": grey, "B": figures({"federated": 0.8})})
    found = {row.title: row for row in Results(made, tmp_path / "results").rows()}
    assert list(found) == ["federated", "only the grey", "only the view"]
    assert found["only the grey"].mean == pytest.approx(0.55)
    assert found["only the grey"].sites == {"A": pytest.approx(0.55)}
    assert found["only the grey"].findings == {FINDINGS[0]: 0.6, FINDINGS[1]: 0.5}
    assert found["only the view"].mean == 0.5
    assert "| only the grey | 0.550 | – | 0.550 | 1 |" in write_page(made, tmp_path / "results").read_text(
        encoding="utf-8"
    )


def test_the_delivered_model_is_each_site_s_own_choice(tmp_path: Path) -> None:
    made = experiment(tmp_path, variants={"one": {}}, comparisons=["delivered less local_only"])
    models = {"local_only": 0.6, "federated": 0.7, "mixture": 0.8}
    sites = {"A": figures(models, delivered="federated"), "B": figures(models, delivered="mixture")}
    finish(tmp_path / "results", made, "one", 1, sites)
    results = Results(made, tmp_path / "results")
    row = next(row for row in results.rows() if row.title == "delivered")
    assert row.sites == {"A": pytest.approx(0.7), "B": pytest.approx(0.8)}
    (difference,) = results.differences()
    assert difference.title == "delivered less alone"
    assert difference.combined.mean.value == pytest.approx(0.15)


def test_findings_that_a_hospital_never_labelled_have_a_table(tmp_path: Path) -> None:
    made = experiment(tmp_path, variants={"one": {}})
    for seed, value in ((1, 0.8), (2, 0.9)):
        known = {FINDINGS[1]: {"federated": value, "local_only": 0.5}}
        finish(tmp_path / "results", made, "one", seed, {"A": figures({"federated": 0.7}, unlabelled=known)})
    text = write_page(made, tmp_path / "results").read_text(encoding="utf-8")
    assert "| site | finding | alone | federated |" in text
    assert f"| A | {FINDINGS[1]} | 0.500 (0.50–0.50) | 0.850 (0.80–0.90) |" in text


def test_a_site_where_nothing_counts_has_no_figure(tmp_path: Path) -> None:
    made = experiment(tmp_path, variants={"one": {}}, comparisons=["federated less local_only"])
    nothing = figures({}).model_copy(
        update={"counted": (False, False), "models": figures({"federated": 0.7}).models}
    )
    empty = nothing.model_copy(
        update={
            "models": {
                name: model.model_copy(update={"mean": None, "resampled": None})
                for name, model in figures({"federated": 0.7, "local_only": 0.6}).models.items()
            }
        }
    )
    finish(tmp_path / "results", made, "one", 1, {"A": empty})
    results = Results(made, tmp_path / "results")
    assert [row.mean for row in results.rows()] == [None, None]
    assert results.differences() == []
    assert "| alone | not defined | 1 |" not in write_page(made, tmp_path / "results").read_text(
        encoding="utf-8"
    )


def forest(folder: Path) -> tuple[ElementTree.Element, str]:
    made = experiment(folder, variants={"one": {}}, comparisons=["federated less local_only"])
    wide = np.random.default_rng(1).normal(0.0, 0.3, RESAMPLES)
    sites = {
        "A": figures({"local_only": 0.5, "federated": 0.6}, 0.001),
        "B": figures({"local_only": 0.6, "federated": 0.5}, 0.001),
        **{name: figures({"local_only": 0.6, "federated": 0.6}, 0.001) for name in "CDE"},
        "Tiny & <odd>": figures({"local_only": 0.5, "federated": 0.52}),
    }
    models = dict(sites["Tiny & <odd>"].models)
    models["federated"] = models["federated"].model_copy(
        update={"resampled": pack(np.clip(0.52 + wide, 0, 1))}
    )
    sites["Tiny & <odd>"] = sites["Tiny & <odd>"].model_copy(update={"models": models})
    finish(folder / "results", made, "one", 1, sites)
    text = drawing(made.settings.title, Results(made, folder / "results").differences())
    return ElementTree.fromstring(text), text  # noqa: S314  # our own


def test_the_drawing_has_a_row_a_site_a_diamond_for_the_mean_and_zero_in_its_place(tmp_path: Path) -> None:
    root, _ = forest(tmp_path)
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    for expected in ("A", "B", "Tiny & <odd>", "mean over sites", "federated less alone"):
        assert expected in texts
    zero = float(
        re.match(
            r"M([\d.]+) ", next(p for p in root.iter(f"{SVG}path") if p.get("class") == "zero").get("d") or ""
        )[1]
    )  # type: ignore[index]
    above, below, *others = root.iter(f"{SVG}circle")
    assert [one.get("class") for one in (above, below)] == ["above", "below"]
    assert {one.get("class") for one in others} == {"across"}
    assert float(above.get("cx") or 0) > zero > float(below.get("cx") or 0)
    assert float(above.get("cx") or 0) - zero == pytest.approx(zero - float(below.get("cx") or 0), abs=0.3)
    (diamond,) = (p for p in root.iter(f"{SVG}path") if (p.get("d") or "").count("L") == 3)
    assert diamond.get("class") == "across"


def test_an_interval_beyond_the_axis_ends_in_an_arrow(tmp_path: Path) -> None:
    root, _ = forest(tmp_path)
    arrows = [p for p in root.iter(f"{SVG}path") if re.search(r"l-?7 -4v8z$", p.get("d") or "")]
    assert {arrow.get("class") for arrow in arrows} == {"across"}
    assert len(arrows) == 2


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_drawing_can_be_seen_in_light_and_dark(tmp_path: Path, scheme: str) -> None:
    _, text = forest(tmp_path)
    path = tmp_path / "forest.svg"
    path.write_text(text, encoding="utf-8")
    with chromium() as browser, opened(browser, path.as_uri(), "desktop", scheme) as (page, complaints):
        ground, ink = page.evaluate(
            "() => [getComputedStyle(document.querySelector('rect')).fill, "
            "getComputedStyle(document.querySelector('text')).fill]"
        )
        widest = page.evaluate(
            "() => Math.max(...[...document.querySelectorAll('text')].map(t => t.getBBox().x + t.getBBox().width))"
        )
        assert widest <= 780
        assert complaints == []
    light, dark = "rgb(255, 255, 255)", "rgb(20, 24, 31)"
    assert ground == (light if scheme == "light" else dark)
    assert ink != ground
