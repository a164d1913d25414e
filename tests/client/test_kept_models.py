"""What a site keeps of a run: whole whatever happens, and no more than it needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crashes import dies_at_change

from acm_core.arrays import Arrays
from acm_core.federated.report import ModelReport
from acm_core.files import write_sealed
from client.round.kept_models import KeptModels, KeptScores, SiteRun
from client.round.release import noised_model

RUN = SiteRun("test", "0" * 12)
FILMS = "f" * 64


def arrays(value: int) -> Arrays:
    return {"weight": np.full((2, 3), value, np.float32)}


def value_of(kept: Arrays | None) -> int | None:
    return int(kept["weight"][0, 0]) if kept and (kept["weight"] == kept["weight"][0, 0]).all() else None


def value_of_update(kept: KeptModels, number: int) -> int | None:
    """Of its weights, where the optimiser's state beside them is of the same round."""
    given = kept.load_update(number, "f" * 64)
    return None if given is None or value_of(given[0]) != value_of(given[1]) else value_of(given[0])


def checkpoint_of(kept: dict[str, Any] | None) -> int | None:
    return None if kept is None else int(kept["steps"])


def scores(value: int, *models: str) -> KeptScores:
    said = {model: np.full((4, 2), value, np.float32) for model in models}
    return KeptScores(np.zeros((4, 2), np.float32), np.arange(4), said)


def value_of_scores(kept: KeptScores | None) -> int | None:
    return None if kept is None else int(kept.models["federated"][0, 0])


def tenths(report: ModelReport | None) -> int | None:
    return None if report is None or report.mean_auroc is None else round(report.mean_auroc.value * 10)


SAVES: dict[str, tuple[Callable[[KeptModels, int], None], Callable[[KeptModels], int | None]]] = {
    "optimizer": (
        lambda kept, number: kept.save_optimizer(number, arrays(number)),
        lambda kept: value_of(kept.load_optimizer(before=5)),
    ),
    "residual": (
        lambda kept, number: kept.save_residual(number, arrays(number)),
        lambda kept: value_of(kept.load_residual(before=5)),
    ),
    "received": (
        lambda kept, number: kept.save_received(arrays(number)),
        lambda kept: value_of(kept.load_received()),
    ),
    "local only": (
        lambda kept, number: kept.save_local_only(FILMS, arrays(number)),
        lambda kept: value_of(kept.load_local_only(FILMS)),
    ),
    "scores": (
        lambda kept, number: kept.save_scores(FILMS, scores(number, "federated")),
        lambda kept: value_of_scores(kept.load_scores(FILMS)),
    ),
    "update": (
        lambda kept, number: kept.save_update(number, "f" * 64, arrays(number), arrays(number)),
        lambda kept: value_of_update(kept, 4) or value_of_update(kept, 3),
    ),
    "checkpoint": (
        lambda kept, number: kept.save_checkpoint(FILMS, {"steps": number, "weight": torch.ones(3)}),
        lambda kept: checkpoint_of(kept.load_checkpoint(FILMS)),
    ),
    "private checkpoint": (
        lambda kept, number: kept.save_private_checkpoint({"steps": number, "weight": torch.ones(3)}),
        lambda kept: checkpoint_of(kept.load_private_checkpoint()),
    ),
    "report": (
        lambda kept, number: kept.save_report(noised_model({"Nodule": number / 10})),
        lambda kept: tenths(kept.load_report()),
    ),
}


def test_a_report_of_an_earlier_version_is_the_runs_one_release(tmp_path: Path) -> None:
    """It had no more than a noised model says."""
    kept = KeptModels(tmp_path, RUN)
    report = noised_model({"Nodule": 0.75, "Mass": None})
    kept.save_report(report)
    earlier = report.model_dump(
        mode="json",
        exclude={
            "subgroups": True,
            "findings": {"__all__": {"operating_points", "calibration", "histogram"}},
        },
    )
    write_sealed(next(tmp_path.rglob("noised_report.json")), json.dumps(earlier).encode())
    assert kept.load_report() == report


