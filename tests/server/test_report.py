"""The run report: its figures recomputed, its sentences, and the page in a real browser."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import SIZES, address_of, chromium, expect_readable, opened
from hospitals import FINDINGS, federation
from hypothesis import given
from hypothesis import strategies as st
from reports import coarsened, estimate, leaves, model, noised, read, report, shortcuts
from runs import finished_run, record

from acm_core.audit_events import ReplyRefused, RunResumed, RunStarted, SiteMissing, SiteRefused
from acm_core.audit_log import AuditLog
from acm_core.config.site import SitePrivacy
from acm_core.federated.messages import Refusal, TaskKind
from acm_core.federated.report import read_report
from acm_core.federated.update import RefusalReason
from acm_core.trust import keys
from server.consortium.authority import ServerState
from server.consortium.registry import Registry
from server.report.__main__ import main
from server.report.charts import axis
from server.report.content import report_content, site_sentence
from server.report.page import render
from server.round.run_folder import NoResultsError

PRIVATE = {"unit": "patient", "epsilon": 8.0, "expected_batch": 16}


def helped(at: float = 0.8, by: float = 0.1) -> dict[str, Any]:
    """A site's report: federated, alone, and the difference."""
    return report(federated=model(estimate(at), estimate(by, 0.04)), local_only=model(estimate(at - by)))


def with_histogram(
    report: dict[str, Any], positives: list[tuple[int, int]], negatives: list[tuple[int, int]]
) -> dict[str, Any]:
    """The report with this histogram of the federated model and reliability that goes with it."""
    finding = report["models"]["federated"]["findings"][FINDINGS[0]]
    finding["histogram"] = {"positives": positives, "negatives": negatives}
    return report


def by_hand(positives: list[tuple[int, int]], negatives: list[tuple[int, int]]) -> float:
    """AUROC pair by pair."""
    wins = sum(
        of * among * (1.0 if place > other else 0.5 if place == other else 0.0)
        for place, of in positives
        for other, among in negatives
    )
    return wins / (sum(of for _, of in positives) * sum(of for _, of in negatives))


def test_the_merged_curves_are_those_of_all_sites_films(tmp_path: Path) -> None:
    first, second = [(600, 3), (700, 2)], [(400, 4), (650, 2)]
    third, fourth = [(600, 1)], [(600, 5), (800, 1)]
    run = finished_run(
        tmp_path,
        {"A": with_histogram(helped(), first, second), "B": with_histogram(helped(), third, fourth)},
    )
    curves = report_content(run, None)["curves"][FINDINGS[0]]
    assert curves["sites"]["A"]["auroc"] == pytest.approx(by_hand(first, second))
    merged = curves["merged"]
    assert merged["auroc"] == pytest.approx(by_hand([*first, *third], [*second, *fourth]))
    assert (merged["positives"], merged["negatives"]) == (6, 12)
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(merged["roc"]))
    assert area == pytest.approx(merged["auroc"], abs=1e-4)
    assert (tuple(merged["roc"][0]), tuple(merged["roc"][-1])) == ((0, 0), (1, 1))


def test_calibration_is_merged_film_by_film(tmp_path: Path) -> None:
    reports = {"A": helped(), "B": helped()}
    for site, (films, score, positive) in {"A": (30, 0.1, 0.0), "B": (10, 0.02, 0.4)}.items():
        finding = reports[site]["models"]["federated"]["findings"][FINDINGS[0]]
        finding["calibration"] = {
            "error": 0.1,
            "bins": [{"films": films, "score": score, "positive": positive}, *[None] * 9],
        }
    merged = report_content(finished_run(tmp_path, reports), None)["calibration"][FINDINGS[0]]
    assert merged["films"] == 40
    (only,) = merged["bins"]
    assert (only["score"], only["positive"]) == (pytest.approx(0.08), pytest.approx(0.1))
    assert merged["error"] == pytest.approx(0.02)


def test_one_class_alone_has_no_calibration(tmp_path: Path) -> None:
    reports = {"A": helped()}
    finding = reports["A"]["models"]["federated"]["findings"][FINDINGS[0]]
    finding["calibration"]["bins"][0] = {"films": 30, "score": 0.1, "positive": 0.0}
    assert report_content(finished_run(tmp_path, reports), None)["calibration"][FINDINGS[0]] is None


