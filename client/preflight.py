"""`python -m client.preflight --site=A`: look through the site's films and labels before any training.

Exit codes: 0 nothing to do; 1 films can be used, and something should be done (see the problems); 2 the site file or
the label file is wrong; 3 no film can be used; 130 interrupted, the next run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acm_core.command import run_command
from client.site.site_arguments import add_site_arguments

if TYPE_CHECKING:
    from acm_core.config.site import SiteConfig
    from acm_core.data.intake.intake import Progress
    from client.intake_page.summary import Summary

OK, ACT, WRONG, NO_FILMS, INTERRUPTED = 0, 1, 2, 3, 130
FORMAT = "acm-fed.preflight/1"
"""Name and version of the JSON envelope."""
_LINE_SECONDS = 5.0
_SEARCHING, _READING = "asking the archive", "reading films"


def main(arguments: list[str] | None = None) -> int:
    """Take in the films, write manifest and page, print what was found; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.preflight",
        description="Read every film of the site's folder, judge it, and write the manifest that training uses and a "
        "page to look at. Nothing is deleted or moved and nothing leaves the site. A run that is stopped goes on the "
        "next time.",
        epilog="exit codes: 0 nothing to do; 1 films can be used, and something should be done; 2 the site file or "
        "the label file is wrong; 3 no film can be used; 130 interrupted. With --propose: 0 a site file is written; 1 "
        "something in it has to be decided; 2 nothing is written",
    )
    add_site_arguments(parser)
    parser.add_argument(
        "--image-size",
        type=int,
        help="also prepare the films for training at this side in pixels (the federation's model.image_size), so that "
        "the first round need not",
    )
    parser.add_argument("--workers", type=int, help="processes that read films; default: one a core")
    parser.add_argument(
        "--propose",
        action="store_true",
        help="look at the label file and some films, and write a site file to look over; nothing is overwritten",
    )
    parser.add_argument("--films", type=Path, help="with --propose: the folder of films")
    parser.add_argument("--labels", type=Path, help="with --propose: the label file")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="json: one envelope and nothing else (default: text)",
    )
    options = parser.parse_args(arguments)
    for name in ("image_size", "workers"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected 1 or more, got {getattr(options, name)}")

    if not options.propose and (options.films or options.labels):
        parser.error("--films and --labels go with --propose; otherwise the site file has them")

    from acm_core.config.loading import ConfigError
    from acm_core.data.label_file import LabelError
    from acm_core.processes import interruptible
    from client.site.site_file import SiteFileError, load_site_file

    as_json = options.format == "json"
    if options.propose:
        return _propose(options.sites, options.site, options.films, options.labels, as_json)
    try:
        site = load_site_file(options.sites, options.site)
        with interruptible():
            return _look_through(site, options.image_size, options.workers, as_json)
    except (ConfigError, SiteFileError) as error:
        return _fail(str(error), WRONG, as_json)
    except LabelError as error:
        return _fail(f"{site.labels}: {error}", WRONG, as_json)
    except OSError as error:
        return _fail(f"expected readable films and a writable state folder: {error}", WRONG, as_json)
    except KeyboardInterrupt:
        return _fail("interrupted; what was read is kept, run it again to go on", INTERRUPTED, as_json)


def _look_through(site: SiteConfig, image_size: int | None, workers: int | None, as_json: bool) -> int:
    from acm_core.data.intake.disagreements import Comparison
    from acm_core.data.intake.intake import intake_folder, take_in
    from acm_core.data.intake.journal import Journal
    from acm_core.data.splits import load_or_create_salt
    from acm_core.files import own_folder, write_text_atomically
    from client.intake_page.page import render_page
    from client.intake_page.summary import summarise

    own_folder(site.state)
    folder = intake_folder(site)
    with _progress(quiet=as_json) as (searching, reading):
        taken = take_in(
            site, image_size=image_size, workers=workers, progress=reading, anew=True, searching=searching
        )
    with Journal(folder / "journal.sqlite") as journal:
        comparison = Comparison(taken.listed(), load_or_create_salt(site.state))
        summary = summarise(site, taken, journal.readings(), comparison)
        page = folder / "preflight.html"
        write_text_atomically(page, render_page(site, taken, summary, comparison.found(), journal))
    code = NO_FILMS if not summary.files["used"] else OK
    if code == OK and any(problem.weight == "act" for problem in summary.problems):
        code = ACT
    if as_json:
        document: dict[str, Any] = {"format": FORMAT, "exit_code": code, **summary.to_json()}
        document |= {"manifest": str(taken.manifest), "page": str(page)}
        print(json.dumps(document, ensure_ascii=False))  # noqa: T201  # the command's own output
    else:
        _print(summary, taken.manifest, page)
    return code


def _propose(sites: Path, name: str, films: Path | None, labels: Path | None, as_json: bool) -> int:
    from acm_core.config.loading import ConfigError
    from acm_core.data.label_file import LabelError
    from client.proposal.proposal import ProposalError, propose

    try:
        proposal = propose(sites, name, films, labels)
    except (ProposalError, ConfigError, LabelError) as error:
        return _fail(str(error), WRONG, as_json)
    except OSError as error:
        return _fail(f"expected readable films and a folder of site files: {error}", WRONG, as_json)
    code = ACT if proposal.left else OK
    if as_json:
        document = {"format": FORMAT, "exit_code": code, **asdict(proposal), "path": str(proposal.path)}
        print(json.dumps(document, ensure_ascii=False))  # noqa: T201  # the command's own output
    else:
        to_decide = [f"to decide: {text}" for text in proposal.left]
        print("\n".join([*proposal.told, *to_decide, f"written: {proposal.path}"]))  # noqa: T201
    return code


def _print(summary: Summary, manifest: Path, page: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    files = summary.files
    console.print(
        f"site {summary.site}: {files['all']:,} files, {files['read']:,} of them new; {files['used']:,} labelled films "
        f"of {summary.patients:,} patients can be used (training {summary.splits['train']:,}, validation "
        f"{summary.splits['validation']:,}, test {summary.splits['test']:,})"
    )
    if summary.changes is not None:
        text = ", ".join(f"{count:,} {name}" for name, count in summary.changes.items() if count)
        console.print(f"since the last run: {text or 'nothing changed'}")
    if summary.findings:
        table = Table("finding", box=None, pad_edge=False)
        for name in ("positive", "negative", "not labelled"):
            table.add_column(name, justify="right")
        for finding, counts in summary.findings.items():
            table.add_row(finding, *(f"{count:,}" for count in counts.values()))
        console.print(table)
    if summary.problems:
        table = Table("", "files", "what", "what to do", box=None, pad_edge=False)
        for problem in sorted(
            summary.problems, key=lambda problem: (problem.weight != "act", -problem.count)
        ):
            mark = "[bold]act[/bold]" if problem.weight == "act" else "note"
            table.add_row(mark, f"{problem.count:,}", escape(problem.told), problem.do)
        console.print(table)
    console.print(f"manifest: {manifest}\npage:     {page} (shows films; it stays here)", soft_wrap=True)
    console.print(f"dataset:  {summary.fingerprint}", soft_wrap=True)


def _fail(text: str, code: int, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"format": FORMAT, "exit_code": code, "error": text}, ensure_ascii=False))  # noqa: T201
    else:
        print(text, file=sys.stderr)  # noqa: T201  # the command's own output
    return code


