"""TensorBoard curves of a run: losses and AUROC by site, over rounds."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from server.state import RoundState


class Curves:
    """Writes a round's figures; rounds that are run again after a resume replace the earlier ones."""

    def __init__(self, folder: Path, first_round: int) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_round)

    def add(self, state: RoundState) -> None:
        """Write the newest round of `state`."""
        record = state.records[-1]
        for site, metrics in record["metrics"].items():
            for name, value in metrics.items():
                self._writer.add_scalar(f"{name}/{site}", value, state.round)
        self._writer.add_scalar("round/seconds", record["seconds"], state.round)
        self._writer.add_scalar("round/sites", len(record["answered"]), state.round)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