def test_an_attribute_in_which_all_films_are_alike_is_said_in_words(tmp_path: Path) -> None:
    content = report_content(finished_run(tmp_path, {"A": helped()}), None)
    assert content["sites"]["A"]["alike"] == "sex F"
    page = render(content)
    assert "All of A's test films: sex F." in page
    assert "mean over sites (1)" in page
    assert "A, by sex" not in page


@pytest.mark.parametrize(
    ("of_site", "begins"),
    [
        (helped(by=0.1), "Training together helped this site. Federated, mean AUROC 0.800 (0.600 to 1.000)"),
        (helped(by=-0.2), "Training together hurt this site."),
        (helped(by=0.01), "This site's test films do not settle whether"),
        (
            report(federated=model(estimate(0.8))),
            "Federated, mean AUROC 0.800 (0.600 to 1.000). The site did not",
        ),
        (report(federated=model(None)), "No finding has films with and without it"),
        (
            {**report(federated=noised(dict.fromkeys(FINDINGS))), "metrics": "noised"},
            "The site's noised counts do not prove for any finding that there are films with and without it",
        ),
        ({**report(), "metrics": "withheld"}, "The site withholds its figures."),
        ({**report(), "films": 0, "patients": 0}, "The site has no test films."),
        ({**report(), "films": None, "counts": "withheld"}, "The site has no test films."),
    ],
)
def test_a_sentence_says_no_more_than_the_figures(of_site: dict[str, Any], begins: str) -> None:
    assert site_sentence(read(of_site)).startswith(begins)


def test_what_needs_no_medicine_stands_beside_the_model(tmp_path: Path) -> None:
    measured = shortcuts({"grey": 0.61234, "size": None, "border": 0.55}, estimate(0.012, 0.04))
    run = finished_run(
        tmp_path,
        {"A": {**helped(), "shortcuts": measured}, "B": helped(), "C": {**report(), "shortcuts": measured}},
    )
    content = report_content(run, None)
    assert content["sites"]["A"]["shortcuts"] == measured
    assert content["sites"]["C"]["shortcuts"] == {}  # no model to stand beside
    page = render(content)
    assert page.count("What needs no medicine, at A") == 2  # the table's name and its caption
    assert "What needs no medicine, at B" not in page
    assert '0.612 (0.51–\N{WORD JOINER}0.71)<br><span class="soft">+0.012 (−0.068 to +0.092)</span>' in page
    assert "not clearly better than film brightness alone for Lung Opacity (0.80 against 0.61) and" in page
    assert (
        "Not clearly better than brightness, film size, border or view alone: 2 of 2 findings at A." in page
    )
    assert ">view alone<" not in page
    without = render(report_content(finished_run(tmp_path / "former", {"B": helped()}), None))
    assert "no medicine" not in without
    assert "clearly better" not in without


def test_who_took_part_and_why_not(tmp_path: Path) -> None:
    content = report_content(finished_run(tmp_path, {"A": helped(), "B": helped()}), None)
    there = content["participation"]["B"]
    assert [one["outcome"] for one in there["rounds"]] == ["answered", "refused", "missing"]
    assert (there["answered"], there["refused"], there["missing"]) == (1, 1, 1)
    page = render(content)
    assert "●○–" in page
    assert "B: policy.hours" in page


def test_all_transfers_are_in_the_totals_or_they_say_which_are(tmp_path: Path) -> None:
    moved = {
        "train": {"sent": 8_000_000, "received": 3_000_000},
        "evaluate": {"sent": 1_500_000, "received": 500_000},
    }
    earlier = record(2, "A", refused={"B": "memory"})
    records = [record(1, "AB"), record(2, "AB", attempt=2, earlier_attempts=[earlier])]
    run = finished_run(tmp_path, {"A": helped()}, records=records, bytes=moved)
    page = render(report_content(run, None))
    assert (
        "38 s of rounds, 9.5 MB sent to the sites and 3.5 MB received in rounds, local-only training and"
        in page
    )
    assert page.count('<th scope="row" class="n">2</th>') == 2
    assert "B: memory" in page
    numbers = json.loads(run.metrics.read_text(encoding="utf-8"))
    del numbers["bytes"]
    run.write_metrics(numbers)
    run.rounds.write_text(json.dumps(record(1, "AB")), encoding="utf-8")
    earlier_version = render(report_content(run, None))
    assert "2.0 MB sent to the sites and 1.0 MB received in the attempts that counted." in earlier_version


