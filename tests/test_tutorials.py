"""The tutorials, typed as they stand, in a copy of this tree, with smaller hospitals than the demo's."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import REPOSITORY, blocks
from processes import processes_with

from acm_core.processes import free_port

pytestmark = [pytest.mark.tutorial, pytest.mark.timeout(900)]

SITES = ("A", "B", "C")
_SECONDS = 600


class Terminal:
    """A shell in a copy of the repository, where a person types what a tutorial says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = free_port()
        self._running: list[subprocess.Popen[str]] = []
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, tracked.split("\0")):
            if (REPOSITORY / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, folder / name)
        (folder / ".venv").symlink_to(sys.prefix)
        for name in ("pyproject.toml", "constraints.txt"):
            os.utime(folder / name, (0, 0))  # else make would install what they say, here
        self._smaller("demo.yaml", (r"patients: \d+", "patients: 40"), (r"rounds: \d+", "rounds: 2"))
        self._smaller("federation.yaml", (r"port: \d+", f"port: {self._port}"))

    def _smaller(self, config: str, *changes: tuple[str, str]) -> None:
        path = self.folder / "configs" / config
        text = path.read_text(encoding="utf-8")
        for pattern, replacement in changes:
            text, count = re.subn(pattern, replacement, text)
            assert count, pattern
        path.write_text(text, encoding="utf-8")

    def start(self, text: str, output: Path) -> subprocess.Popen[str]:
        """Type it and leave it running."""
        with output.open("w") as file:
            process = subprocess.Popen(
                ["bash", "-e", "-c", text.replace("127.0.0.1:9092", f"127.0.0.1:{self._port}")],
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                env={
                    **os.environ,
                    "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}",
                    "PYTHONUNBUFFERED": "1",
                },
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def type(self, text: str, *codes: int) -> str:
        """Type it, answer every question with yes, and wait; what it said."""
        begun = time.monotonic()
        output = self.folder / "said.txt"
        process = self.start(text, output)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate("yes\n" * 3, timeout=_SECONDS)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        said = output.read_text(encoding="utf-8")
        assert process.returncode in (codes or (0,)), f"{text}\n{said[-3000:]}"
        print(f"{time.monotonic() - begun:6.1f} s  {text.strip()}")  # noqa: T201  # -rP shows it
        return said

    def end(self) -> None:
        """Whatever still runs."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def shell(name: str) -> list[str]:
    return [block.text for block in blocks(REPOSITORY / "docs" / "tutorials" / f"{name}.md", "sh")]


def of_site(text: str, site: str) -> str:
    """What the tutorials say of hospital A, for another one."""
    return text.replace("--site=A", f"--site={site}").replace("-A.json", f"-{site}.json")


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    opened = Terminal(tmp_path_factory.mktemp("tutorials"))
    yield opened
    opened.end()


@pytest.fixture(scope="module")
def newcomer(terminal: Terminal) -> Terminal:
    demo, report, look = shell("newcomer")
    said = terminal.type(demo)
    assert "mean of sites" in said
    assert (terminal.folder / "runs/demo/report.html").stat().st_size > 50_000
    assert "report.html" in terminal.type(report)
    page = Path(terminal.type(look).split()[-1])
    assert page.is_relative_to(terminal.folder / "data/state/demo/A")
    assert "data:image/png" in page.read_text(encoding="utf-8")
    return terminal


@pytest.fixture(scope="module")
def federation(newcomer: Terminal) -> Terminal:
    few_rounds, init, approve, run, resume, ended, remove = shell("operator")
    _, preflight, ask, answer, doctor, serve, audit, use = shell("hospital")
    folder, wait = newcomer.folder, 300
    assert "manifest:" in newcomer.type(preflight, 0, 1)
    newcomer.type(few_rounds)
    newcomer.type(init)
    for site in SITES:
        newcomer.type(of_site(ask, site))
        newcomer.type(of_site(approve, site))
        assert "is a member of federation" in newcomer.type(of_site(answer, site))
    server = newcomer.start(run, folder / "server.txt")
    sites = [newcomer.start(of_site(serve, site), folder / f"{site}.txt") for site in SITES]
    until(folder / "server.txt", "server on", wait)
    until(folder / "A.txt", "answers; waiting for tasks", wait)
    assert "site A can take part" in newcomer.type(doctor)
    until(folder / "server.txt", "round 1 done", wait)
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait(60) in (130, -signal.SIGINT)
    assert "round 2 done" in newcomer.type(resume)
    for process in sites:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) in (0, -signal.SIGINT)
    said = newcomer.type(ended)
    assert "chain verified" in said
    assert said.count("site_approved") == len(SITES)
    said = newcomer.type(audit)
    assert "chain verified" in said
    assert "left " in said
    newcomer.type(use)
    with (folder / "out.csv").open(encoding="utf-8", newline="") as table:
        assert len(list(csv.DictReader(table))) == 40
    assert "site C is removed" in newcomer.type(remove)
    return newcomer


def test_a_newcomer_sees_the_demo(newcomer: Terminal) -> None:
    metrics = json.loads((newcomer.folder / "runs/demo/metrics.json").read_text(encoding="utf-8"))
    assert set(metrics["sites"]) == set(SITES)


def test_an_operator_and_hospitals_run_a_federation(federation: Terminal) -> None:
    rounds = (federation.folder / "runs/federation/rounds.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["answered"] for line in rounds] == [list(SITES)] * 2
    assert (federation.folder / "runs/federation/export/model.onnx").is_file()
    assert processes_with(str(federation.folder)) == []


def test_hospitals_compare_their_roster(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    _, init, approve, *_ = shell("operator")
    _, _, ask, answer, *_ = shell("hospital")
    write, pin, after = shell("roster_call")
    films = terminal.folder / "data/hospitals/demo/A"  # which the newcomer's demo would have made
    films.mkdir(parents=True)
    (films / "labels.csv").touch()
    terminal.type(init)
    for site in SITES:
        terminal.type(of_site(ask, site))
        terminal.type(of_site(approve, site))
        terminal.type(of_site(answer, site))
    fingerprint = terminal.type(write).split("one call:")[1].split()[0]
    file = terminal.folder / "roster-federation.json"
    right = file.read_text(encoding="utf-8")
    rows = {row["site"]: row for row in json.loads(right)["sites"]}

    def sent(*sites: dict[str, str]) -> None:
        file.write_text(json.dumps(json.loads(right) | {"sites": sites}), encoding="utf-8")

    sent(rows["A"], {**rows["C"], "site": "B"})  # somebody else in B's place
    said = terminal.type(of_site(pin, "B"), 2)
    assert "somebody else stands there in its place" in said
    sent(
        rows["A"], rows["B"]
    )  # B's file lacks a hospital, which the others' has: another fingerprint is read
    said = terminal.type(f"{of_site(pin, 'B').strip()} --fingerprint {fingerprint}", 1)
    assert "nothing was pinned. Not all hospitals have the same file" in said
    file.write_text(right, encoding="utf-8")
    for site in SITES:
        said = terminal.type(of_site(pin, site))
        assert fingerprint in said.partition("[yes/no]")[0]
        assert "Did 3 hospitals, yours among them" in said
    said = terminal.type(after)
    assert fingerprint in said
    assert said.count("roster_pinned") == 1
    terminal.end()


def test_a_data_protection_officer_checks(federation: Terminal) -> None:
    own_file, budget, left = shell("data_protection")
    federation.type(own_file)
    said = federation.type(budget)
    assert "nothing is spent" in said
    assert "permitted" in said
    assert "PASS" in said
    said = federation.type(left)
    assert "chain verified" in said
    assert said.count("sha256=") >= 4


def test_a_researcher_compares(terminal: Terminal) -> None:
    study, compare, pointing, benchmark, start = shell("researcher")
    said = terminal.type(study)
    assert "report.html" in said
    terminal.type(compare)
    page = (terminal.folder / "docs/results/contexts_of_study.md").read_text(encoding="utf-8")
    assert "- 4 of 4 cells are finished." in page
    assert (
        "| site | acm: federated less alone | none: federated less alone | federated: acm less none |" in page
    )
    assert "| none | score map | finding |" in terminal.type(pointing)
    assert "attend" in terminal.type(benchmark)
    said = terminal.type(start)
    assert "epoch 2 of 2" in said
    assert "- folder `P`" in said
    program = "".join(block.text for block in blocks(REPOSITORY / "docs/tutorials/researcher.md", "python"))
    said = terminal.type(f"python - <<'END'\n{program}END")
    assert "'value'" in said
    assert "torch.Size([1, 2])" in said


def until(output: Path, text: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while text not in output.read_text(encoding="utf-8"):
        assert time.monotonic() < end, f"not within {seconds} s: {text}\n{output.read_text(encoding='utf-8')}"
        time.sleep(0.5)
