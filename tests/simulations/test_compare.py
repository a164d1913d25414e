"""The comparison: what each run is called and made of, which runs are taken as they are, and the tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hospitals import FINDINGS, federation
from reports import estimate, metrics, model, report
from simulated import simulation, simulation_settings, spec

from server.run_folder import RunFolder
from simulations.compare import VariantError, main, runs_table, tables, variant
from simulations.settings import SimulationConfig


def base(folder: Path, **section: Any) -> SimulationConfig:
    return simulation(
        folder,
        sites=("A", "R", "B"),
        hospitals=[spec("A"), spec("B")],
        folders={"R": folder / "R"},
        **section,
    )


def test_a_variant_differs_in_name_context_and_seed_alone(tmp_path: Path) -> None:
    config = base(tmp_path)
    made = variant(config, "cbam", 2)
    assert made.name == "test-cbam-2"
    assert (made.model.context, made.seed) == ("cbam", 2)
    same = made.model_copy(
        update={"name": "test", "seed": 3, "model": made.model.model_copy(update={"context": "acm"})}
    )
    assert same == config


def test_a_site_left_out_leaves_every_list_and_the_quorum_follows(tmp_path: Path) -> None:
    config = base(tmp_path)
    made = variant(config, "none", 0, ("R", "A"))
    assert made.name == "test-without_R-without_A-none-0"
    assert made.federation.sites == ("B",)
    assert made.federation.quorum == 1
    assert made.simulation.folders == {}
    assert [hospital.name for hospital in made.simulation.hospitals] == ["B"]
    assert variant(config, "none", 0, ("A",)).federation.quorum == 2
    assert config.federation.sites == ("A", "R", "B")


@pytest.mark.parametrize(
    ("context", "seed", "without", "message"),
    [
        (
            "acn",
            0,
            (),
            "model.context: expected one of acm, acm_mirrored, se, cbam, self_attention, none, got 'acn'; "
            "did you mean 'acm'?",
        ),
        ("acm", -1, (), "seed: expected an integer ≥ 0 and < 2147483648, got -1"),
        ("acm", 0, ("a",), "--without: expected some of A, R, B, got 'a'; did you mean 'A'?"),
        ("acm", 0, ("A", "B", "R"), "--without: expected at least one site to stay, got all of A, B, R"),
    ],
)
def test_what_cannot_be_simulated_is_said_with_what_could(
    tmp_path: Path, context: str, seed: int, without: tuple[str, ...], message: str
) -> None:
    with pytest.raises(VariantError) as caught:
        variant(base(tmp_path), context, seed, without)
    assert str(caught.value) == message


def result(context: str, seed: int, **sites: dict[str, Any]) -> dict[str, Any]:
    config = federation(seed=seed, model={"context": context}, federation={"sites": list(sites), "quorum": 1})
    return metrics(sites, config)


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    lines = tables(results).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1
    return [cells[0], *cells[2:]]


def test_a_row_a_context_and_model_and_a_column_a_site_and_finding() -> None:
    results = [
        result(
            context,
            seed,
            A=report(
                local_only=model(estimate(value - 0.1)),
                federated=model(estimate(value)),
                pooled=model(estimate(value + 0.1)),
            ),
            B=report(local_only=model(None), federated=model(None), pooled=model(None)),
        )
        for context, seed, value in [("none", 0, 0.6), ("none", 1, 0.7), ("none", 2, 0.71), ("acm", 0, 0.8)]
    ]
    opacity, effusion = (f"A: {finding}" for finding in FINDINGS)
    assert rows(results) == [
        ["context", "model", opacity, effusion, "mean over sites"],  # B has no defined AUROC: no column
        ["none", "local-only", *["0.570 (0.500–0.610)"] * 3],
        ["none", "federated", *["0.670 (0.600–0.710)"] * 3],
        ["none", "pooled", *["0.770 (0.700–0.810)"] * 3],
        ["acm", "local-only", *["0.700"] * 3],
        ["acm", "federated", *["0.800"] * 3],
        ["acm", "pooled", *["0.900"] * 3],
    ]


def test_an_undefined_finding_is_a_word_and_never_a_number() -> None:
    partly = model(estimate(0.8))
    partly["findings"]["Pleural Effusion"] = model(None)["findings"]["Pleural Effusion"]
    table = rows(
        [
            result("acm", 0, A=report(federated=partly)),
            result("se", 0, A=report(federated=model(estimate(0.6)))),
            result("none", 0, A=report(federated=model(None))),
        ]
    )
    assert table[1:] == [
        ["acm", "federated", "0.800", "not defined", "0.800"],
        ["se", "federated", "0.600", "0.600", "0.600"],
        ["none", "federated", "not defined", "not defined", "not defined"],
    ]


def test_every_run_stands_with_its_intervals_and_its_paired_difference() -> None:
    better = estimate(0.125, error=0.05)
    helped = report(
        local_only=model(estimate(0.5)), federated=model(estimate(0.625, error=0.05), gain=better)
    )
    text = runs_table([result("acm", 3, A=helped), result("se", 4, A=report(federated=model(None)))])
    opacity, effusion = (f"A: {finding}" for finding in FINDINGS)
    assert text.splitlines() == [
        f"| context | seed | model | {opacity} | {effusion} | mean over sites | federated less local-only |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| acm | 3 | local-only | 0.500 (0.30–0.70) | 0.500 (0.30–0.70) | 0.500 (0.30–0.70) |  |",
        "| acm | 3 | federated | 0.625 (0.53–0.72) | 0.625 (0.53–0.72) | 0.625 (0.53–0.72) "
        "| +0.125 (+0.027 to +0.223) |",
        "| se | 4 | federated | not defined | not defined | not defined |  |",
    ]


def test_a_model_that_was_not_trained_has_no_row() -> None:
    table = rows([result("acm", 0, A=report(federated=model(estimate(0.8))))])
    assert [row[:2] for row in table[1:]] == [["acm", "federated"]]


def test_a_site_that_was_away_in_one_run_is_counted_in_the_others() -> None:
    first = result("acm", 0, A=report(federated=model(estimate(0.8))))
    second = result(
        "acm",
        1,
        A=report(federated=model(estimate(0.6))),
        B=report(federated=model(estimate(0.9))),
    )
    for results in ([first, second], [second, first]):
        assert rows(results) == [
            [
                "context",
                "model",
                *(f"{site}: {finding}" for site in "AB" for finding in FINDINGS),
                "mean over sites",
            ],
            ["acm", "federated", *["0.700 (0.600–0.800)"] * 2, *["0.900"] * 2, "0.775 (0.750–0.800)"],
        ]


class Comparison:
    """The command over hand-made finished runs: `go` fails where it would have to train."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.output = folder / "runs", folder / "new" / "folder" / "tables.md"
        self.config = folder / "test.yaml"
        self.write(folders={name: folder / name for name in "AB"}, hospitals=[])
        self._folder = folder

    def write(self, **section: Any) -> None:
        settings = simulation_settings(self.config.parent / "data", **section)
        self.base = SimulationConfig.model_validate(settings)
        self.config.write_text(json.dumps(settings, default=str), encoding="utf-8")  # JSON is YAML

    def finish(self, context: str, seed: int, value: float, *models: str) -> RunFolder:
        made = variant(self.base, context, seed)
        folder = RunFolder(self.runs / made.name)
        folder.open(made, resume=False)
        figures = {name: model(estimate(value)) for name in models or ("federated", "pooled")}
        folder.write_metrics(metrics({"A": report(**figures)}, made))
        return folder

    def go(self, *options: str) -> int:
        arguments = ["--config", self.config, "--runs", self.runs, "--output", self.output, *options]
        return main([str(argument) for argument in arguments])


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    return Comparison(tmp_path)