def test_the_site_list_may_have_changed_in_the_middle_of_a_run(tmp_path: Path) -> None:
    config = federation(federation={"sites": ["A", "C"]})
    records = [
        record(1, "AB", missing=[]),
        record(2, "A", asked=["A", "C"], missing=["C"]),
        record(3, "C", asked=["C"], missing=["A"]),
    ]
    content = report_content(finished_run(tmp_path, {"A": helped()}, config, records=records), None)
    part = content["participation"]
    assert {site: [one["outcome"] for one in there["rounds"]] for site, there in part.items()} == {
        "A": ["answered", "answered", "not asked"],
        "C": ["not asked", "missing", "answered"],
        "B": ["answered", "not asked", "not asked"],
    }
    assert (part["C"]["answered"], part["C"]["missing"], part["C"]["not_asked"]) == (1, 1, 1)
    page = render(content)
    assert "· not asked" in page
    assert "<td>A (not asked)</td>" in page
    assert ">·–●<" in page
    assert ">●··<" in page


def test_refusals_of_a_former_run_of_the_same_name_are_not_this_ones(tmp_path: Path) -> None:
    run = finished_run(tmp_path, {"A": helped()})
    state = ServerState(tmp_path / "state")
    state.create("test", ["127.0.0.1"])
    log = AuditLog(state.audit)

    def missing(number: int) -> None:
        log.append(SiteMissing(run="test", round=number, task=TaskKind.TRAIN, site="A"))

    started = {"config": "0a" * 32, "sites": 2, "rounds": 3}
    log.append(RunStarted(run="test", **started))
    missing(1)
    log.append(RunStarted(run="test", **started))
    missing(2)
    log.append(RunResumed(run="test", config="0a" * 32, round=2))
    log.append(RunStarted(run="another", **started))
    missing(3)
    refused = report_content(run, state)["security"]["refused"]
    assert [one["round"] for one in refused] == [2, 3]


def test_what_the_servers_state_says_of_the_run(tmp_path: Path) -> None:
    run = finished_run(tmp_path, {"A": helped()})
    state = ServerState(tmp_path / "state")
    state.create("test", ["127.0.0.1"])
    key = keys.create_key(tmp_path / "A.key").public_key()
    Registry.load(state.registry).approve("A", keys.public_text(key))
    log = AuditLog(state.audit)
    about = {"round": 2, "task": TaskKind.TRAIN, "site": "A"}
    log.append(SiteRefused(run="test", **about, reason=Refusal.POLICY_HOURS))
    log.append(ReplyRefused(run="test", **about, reason=RefusalReason.NOT_FINITE))
    log.append(SiteMissing(run="test", **about))
    head = log.append(SiteMissing(run="another", **about)).hash
    security = report_content(run, state)["security"]
    assert security["enrolled"] == [{"site": "A", "key": keys.fingerprint(key)}]
    assert [one["reason"] for one in security["refused"]] == ["policy.hours", "not_finite", "no answer"]
    assert (security["audit"]["sound"], security["audit"]["head"]) == (True, head)

    rows = state.audit / "audit.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace("not_finite", "norm"), encoding="utf-8")
    content = report_content(run, state)
    assert content["security"]["audit"]["sound"] is False
    assert content["security"]["enrolled"] == [{"site": "A", "key": keys.fingerprint(key)}]
    page = render(content)
    assert "cannot be trusted" in page
    assert "Every answer that was asked for" not in page


def test_a_private_run_says_what_is_protected_and_what_was_spent(tmp_path: Path) -> None:
    config = federation(privacy=PRIVATE, model={"norm": "group"})
    withheld = {**report(), "films": None, "patients": None, "training_films": None, "fingerprint": None}
    records = [record(1, "A", asked=["A"], metrics={"A": {"epsilon": 1.5, "noise_multiplier": 0.75}})]
    run = finished_run(tmp_path, {"A": {**withheld, "metrics": "withheld"}}, config, records=records)
    page = render(report_content(run, None))
    assert "Not covered: which site it is" in page
    assert "1.500" in page
    assert "Set aside: withheld." in page
    assert "The site withholds its figures." in page


