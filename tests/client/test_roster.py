"""`python -m client.roster`, as a hospital's engineer runs it in the call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crashes import dies_at_change
from joining import Joining

from acm_core.audit_events import RosterPinned
from acm_core.audit_log import audit_folder, verify
from acm_core.config import SiteConfig, load_config
from acm_core.files import turn
from acm_core.trust.certificates import spoken
from acm_core.trust.roster import Roster, RosterError
from client import roster as command
from client.site.pinned_roster import pin_roster, pinned_roster

REPOSITORY = Path(__file__).resolve().parents[2]
FILE = "roster-chest.json"


@pytest.fixture
def joining(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Joining:
    """Three hospitals have joined, and the operator has sent the roster."""
    joining = Joining(tmp_path, capsys, monkeypatch)
    joining.join_all("A", "B", "C")
    assert joining.write_roster().code == 0
    return joining


@pytest.fixture
def roster(joining: Joining) -> Roster:
    return Roster.read(joining.folder / FILE)


def changed(joining: Joining, *, add: str = "", leave: str = "") -> Roster:
    """A roster of other sites, as a file of the operator's."""
    if add:
        joining.site_file(add)
        joining.ask(site=add)
        joining.approve(request=f"request-{add}.json")
    if leave:
        joining.remove(leave)
    joining.write_roster()
    return Roster.read(joining.folder / FILE)


def swapped(joining: Joining, site: str, by: str, **also: str) -> None:
    """The operator's file with another key under a site's name."""
    content = json.loads((joining.folder / FILE).read_text())
    rows = {row["site"]: row for row in content["sites"]}
    rows[site] = {**rows[by], "site": site}
    if by != site and not also:
        rows.pop(by)
    content["sites"] = [rows[name] for name in sorted(rows)]
    (joining.folder / FILE).write_text(json.dumps(content))


