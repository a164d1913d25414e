"""How the sites' models become the next global one: `federation.aggregation` and `federation.server_step`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from acm_core.config.section import Section

_RULE_SETTINGS = {
    "fedavg": (),
    "norm_clipping": ("bound",),
    "median": ("attackers",),
    "trimmed_mean": ("attackers",),
    "krum": ("attackers", "keep"),
}
_STEP_SETTINGS = {
    "plain": (),
    "fedavgm": ("learning_rate", "momentum"),
    "fedadam": ("learning_rate", "beta1", "beta2", "tau"),
}


def _expect_settings(section: Section, rule: str, settings: Mapping[str, tuple[str, ...]]) -> None:
    """Raises ValueError where a section with a rule has not exactly the keys that the rule has."""
    expected = ("rule", *settings[rule])
    given = (
        "rule",
        *(
            name
            for name in type(section).model_fields
            if name != "rule" and getattr(section, name) is not None
        ),
    )
    if given != expected:
        raise ValueError(f"expected for {rule} the keys {', '.join(expected)}, got {', '.join(given)}")


class AggregationConfig(Section):
    """How the sites' models become one; docs/AGGREGATION.md says what each rule is for and what it costs."""

    rule: Literal["fedavg", "norm_clipping", "median", "trimmed_mean", "krum"] = Field(
        "fedavg", description="all but fedavg are against sites that send harm; docs/AGGREGATION.md"
    )
    bound: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="norm_clipping: L2 norm that a site's change may have"
    )
    attackers: int | None = Field(
        None, ge=1, description="median, trimmed_mean, krum: sites that may send anything"
    )
    keep: int | None = Field(None, ge=1, description="krum: models that are averaged")

    @model_validator(mode="after")
    def _settings_of_the_rule(self) -> AggregationConfig:
        _expect_settings(self, self.rule, _RULE_SETTINGS)
        return self

    @property
    def minimum_sites(self) -> int:
        """Sites whose updates a round needs."""
        if self.attackers is None:
            return 1
        if self.keep is None:
            return 2 * self.attackers + 1
        return max(2 * self.attackers + 3, self.keep + self.attackers + 2)

    def averaged_sites(self, updates: int) -> int:
        """Sites that at least stand behind every shared value of the next model when so many updates are in."""
        if self.keep is not None:
            return self.keep
        if self.rule == "median":
            return 2 - updates % 2
        return updates - 2 * (self.attackers or 0)

    def expect_quorum(self, quorum: int) -> None:
        """Raises ValueError where a round may end with fewer updates than the rule needs."""
        if quorum < self.minimum_sites:
            raise ValueError(
                f"expected quorum ≥ {self.minimum_sites} for {self.rule} with attackers: {self.attackers}, "
                f"got {quorum}: raise it, or choose norm_clipping, which needs no number of sites"
            )


class ServerStepConfig(Section):
    """What the server does with a round's aggregate; docs/AGGREGATION.md says what each step is for."""

    rule: Literal["plain", "fedavgm", "fedadam"] = Field(
        "plain",
        description="plain: the aggregate is the next model; fedavgm, fedadam: a step of an optimiser towards it",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="fedavgm, fedadam: of the server; without momentum 1 takes the aggregate as it is; for fedadam "
        "about how far a weight moves in a round",
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="fedavgm: share of the last round's step that goes on"
    )
    beta1: float | None = Field(None, ge=0, lt=1, description="fedadam: share of the mean step that is kept")
    beta2: float | None = Field(
        None, ge=0, lt=1, description="fedadam: share of the mean squared step that is kept"
    )
    tau: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="fedadam: τ beside the root of the mean squared step; the larger, the less it adapts",
    )

    @model_validator(mode="after")
    def _settings_of_the_rule(self) -> ServerStepConfig:
        _expect_settings(self, self.rule, _STEP_SETTINGS)
        return self
