"""The rule of aggregation that the federation file names; all but FedAvg bound what a hostile or broken site can do."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from acm_core.arrays import Arrays
from acm_core.config.aggregation import AggregationConfig
from acm_core.federated.aggregation import FedAvg
from acm_core.federated.krum import Krum
from acm_core.federated.norm_clipping import NormClipping
from acm_core.federated.order_statistics import Median, TrimmedMean
from acm_core.federated.rule import AggregationRule


def make_aggregation(
    settings: AggregationConfig,
    reference: Arrays,
    findings: Sequence[str],
    finding_rows: Collection[str] = (),
) -> AggregationRule:
    """The aggregation of one round, to which updates are added; the arguments are those of `AggregationRule`.

    Raises:
        ValueError: a rule that a configuration may name has no case here.
    """
    match settings:
        case AggregationConfig(rule="norm_clipping", bound=float(bound)):
            return NormClipping(reference, findings, finding_rows, bound=bound)
        case AggregationConfig(rule="median", attackers=int(attackers)):
            return Median(reference, findings, finding_rows, attackers=attackers)
        case AggregationConfig(rule="trimmed_mean", attackers=int(attackers)):
            return TrimmedMean(reference, findings, finding_rows, attackers=attackers)
        case AggregationConfig(rule="krum", attackers=int(attackers), keep=int(keep)):
            return Krum(reference, findings, finding_rows, attackers=attackers, keep=keep)
        case AggregationConfig(rule="fedavg"):
            return FedAvg(reference, findings, finding_rows)
    raise ValueError(f"expected a rule that is made here, got {settings.rule}")
