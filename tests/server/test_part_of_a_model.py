"""A federation that trains a part of the model: only that travels after round 1, and the rest keeps its bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hospitals import FINDINGS, federation, hospital, site
from in_process import InProcessTransport, run_in_process
from safetensors.torch import save_file

from acm_core.config.sections import FederationConfig
from acm_core.config.site import SiteConfig
from acm_core.federated.messages import Reply, Task, TaskKind
from acm_core.nn import build_classifier, trained_names
from acm_core.training.weights import load_arrays
from client.round.site_round import SiteRound
from server.round.federation import FederatedRun
from server.round.run_folder import RunFolder
from server.round.starts import pinned
from server.round.state import RoundState, StateStore
from simulations.engine import simulate

PARTS = ("head", "norm")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    for name in "AB":
        hospital(folder, name)
    return folder


def sites(hospitals: Path, state: Path) -> dict[str, SiteConfig]:
    return {name: site(hospitals, name, state=state / name) for name in "AB"}


def training(folder: Path, trainable: str, **federated: object) -> FederationConfig:
    """A run from a start in `folder` whose every array differs from a fresh model's."""
    settings = federation(model={"trainable": trainable}, federation=federated)
    model = build_classifier(settings.model, len(FINDINGS), seed=77)
    for name, array in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            array.add_(0.25)
    start = folder / "start.safetensors"
    save_file(model.state_dict(), start)
    config = settings.model_copy(update={"model": settings.model.model_copy(update={"weights": start})})
    return pinned(config, folder / "federation.yaml")


class Killed(Exception):  # noqa: N818
    """Of the server, once round 1 is saved."""


def expect_only_the_part_moved(folder: RunFolder, config: FederationConfig) -> None:
    """Bit for bit, and something of every array that trains."""
    assert config.model.weights is not None
    start, end = load_arrays(config.model.weights), load_arrays(folder.model)
    assert end.keys() == start.keys()
    differing = {name for name in start if start[name].tobytes() != end[name].tobytes()}
    assert differing == trained_names(build_classifier(config.model, len(FINDINGS)))


@pytest.mark.slow
@pytest.mark.parametrize("trainable", PARTS)
def test_killed_and_resumed_in_a_simulation_it_gives_the_model_of_an_undisturbed_run(
    hospitals: Path, tmp_path: Path, trainable: str
) -> None:
    config = training(tmp_path, trainable)
    undisturbed = run_in_process(sites(hospitals, tmp_path / "alone"), config, tmp_path / "undisturbed")
    expect_only_the_part_moved(undisturbed, config)
    folder, at_sites = RunFolder(tmp_path / "simulated"), sites(hospitals, tmp_path / "simulation")
    folder.open(config, resume=False)
    with pytest.raises(Killed):
        _killed(config, at_sites, folder)
    folder.open(config, resume=True)
    simulate(config, at_sites, folder, processes=2, resume=True)
    assert folder.model.read_bytes() == undisturbed.model.read_bytes()
    one, other = (json.loads(run.metrics.read_text(encoding="utf-8")) for run in (folder, undisturbed))
    assert one["sites"] == other["sites"]


def _killed(config: FederationConfig, at_sites: dict[str, SiteConfig], folder: RunFolder) -> None:
    save = StateStore.save

    def dies(store: StateStore, state: RoundState) -> None:
        save(store, state)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateStore, "save", dies)
        simulate(config, at_sites, folder, processes=2, resume=False)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("encoding", ["float32", "int8"])
@pytest.mark.usefixtures("narrow")
def test_the_whole_model_goes_to_a_site_once(
    hospitals: Path, tmp_path: Path, encoding: str, decay: float
) -> None:
    config = training(tmp_path, "norm", encoding=encoding, average_decay=decay, rounds=3)
    got: dict[str, list[tuple[TaskKind, int]]] = {"A": [], "B": []}
    at_sites = sites(hospitals, tmp_path)

    def watched(name: str) -> Callable[[Task], Reply]:
        runner = SiteRound(at_sites[name])

        def answer(task: Task) -> Reply:
            got[name].append((task.kind, sum(array.nbytes for array in task.arrays.values())))
            if name == "B" and len(got["B"]) == 2:  # as after a disk that was lost
                for path in (tmp_path / "B").glob("runs/*/received.safetensors*"):
                    path.unlink()
            return runner.answer(task)

        return answer

    folder = RunFolder(tmp_path / "run")
    folder.open(config, resume=False)
    FederatedRun(InProcessTransport({name: watched(name) for name in "AB"}), config, folder).execute(
        resume=False
    )
    expect_only_the_part_moved(folder, config)
    model = sum(array.nbytes for array in load_arrays(folder.model).values())
    train, alone, evaluate = TaskKind.TRAIN, TaskKind.LOCAL_ONLY, TaskKind.EVALUATE
    assert [kind for kind, _ in got["A"]] == [train] * 3 + [alone, evaluate]
    assert [kind for kind, _ in got["B"]] == [train] * 4 + [alone, evaluate]
    large = {name: [size > model / 2 for _, size in asked] for name, asked in got.items()}
    assert large == {"A": [True] + [False] * 4, "B": [True, False, True, False, False, False]}
    assert all(size < model / 20 for _, size in got["A"][1:])


def test_a_state_holds_the_whole_model(tmp_path: Path) -> None:
    config = federation(model={"trainable": "head"})
    arrays = {"head.bias": np.ones(2, np.float32)}
    frozen = {"conv1.weight": np.full((2, 2), 3, np.float32), "count": np.array(7, np.int64)}
    state = RoundState(1, arrays, (), frozen=frozen)
    store = StateStore(tmp_path, config)
    for saved in (state, replace(state, average={"head.bias": np.zeros(2, np.float32)})):
        store.save(saved)
        loaded = store.load(lambda _: pytest.fail("it is damaged"))
        assert loaded is not None
        assert loaded.arrays.keys() == arrays.keys()
        assert loaded.final.keys() == arrays.keys() | frozen.keys()
        assert loaded.final["head.bias"][0] == (0 if saved.average else 1)
        assert all(np.array_equal(loaded.final[name], array) for name, array in frozen.items())
