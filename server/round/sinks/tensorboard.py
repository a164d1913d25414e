"""A run's figures over rounds as curves in TensorBoard."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from server.round import events
from server.round.sinks import Run


def open_sink(run: Run) -> Curves:
    """Every run has them."""
    return Curves(run.folder.tensorboard)


class Curves:
    """Writes a round's figures; rounds that are run again after a resume replace the earlier ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def take(self, event: events.Event) -> None:
        """Write the figures of a round that is over."""
        match event:
            case events.RunStarted():
                self._writer = SummaryWriter(str(self._folder), purge_step=1)
            case events.RunResumed():
                self._writer = SummaryWriter(str(self._folder), purge_step=event.round + 1)
            case events.RoundFinished() if self._writer is not None:
                for name, value in event.figures.items():
                    self._writer.add_scalar(name, value, event.round)
                self._writer.flush()
            case events.RunFinished() | events.RunFailed() if self._writer is not None:
                self._writer.close()
