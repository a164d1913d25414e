"""What noised steps cost in (ε, δ), and how much noise a whole run needs: exactly where everybody takes part in every
step, else by Opacus' accountants."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis import rdp as analysis
from opacus.accountants.analysis.prv import Domain
from scipy.fft import next_fast_len
from scipy.optimize import brentq

from acm_core.config.sections import FederationConfig, PrivacyUnit
from acm_core.config.site import SitePrivacy
from acm_core.privacy.gaussian import composed_mean, gaussian_epsilon, gaussian_mean

Accountant = Literal["prv", "rdp"]

LARGEST_NOISE_MULTIPLIER = 1e4
_TIGHTNESS = 1e-3
"""How far above the smallest noise multiplier the one that is found may be, relative."""
_STRIDE = 0.4  # of log σ, from a first guess that is seldom farther off
_NEAR_ZERO, _BEYOND = 1e-9, 1e9
_ORDERS = (
    *(order for order in RDPAccountant.DEFAULT_ALPHAS if order > 1.45),
    72,
    96,
    128,
    192,
    256,
    384,
    512,
)
"""Rényi orders. Opacus' own end at 63, too low for ε below 0.3; its lowest serve ε above 100 only and take longest."""
_RELATIVE_ERROR, _ABSOLUTE_ERROR = 0.005, 1e-3
"""How much PRV's bound on ε may be too high."""
_STEPS = 20_000
"""Steps up to which the absolute error holds; it grows with their root, so that the computation does not."""
_LARGEST_ERROR, _LARGEST_EPSILON, _SMALLEST_DELTA, _MOST_POINTS = 0.5, 500.0, 1e-10, 2**22
"""Beyond these PRV in float64 is no bound (measured against PLD) or takes gigabytes: RDP's bound stands in."""


