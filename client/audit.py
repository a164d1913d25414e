"""The privacy test, `python -m client.audit --site=A`: does private training at this site do what it claims?

`python -m client.audit verify` and `show` read the site's audit log instead: see `client.audit_log`.

Exit codes: 0 nothing speaks against the claim; 1 it does not hold; 2 the site file or the federation file is wrong, or
the run has no privacy.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import run_command
from client.site.site_arguments import add_site_arguments

if TYPE_CHECKING:
    from rich.console import Console

    from acm_core.config.sections import FederationConfig
    from acm_core.config.site import SitePrivacy
    from acm_core.privacy.accounting import Plan
    from acm_core.privacy.loop_test import Claim, LoopTest

PASSED, FAILED, WRONG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Test the training loop at the site's own noise, sampling rate and clipping norm; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] in (["verify"], ["show"]):
        from client.audit_log import read_log

        return read_log(arguments)
    parser = argparse.ArgumentParser(
        prog="python -m client.audit",
        description="The privacy test: run the loop that trains with differential privacy at the noise, sampling rate "
        "and clipping norm of the site and the federation file, on made-up patients: canaries that would be found if "
        "they were not hidden, and a measurement of the noise, the clipping and the sampling, on a small model and on "
        "each layer of the run's own. It takes up to a minute, reads none of the site's films and costs no privacy.",
        epilog="exit codes: 0 nothing speaks against the claim; 1 it does not hold; 2 the site file or the federation "
        "file is wrong, or the run has no privacy. The site's audit log is another thing: "
        "python -m client.audit verify --site=A checks it, and show prints it",
    )
    add_site_arguments(parser)
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/federation.yaml"),
        help="federation file of the run (default: configs/federation.yaml)",
    )
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError, load_config
    from acm_core.config.sections import FederationConfig
    from client.site.site_file import SiteFileError, load_site_file

    try:
        site = load_site_file(options.sites, options.site)
        config = load_config(options.config, FederationConfig)
    except (ConfigError, SiteFileError) as error:
        return _wrong(str(error))
    if config.privacy is None:
        return _wrong(
            f"{options.config}: privacy: expected a run with differential privacy, got off: there is nothing to test"
        )
    if site.privacy is None:
        return _wrong(
            f"{options.sites / options.site}.yaml: privacy: expected what the site permits (epsilon, population), got "
            "nothing: the population decides the sampling rate, and without it there is nothing to test"
        )
    return _test(options.site, options.config, config, site.privacy)


def _test(site: str, path: Path, config: FederationConfig, policy: SitePrivacy) -> int:
    from rich.console import Console

    from acm_core.nn import build_classifier
    from acm_core.privacy.accounting import Plan
    from acm_core.privacy.loop_test import Claim, check_loop
    from acm_core.privacy.network_test import check_network
    from acm_core.privacy.training import Mechanism
    from client.round.kept_models import SiteRun

    privacy = config.privacy
    if privacy is None:
        raise ValueError("expected a run with differential privacy")
    try:
        plan = Plan.of(config, policy, SiteRun.of(config).settings)
    except ValueError as error:
        return _wrong(f"{path}: {error}")
    mechanism = Mechanism(
        plan.unit,
        plan.sigma,
        plan.q,
        plan.clipping_norm,
        plan.expected_batch,
        privacy.films_per_patient,
        privacy.augmentations,
    )
    whole = Claim(mechanism, plan.rounds, plan.steps_per_round, plan.delta, plan.accountant)
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=not sys.stdout.isatty())
    console.print(
        f"site {site}, run {plan.run}: the claim is that one {plan.unit} is hidden at ε = {plan.epsilon:g}, "
        f"δ = {plan.delta:g} in {_steps(whole)}"
    )
    found = check_loop(whole.shortened())
    findings = len(config.findings)
    of_layers = check_network(build_classifier(config.model, findings), findings, config.training, mechanism)
    found = replace(found, checks=(*found.checks, *of_layers))
    _verdict(console, found)
    _show(console, found, plan, whole)
    return FAILED if found.failed else PASSED


def _steps(claim: Claim) -> str:
    return f"{claim.steps:,} steps ({claim.rounds:,} rounds of {claim.steps_per_round:,})"


def _verdict(console: Console, found: LoopTest) -> None:
    """What came of the test, in a sentence."""
    if found.failed:
        console.print("FAIL: Do not train with privacy on this installation: what it claims does not hold.")
    else:
        console.print(
            "PASS: The training loop keeps the privacy that it claims, as far as this test can see."
        )


def _show(console: Console, found: LoopTest, plan: Plan, whole: Claim) -> None:
    from acm_core.privacy.canaries import CANARIES, CONFIDENCE, lower_bound

    guesses = found.guesses
    part = (
        "all of them"
        if found.claim == whole
        else f"{_steps(found.claim)}, so that it takes seconds, at the same noise"
    )
    console.print(
        f"tested: {part}; these cost ε = {found.epsilon:.4g}, on made-up patients and at no cost to the site's"
    )
    _show_checks(console, found)
    console.print(
        f"white box: the noise, clipping norm and sampling rate at the worse ends of what was measured cost "
        f"ε = {found.measured_epsilon:.4g}, where {found.epsilon:.4g} is claimed"
    )
    console.print(
        f"canaries: {guesses.right} of {guesses.made} guesses who was in the data were right: ε ≥ {guesses.bound:.3g} "
        f"at {CONFIDENCE:.0%} confidence"
    )
    limit = lower_bound(CANARIES, CANARIES, CANARIES, plan.delta)
    beyond = f": they alone could not refute {found.epsilon:.3g}" if guesses.most <= found.epsilon else ""
    console.print(
        f"power: {guesses.made} guesses show ε ≥ {guesses.most:.3g} at most, all right, and {CANARIES} would show "
        f"{limit:.3g}; with half of the claimed noise they would have shown about {guesses.at_half_noise:.3g}. The "
        f"canaries prove nothing about more than that{beyond}"
    )
    for check in found.failed:
        console.print(f"{check.name}: {check.meaning}")
    if found.failed:
        console.print(
            "A sound installation fails about once in a thousand times. If another run passes, run it a few more times"
        )
    else:
        console.print(
            "On this machine, noise, clipping, sampling and the ledger's rows were as claimed. The test does not see "
            "faults smaller than the intervals above, nor code outside this loop"
        )


def _show_checks(console: Console, found: LoopTest) -> None:
    from rich.table import Table

    if not console.is_terminal:
        for check in found.checks:
            verdict = "pass" if check.passed else "FAIL"
            console.print(f"{verdict}  {check.name}: claimed {check.claimed}; measured {check.measured}")
        return
    table = Table("", "what", "claimed", "measured", box=None, pad_edge=False)
    for check in found.checks:
        table.add_row("pass" if check.passed else "FAIL", check.name, check.claimed, check.measured)
    console.print(table)


def _wrong(text: str) -> int:
    print(text, file=sys.stderr)  # noqa: T201  # the command's own output
    return WRONG


if __name__ == "__main__":
    run_command(main)
