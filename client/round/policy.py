"""What a site permits, line by line of its own file; what a run asks beyond it is refused, and the run goes on."""

from __future__ import annotations

import hashlib
from datetime import datetime, time

from acm_core.config.sections import FederationConfig, PrivacyConfig
from acm_core.config.site import SiteConfig, SitePrivacy
from acm_core.federated.messages import Refusal
from client.round.refusal import RefusedError


def permits_digest(site: SiteConfig) -> str:
    """SHA-256, in hex, of what a site's file permits."""
    return hashlib.sha256(site.model_dump_json(include={"policy", "privacy"}).encode()).hexdigest()


def expect_permitted(config: FederationConfig, site: SiteConfig, now: datetime) -> None:
    """Check a run against the lines of `policy:`.

    Args:
        now: the site's own time.

    Raises:
        RefusedError: a line does not permit it; the code names the line, the text says what it expects.
    """
    policy, federation = site.policy, config.federation
    if policy.findings is not None and (others := sorted(set(config.findings) - set(policy.findings))):
        raise RefusedError(
            Refusal.POLICY_FINDINGS,
            f"policy.findings: expected a run on {', '.join(policy.findings)} alone, got {', '.join(others)} as well",
        )
    if policy.architectures is not None and config.model.architecture not in policy.architectures:
        raise RefusedError(
            Refusal.POLICY_MODEL,
            f"policy.architectures: expected {' or '.join(policy.architectures)}, got {config.model.architecture}",
        )
    for line, code, value, what in _numbers(config):
        largest = getattr(policy, line)
        if largest is not None and value > largest:
            raise RefusedError(code, f"policy.{line}: expected at most {largest:g} {what}, got {value:g}")
    behind = federation.aggregation.averaged_sites(federation.quorum)
    if behind < policy.minimum_sites:
        raise RefusedError(
            Refusal.POLICY_SITES,
            f"policy.minimum_sites: expected averages over at least {policy.minimum_sites} sites, got a run that takes "
            f"{behind} (federation.quorum {federation.quorum}, {federation.aggregation.rule})",
        )
    if policy.hours is not None and not _within(policy.hours, now.time()):
        raise RefusedError(
            Refusal.POLICY_HOURS, f"policy.hours: expected a time in {policy.hours}, got {now:%H:%M}"
        )


def _numbers(config: FederationConfig) -> tuple[tuple[str, Refusal, float, str], ...]:
    """Lines that name the largest number permitted; the code of a refusal; what the run asks, and in which unit."""
    training, privacy = config.training, config.privacy
    views = 1 if privacy is None else privacy.augmentations
    return (
        ("image_size", Refusal.POLICY_MODEL, config.model.image_size, "pixels a side"),
        ("rounds", Refusal.POLICY_ROUNDS, config.federation.rounds, "rounds"),
        ("epochs", Refusal.POLICY_EPOCHS, training.epochs, "local epochs a round"),
        ("batch_size", Refusal.POLICY_TRAINING, training.batch_size, "films at once"),
        ("learning_rate", Refusal.POLICY_TRAINING, training.learning_rate, "as learning rate"),
        ("augmentations", Refusal.POLICY_TRAINING, views, "views of a film"),
    )


def _within(hours: str, now: time) -> bool:
    """From the first time to before the second, over midnight where that is the earlier one; all day where equal."""
    start, end = map(time.fromisoformat, hours.split("-"))
    return start <= now < end if start < end else now >= start or now < end


def permitted_privacy(config: FederationConfig, site: SiteConfig) -> tuple[PrivacyConfig, SitePrivacy] | None:
    """The run's privacy and the site's policy, or None where the run has no privacy and the site does not ask for it.

    Raises:
        RefusedError: the site's file does not permit the run; the text names the line.
    """
    privacy, policy = config.privacy, site.privacy
    if privacy is None:
        if policy is not None and policy.required:
            raise RefusedError(
                Refusal.PRIVACY,
                "privacy.required: expected a run with differential privacy, got privacy: off in the federation file",
            )
        return None
    if policy is None:
        raise RefusedError(
            Refusal.PRIVACY,
            "privacy: expected what the site permits (epsilon, population), got nothing in its file: a run with "
            "differential privacy needs both",
        )
    if policy.unit == "patient" and privacy.unit == "film":
        raise RefusedError(
            Refusal.PRIVACY,
            "privacy.unit: expected a run that protects patients, got one that protects films",
        )
    return privacy, policy