@contextmanager
def _progress(*, quiet: bool) -> Iterator[tuple[Progress | None, Progress | None]]:
    """Of the archive's searches and of the films: a bar with a rate in a terminal, else a line now and then.

    On standard error.
    """
    if quiet:
        yield None, None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

            def told(what: str, unit: str) -> Callable[[int, int], None]:
                rate = _Rate(unit)
                task = bar.add_task(what, total=None, rate="", visible=False)
                return lambda done, total: bar.update(
                    task, completed=done, total=total, rate=rate.text(done), visible=True
                )

            yield told(_SEARCHING, "searches"), told(_READING, "files")
    else:
        yield _Lines(_SEARCHING, "searches").tell, _Lines(_READING, "files").tell


class _Rate:
    """Files or searches a second since the first call."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._start: tuple[float, int] | None = None

    def text(self, done: int) -> str:
        now = time.monotonic()
        if self._start is None:
            self._start = now, done
        seconds, first = now - self._start[0], self._start[1]
        each = (done - first) / seconds if seconds > 1 else 0.0
        return f"{each:,.{0 if each >= 10 else 1}f} {self._unit}/s" if each else ""


class _Lines:
    def __init__(self, what: str, unit: str) -> None:
        self._what = what
        self._rate, self._told = _Rate(unit), time.monotonic()

    def tell(self, done: int, total: int) -> None:
        rate = self._rate.text(done)
        if done == total or time.monotonic() - self._told > _LINE_SECONDS:
            self._told = time.monotonic()
            print(f"{self._what}: {done:,} of {total:,}  {rate}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    run_command(main)
