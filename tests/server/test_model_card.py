"""The model card says what the model is not, who was left out, and no more than was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hospitals import federation
from reports import TRANSFER, coarsened, estimate, metrics, model, noised, read, report

from acm_core.config.sections import FederationConfig
from server.round.model_card import model_card, write_model_card
from server.round.results import summarise
from server.round.state import RoundState


def sites() -> dict[str, Any]:
    first = report(federated=model(estimate(0.8)), local_only=model(estimate(0.7)))
    first["set_aside"] = {"not_dicom": 2, "empty": 1}
    return {"A": first, "B": report(federated=model(None))}


def card(config: FederationConfig, **reports: dict[str, Any]) -> str:
    return model_card(config, metrics(reports or sites(), config))


@pytest.mark.parametrize(
    "said",
    [
        "For research only. Not a medical device; no claim of diagnostic performance.",
        "**no differential privacy**: the weights may reveal that a film was among the training films",
        "resnet18 with context module `acm`, batch normalisation, global max pooling",
        "input: one frontal chest X-ray, 32 × 32",
        "output: a probability each for Lung Opacity, Pleural Effusion",
        "FedAvg, 2 rounds of 1 local epochs, seed 3",
        "| A | 30 | 12 | 9 | 1 empty, 2 not_dicom |",
        "| B | 30 | 12 | 9 | none |",
        "| A | Lung Opacity | 5 / 7 | 0.700 (0.50–0.90) | 0.800 (0.60–1.00) |",
        "| B | Lung Opacity | 5 / 0 | – | not defined |",
        "- not for diagnosis, triage or any decision about a patient",
        "| A | sex F | Lung Opacity | 0.800 (0.60–1.00) |",
        "| **mean over sites** | | | 0.700 (0.50–0.90) | 0.800 (0.60–1.00) |",
    ],
)
def test_every_card_says(said: str) -> None:
    assert said in card(federation())


def test_the_card_says_what_each_site_has_in_the_end() -> None:
    models = {
        "federated": model(estimate(0.8), estimate(0.01)),
        "mixture": model(estimate(0.9), estimate(0.25, 0.1)),
    }
    text = model_card(
        federation(), metrics({"A": {**report(**models), "delivered": "mixture"}, "B": report(**models)})
    )
    assert "| A | federated, half and half with alone | +0.250 (+0.050 to +0.450) |" in text
    assert "| B | federated | +0.010 (−0.190 to +0.210) |" in text


def test_a_model_of_sites_with_their_own_normalisation_layers_says_so() -> None:
    assert "`client.adapt`" in card(federation())
    for shared in (
        federation(federation={"normalisation": "shared"}),
        federation(model={"norm": "group"}),
    ):
        assert "client.adapt" not in card(shared)


def test_fedprox_is_named_with_its_weight() -> None:
    text = card(federation(federation={"proximal_mu": 0.01}))
    assert "- FedProx (μ = 0.01), 2 rounds" in text
    assert "FedAvg" not in text


def test_a_robust_rule_is_named() -> None:
    rule = {"sites": ["A", "B", "C"], "quorum": 3, "aggregation": {"rule": "trimmed_mean", "attackers": 1}}
    assert "- Trimmed mean, 2 rounds" in card(federation(federation=rule))
    assert "- FedProx (μ = 0.01) with trimmed mean, 2 rounds" in card(
        federation(federation={**rule, "proximal_mu": 0.01})
    )


def test_a_step_of_the_server_is_named_with_its_settings() -> None:
    step = {"rule": "fedavgm", "learning_rate": 0.5, "momentum": 0.9}
    assert "- FedAvg and the server step FedAvgM (learning rate 0.5, momentum 0.9), 2 rounds" in card(
        federation(federation={"server_step": step})
    )
    rule = {"sites": ["A", "B", "C"], "quorum": 3, "aggregation": {"rule": "median", "attackers": 1}}
    step = {"rule": "fedadam", "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 0.001}
    assert (
        "- Median and the server step FedAdam (learning rate 0.01, beta1 0.9, beta2 0.99, tau 0.001), 2 rounds"
        in card(federation(federation={**rule, "server_step": step}))
    )
    assert "server step" not in card(federation())


def test_the_privacy_statement_has_a_heading() -> None:
    assert "\n## Privacy\n- **no differential privacy**" in card(federation())


def test_an_epsilon_that_promises_nothing_about_membership_is_said_to() -> None:
    privacy = {"epsilon": 500, "expected_batch": 10}
    large = card(federation(privacy=privacy, model={"norm": "group"}))
    assert "poisoning. ε = 500: this is no promise about membership; it was found to stop" in large
    assert "membership" not in card(federation(privacy={**privacy, "epsilon": 8}, model={"norm": "group"}))


def test_a_projected_head_is_described() -> None:
    text = card(federation(model={"head": "projected", "dimensions": 32, "weights_sha256": "a" * 64}))
    assert (
        "batch normalisation, a linear head on the pooled features' first 32 axes, at unit length\n" in text
    )
    assert "global max pooling of the findings' score maps\n" in card(federation())


def test_sites_that_were_not_evaluated_are_named() -> None:
    config = federation(federation={"sites": ["A", "B", "C", "D"]})
    assert "\nNot evaluated: C, D.\n" in card(config)
    assert "Not evaluated" not in card(federation())


def test_a_finding_that_no_film_of_a_site_is_labelled_for_has_no_row() -> None:
    alone = report(federated=model(estimate(0.8)))
    alone["models"]["federated"]["findings"]["Pleural Effusion"].update(
        defined=False, auroc=None, auprc=None, positives=0, negatives=0
    )
    text = card(federation(), A=alone)
    assert "| A | Lung Opacity |" in text
    assert "| A | Pleural Effusion |" not in text


def test_a_site_that_rounds_its_counts_down_to_none_keeps_its_figures() -> None:
    text = card(federation(), A=coarsened(), B=report(federated=model(estimate(0.7))))
    assert "| A | Lung Opacity | 0 / 0 | 0.800 (0.60–1.00) |" in text
    assert "\nNumbers of films and patients at A are rounded down to steps of 50.\n" in text
    assert "rounded down" not in card(federation())


def test_the_card_names_the_version_that_trained_the_model() -> None:
    found = metrics(sites())
    found["software"]["acm-fed"] = "0.0.7"
    assert "seed 3, acm-fed 0.0.7\n" in model_card(federation(), found)


def test_the_answer_stands_in_the_card_as_in_the_metrics() -> None:
    config = federation()
    found = metrics(
        {"A": report(federated=model(estimate(0.8), estimate(0.1, 0.01)), local_only=model(estimate(0.7)))},
        config,
    )
    assert "Training together helps" in found["answer"]
    assert f"\n{found['answer']}\n" in model_card(config, found)


def test_every_table_has_as_many_cells_in_each_row() -> None:
    text = card(federation())
    tables = [block.splitlines() for block in text.split("\n\n") if "\n| ---" in block]
    assert len(tables) == 4
    for rows in tables:
        cells = [row.count("|") for row in rows if row.startswith("|")]
        assert len(cells) >= 4
        assert len(set(cells)) == 1


def test_the_card_is_written_as_utf_8(tmp_path: Path) -> None:
    config = federation(federation={"proximal_mu": 0.5})
    found = metrics(sites(), config)
    write_model_card(tmp_path / "model_card.md", config, found)
    assert (tmp_path / "model_card.md").read_text(encoding="utf-8") == model_card(config, found)


def test_a_private_run_says_what_is_promised_what_is_not_and_what_it_cost() -> None:
    privacy = {"epsilon": 3, "delta": 1e-6, "expected_batch": 10}
    config = federation(privacy=privacy, model={"norm": "group"})
    withheld = {**report(), "films": None, "patients": None, "training_films": None, "metrics": "withheld"}
    text = card(config, A=withheld)
    assert "- **differential privacy**: each patient's presence" in text
    assert "(ε = 3, δ = 1e-06) for the whole run" in text
    assert "Not covered: which site it is" in text
    assert (
        "ε that the run has cost, by the ledger of each site as of its last answer: A 1.5 (round 2)\n" in text
    )
    assert "| A | withheld | withheld | withheld | withheld |" in text
    assert "each film (not of a patient with several)" in card(
        federation(privacy={**privacy, "unit": "film"}, model={"norm": "group"})
    )


def test_not_defined_is_not_said_to_be_a_lack_of_films_where_counts_are_noised() -> None:
    without = {
        **report(federated=noised(dict.fromkeys(("Lung Opacity", "Pleural Effusion")))),
        "metrics": "noised",
    }
    text = card(federation(), A=without, B=report(federated=model(None)))
    assert (
        '"Not defined": the site\'s test films lack one of the two classes; at A: the noised counts do not'
        in text
    )
    assert "noised counts" not in card(federation())


def test_what_a_site_may_have_spent_since_its_last_answer_is_not_passed_over() -> None:
    config = federation(privacy={"epsilon": 3, "expected_batch": 10}, model={"norm": "group"})
    records = (
        {"round": 1, **TRANSFER, "asked": ["A", "B"], "metrics": {"A": {"epsilon": 1.0}}},
        {"round": 2, **TRANSFER, "asked": ["A"], "metrics": {}},
    )
    found = summarise(
        config, RoundState(2, {}, records), {"A": read({**report(), "metrics": "withheld"})}, {}
    )
    assert (
        "last answer: A 1 (round 1, asked since without an answer that was taken in), "
        "B not known (asked without an answer that was taken in)\n"
    ) in model_card(config, found)
    del found["privacy"]["ledgers"]
    found["privacy"]["spent"] = {"A": 1.0}  # as earlier versions had it
    assert "by the ledger of each site as of its last answer: A 1\n" in model_card(config, found)


def test_a_card_says_whose_films_the_model_learnt_from() -> None:
    text = card(federation(), A=report(), B={**report(), "about": "PA films of 2016 to 2019"})
    assert "invented" not in text
    assert (
        "- A: the site does not say which films, whose labels and what years\n- B: PA films of 2016" in text
    )
    text = card(federation(), A={**report(), "invented": True})
    assert text.index("**Trained on invented films.") < text.index("## Intended use")


def test_groups_that_are_withheld_are_not_made_up() -> None:
    withheld = {"A": report(federated=model(None)), "B": report()}
    assert "None: the sites withhold these figures" in card(federation(), **withheld)