@pytest.mark.parametrize("what", SAVES)
def test_killed_at_any_point_of_saving_the_new_or_the_former_is_there(tmp_path: Path, what: str) -> None:
    save, load = SAVES[what]
    found = []
    for change in count():
        kept = KeptModels(tmp_path / str(change), RUN)
        for number in (1, 2, 3):
            save(kept, number)
        died = dies_at_change(change, partial(save, kept, 4))
        found.append(load(kept))
        save(kept, 4)
        assert load(kept) == 4
        kept.save_received(arrays(5))  # as every round does
        assert not list((tmp_path / str(change)).rglob(".*"))  # nothing of the save that was killed is left
        if not died:
            break
    assert found == sorted(found)
    assert set(found) == {3, 4}


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a byte of the content": lambda content: changed_at(content, len(content) // 2),
    "the first byte": lambda content: changed_at(content, 0),
    "the last byte": lambda content: changed_at(content, len(content) - 1),
    "cut off": lambda content: content[: len(content) // 2],
    "its last byte lost": lambda content: content[:-1],
    "ten bytes left": lambda content: content[:10],
    "empty": lambda content: b"",
}


def changed_at(content: bytes, place: int) -> bytes:
    """With one bit of one byte turned."""
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    ("what", "instead"),
    [(what, 3 if what == "optimizer" else None) for what in (*SAVES, "gradient check")],
)
def test_what_is_damaged_is_said_and_not_taken(
    tmp_path: Path, what: str, instead: int | None, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save, load = {
        **SAVES,
        "update": (SAVES["update"][0], lambda kept: value_of_update(kept, 4)),
        "gradient check": (
            lambda kept, number: kept.save_gradient_check(f"torch {number}"),
            lambda kept: int((kept.load_gradient_check() or "0").split()[-1]) or None,
        ),
    }[what]
    kept = KeptModels(tmp_path, RUN)
    save(kept, 3)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    save(kept, 4)
    assert load(kept) == 4
    (newest,) = (
        path for path in tmp_path.rglob("*") if path.is_file() and before.get(path) != path.read_bytes()
    )
    newest.write_bytes(DAMAGE[damage](newest.read_bytes()))
    assert load(kept) == instead
    assert newest.name in caplog.text
    save(kept, 4)
    assert load(kept) == 4


@pytest.mark.parametrize("former", [0, 1, 9])
def test_a_run_begun_anew_keeps_its_own_rounds_and_not_those_of_the_former(
    tmp_path: Path, former: int
) -> None:
    kept = KeptModels(tmp_path, RUN)
    for number in (*range(1, former + 1), 1, 2, 3):
        kept.save_residual(number, arrays(20 + number))
        kept.save_update(number, f"{number:064x}", arrays(30 + number), arrays(number))
        assert value_of(kept.load_residual(before=number + 1)) == 20 + number
        kept.save_optimizer(number, arrays(40 + number))
        given = kept.load_update(number, f"{number:064x}")
        assert given is not None
        assert [value_of(one) for one in given] == [30 + number, number]
        assert value_of(kept.load_optimizer(before=number + 1)) == 40 + number
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3 * 2


def test_every_update_of_a_round_is_kept_whoever_asks_for_it_again(tmp_path: Path) -> None:
    kept = KeptModels(tmp_path, RUN)
    requests = ["f" * 64, "e" * 64, "0" * 64]
    for number, request in enumerate(requests):
        kept.save_update(1, request, arrays(number), {})
    given = [kept.load_update(1, request) for request in requests]
    assert [one and value_of(one[0]) for one in given] == [0, 1, 2]


def test_scores_of_models_measured_later_stand_beside_those_before(tmp_path: Path) -> None:
    kept = KeptModels(tmp_path, RUN)
    kept.save_scores(FILMS, scores(1, "federated", "local_only"))
    kept.save_scores(FILMS, scores(2, "federated", "pooled"))
    loaded = kept.load_scores(FILMS)
    assert loaded is not None
    assert {model: int(values[0, 0]) for model, values in loaded.models.items()} == {
        "federated": 2,
        "local_only": 1,
        "pooled": 2,
    }
    assert loaded.patients.tolist() == [0, 1, 2, 3]


def test_scores_are_of_one_dataset(tmp_path: Path) -> None:
    kept = KeptModels(tmp_path, RUN)
    kept.save_scores(FILMS, scores(1, "local_only"))
    kept.save_scores("e" * 64, scores(2, "federated"))
    assert kept.load_scores(FILMS) is None
    loaded = kept.load_scores("e" * 64)
    assert loaded is not None
    assert list(loaded.models) == ["federated"]
    assert len(list(tmp_path.rglob("scores-*"))) == 1