def test_what_is_said_to_have_left_the_sites_did(tmp_path: Path) -> None:
    page = render(report_content(finished_run(tmp_path, {"A": helped(), "B": coarsened()}), None))
    assert (
        "the number of its training films and of those labelled for each finding, its losses, which" in page
    )
    assert "sensitivity at fixed specificity, calibration and numbers of test films by score" in page
    assert "Test films were counted in 1000 steps of the score at A; these counts were sent" in page
    assert "nearly the scores" in page
    assert "list of scores" not in page
    without = render(report_content(finished_run(tmp_path / "alone", {"B": coarsened()}), None))
    assert "trained alone also" not in without


def test_a_private_run_does_not_claim_that_more_left_than_did(tmp_path: Path) -> None:
    config = federation(privacy=PRIVATE, model={"norm": "group"})
    page = render(
        report_content(finished_run(tmp_path, {"A": {**report(), "metrics": "withheld"}}, config), None)
    )
    assert "noised weights left it, with the population that it has made public" in page
    assert "No site sent its test films counted by score" in page
    assert "1000 steps" not in page
    assert "losses, and" not in page
    assert "trained alone also" not in page
    policy = SitePrivacy(epsilon=1.0, population=100, counts="withheld", metrics="coarsened")
    page = render(
        report_content(finished_run(tmp_path / "coarse", {"A": leaves(helped(), policy)}, config), None)
    )
    assert "also average precision, which stand in metrics.json" in page


def test_a_site_without_test_films_withholds_nothing(tmp_path: Path) -> None:
    crosswise = {site: {"A": estimate(0.7), "B": None} for site in "AB"}
    empty = {**report(), "films": 0, "patients": 0}
    page = render(
        report_content(finished_run(tmp_path, {"A": helped(), "B": empty}, crosswise=crosswise), None)
    )
    assert page.count("<p>The site has no test films.</p>") == 1
    assert "<p>B has no test films.</p>" in page
    assert '<td class="n">no test films</td>' in page
    assert "withholds" not in page
    assert "noised counts" not in page


def test_a_site_that_rounds_its_counts_says_so(tmp_path: Path) -> None:
    page = render(report_content(finished_run(tmp_path, {"A": coarsened(), "B": helped()}), None))
    assert "50 test films of 50 patients; the site's counts are rounded down to steps of 50." in page
    assert page.count("rounded down") == 1


def test_what_a_run_has_cost_is_said_as_of_the_last_answer(tmp_path: Path) -> None:
    def spent(epsilon: float) -> dict[str, float]:
        return {"epsilon": epsilon, "noise_multiplier": 0.75}

    config = federation(privacy=PRIVATE, model={"norm": "group"})
    earlier = record(2, "B", asked=["A", "B", "C"], metrics={"B": spent(0.75)})
    records = [
        record(1, "AB", asked=["A", "B", "C"], metrics={"A": spent(0.5), "B": spent(0.5)}, missing=["C"]),
        record(2, "A", metrics={"A": spent(1.0)}, missing=["B"], earlier_attempts=[earlier]),
        record(3, "A", asked=["A"], metrics={"A": spent(1.5)}, missing=["B", "C"]),
    ]
    run = finished_run(tmp_path, {"A": {**report(), "metrics": "withheld"}}, config, records=records)
    page = render(report_content(run, None))
    last = "asked since without an answer that was taken in"
    for site, epsilon, round_ in (
        ("A", "1.500", "3"),
        ("B", "0.750", f"2, {last}"),
        ("C", "not known", "asked without an answer that was taken in"),
    ):
        row = (
            f'<th scope="row">{site}</th><td class="n">{epsilon}</td><td>{round_}</td><td class="n">8.0</td>'
        )
        assert row in page
    assert "noise multiplier σ: A 0.75, B 0.75;" in page
    assert "may have spent more" in page


def test_the_rule_and_the_servers_step_are_named(tmp_path: Path) -> None:
    step = {"rule": "fedavgm", "learning_rate": 0.5, "momentum": 0.9}
    config = federation(federation={"server_step": step})
    page = render(report_content(finished_run(tmp_path, {"A": helped()}, config), None))
    assert "FedAvg and the server step FedAvgM (learning rate 0.5, momentum 0.9)." in page