@dataclass(frozen=True)
class NoisedSteps:
    """Steps of the Poisson-subsampled Gaussian mechanism under add/remove adjacency.

    Attributes:
        noise_multiplier: σ, the noise's standard deviation over the clipping norm.
        sampling_rate: q in (0, 1], the chance of each unit to be in a step.
        steps: how many, ≥ 0.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            raise ValueError(
                f"expected a finite noise multiplier > 0, got {self.noise_multiplier}: without noise nothing bounds ε"
            )
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(
                f"expected a sampling rate in (0, 1], got {self.sampling_rate}: it is each unit's chance to be in a "
                "step, expected_batch / population"
            )
        if self.steps < 0:
            raise ValueError(f"expected a number of steps ≥ 0, got {self.steps}")


def epsilon(history: Sequence[NoisedSteps], delta: float, accountant: Accountant = "prv") -> float:
    """Upper bound of the ε at `delta` of all steps together, 0 for none; infinite where no accountant has a bound.

    It depends on how many steps of each kind there are and on nothing else. Where every step has q = 1 it is exact
    (`acm_core.privacy.gaussian`), whichever the accountant. Else "prv" (Gopi et al., NeurIPS 2021) is within 1 % of the
    tight value from ε = 0.3 on; where it cannot be computed, and for "rdp" (Mironov et al., 2019), the bound is looser,
    never too small.

    Raises:
        ValueError: `delta` is not in (0, 1).
    """
    _expect_delta(delta)
    counts: Counter[tuple[float, float]] = Counter()
    for noised in history:
        counts[noised.noise_multiplier, noised.sampling_rate] += noised.steps
    return _epsilon(
        tuple(sorted((*kind, steps) for kind, steps in counts.items() if steps)), delta, accountant
    )


def filtered_epsilon(history: Sequence[NoisedSteps], delta: float, budget: float) -> float:
    """Upper bound of the ε at `delta`, also where who saw the results of earlier steps chose σ and q of later ones.

    `epsilon` is one for mechanisms that were fixed beforehand. Runs are not: the server names the next one when it
    knows the last. What holds for them as well, if each step was let through by this bound being at most `budget`:

    - one σ and q for all: only how many steps there are was chosen, and to stop early tells no more (`epsilon`);
    - q = 1 in all: the filter of Gaussian differential privacy (Koskela, Tobaben and Honkela, ICLR 2023);
    - else: the Rényi filter (Feldman and Zrnic, NeurIPS 2021) at one order, which `delta` and `budget` fix
      before the first step. It is tight near the budget and too high far below it.

    Raises:
        ValueError: `delta` is not in (0, 1).
    """
    _expect_delta(delta)
    kinds = {(step.noise_multiplier, step.sampling_rate) for step in history if step.steps}
    if len(kinds) <= 1 or all(rate == 1 for _, rate in kinds):
        return epsilon(history, delta)
    order = _order(budget, delta)
    # Opacus warns of an order at the end of its list.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            spent = sum(
                step.steps * float(_curve(step.noise_multiplier, step.sampling_rate)[order])
                for step in history
            )
            bound = float(analysis.get_privacy_spent(orders=[_ORDERS[order]], rdp=[spent], delta=delta)[0])
        except (ArithmeticError, ValueError):
            return math.inf
    return math.inf if math.isnan(bound) else max(bound, 0.0)


@lru_cache(maxsize=64)
def _order(budget: float, delta: float) -> int:
    """Index of the Rényi order at which a Gaussian mechanism that costs `budget` is bounded best."""
    orders = np.array(_ORDERS)
    extra = np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    # Of a Gaussian mechanism the divergence is α·r; the order that leaves most room for r is the one.
    return int(((budget - extra) / orders).argmax())


@lru_cache(maxsize=64)
def noise_multiplier(
    target_epsilon: float, delta: float, sampling_rate: float, steps: int, accountant: Accountant = "prv"
) -> float:
    """The smallest σ with which `steps` steps cost no more than `target_epsilon`; at most 0.1 % above it.

    Raises:
        ValueError: an argument is outside its range, or no σ up to 10⁴ is enough.
    """
    if not 0 < target_epsilon < math.inf or steps < 1:
        raise ValueError(f"expected ε > 0 and at least one step, got ε = {target_epsilon} and {steps} steps")
    _expect_delta(delta)
    NoisedSteps(1.0, sampling_rate, steps)
    if sampling_rate == 1:
        sigma = math.sqrt(steps) / gaussian_mean(target_epsilon, delta) * (1 + 1e-12)  # of rounding
        if sigma > LARGEST_NOISE_MULTIPLIER:
            raise _unreachable(target_epsilon, delta, sampling_rate, steps)
        return sigma

    def excess(log_sigma: float) -> float:
        spent = epsilon([NoisedSteps(math.exp(log_sigma), sampling_rate, steps)], delta, accountant)
        return math.log(min(max(spent, _NEAR_ZERO), _BEYOND) / target_epsilon)

    found = _smallest(
        excess, math.log(sampling_rate * math.sqrt(-2 * steps * math.log(delta)) / target_epsilon)
    )
    if found is None:
        raise _unreachable(target_epsilon, delta, sampling_rate, steps)
    return math.exp(found)


@dataclass(frozen=True)
class Plan:
    """What a whole run does with a site's units: its noise is solved for all rounds before the first step.

    Attributes:
        run, settings: name of the run, and digest of the settings that decide what is trained.
        unit: whose presence is hidden.
        sigma: noise multiplier.
        q: sampling rate.
        clipping_norm: C.
        expected_batch: units a step on average, the public divisor.
        steps_per_round, rounds: noised steps planned.
        epsilon, delta: what the run may cost at most.
        accountant: by which σ was solved.
        sampler: how the units of a step are drawn.
    """

    run: str
    settings: str
    unit: PrivacyUnit
    sigma: float
    q: float
    clipping_norm: float
    expected_batch: int
    steps_per_round: int
    rounds: int
    epsilon: float
    delta: float
    accountant: Accountant = "prv"
    sampler: Literal["poisson"] = "poisson"

    def __post_init__(self) -> None:
        NoisedSteps(self.sigma, self.q, self.steps_per_round * self.rounds)
        _expect_delta(self.delta)
        if self.sampler != "poisson":
            raise ValueError(
                f"expected the sampler poisson, got {self.sampler}: ε is computed for units that are drawn "
                "independently of each other; batches of a shuffled list cost more"
            )
        positive = {
            name: getattr(self, name)
            for name in ("clipping_norm", "expected_batch", "steps_per_round", "rounds", "epsilon")
        }
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"expected {name} > 0, got {value}")

    @classmethod
    def of(cls, config: FederationConfig, site: SitePrivacy, settings: str) -> Self:
        """The plan of the run that `config` describes at a site.

        Args:
            settings: of `client.round.kept_models.SiteRun.of(config)`.

        Raises:
            ValueError: the run has no privacy, δ is too large for the site, or no noise reaches the run's ε.
        """
        privacy = config.privacy
        if privacy is None:
            raise ValueError(
                "expected a run with differential privacy, got privacy: off in the federation file"
            )
        for name, delta in (("run's", privacy.delta), ("site's", site.delta)):
            if not delta < 1 / site.population:
                raise ValueError(
                    f"expected the {name} delta below 1/population = {1 / site.population:.3g}, got {delta:g}: a "
                    "mechanism that publishes one unit at random would keep it; set privacy.delta lower"
                )
        q = min(1.0, privacy.expected_batch / site.population)
        steps = round(config.training.epochs / q)  # at least 1, as q is at most 1
        rounds = config.federation.rounds
        return cls(
            run=config.name,
            settings=settings,
            unit=privacy.unit,
            sigma=noise_multiplier(privacy.epsilon, privacy.delta, q, steps * rounds, privacy.accountant),
            q=q,
            clipping_norm=privacy.clipping_norm,
            expected_batch=privacy.expected_batch,
            steps_per_round=steps,
            rounds=rounds,
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            accountant=privacy.accountant,
        )

    def noised(self, count: int) -> NoisedSteps:
        """`count` of the run's steps."""
        return NoisedSteps(self.sigma, self.q, count)


