"""Round state: whole or absent, the newest undamaged one wins."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import dies_at_change

from acm_core.config.sections import FederationConfig
from acm_core.federated.server_step import make_server_step
from server.round.run_folder import ResumeError
from server.round.state import RoundState, StateStore


def config(**changes: Any) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "name": "test",
            "findings": ["Nodule"],
            "privacy": "off",
            "federation": {"sites": ["A"], "rounds": 9},
            **changes,
        }
    )


def state(number: int) -> RoundState:
    arrays = {"weight": np.full((2, 3), number, np.float32), "count": np.array(number, np.int64)}
    return RoundState(number, arrays, tuple({"round": n + 1} for n in range(number)))


def no_damage(number: int) -> None:
    raise AssertionError(f"round {number} was called damaged")


def saved(folder: Path, rounds: int) -> StateStore:
    store = StateStore(folder, config())
    for number in range(1, rounds + 1):
        store.save(state(number))
    return store


def test_the_newest_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    loaded = saved(tmp_path, 3).load(no_damage)
    assert loaded is not None
    assert loaded.round == 3
    assert loaded.records == ({"round": 1}, {"round": 2}, {"round": 3})
    for name, array in state(3).arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].shape == array.shape
        assert np.array_equal(loaded.arrays[name], array)


def test_two_states_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "round-00004.json",
        "round-00004.safetensors",
        "round-00005.json",
        "round-00005.safetensors",
    ]


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert StateStore(tmp_path, config()).load(no_damage) is None


@pytest.mark.parametrize("name", ["round-00003.safetensors", "round-00003.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_state_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, name: str, damage: str
) -> None:
    store = saved(tmp_path, 3)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[-3] ^= 0xFF
        path.write_bytes(content)
    damaged: list[int] = []
    loaded = store.load(damaged.append)
    assert loaded is not None
    assert loaded.round == 2
    # Without its description a model was never finished: there is nothing to report.
    assert damaged == ([] if damage == "gone" and name.endswith("json") else [3])


def test_killed_at_any_point_of_saving_the_new_state_or_the_one_before_is_there(tmp_path: Path) -> None:
    found = []
    for change in count():
        folder = tmp_path / str(change)
        store = saved(folder, 3)
        died = dies_at_change(change, partial(store.save, state(4)))
        loaded = store.load(no_damage)
        assert loaded is not None
        assert all(
            np.array_equal(loaded.arrays[name], array) for name, array in state(loaded.round).arrays.items()
        )
        assert len(loaded.records) == loaded.round
        found.append(loaded.round)
        for number in range(loaded.round + 1, 6):
            store.save(state(number))
        assert len(list(folder.iterdir())) == 4  # nothing of the save that was killed is left
        if not died:
            break
    assert found == sorted(found)
    assert set(found) == {3, 4}


@pytest.mark.parametrize(
    "changes",
    [{"seed": 5}, {"findings": ["Mass"]}, {"model": {"context": "se"}}, {"training": {"epochs": 2}}],
)
def test_other_settings_cannot_continue_the_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    saved(tmp_path, 1)
    with pytest.raises(ResumeError, match=rf"{next(iter(changes))}(\.\w+)? changed"):
        StateStore(tmp_path, config(**changes)).load(no_damage)


def test_a_run_does_not_go_on_with_other_privacy_or_another_average(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    private = {"epsilon": 8, "expected_batch": 10}
    other = config(
        privacy=private,
        model={"norm": "group"},
        federation={"sites": ["A"], "rounds": 9, "average_decay": 0.5},
    )
    with pytest.raises(ResumeError, match=r"federation.average_decay, model.norm, privacy changed"):
        StateStore(tmp_path, other).load(no_damage)


STEP = {"rule": "fedavgm", "learning_rate": 1.0, "momentum": 0.9}


def stepping() -> FederationConfig:
    return config(federation={"sites": ["A"], "rounds": 9, "server_step": STEP})


def test_a_run_does_not_go_on_with_another_step_of_the_server(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    with pytest.raises(ResumeError, match=r"federation\.server_step\.rule changed"):
        StateStore(tmp_path, stepping()).load(no_damage)


def test_a_state_of_an_earlier_version_goes_on_and_not_with_other_settings(tmp_path: Path) -> None:
    """Until there was a list of what may change, keys of the federation stood beside the sections."""
    store = saved(tmp_path, 1)
    path = tmp_path / "round-00001.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    identity = description["run"]
    identity["the content of model.weights"] = identity["model"].pop("weights_sha256")
    identity |= {"model": {**identity["model"], "weights": None}, **identity.pop("federation")}
    path.write_text(json.dumps(description), encoding="utf-8")
    loaded = store.load(no_damage)
    assert loaded is not None
    assert (loaded.round, loaded.step) == (1, {})
    with pytest.raises(ResumeError, match=r"; model\.context changed"):
        StateStore(tmp_path, config(model={"context": "se"})).load(no_damage)


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "plain"},
        STEP,
        {"rule": "fedadam", "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    ],
    ids=lambda settings: str(settings["rule"]),
)
def test_what_the_servers_step_remembers_comes_back_bit_for_bit(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    run = config(federation={"sites": ["A"], "rounds": 9, "server_step": settings})
    step, store = make_server_step(run.federation.server_step, ("head",)), StateStore(tmp_path, run)
    rng = np.random.default_rng(0)

    def drawn() -> dict[str, Any]:
        return {
            "conv.weight": rng.standard_normal((2, 3)).astype(np.float32),
            "scale": np.array(rng.standard_normal(), np.float16),
            "head": rng.standard_normal((1, 4)).astype(np.float32),
            "count": np.array(rng.integers(9)),
        }

    kept = loaded = RoundState(0, drawn(), ())
    for number in range(1, 5):
        aggregate = drawn()
        states = []
        for before in (kept, loaded):  # one lives on in memory, the other is saved and read every round
            memory = before.step or step.init(before.arrays)
            arrays, memory = step.apply(before.arrays, aggregate, (number != 2,), memory)
            states.append(RoundState(number, arrays, (), step=memory))
        kept = states[0]
        store.save(states[1])
        read = store.load(no_damage)
        assert read is not None
        loaded = read
        for left, right in ((kept.arrays, loaded.arrays), (kept.step, loaded.step)):
            assert set(left) == set(right)
            for name, array in left.items():
                assert array.dtype == right[name].dtype
                assert array.tobytes() == right[name].tobytes()


def test_waiting_times_and_addresses_may_change(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    changed = config(
        federation={"sites": ["A", "B"], "rounds": 9, "round_deadline": 1.0}, server={"port": 1234}
    )
    assert StateStore(tmp_path, changed).load(no_damage) is not None


def test_a_moving_average_is_kept_beside_the_model(tmp_path: Path) -> None:
    average = {"weight": np.full((2, 3), 0.5, np.float32), "count": np.array(4, np.int64)}
    store = StateStore(tmp_path, config())
    store.save(replace(state(1), average=average))
    loaded = store.load(no_damage)
    assert loaded is not None
    assert set(loaded.arrays) == set(loaded.average) == {"weight", "count"}
    assert np.array_equal(loaded.average["weight"], average["weight"])
    assert np.array_equal(loaded.final["weight"], average["weight"])
    assert state(1).final["weight"].flat[0] == 1