def test_a_private_run_of_a_version_that_did_not_say_σ(tmp_path: Path) -> None:
    config = federation(privacy=PRIVATE, model={"norm": "group"})
    records = [record(1, "A", asked=["A"], metrics={"A": {"epsilon": 0.5}})]
    page = render(report_content(finished_run(tmp_path, {"A": helped()}, config, records=records), None))
    assert "0.500" in page
    assert "σ:" not in page
    assert "may have spent more" not in page


def test_a_run_of_invented_films_says_so_first(tmp_path: Path) -> None:
    of_people = {**helped(), "about": "PA films <of> 2016 to 2019"}
    page = render(report_content(finished_run(tmp_path, {"A": helped(), "B": of_people}), None))
    assert "invented" not in page
    assert "Its films: PA films &lt;of&gt; 2016 to 2019." in page
    run = finished_run(tmp_path / "2", {"A": {**helped(), "invented": True}, "B": of_people})
    page = render(report_content(run, None))
    assert page.index("Trained in part on invented films, those of A.") < page.index("For research only.")


def test_a_group_without_a_class_is_not_called_withheld(tmp_path: Path) -> None:
    site, (first, second) = helped(), FINDINGS
    federated = site["models"]["federated"]
    federated["findings"][second] |= {"defined": False, "auroc": None, "auprc": None}
    blank = {"patients": 20, "films": 21, "findings": {}}
    for name, cells in {
        "F": {first: (None, None), second: (None, None)},  # too few patients; one class at the whole site
        "M": {first: (0, 0), second: (0, 0)},  # labelled for nobody
    }.items():
        federated["subgroups"]["sex"][name] = {
            **blank,
            "findings": {
                finding: {"auroc": None, "positives": positives, "negatives": negatives}
                for finding, (positives, negatives) in cells.items()
            },
        }
    page = render(report_content(finished_run(tmp_path, {"A": site}), None))
    table = page[page.index("A, by sex") :]
    rows = table[: table.index("</table>")].split("<tr>")
    (of_first,), (of_second,) = ([row for row in rows if finding in row] for finding in FINDINGS)
    assert (of_first.count("withheld"), of_first.count("not defined")) == (1, 1)
    assert (of_second.count("withheld"), of_second.count("not defined")) == (0, 2)


def test_a_site_that_noises_its_figures(tmp_path: Path) -> None:
    without = {**report(federated=noised({FINDINGS[0]: 0.75, FINDINGS[1]: None})), "metrics": "noised"}
    run = finished_run(tmp_path, {"A": read_report(json.dumps(without), FINDINGS).model_dump(mode="json")})
    content = report_content(run, None)
    assert content["curves"][FINDINGS[0]]["merged"] is None
    assert content["calibration"][FINDINGS[0]] is None
    page = render(content)
    assert "the site lets its figures leave noised" in page
    assert page.count('<td class="n">withheld</td>') > page.count('<td class="n">not defined</td>') > 0
    assert "A withholds its figures by group." in page
    assert (
        "“Not defined”: the site's test films lack films with, or films without, the finding; at A: the noised"
        in page
    )


def test_paths_of_the_machine_stay_out(tmp_path: Path) -> None:
    config = federation(model={"weights": tmp_path / "imagenet.safetensors"})
    run = finished_run(tmp_path, {"A": helped()}, config)
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    settings["simulation"] = {"data": str(tmp_path / "data"), "folders": {"A": str(tmp_path / "sites" / "A")}}
    run.config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    content = report_content(run, None)
    assert content["simulated"]
    assert "Each simulated site keeps its own log" in render(content)
    assert str(tmp_path) not in json.dumps(content)
    shown = yaml.safe_load(content["config"])
    assert (shown["model"]["weights"], shown["simulation"]["folders"]) == ("imagenet.safetensors", {"A": "A"})
    assert shown["federation"] == settings["federation"]


def test_names_from_outside_cannot_write_the_page(tmp_path: Path) -> None:
    config = federation(findings=["<script>alert(1)</script>", "Pleural Effusion"])
    sites = {"A": report(federated=model(estimate(0.8), findings=config.findings))}
    page = render(report_content(finished_run(tmp_path, sites, config), None))
    assert "<script" not in page