def _smallest(excess: Callable[[float], float], guess: float) -> float | None:
    """The smallest log σ at which `excess`, which falls in it, is ≤ 0; None above the largest noise multiplier."""
    low = high = guess
    while excess(high) > 0:
        low, high = high, high + _STRIDE
        if high > math.log(LARGEST_NOISE_MULTIPLIER):
            return None
    while excess(low) <= 0:
        low, high = low - _STRIDE, low
    root = float(brentq(excess, low, high, xtol=_TIGHTNESS / 4))
    while excess(root) > 0:
        root += _TIGHTNESS / 4
    return root if root <= math.log(LARGEST_NOISE_MULTIPLIER) else None


def _unreachable(target_epsilon: float, delta: float, sampling_rate: float, steps: int) -> ValueError:
    return ValueError(
        f"expected a noise multiplier up to {LARGEST_NOISE_MULTIPLIER:g} to reach ε = {target_epsilon:g} at δ = "
        f"{delta:g}, got none for {steps} steps at sampling rate {sampling_rate:.3g}: take fewer steps, a larger "
        "population or a larger ε"
    )


def _expect_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"expected delta in (0, 1), got {delta}: set it below 1/population")


@lru_cache(maxsize=256)
def _epsilon(history: tuple[tuple[float, float, int], ...], delta: float, accountant: Accountant) -> float:
    """`epsilon` of (σ, q, steps), each (σ, q) once and in order."""
    if not history:
        return 0.0
    if all(q == 1 for _, q, _ in history):
        return gaussian_epsilon(composed_mean([(sigma, steps) for sigma, _, steps in history]), delta)
    # Opacus and numpy warn of orders at the end of the list and of logarithms of 0 at q = 1; both are meant.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        bound = _rdp(history, delta)
        return bound if accountant == "rdp" else _prv(history, delta, bound)


def _rdp(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    try:
        spent = sum(steps * _curve(sigma, q) for sigma, q, steps in history)
        bound = float(analysis.get_privacy_spent(orders=_ORDERS, rdp=spent, delta=delta)[0])
    except (ArithmeticError, ValueError):
        return math.inf
    return math.inf if math.isnan(bound) else max(bound, 0.0)


@lru_cache(maxsize=256)
def _curve(sigma: float, q: float) -> NDArray[np.float64]:
    """Rényi divergence of one step at each of `_ORDERS`, which takes longer than all else here."""
    return np.asarray(analysis.compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=_ORDERS))


def _prv(history: tuple[tuple[float, float, int], ...], delta: float, rdp: float) -> float:
    """PRV's bound, or `rdp` where it cannot be computed."""
    steps = sum(count for _, _, count in history)
    error = min(_RELATIVE_ERROR * rdp, _LARGEST_ERROR)
    error = max(error, _ABSOLUTE_ERROR * max(1.0, math.sqrt(steps / _STEPS)))
    if rdp > _LARGEST_EPSILON or error > _LARGEST_ERROR or delta < _SMALLEST_DELTA:
        return rdp
    accountant = _BoundedPRV()
    accountant.history = list(history)
    try:
        bound = float(accountant.get_epsilon(delta, eps_error=error))
    except (ArithmeticError, ValueError, RuntimeError):
        return rdp
    return max(bound, 0.0) if math.isfinite(bound) else rdp


class _BoundedPRV(PRVAccountant):  # type: ignore[misc]  # Opacus has no types
    """PRV that fails before it takes gigabytes, on a grid whose length the Fourier transform is fast for."""

    def _get_domain(
        self, prvs: Sequence[Any], num_self_compositions: Sequence[int], eps_error: float, delta_error: float
    ) -> Domain:
        """As Opacus has it (Gopi et al., remark 5.6), which computes each Rényi curve twice more."""
        kinds = [(prv.noise_multiplier, prv.sample_rate) for prv in prvs]
        composed = tuple((*kind, steps) for kind, steps in zip(kinds, num_self_compositions, strict=True))
        total = sum(num_self_compositions)
        half = max(
            _rdp(composed, delta_error / 4),
            *(_rdp(((*kind, 1),), delta_error / (8 * total)) for kind in kinds),
            eps_error,
        )
        mesh = eps_error / math.sqrt(total * math.log(12 / delta_error) / 2)
        domain = Domain.create_aligned(-half - 3, half + 3, mesh)
        if domain.size > _MOST_POINTS:
            raise OverflowError(f"expected at most {_MOST_POINTS} points, got {domain.size}")
        points = next_fast_len(domain.size // 2, real=True)
        return Domain((1 - points) * domain.dt, points * domain.dt, 2 * points)
