"""An experiment's file: which runs it means, and what is said of one that means none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from experiments import experiment, write_base
from hypothesis import given
from hypothesis import strategies as st

from acm_core.config.loading import ConfigError
from simulations.tables.experiment import Comparison, Term, load_experiment, merge_patch

REPOSITORY = Path(__file__).resolve().parents[3]


def test_a_cell_is_a_variant_with_a_seed_all_variants_of_a_seed_before_the_next(tmp_path: Path) -> None:
    made = experiment(
        tmp_path,
        settings={"training": {"epochs": 3}},
        variants={
            "one": {"seeds": [5, 6, 7]},
            "other": {"settings": {"model": {"context": "none"}, "training": {"batch_size": 4}}},
        },
    )
    assert [(cell.variant, cell.seed) for cell in made.cells] == [
        ("one", 5),
        ("other", 1),
        ("one", 6),
        ("other", 2),
        ("one", 7),
    ]
    one, other = made.cell("one", 6).config, made.cell("other", 2).config
    assert (one.name, one.seed, one.model.context, one.training.batch_size) == ("study-one-6", 6, "acm", 32)
    assert (other.name, other.model.context, other.training.batch_size) == ("study-other-2", "none", 4)
    assert one.training.epochs == other.training.epochs == 3
    with pytest.raises(KeyError):
        made.cell("one", 1)


def test_paths_are_taken_from_the_file_that_says_them(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    write_base(tmp_path)
    made = experiment(
        tmp_path / "experiments",
        base="../base.yaml",
        variants={
            "one": {
                "settings": {
                    "federation": {"sites": ["A", "R"]},
                    "simulation": {"hospitals": [], "folders": {"A": "films/A", "R": "/films/R"}},
                }
            }
        },
    )
    section = made.cells[0].config.simulation
    assert section.data == tmp_path / "data"
    assert section.folders == {"A": tmp_path / "experiments/films/A", "R": Path("/films/R")}


def test_null_takes_a_key_away(tmp_path: Path) -> None:
    base: dict[str, Any] = {"A": "a", "B": "b"}
    write_base(
        tmp_path,
        federation={"sites": ["A", "B"], "rounds": 2},
        simulation={"folders": base, "data": "data"},
    )
    without = {"federation": {"sites": ["A"]}, "simulation": {"folders": {"B": None}}}
    made = experiment(tmp_path, variants={"one": {"settings": without}})
    assert made.cells[0].config.simulation.folders == {"A": tmp_path / "a"}


@pytest.mark.parametrize(
    ("target", "patch", "merged"),  # of RFC 7396, appendix A
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merging_is_that_of_the_rfc(target: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(target, patch) == merged


documents = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)


@given(documents, documents)
def test_merging_twice_is_merging_once_and_leaves_its_arguments_alone(target: Any, patch: Any) -> None:
    before = repr((target, patch))
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert repr((target, patch)) == before


def test_a_difference_within_each_variant_or_between_two_or_of_another_experiment(tmp_path: Path) -> None:
    made = experiment(
        tmp_path,
        comparisons=[
            "mixture less local_only",
            "one:federated less other:pooled",
            "one:federated less former/old:federated",
        ],
    )
    assert list(made.settings.compared()) == [
        Comparison(Term(None, "one", "mixture"), Term(None, "one", "local_only")),
        Comparison(Term(None, "other", "mixture"), Term(None, "other", "local_only")),
        Comparison(Term(None, "one", "federated"), Term(None, "other", "pooled")),
        Comparison(Term(None, "one", "federated"), Term("former", "old", "federated")),
    ]


def said(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    return str(caught.value).splitlines()


HEAD = """\
title: A study
base: base.yaml
seeds: [1]
"""


@pytest.mark.parametrize(
    ("rest", "row"),
    [
        (
            "variants:\n  one:\n    settings:\n      model:\n        contxt: acm\n",
            "8: variants.one.settings.model.contxt: unknown key; did you mean 'context'?",
        ),
        (
            "settings:\n  federation: {rounds: 0}\nvariants: {one: {}}\n",
            "5: settings.federation.rounds: expected an integer ≥ 1 and ≤ 100000, got 0",
        ),
        (
            "variants:\n  one:\n    settings: {federation: {sites: [A]}}\n",
            "6: variants.one.settings.federation: expected quorum ≤ 1 (the number of sites), got 2",
        ),
        ("variants:\n  one: {}\nvariant: 1\n", "6: variant: unknown key; did you mean 'variants'?"),
        ("variants: {}\n", "4: variants: expected a mapping of length ≥ 1, got a mapping without entries"),
        (
            "variants: {one: {settings: {seed: 3}}}\n",
            "variants.one.settings.seed: expected none, as the experiment gives it",
        ),
        (
            'variants: {one: {}}\ncomparisons: ["ome:federated less one:pooled"]\n',
            "comparisons: expected a variant, got 'ome'; did you mean 'one'?",
        ),
        (
            'variants: {one: {}}\ncomparisons: ["federated"]\n',
            "5: comparisons[0]: expected a difference such as 'mixture less local_only', or 'one:federated less "
            "other:federated' between variants, got 'federated'",
        ),
        (
            'variants: {one: {}}\ncomparisons: ["one:federated less pooled"]\n',
            "5: comparisons[0]: expected the variant of both models or of neither, got 'one:federated less pooled'",
        ),
    ],
)
def test_what_means_no_run_is_said_with_its_line(tmp_path: Path, rest: str, row: str) -> None:
    write_base(tmp_path)
    path = tmp_path / "study.yaml"
    path.write_text(HEAD + rest, encoding="utf-8")
    (only,) = said(path)
    assert only.endswith(row)
    assert only.startswith(str(path))


def test_a_base_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(HEAD + "variants: {one: {}}\n", encoding="utf-8")
    (only,) = said(path)
    assert only.startswith(f"{tmp_path / 'base.yaml'}: expected a file, got none of that name")


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs/experiments").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_experiment_of_the_project_can_be_run(path: Path) -> None:
    made = load_experiment(path)
    assert made.cells
    others = {term.experiment for comparison in made.settings.compared() for term in comparison} - {None}
    for name in others:
        other = load_experiment(path.with_name(f"{name}.yaml"))
        assert other.settings.least_patients == made.settings.least_patients
        for term in (term for comparison in made.settings.compared() for term in comparison):
            assert term.experiment != name or term.variant in other.settings.variants
