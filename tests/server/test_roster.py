"""`python -m server.roster`, as the consortium's operator runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from joining import Joining

from acm_core.trust.certificates import spoken
from acm_core.trust.roster import Roster


@pytest.fixture
def joining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Joining:
    return Joining(tmp_path, capsys, monkeypatch)


def test_it_writes_the_sites_that_take_part(joining: Joining) -> None:
    joining.join_all("B", "A", "C")
    said = joining.write_roster()
    assert (said.code, said.err) == (0, "")
    roster = Roster.read(joining.folder / "roster-chest.json")
    active = {site.name: site.public_key for site in joining.registry.active()}
    assert {row.site: row.public_key for row in roster.sites} == active
    assert [row.site for row in roster.sites] == ["A", "B", "C"]
    assert spoken(roster.fingerprint) in said.out
    assert all(row.fingerprint in said.out for row in roster.sites)
    assert "python -m client.roster --site=NAME roster-chest.json" in said.out
    joining.remove("C")
    assert joining.write_roster().code == 0
    after = Roster.read(joining.folder / "roster-chest.json")
    assert [row.site for row in after.sites] == ["A", "B"]


def test_fewer_than_two_sites_have_nothing_to_compare(joining: Joining) -> None:
    joining.join_all("A")
    said = joining.write_roster()
    assert said.code == 2
    assert "expected two sites or more that take part, got 1" in said.err
    assert not (joining.folder / "roster-chest.json").exists()


def test_without_a_registry_nothing_is_written(joining: Joining) -> None:
    said = joining.write_roster("--state", "elsewhere")
    assert said.code == 2
    assert "elsewhere/sites.json" in said.err
    assert not (joining.folder / "roster-chest.json").exists()


def test_a_disk_that_does_not_take_it_is_said(joining: Joining) -> None:
    joining.join_all("A", "B")
    (joining.folder / "roster-chest.json").mkdir()
    said = joining.write_roster()
    assert said.code == 1
    assert "run it again when that is mended" in said.err
