"""`python -m simulations.pretrain`: a start for runs from a folder of public films."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from acm_core.command import run_command

if TYPE_CHECKING:
    from rich.console import Console

    from acm_core.config.sections import FederationConfig
    from simulations.pretrain.card import Start
    from simulations.pretrain.films import Pretraining, Progress

_EPOCHS = 16


def main(arguments: list[str] | None = None) -> int:
    """Make a start; returns the exit code (0 written, 1 failed, 2 wrong options, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.pretrain",
        description="Train a model on public films as a start for runs (model.weights), and write it with a card. The "
        "folder has labels.csv and the films that it names. An interrupted command goes on when it is given again.",
    )
    parser.add_argument(
        "--films", type=Path, required=True, help="folder with labels.csv and the films that it names"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="the start, FILE.safetensors; its card is FILE.md beside it",
    )
    learn = parser.add_mutually_exclusive_group()
    learn.add_argument(
        "--findings",
        help="what to learn, with commas between; default: the findings of --config, else all that the label file "
        "labels both ways",
    )
    learn.add_argument(
        "--without-labels",
        action="store_true",
        help="learn from views of the films alone (VICReg); the start has no head",
    )
    parser.add_argument(
        "--config", type=Path, help="a run's file: the start is for its model, and is trained as it says"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    parser.add_argument(
        "--epochs", type=int, default=_EPOCHS, help=f"over all training films (default: {_EPOCHS})"
    )
    parser.add_argument(
        "--image-size", type=int, help="side of the square film in pixels; default: the model's of --config"
    )
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError
    from acm_core.processes import interruptible

    try:
        settings = _settings(options)
    except (ConfigError, ValueError) as error:
        return _wrong(str(error))
    if options.output.suffix != ".safetensors":
        return _wrong(f"--output: expected a name that ends in .safetensors, got {options.output.name}")
    if options.output.exists():
        return _wrong(f"--output: {options.output} is there already: choose another name, or remove it")
    with interruptible():
        try:
            return _pretrain(options.films, options.output, settings)
        except KeyboardInterrupt:
            print("interrupted; give the same command again to go on", file=sys.stderr, flush=True)  # noqa: T201
            return 130


def _settings(options: argparse.Namespace) -> Pretraining:
    """Raises ConfigError or ValueError for what cannot be used."""
    from pydantic import ValidationError

    from acm_core.config.explanation import explain
    from acm_core.config.sections import ModelConfig, TrainingConfig
    from simulations.pretrain.films import Pretraining

    run = None if options.config is None else _run_file(options.config)
    model = ModelConfig() if run is None else run.model
    training = TrainingConfig() if run is None else run.training
    findings = None if run is None else run.findings
    if options.findings is not None:
        findings = tuple(name.strip() for name in options.findings.split(","))
    image_size = options.image_size or model.image_size
    try:
        return Pretraining.model_validate(
            {
                "model": {
                    **model.model_dump(exclude={"weights", "weights_sha256", "trainable", "dimensions"}),
                    # A projected head is a run's, on the projection that the start brings.
                    "head": "average" if model.head == "projected" else model.head,
                    "image_size": image_size,
                },
                "training": {**training.model_dump(), "epochs": options.epochs},
                "findings": () if options.without_labels else findings,
                "seed": options.seed,
            }
        )
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, place))}: {message}" for place, message in explain(error, Pretraining)
        )
        raise ValueError("\n".join(problems)) from None


def _run_file(path: Path) -> FederationConfig:
    """A federation's file or a simulation's; its own start, which may be the one to be made, is not looked for."""
    from acm_core.config.loading import ConfigError, load_config
    from acm_core.config.sections import FederationConfig
    from simulations.settings import SimulationConfig

    try:
        return load_config(path, SimulationConfig)
    except ConfigError as error:
        if all(problem.location != ("simulation",) for problem in error.problems):
            raise
        return load_config(path, FederationConfig)


def _pretrain(films: Path, output: Path, settings: Pretraining) -> int:
    from rich.console import Console

    from acm_core.data.label_file import LabelError
    from acm_core.processes import keep_freed_memory
    from acm_core.training.local import TrainingDivergedError
    from server.console.time_left import in_words, seconds_left
    from simulations.pretrain.films import PretrainingError, read_public_films, work_folder
    from simulations.pretrain.learning import Learner, write_start

    keep_freed_memory()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    work, epochs = work_folder(output), settings.training.epochs
    try:
        public = read_public_films(films, settings, work, _films_progress(console))
        console.print(
            f"{public.name}: {len(public.train)} films of {public.patients} patients to train on, "
            f"{len(public.held_out)} held out; {', '.join(public.findings) or 'without labels'}"
        )
        learner = Learner(settings, public, work)
        done, seconds = learner.resume(), list[float]()
        if done:
            console.print(f"going on after epoch {done} of {epochs}")
        for epoch in range(done, epochs):
            begun = time.monotonic()
            loss = learner.train(epoch)
            seconds.append(time.monotonic() - begun)
            left = seconds_left(epochs - done, len(seconds), seconds)
            more = "" if left is None else f"; about {in_words(left)} left"
            console.print(f"epoch {epoch + 1} of {epochs}: loss {loss:.4f}{more}")
        start = write_start(output, settings, public, learner)
    except (PretrainingError, LabelError, TrainingDivergedError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 1
    _show(console, start)
    return 0


def _films_progress(console: Console) -> Progress:
    shown = 0

    def show(done: int, total: int) -> None:
        nonlocal shown
        if done == total or done - shown >= 500:
            shown = done
            console.print(f"{done} of {total} films read")

    return show


def _show(console: Console, start: Start) -> None:
    from server.round.results import interval_text

    if start.figures:
        console.print("AUROC on the films held out (95 % interval):")
    for finding, figures in start.figures.items():
        auroc = interval_text(figures.auroc)
        console.print(f"  {finding}: {auroc}, {figures.positives} films with and {figures.negatives} without")
    console.print(
        f"features of {start.directions:.0f} independent directions\n"
        f"{start.path}\nsha256 {start.sha256}\ncard: {start.card}"
    )


def _wrong(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201  # the command's own output
    return 2


if __name__ == "__main__":
    run_command(main, private=False)