def answering(joining: Joining) -> subprocess.Popen[str]:
    """The command in a process of its own, which waits for its answer."""
    return subprocess.Popen(
        [sys.executable, "-m", "client.roster", "--site=A", "--sites", ".", FILE],
        cwd=joining.folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_shows_compares_and_pins(joining: Joining, roster: Roster) -> None:
    said = joining.roster(FILE)
    assert (said.code, said.err) == (0, "")
    before_the_question = said.out.partition("[yes/no]")[0]
    assert spoken(roster.fingerprint) in before_the_question
    for row in roster.sites:
        note = "this site" if row.site == "A" else "new"
        assert f"{row.site}  {row.fingerprint}  {note}\n" in before_the_question
    assert "Did 3 hospitals, yours among them, read the one above?" in said.out
    assert pinned_roster(joining.site) == roster
    last = verify(audit_folder(joining.site.state)).rows[-1].event
    assert last == RosterPinned(federation="chest", roster=roster.fingerprint, sites=3)


@pytest.mark.parametrize("typed", ["no", "", "y"])
def test_without_a_yes_nothing_is_pinned(joining: Joining, typed: str) -> None:
    rows = len(verify(audit_folder(joining.site.state)).rows)
    joining.types(typed)
    said = joining.roster(FILE)
    assert said.code == 1
    assert "not confirmed: nothing was pinned" in said.err
    assert pinned_roster(joining.site) is None
    assert len(verify(audit_folder(joining.site.state)).rows) == rows


def test_the_fingerprint_may_be_given_however_it_was_noted(joining: Joining, roster: Roster) -> None:
    joining.types("")
    noted = spoken(roster.fingerprint).lower().replace("-", " ")
    for wrong in ("0" * 64, noted[:-1] + ("0" if noted[-1] != "0" else "1"), noted[:-5], ""):
        said = joining.roster(FILE, "--fingerprint", wrong)
        assert said.code == 1
        assert f"got {spoken(roster.fingerprint)}: nothing was pinned" in said.err
        assert pinned_roster(joining.site) is None
    assert joining.roster(FILE, "--fingerprint", noted).code == 0
    assert pinned_roster(joining.site) == roster


def test_a_roster_with_somebody_else_in_this_sites_place_is_refused(joining: Joining) -> None:
    swapped(joining, "A", "C")
    said = joining.roster(FILE)
    assert said.code == 2
    assert "somebody else stands there in its place" in said.err
    assert "[yes/no]" not in said.out
    assert pinned_roster(joining.site) is None


def test_a_roster_without_this_site_is_refused(joining: Joining) -> None:
    changed(joining, leave="A")
    said = joining.roster(FILE)
    assert said.code == 2
    assert "expected A in the roster (B, C), got none of that name" in said.err


def test_one_bit_changed_is_refused_or_read_aloud_differently(joining: Joining, roster: Roster) -> None:
    content = (joining.folder / FILE).read_text()
    (joining.folder / FILE).write_text(content.replace('"site": "B"', '"site": "BB"'))
    joining.types("no")
    shown = joining.roster(FILE)
    assert spoken(roster.fingerprint) not in shown.out
    (joining.folder / FILE).write_text(content.replace(roster.sites[1].fingerprint[-5:], "AAAAA", 1))
    said = joining.roster(FILE)
    assert said.code == 2
    assert "have it sent again" in said.err


def test_another_federations_roster_is_refused(joining: Joining) -> None:
    text = (joining.folder / FILE).read_text().replace('"chest"', '"heart"')
    (joining.folder / FILE).write_text(text)
    said = joining.roster(FILE)
    assert said.code == 2
    assert "expected a roster of chest, got one of heart" in said.err


def test_what_is_new_changed_and_gone_is_shown(joining: Joining, roster: Roster) -> None:
    assert joining.roster(FILE).code == 0
    joining.remove("B")
    (joining.folder / "B" / "state" / "federation" / "site.key").rename(joining.folder / "old.key")
    joining.ask(site="B")
    joining.approve(request="request-B.json")
    after = changed(joining, add="D", leave="C")
    said = joining.roster(FILE)
    assert said.code == 0
    assert "  this site\n" in said.out
    by_site = {row.site: row.fingerprint for row in after.sites}
    assert f"B  {by_site['B']}  ANOTHER KEY than in the pinned roster\n" in said.out
    assert f"D  {by_site['D']}  new\n" in said.out
    assert "gone         C\n" in said.out
    assert pinned_roster(joining.site) == after != roster


def test_pinned_already_it_says_so_and_asks_nothing(joining: Joining) -> None:
    joining.roster(FILE)
    rows = len(verify(audit_folder(joining.site.state)).rows)
    joining.types("no")
    said = joining.roster(FILE)
    assert said.code == 0
    assert "pinned already" in said.out
    assert "as it was" in said.out
    assert len(verify(audit_folder(joining.site.state)).rows) == rows


def test_without_a_file_it_shows_what_is_pinned(joining: Joining, roster: Roster) -> None:
    said = joining.roster()
    assert said.code == 2
    assert "expected a pinned roster of A, found none" in said.err
    joining.roster(FILE)
    said = joining.roster()
    assert (said.code, said.err) == (0, "")
    assert spoken(roster.fingerprint) in said.out
    with pytest.raises(SystemExit):
        joining.roster("--fingerprint", "0" * 64)


def test_a_site_that_is_no_member_has_nothing_to_pin(joining: Joining) -> None:
    joining.site_file("E")
    said = joining.roster(FILE, site="E")
    assert said.code == 2
    assert "has not joined a federation yet" in said.err


def test_a_damaged_pinned_roster_is_said_and_no_other_is_pinned_over_it(joining: Joining) -> None:
    joining.roster(FILE)
    path = joining.site.state / "federation" / "roster.json"
    path.write_text(path.read_text().replace("ecdsa", "ecdsb", 1))
    said = joining.roster(FILE)
    assert said.code == 2
    assert "move it away and pin the roster of today" in said.err


def test_who_compared_with_an_older_pinned_roster_pins_nothing(joining: Joining, roster: Roster) -> None:
    """Two processes were shown the same, and one was faster."""
    other = changed(joining, add="D")
    pin_roster(joining.site, other, instead_of=None)
    with pytest.raises(RosterError, match="somebody else pinned one meanwhile"):
        pin_roster(joining.site, roster, instead_of=None)
    assert pinned_roster(joining.site) == other
    rows = [row.event for row in verify(audit_folder(joining.site.state)).rows]
    assert rows[-1] == RosterPinned(federation="chest", roster=other.fingerprint, sites=4)


def test_two_processes_at_once_pin_it_once(joining: Joining, roster: Roster) -> None:
    started = [answering(joining) for _ in range(2)]
    for process in started:  # both ask before either is answered
        assert process.stdout is not None
        while "fingerprint  which" not in process.stdout.readline():
            continue
    for process in started:
        out, err = process.communicate("yes\n", timeout=60)
        assert (process.returncode, err) == (0, "")
        assert "knows the hospitals" in out
    assert pinned_roster(joining.site) == roster
    rows = [row.event for row in verify(audit_folder(joining.site.state)).rows]
    assert [event.kind for event in rows].count("roster_pinned") == 1


def test_a_process_waits_for_another_that_pins_and_then_sees_what_it_pinned(
    joining: Joining, roster: Roster
) -> None:
    folder = joining.site.state / "federation"
    process = answering(joining)
    assert process.stdout is not None
    while "fingerprint  which" not in process.stdout.readline():
        continue
    with turn(folder / "roster.lock"):
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate("yes\n", timeout=1.5)
        other = changed(joining, add="D")
        other.write(folder / "roster.json")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "somebody else pinned one meanwhile" in err
    assert pinned_roster(joining.site) == other != roster


def test_killed_at_any_point_the_former_roster_or_the_new_one_is_there(
    joining: Joining, roster: Roster
) -> None:
    joining.roster(FILE)
    after = changed(joining, add="D")
    changes = 0
    for changes in range(30):
        died = dies_at_change(
            changes, lambda: command.main(["--site=A", "--sites", str(joining.folder), FILE])
        )
        assert pinned_roster(joining.site) in (roster, after)
        if not died:
            break
        assert joining.roster(FILE).code == 0
        assert pinned_roster(joining.site) == after
        pin_roster(joining.site, roster, instead_of=after)
    assert 0 < changes < 29
    assert pinned_roster(joining.site) == after


def test_every_hospital_pins_the_same_in_one_call(joining: Joining, roster: Roster) -> None:
    fingerprints = set()
    for site in ("A", "B", "C"):
        assert joining.roster(FILE, site=site).code == 0
        pinned = pinned_roster(load_config(joining.folder / f"{site}.yaml", SiteConfig))
        assert pinned is not None
        fingerprints.add(pinned.fingerprint)
    assert fingerprints == {roster.fingerprint}
