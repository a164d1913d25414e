"""A run's figures over rounds, and their curves in TensorBoard."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from server.round.state import RoundState


def figures(state: RoundState) -> dict[str, float]:
    """What the newest round of `state` is drawn by: losses by site, its seconds, and how many sites answered."""
    record = state.records[-1]
    by_site = {
        f"{name}/{site}": float(value)
        for site, metrics in record["metrics"].items()
        for name, value in metrics.items()
    }
    return {
        **by_site,
        "round/seconds": float(record["seconds"]),
        "round/sites": float(len(record["answered"])),
    }


class Curves:
    """Writes a round's figures; rounds that are run again after a resume replace the earlier ones."""

    def __init__(self, folder: Path, first_round: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_round)

    def add(self, state: RoundState) -> None:
        """Write the newest round of `state`."""
        for name, value in figures(state).items():
            self._writer.add_scalar(name, value, state.round)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
