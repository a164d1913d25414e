"""The registry of sites: who takes part, who does no more, and that this survives whatever happens."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crashes import dies_at_change
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from acm_core.trust import keys
from server.consortium.registry import Registry, RegistryError

KEYS = [keys.public_text(ec.generate_private_key(ec.SECP384R1()).public_key()) for _ in range(5)]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    Registry.create(tmp_path / "sites.json")
    return Registry.load(tmp_path / "sites.json")


def names(registry: Registry) -> list[str]:
    return [site.name for site in registry.active()]


def test_an_approved_site_takes_part_until_it_is_removed(registry: Registry) -> None:
    assert names(registry) == []
    registry = registry.approve("A", KEYS[0]).approve("B", KEYS[1])
    assert names(registry) == ["A", "B"]
    site = registry.expect_active("A")
    assert (site.public_key, site.fingerprint) == (KEYS[0], keys.fingerprint(keys.parse_public_key(KEYS[0])))
    registry = registry.remove("A")
    assert names(registry) == ["B"]
    assert [(site.name, site.removed is None) for site in registry.sites] == [("A", False), ("B", True)]


def test_to_approve_again_changes_nothing(registry: Registry) -> None:
    once = registry.approve("A", KEYS[0])
    assert once.approve("A", KEYS[0]).sites == once.sites


def test_a_removed_key_stays_dead_and_the_name_comes_back(registry: Registry) -> None:
    registry = registry.approve("A", KEYS[0]).remove("A")
    for name in ("A", "B"):
        with pytest.raises(
            RegistryError, match=r"never removed, got that of A, removed on 20.* makes a new key"
        ):
            registry.approve(name, KEYS[0])
    registry = registry.approve("A", KEYS[1])
    with pytest.raises(RegistryError, match="stays out for ever"):
        registry.approve("A", KEYS[0])
    with pytest.raises(RegistryError, match="stays out for ever"):
        registry.remove("A").approve("A", KEYS[0])


def test_a_key_is_one_sites_and_a_site_has_one(registry: Registry) -> None:
    registry = registry.approve("A", KEYS[0])
    with pytest.raises(RegistryError, match="expected B's own key, got that of site A"):
        registry.approve("B", KEYS[0])
    with pytest.raises(
        RegistryError, match=r"with which A is enrolled, SHA256:.* `python -m server.remove A` first"
    ):
        registry.approve("A", KEYS[1])
    assert names(registry.newest()) == ["A"]


def test_only_who_takes_part_can_be_removed(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"there is none\), got A"):
        registry.remove("A")
    registry = registry.approve("A", KEYS[0]).approve("B", KEYS[1]).remove("A")
    with pytest.raises(RegistryError, match=r"takes part \(B\), got A"):
        registry.remove("A")


@settings(deadline=None, max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["approve", "remove"]), st.sampled_from("ABC"), st.sampled_from(KEYS)),
        max_size=12,
    )
)
def test_whatever_is_done_dead_keys_stay_dead(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("registry") / "sites.json"
    Registry.create(path)
    active: dict[str, str] = {}
    dead: set[str] = set()
    for action, name, key in actions:
        registry = Registry.load(path)
        permitted = (
            name in active
            if action == "remove"
            else active.get(name) == key
            or (key not in dead and name not in active and key not in active.values())
        )
        try:
            registry.remove(name) if action == "remove" else registry.approve(name, key)
        except RegistryError:
            assert not permitted
            continue
        assert permitted
        if action == "remove":
            dead.add(active.pop(name))
        else:
            active[name] = key
        assert {site.name: site.public_key for site in Registry.load(path).active()} == active


def test_a_running_server_sees_changes_and_nothing_where_there_are_none(
    registry: Registry, tmp_path: Path
) -> None:
    assert registry.newest() is registry
    Registry.load(tmp_path / "sites.json").approve("A", KEYS[0])
    assert names(registry) == []
    newest = registry.newest()
    assert names(newest) == ["A"]
    assert newest.newest() is newest
    Registry.load(tmp_path / "sites.json").remove("A")
    assert names(newest.newest()) == []


def test_who_loaded_an_older_one_does_not_undo_what_came_since(registry: Registry, tmp_path: Path) -> None:
    older = Registry.load(tmp_path / "sites.json")
    registry.approve("A", KEYS[0])
    assert names(older.approve("B", KEYS[1])) == ["A", "B"]
    registry.remove("A")
    with pytest.raises(RegistryError, match="stays out for ever"):
        older.approve("A", KEYS[0])


def _approve_many(path: Path, name: str, texts: list[str]) -> None:
    for number, text in enumerate(texts):
        Registry.load(path).approve(f"{name}{number}", text)


def test_commands_at_the_same_time_lose_no_site(registry: Registry, tmp_path: Path) -> None:
    path, each = tmp_path / "sites.json", 4
    texts = [keys.public_text(ec.generate_private_key(ec.SECP384R1()).public_key()) for _ in range(6 * each)]
    shares = [texts[at::6] for at in range(6)]
    processes = [
        multiprocessing.get_context("fork").Process(target=_approve_many, args=(path, f"P{at}-", shares[at]))
        for at in range(3)
    ]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(3) as threads:
        for at in range(3, 6):
            threads.submit(_approve_many, path, f"T{at}-", shares[at])
    for process in processes:
        process.join()
    assert {site.public_key for site in registry.newest().active()} == set(texts)


@pytest.mark.parametrize("action", ["approve", "remove"])
def test_killed_at_any_point_it_is_the_old_one_or_the_new_one(
    registry: Registry, tmp_path: Path, action: str
) -> None:
    path = tmp_path / "sites.json"
    registry = registry.approve("A", KEYS[0])
    before = registry.sites

    def act() -> object:
        return registry.remove("A") if action == "remove" else registry.approve("B", KEYS[1])

    assert dies_at_change(0, act)
    assert Registry.load(path).sites == before
    assert not dies_at_change(9, act)
    assert names(Registry.load(path)) == ([] if action == "remove" else ["A", "B"])


def test_a_damaged_registry_is_refused_and_not_taken_for_an_empty_one(
    registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "sites.json"
    registry = registry.approve("A", KEYS[0]).approve("B", KEYS[1]).remove("A")
    whole = json.loads(path.read_text())

    def changed(at: int, **values: Any) -> str:
        return json.dumps(
            whole | {"sites": [s | (values if n == at else {}) for n, s in enumerate(whole["sites"])]}
        )

    first, second = whole["sites"]
    for content in (
        "",
        path.read_text()[:-20],
        "{}x",
        json.dumps(whole | {"more": 1}),
        json.dumps(whole | {"format": "acm-fed.sites/2"}),
        changed(1, public_key=KEYS[2]),
        changed(1, name="../B"),
        changed(1, name="A", public_key=first["public_key"], fingerprint=first["fingerprint"]),
        json.dumps(whole | {"sites": [second, second]}),
        changed(0, removed=None, name="B"),
    ):
        path.write_text(content)
        for load in (lambda: Registry.load(path), registry.newest, lambda: registry.approve("C", KEYS[3])):
            with pytest.raises(
                RegistryError, match=r"expected the registry of sites in .*sites.json as it was"
            ):
                load()
        assert path.read_text() == content
    path.unlink()
    with pytest.raises(RegistryError, match="No such file or directory: put its newest backup back"):
        registry.newest()