def test_finished_runs_are_kept_and_the_tables_written_where_asked(comparison: Comparison) -> None:
    for context, seed, value in [("se", 0, 0.5), ("se", 7, 0.7), ("acm", 0, 0.8), ("acm", 7, 0.9)]:
        comparison.finish(context, seed, value)
    assert comparison.go("--contexts", "se,acm", "--seeds", "0,7") == 0
    text = comparison.output.read_text(encoding="utf-8")
    assert "| se | federated | 0.600 (0.500–0.700) |" in text
    assert "| acm | pooled | 0.850 (0.800–0.900) |" in text


def test_without_output_the_tables_go_to_the_terminal(
    comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison.finish("se", 0, 0.5)
    arguments = ["--config", str(comparison.config), "--runs", str(comparison.runs)]
    assert main([*arguments, "--contexts", "se", "--seeds", "0"]) == 0
    assert "| se | federated | 0.500 |" in capsys.readouterr().out


def test_a_run_made_with_other_settings_does_not_enter_the_table(
    comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = comparison.finish("se", 0, 0.5)
    stored = folder.config.read_text(encoding="utf-8")
    folder.config.write_text(stored.replace("rounds: 2", "rounds: 20"), encoding="utf-8")
    assert comparison.go("--contexts", "se", "--seeds", "0") == 1
    assert "rounds changed since. Remove the folder" in capsys.readouterr().err
    assert not comparison.output.exists()
    # How long is waited for a site changes no figure.
    folder.config.write_text(
        stored.replace("round_deadline: 3600.0", "round_deadline: 1.0"), encoding="utf-8"
    )
    assert comparison.go("--contexts", "se", "--seeds", "0") == 0


def test_synthetic_hospitals_are_compared_too(
    comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison.write()
    folder = comparison.finish("se", 0, 0.5)
    assert comparison.go("--contexts", "se", "--seeds", "0") == 0
    stored = folder.config.read_text(encoding="utf-8")
    folder.config.write_text(stored.replace("patients: 2", "patients: 3"), encoding="utf-8")
    assert comparison.go("--contexts", "se", "--seeds", "0") == 1
    assert "hospitals changed since" in capsys.readouterr().err


def test_a_run_that_lacks_its_pooled_model_goes_on(
    comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison.finish("se", 0, 0.5, "federated")
    # Going on means to train: it finds no films here.
    assert comparison.go("--contexts", "se", "--seeds", "0") == 1
    captured = capsys.readouterr()
    assert "simulation.folders.A: expected a folder with labels.csv" in captured.out
    assert "test-se-0 failed: see" in captured.err


@pytest.mark.parametrize("pooled", [True, False])
def test_a_run_without_a_pooled_model_is_whole_where_none_is_asked_for(
    comparison: Comparison, pooled: bool
) -> None:
    comparison.write(hospitals=[], folders=comparison.base.simulation.folders, pooled=pooled)
    comparison.finish("se", 0, 0.5, "federated")
    assert comparison.go("--contexts", "se", "--seeds", "0") == int(pooled)


def test_a_pooled_model_without_a_defined_auroc_is_finished_all_the_same(comparison: Comparison) -> None:
    folder = comparison.finish("se", 0, 0.5)
    nothing = {name: model(None) for name in ("federated", "pooled")}
    folder.write_metrics(metrics({"A": report(**nothing)}, variant(comparison.base, "se", 0)))
    assert comparison.go("--contexts", "se", "--seeds", "0") == 0
    assert "| se | pooled | not defined |\n" in comparison.output.read_text(encoding="utf-8")


def private(folder: Path) -> SimulationConfig:
    settings = simulation_settings(folder, populations={"A": 2, "B": 2})
    settings |= {"privacy": {"epsilon": 2, "expected_batch": 1}, "model": {"norm": "group"}}
    return SimulationConfig.model_validate(settings)


def test_a_variant_may_have_another_epsilon_or_none(tmp_path: Path) -> None:
    config = private(tmp_path)
    assert variant(config, "acm", 1).name == "test-acm-1"
    eight, off = variant(config, "acm", 1, (), 8.0), variant(config, "acm", 1, (), "off")
    assert eight.privacy is not None
    assert config.privacy is not None
    assert (eight.name, eight.privacy.epsilon) == ("test-epsilon_8-acm-1", 8)
    assert eight.privacy.model_copy(update={"epsilon": 2}) == config.privacy
    assert (off.name, off.privacy) == ("test-open-acm-1", None)
    with pytest.raises(VariantError, match="expected a configuration with a privacy section"):
        variant(simulation(tmp_path), "acm", 1, (), 8.0)


def test_a_variant_may_have_another_encoding(tmp_path: Path) -> None:
    config = base(tmp_path)
    assert variant(config, "acm", 1).federation.encoding == "float32"
    made = variant(config, "acm", 1, encoding="int8")
    assert (made.name, made.federation.encoding) == ("test-int8-acm-1", "int8")
    coarse = metrics({"A": report(federated=model(estimate(0.9)))})
    assert "| acm | federated | 0.900" in tables([coarse])
    assert "| acm, int8 | federated | 0.900" in tables([{**coarse, "encoding": "int8"}])


def test_an_encoding_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--encodings", "float32,float8"])
    assert "expected some of float32, float16, int8, got 'float8'" in capsys.readouterr().err


def test_the_tables_tell_private_runs_apart(tmp_path: Path) -> None:
    made = [metrics({"A": report(federated=model(estimate(value)))}) for value in (0.9, 0.6)]
    made[1]["privacy"]["target"] = 1.0
    text = tables(made)
    assert "| acm | federated | 0.900" in text
    assert "| acm, ε = 1 | federated | 0.600" in text
    assert "| acm, ε = 1 | 3 | federated |" in runs_table(made)
