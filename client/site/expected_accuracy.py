"""What private training has reached in this project's tables, for who plans a run: from `expected_accuracy.json`.

`python -m simulations.expected_accuracy` writes that file from the finished runs of the private table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from acm_core.config.section import Section
from acm_core.config.sections import FederationConfig

PATH = Path(__file__).with_name("expected_accuracy.json")


class Measured(Section):
    """Mean AUROC over sites and findings of the federated model, over the seeds.

    Attributes:
        patients: that each site trained on at most.
        epsilon: of the whole run; None: without privacy.
        auroc, lowest, highest: mean of the seeds' values, and their ends.
    """

    patients: int
    epsilon: float | None
    auroc: float
    lowest: float
    highest: float

    @property
    def figure(self) -> str:
        """Mean and ends."""
        return f"{self.auroc:.3f} ({self.lowest:.3f} to {self.highest:.3f})"


class Table(Section):
    """Figures of one kind of training.

    Attributes:
        measured_on: films, start, seeds, in words.
        start_alone: mean AUROC of the start, before anything was learnt at a site.
    """

    measured_on: str
    start_alone: float
    rows: tuple[Measured, ...]


class ExpectedAccuracy(Section):
    """What may be expected of a head on a frozen start, and of a whole network."""

    head: Table
    whole: Table

    @classmethod
    def load(cls, path: Path = PATH) -> ExpectedAccuracy:
        """The figures as they were installed."""
        return cls.model_validate_json(path.read_bytes())

    def sentences(self, config: FederationConfig, population: int) -> list[str]:
        """What a hospital with `population` training patients may expect of a private run, a line each."""
        trains_a_head = config.model.trainable == "head" and config.model.head != "max"
        if config.privacy is None:
            return []
        lines = self._of_a_head(population, config.privacy.epsilon) if trains_a_head else self._of_more()
        measured_on = (self.head if trains_a_head else self.whole).measured_on
        other = "Other films, findings and starts give other figures: a direction, no promise"
        return [*lines, f"measured on {measured_on}. {other}"]

    def _of_a_head(self, population: int, epsilon: float) -> Iterator[str]:
        rows, start = self.head.rows, self.head.start_alone
        sizes = sorted({row.patients for row in rows})
        size = max((size for size in sizes if size <= population), default=sizes[0])
        of_size = {row.epsilon: row for row in rows if row.patients == size}
        budgets = sorted(budget for budget in of_size if budget is not None)
        row = of_size[max((budget for budget in budgets if budget <= epsilon), default=budgets[0])]
        few = "fewer" if population < size else "as many or more"
        yield (
            f"to expect, mean AUROC: {row.figure} with ε = {row.epsilon:g} where each site has {size} training "
            f"patients (this site: {population}, {few}); {of_size[None].figure} without privacy; {start:.3f} the start "
            "alone"
        )
        for size in sizes:
            cells = [
                f"{'without privacy' if row.epsilon is None else f'ε = {row.epsilon:g}'} {row.auroc:.3f}"
                for row in rows
                if row.patients == size
            ]
            yield f"{size} training patients a site: {', '.join(cells)}"

    def _of_more(self) -> Iterator[str]:
        best = max((row for row in self.whole.rows if row.epsilon is not None), key=lambda row: row.auroc)
        yield (
            "to expect: nothing learnt. A whole network under noise came hardly farther than its start in our tables: "
            f"mean AUROC {best.figure} at best, with ε = {best.epsilon:g} and {best.patients} training patients a "
            f"site; {self.whole.start_alone:.3f} the start alone"
        )
        yield (
            "what did learn: model.trainable: head with model.head: projected on a frozen start (docs/PRIVACY.md, "
            '"Private training that learns")'
        )
