"""`python -m client.privacy --site=A`: what the site's ledger says is spent, and what a planned run would cost.

Exit codes: 0 the ledger is sound, and the planned run is permitted; 1 the ledger cannot be trusted or written; 2 the
site file or the federation file is wrong; 3 the planned run is not permitted.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import fail, run_command
from client.site.site_arguments import add_site_arguments

if TYPE_CHECKING:
    from rich.console import Console

    from acm_core.config.sections import FederationConfig
    from acm_core.config.site import SiteConfig, SitePrivacy
    from acm_core.privacy.chain import Population, Step
    from acm_core.privacy.ledger import Record

OK, UNSOUND, WRONG, NOT_PERMITTED = 0, 1, 2, 3
_FILE_WIDTH = 160
_NO_POLICY = """\
privacy: expected what the site permits, got nothing: the site takes part in runs without privacy only and has no
ledger. Write, with figures that the hospital has decided on:
privacy:
  epsilon: 8  # ε that all runs together may ever cost a patient
  population: 1000  # training patients, a round number that may be known outside"""


def main(arguments: list[str] | None = None) -> int:
    """Verify the ledger and print what it says; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.privacy",
        description="Verify the site's privacy ledger and show what is spent and left. Nothing leaves the site, and "
        "nothing is written without --accept-dataset or --begin-witness.",
        epilog="exit codes: 0 the ledger is sound, and the planned run is permitted; 1 the ledger cannot be trusted or "
        "written; 2 the site file or the federation file is wrong; 3 the planned run is not permitted",
    )
    add_site_arguments(parser)
    parser.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="also show what the run of this federation file would cost, and what it may be expected to learn",
    )
    parser.add_argument(
        "--accept-dataset",
        action="store_true",
        help="write down that the site trains from now on the films that the last preflight found; what was spent on "
        "those before stays spent",
    )
    parser.add_argument(
        "--begin-witness",
        action="store_true",
        help="write where the ledger stands into the new file that the site file's privacy.witness names; from then on "
        "the ledger is refused without it",
    )
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError, load_config
    from acm_core.config.sections import FederationConfig
    from client.site.site_file import SiteFileError, load_site_file

    try:
        site = load_site_file(options.sites, options.site)
        config = None if options.plan is None else load_config(options.plan, FederationConfig)
    except (ConfigError, SiteFileError) as error:
        return fail(str(error), WRONG)
    if site.privacy is None:
        return fail(f"{options.sites / options.site}.yaml: {_NO_POLICY}", WRONG)
    if config is not None and site.site not in config.federation.sites:
        return fail(
            f"{options.plan}: federation.sites: expected {site.site} among them, got "
            f"{', '.join(config.federation.sites)}",
            WRONG,
        )
    return _answer(site, site.privacy, config, options)


def _answer(
    site: SiteConfig, policy: SitePrivacy, config: FederationConfig | None, options: argparse.Namespace
) -> int:
    from rich.console import Console

    from acm_core.privacy.chain import LedgerError
    from acm_core.privacy.ledger import ledger_folder, verify

    # A table that is cut to the width of a terminal which is not there would lose figures.
    console = Console(
        highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _FILE_WIDTH
    )
    if options.begin_witness and (code := _begin_witness(console, site, policy)) != OK:
        return code
    try:
        record = verify(ledger_folder(site), policy.witness)
        if record.opened is not None and record.opened.site != site.site:
            return fail(f"expected the ledger of site {site.site}, got that of {record.opened.site}", UNSOUND)
        if options.accept_dataset:
            if (code := _accept(console, site, policy, record)) != OK:
                return code
            record = verify(ledger_folder(site), policy.witness)
    except LedgerError as error:
        return fail(f"{type(error).__name__}: {error}", UNSOUND)
    _show(console, site, policy, record)
    _show_patients(console, site, policy)
    return OK if config is None else _show_plan(console, policy, record, config)


def _begin_witness(console: Console, site: SiteConfig, policy: SitePrivacy) -> int:
    from acm_core.privacy.chain import LedgerError
    from acm_core.privacy.ledger import begin_witness, ledger_folder, verify

    if policy.witness is None:
        return fail("expected privacy.witness in the site file, a file on another disk, got none", WRONG)
    try:
        opened = verify(ledger_folder(site)).opened
        if opened is None:
            console.print("no ledger yet: the first run with privacy begins it, and the witness with it")
            return OK
        begin_witness(ledger_folder(site), site=site.site, unit=opened.unit, witness=policy.witness)
    except LedgerError as error:
        return fail(f"{type(error).__name__}: {error}", UNSOUND)
    except FileExistsError as error:
        return fail(str(error), WRONG)
    console.print(f"witness begun: {policy.witness}", soft_wrap=True)
    return OK


def _accept(console: Console, site: SiteConfig, policy: SitePrivacy, record: Record) -> int:
    from acm_core.data.intake.intake import intake_folder
    from acm_core.data.intake.manifest import fingerprint
    from acm_core.privacy.ledger import accept_dataset, ledger_folder

    manifest = intake_folder(site) / "manifest.sqlite"
    if not manifest.is_file():
        return fail(
            f"expected a manifest at {manifest}, found none: run python -m client.preflight --site={site.site} first",
            WRONG,
        )
    present = fingerprint(manifest)
    if record.opened is None:
        console.print("no dataset to accept: the first run with privacy writes its dataset down")
        return OK
    console.print(
        f"dataset in the ledger: {record.dataset}\ndataset of now:        {present}", soft_wrap=True
    )
    if record.dataset == present:
        console.print("the two are the same: nothing to accept")
        return OK
    accept_dataset(
        ledger_folder(site),
        site=site.site,
        unit=record.opened.unit,
        fingerprint=present,
        witness=policy.witness,
    )
    console.print("accepted: runs from now on train on it, and what was spent before stays spent")
    return OK


def _show(console: Console, site: SiteConfig, policy: SitePrivacy, record: Record) -> None:
    from acm_core.privacy.ledger import ledger_folder

    if record.opened is None:
        console.print(
            f"site {site.site}: no ledger in {ledger_folder(site)} yet, nothing is spent; permitted are ε = "
            f"{policy.epsilon:g} at δ = {policy.delta:g}",
            soft_wrap=True,
        )
        return
    head = record.head
    console.print(f"site {site.site}: ledger of {head.rows:,} rows, chain verified, head {head.hash[:12]}")
    console.print(_balance(policy, record, "train", f"a training {record.opened.unit}"))
    console.print(_balance(policy, record, "test", "a test patient"))
    console.print(
        "All runs on all datasets compose, since the same patients are in several: this is the ε of every step "
        "together. The ε of one run or dataset, below, is what it would have cost alone.",
        soft_wrap=True,
    )
    _show_datasets(console, policy, record)
    _show_runs(console, policy, record)
    _show_releases(console, policy, record)


def _show_patients(console: Console, site: SiteConfig, policy: SitePrivacy) -> None:
    """Say where there are more training patients than declared; it is said here alone, since it tells their number."""
    from acm_core.data.intake.intake import intake_folder
    from acm_core.data.intake.manifest import read_rows
    from acm_core.data.splits import Split

    manifest = intake_folder(site) / "manifest.sqlite"
    try:
        rows = [row.apart() for row in read_rows(manifest)] if manifest.is_file() else []
    except (sqlite3.DatabaseError, TypeError, ValueError):
        return  # damaged, or of an earlier version: the next intake writes it anew
    patients = len(
        {row.patient for row in rows if row.split == Split.TRAIN and row.listed and not row.reason}
    )
    if patients > policy.population:
        console.print(
            f"privacy.population: {policy.population:,} is declared, and there are {patients:,} training patients: "
            f"each takes part oftener than has to be, and δ = {policy.delta:g} should be below 1/{patients:,}",
            soft_wrap=True,
        )


def _balance(policy: SitePrivacy, record: Record, population: Population, whose: str) -> str:
    spent = record.spent(policy.delta, population=population)
    return (
        f"spent: ε = {spent:.3f} of {policy.epsilon:g} at δ = {policy.delta:g} for {whose}; left "
        f"{max(policy.epsilon - spent, 0):.3f}"
    )


def _show_datasets(console: Console, policy: SitePrivacy, record: Record) -> None:
    from acm_core.privacy.chain import Dataset

    rows = []
    for fingerprint in dict.fromkeys(row.fingerprint for row in record.rows if isinstance(row, Dataset)):
        steps = [step for step in record.steps() if step.dataset == fingerprint]
        unit = "" if record.opened is None else record.opened.unit
        rows.append((fingerprint[:12], unit, f"{len(steps):,}", f"{_epsilon(steps, policy):.3f}"))
    _print_table(console, ("dataset", "unit"), ("steps", "ε"), rows)


def _show_runs(console: Console, policy: SitePrivacy, record: Record) -> None:
    from acm_core.privacy.chain import Planned

    rows = []
    for planned in (row for row in record.rows if isinstance(row, Planned)):
        steps = record.steps_of(planned.run, planned.settings)
        rows.append(
            (
                planned.run,
                planned.settings,
                f"{len(steps):,} of {planned.steps_per_round * planned.rounds:,}",
                f"{planned.sigma:.4g}",
                f"{planned.q:.4g}",
                f"{_epsilon(steps, policy):.3f}",
            )
        )
    _print_table(console, ("run", "settings"), ("steps", "σ", "q", "ε"), rows)


def _show_releases(console: Console, policy: SitePrivacy, record: Record) -> None:
    releases = record.steps("test")
    if not releases:
        return
    console.print("released figures, of test patients, who are in no training:")
    rows = [
        (step.run, step.settings, str(step.round), f"{step.sigma:.4g}", f"{_epsilon([step], policy):.3f}")
        for step in releases
    ]
    _print_table(console, ("run", "settings"), ("round", "σ", "ε"), rows)


def _show_plan(console: Console, policy: SitePrivacy, record: Record, config: FederationConfig) -> int:
    from acm_core.privacy.accounting import Plan, epsilon, filtered_epsilon
    from acm_core.privacy.chain import LedgerError
    from client.round.kept_models import SiteRun
    from client.site.expected_accuracy import ExpectedAccuracy

    if config.privacy is None:
        return _verdict(
            console,
            f"run {config.name}: privacy: off, so that nothing bounds what it tells about a patient",
            "the site file says privacy.required: true" if policy.required else None,
        )
    try:
        plan = Plan.of(config, policy, SiteRun.of(config).settings)
    except ValueError as error:
        return fail(str(error), WRONG)
    refusal = None
    if policy.unit == "patient" and plan.unit == "film":
        refusal = "the site file says privacy.unit: patient, and the run protects single films"
    try:
        plan = record.admissible(plan, delta=policy.delta, budget=policy.epsilon)
    except LedgerError as error:
        refusal = str(error)
    done, planned = len(record.steps_of(plan.run, plan.settings)), plan.steps_per_round * plan.rounds
    rest = plan.noised(max(planned - done, 0))
    alone = epsilon([plan.noised(planned)], plan.delta, plan.accountant)
    after = filtered_epsilon([*(step.noised for step in record.steps()), rest], policy.delta, policy.epsilon)
    if refusal is None and after > policy.epsilon:
        refusal = "all runs of the site together would cost more than its file permits"
    caveat = [] if config.privacy.caveat is None else [config.privacy.caveat]
    learnt = ExpectedAccuracy.load().sentences(config, policy.population)
    return _verdict(
        console,
        f"run {plan.run}: {plan.rounds} rounds of {plan.steps_per_round} steps, {done:,} of {planned:,} done; q = "
        f"{plan.expected_batch} / {policy.population} = {plan.q:.4g}, σ = {plan.sigma:.4g}\n"
        f"the run alone: ε = {alone:.3f} at δ = {plan.delta:g} for a {plan.unit}\n"
        f"after it: ε = {after:.3f} of {policy.epsilon:g} at δ = {policy.delta:g}\n"
        + "\n".join([*caveat, *learnt]),
        refusal,
    )


def _verdict(console: Console, what: str, refusal: str | None) -> int:
    console.print(what, soft_wrap=True)
    console.print("permitted" if refusal is None else f"not permitted: {refusal}", soft_wrap=True)
    return OK if refusal is None else NOT_PERMITTED


def _epsilon(steps: Sequence[Step], policy: SitePrivacy) -> float:
    from acm_core.privacy.accounting import epsilon

    return epsilon([step.noised for step in steps], policy.delta)


def _print_table(
    console: Console, words: Sequence[str], figures: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    from rich.table import Table

    table = Table(*words, box=None, pad_edge=False)
    for name in figures:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    if rows:
        console.print(table)


if __name__ == "__main__":
    run_command(main)