def test_a_disk_that_does_not_take_the_report_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path, {"A": helped()})
    run.report.mkdir()
    assert main([str(run.folder)]) == 1
    assert f"make room, then run python -m server.report {run.folder}" in capsys.readouterr().err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path, {"A": helped(), "B": helped()})
    assert main([str(run.folder)]) == 0
    assert capsys.readouterr().out == f"{run.report}\n"
    assert json.loads(run.report_numbers.read_text(encoding="utf-8"))["sites"]["A"]["films"] == 12
    assert main([str(tmp_path / "none")]) == 1
    assert "expected a finished run" in capsys.readouterr().err
    assert main([str(run.folder), "--state", str(tmp_path / "none")]) == 1
    assert "expected the registry of sites in" in capsys.readouterr().err
    earlier = json.loads(run.metrics.read_text(encoding="utf-8"))
    del earlier["software"]
    run.write_metrics(earlier)
    assert main([str(run.folder)]) == 1
    assert "got those of an earlier one" in capsys.readouterr().err
    run.metrics.unlink()
    with pytest.raises(NoResultsError, match="continue the run with --resume"):
        report_content(run, None)


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-6, 1e6),
    st.floats(0, 500),
    st.floats(500, 1000),
)
def test_an_axis_has_its_ticks_in_place(low: float, span: float, start: float, end: float) -> None:
    drawn = axis(low, low + span, start, end)
    assert len(drawn.ticks) <= 8
    assert all(min(start, end) - 0.1 <= place <= max(start, end) + 0.1 for place, _ in drawn.ticks)
    assert all(math.isfinite(float(text)) for _, text in drawn.ticks)
    assert [place for place, _ in drawn.ticks] == sorted(place for place, _ in drawn.ticks)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it."""
    folder = tmp_path_factory.mktemp("report")
    crosswise = {site: {"A": estimate(0.7), "B": None} for site in "AB"}
    reports = {"A": helped(), "B": helped(by=-0.2)}
    reports["A"]["models"]["pooled"] = model(estimate(0.85))
    reports["A"]["shortcuts"] = shortcuts(
        {"grey": 0.78, "size": None, "border": 0.55, "view": 0.6}, estimate(0.012, 0.04)
    )
    reports["A"]["models"]["federated"]["findings"][FINDINGS[0]]["calibration"]["bins"][3] = {
        "films": 12,
        "score": 0.35,
        "positive": 0.25,
    }
    run = finished_run(folder, reports, crosswise=crosswise)
    assert main([str(run.folder)]) == 0
    return run.report


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable(page: Path, size: str, scheme: str) -> None:
    with chromium() as browser, opened(browser, address_of(page), size, scheme) as (shown, complaints):
        shown.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        expect_readable(shown, size)
        assert complaints == []
        assert shown.locator("svg").count() >= 1 + 2 + 3
        assert shown.locator("circle.merged").count() == 1


@pytest.mark.slow
def test_the_page_prints(page: Path) -> None:
    a4 = {"width": 688, "height": 1017}  # less its margins
    with chromium() as browser, opened(browser, address_of(page), "desktop", "dark") as (shown, _):
        assert shown.pdf(format="A4").count(b"/Type /Page") >= 2
        shown.emulate_media(media="print")
        shown.set_viewport_size(a4)
        right_ends = (
            "[...document.querySelectorAll('table, svg')].map(one => one.getBoundingClientRect().right)"
        )
        assert shown.evaluate(f"Math.max(...{right_ends})") <= a4["width"]
        # What lies folded on a screen, and the lines of the keys, are on paper too; the paper is white.
        assert shown.locator("details pre").evaluate("one => one.checkVisibility()")
        assert shown.locator(".keys polyline").count() > 0
        assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("example", ["demo", "real_sites"])
def test_the_examples_in_the_docs_are_readable(example: str, size: str) -> None:
    path = Path(__file__).parents[2] / "docs" / "reports" / f"{example}.html"
    with chromium() as browser, opened(browser, address_of(path), size) as (shown, complaints):
        expect_readable(shown, size)
        assert complaints == []
        assert shown.locator("svg").count() >= 8
