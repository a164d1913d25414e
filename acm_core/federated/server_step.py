"""How a round's aggregate becomes the next global model: pure functions on state that is kept between the rounds.

Under differential privacy a step is post-processing of what was noised, and costs no ε.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from acm_core.arrays import Arrays
from acm_core.config.aggregation import ServerStepConfig

Float64s = npt.NDArray[np.float64]

_STATISTICS = ("running_mean", "running_var")


class ServerStep(ABC):
    """The next global model from the present one and what an `AggregationRule` made of the round's updates.

    A step holds settings only. What it remembers is in the state, arrays by name, which the caller keeps: the same
    arguments give the same bits, after a restart too.
    """

    @abstractmethod
    def init(self, model: Arrays) -> Arrays:
        """The state before the first round, {} for a step that remembers nothing."""

    @abstractmethod
    def apply(
        self, model: Arrays, aggregate: Arrays, learnt: Sequence[bool], state: Arrays
    ) -> tuple[Arrays, Arrays]:
        """The next model and the next state; no argument is changed.

        Args:
            model: the global model that the sites started from.
            aggregate: `AggregationRule.result`: the names, shapes and dtypes of the model.
            learnt: `AggregationRule.learnt`, one a finding: a row of another finding is as in `model`, and stays so.
            state: of the round before, or of `init`.
        """


class Plain(ServerStep):
    """The aggregate is the next model."""

    def init(self, model: Arrays) -> Arrays:  # noqa: ARG002
        """{}."""
        return {}

    def apply(
        self,
        model: Arrays,  # noqa: ARG002
        aggregate: Arrays,
        learnt: Sequence[bool],  # noqa: ARG002
        state: Arrays,
    ) -> tuple[Arrays, Arrays]:
        """The aggregate, and the state as it is."""
        return aggregate, state


class _Optimiser(ServerStep):
    """A step of an optimiser whose gradient is minus the round's change, aggregate − model.

    - It moves every floating array but the normalisation's statistics: with momentum a variance could become negative.
      Statistics and integers are the aggregate's.
    - A finding's rows that the round has not learnt take no step: their values stay bit for bit and so does their
      state, whose momentum moves them no further. It goes on when sites label the finding again.
    - It computes in float64 and rounds once, to the array's dtype. The state is float64, so that neither the squares
      of small changes nor those of large ones are lost.
    """

    def __init__(self, finding_rows: Collection[str], initial: Mapping[str, float]) -> None:
        """
        Args:
            finding_rows: names of the arrays whose first axis is the finding.
            initial: what is remembered of every weight, by name, and its value before the first round.
        """
        self._finding_rows = frozenset(finding_rows)
        self._initial = initial

    def init(self, model: Arrays) -> Arrays:
        """An array of the model's shape for each array that is moved and each thing that is remembered of it."""
        return {
            f"{kind}/{name}": np.full(array.shape, value, np.float64)
            for kind, value in self._initial.items()
            for name, array in model.items()
            if _is_moved(name, array)
        }

    def apply(
        self, model: Arrays, aggregate: Arrays, learnt: Sequence[bool], state: Arrays
    ) -> tuple[Arrays, Arrays]:
        """See `ServerStep.apply`."""
        following, remembered = dict(aggregate), dict(state)
        for name, array in model.items():
            if not _is_moved(name, array):
                continue
            where: Any = np.array(learnt, bool) if name in self._finding_rows else ...
            keys = [f"{kind}/{name}" for kind in self._initial]
            values, memory = self._moved(
                array[where].astype(np.float64),
                aggregate[name][where].astype(np.float64),
                *(state[key][where] for key in keys),
            )
            following[name] = _with(aggregate[name], where, values)
            for key, new in zip(keys, memory, strict=True):
                remembered[key] = _with(state[key], where, new)
        return following, remembered

    @abstractmethod
    def _moved(
        self, model: Float64s, aggregate: Float64s, *memory: Float64s
    ) -> tuple[Float64s, tuple[Float64s, ...]]:
        """The next values of some weights, and what is remembered of them, in the order of `initial`."""


class FedAvgM(_Optimiser):
    """Momentum at the server (Hsu et al. 2019, arXiv:1909.06335): v ← β·v + change; model ← model + η·v.

    It is computed as aggregate + (η·v − change): with β = 0 and η = 1 it is the plain step, to the last digit.
    """

    def __init__(self, finding_rows: Collection[str], *, learning_rate: float, momentum: float) -> None:
        super().__init__(finding_rows, {"velocity": 0.0})
        self._learning_rate = learning_rate
        self._momentum = momentum

    def _moved(
        self, model: Float64s, aggregate: Float64s, *memory: Float64s
    ) -> tuple[Float64s, tuple[Float64s, ...]]:
        (velocity,) = memory
        change = aggregate - model
        velocity = self._momentum * velocity + change
        return aggregate + (self._learning_rate * velocity - change), (velocity,)


class FedAdam(_Optimiser):
    """Adam at the server (Reddi et al., ICLR 2021, arXiv:2003.00295, Algorithm 2), without correction of bias.

    m ← β₁·m + (1 − β₁)·change; v ← β₂·v + (1 − β₂)·change²; model ← model + η·m / (√v + τ); m starts at 0 and v at τ².
    """

    def __init__(
        self,
        finding_rows: Collection[str],
        *,
        learning_rate: float,
        beta1: float,
        beta2: float,
        tau: float,
    ) -> None:
        super().__init__(finding_rows, {"mean": 0.0, "square": tau**2})
        self._learning_rate = learning_rate
        self._beta1, self._beta2 = beta1, beta2
        self._tau = tau

    def _moved(
        self, model: Float64s, aggregate: Float64s, *memory: Float64s
    ) -> tuple[Float64s, tuple[Float64s, ...]]:
        mean, square = memory
        change = aggregate - model
        mean = self._beta1 * mean + (1 - self._beta1) * change
        square = self._beta2 * square + (1 - self._beta2) * change**2
        return model + self._learning_rate * mean / (np.sqrt(square) + self._tau), (mean, square)


def make_server_step(settings: ServerStepConfig, finding_rows: Collection[str]) -> ServerStep:
    """The step that the federation file names.

    Raises:
        ValueError: a step that a configuration may name has no case here.
    """
    match settings:
        case ServerStepConfig(rule="plain"):
            return Plain()
        case ServerStepConfig(rule="fedavgm", learning_rate=float(rate), momentum=float(momentum)):
            return FedAvgM(finding_rows, learning_rate=rate, momentum=momentum)
        case ServerStepConfig(
            rule="fedadam", learning_rate=float(rate), beta1=float(beta1), beta2=float(beta2), tau=float(tau)
        ):
            return FedAdam(finding_rows, learning_rate=rate, beta1=beta1, beta2=beta2, tau=tau)
    raise ValueError(f"expected a step that is made here, got {settings.rule}")


def moving_average(average: Arrays, arrays: Arrays, decay: float) -> Arrays:
    """decay·average + (1 − decay)·arrays, each array in its own dtype; `arrays` where there is no average yet.

    Integers (`num_batches_tracked`) are taken from `arrays`. None is kept, {}, with a decay of 0.
    """
    if decay == 0:
        return {}
    if not average:
        return arrays
    return {
        name: (decay * average[name].astype(np.float64) + (1 - decay) * array).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in arrays.items()
    }


def _is_moved(name: str, array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and name.rsplit(".", 1)[-1] not in _STATISTICS


def _with(array: npt.NDArray[Any], where: Any, values: Float64s) -> npt.NDArray[Any]:
    """A copy with other values there, in its dtype."""
    array = array.copy()
    array[where] = values
    return array
