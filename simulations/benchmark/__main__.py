"""`python -m simulations.benchmark NAME`: tables of times, in one run, against named rivals."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from acm_core.command import run_command


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.benchmark",
        description="Measure speed on this machine, contenders taking turns; every figure is a median over rounds, "
        "with quartiles of the ratio to the rival.",
    )
    parser.add_argument(
        "benchmark",
        choices=(
            "op",
            "step",
            "profile",
            "intake",
            "privacy",
            "encoding",
            "federation",
            "aggregation",
            "joint_sum",
            "look_alikes",
            "near_pairs",
        ),
        help="the attend-and-compare operation, a training step, where the time of a step goes, reading films, a "
        "private training step, a model's messages, a round at the server, the rules of aggregation, the joint sum, "
        "how well films that are there twice are found, or how long that takes among many",
    )
    parser.add_argument(
        "--films", type=Path, help="folder of sites with a labels.csv and films each, for `look_alikes`"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="number format of `op`, `step` and `profile` (default: float32)",
    )
    parser.add_argument("--batch", type=int, default=8, help="films (default: 8)")
    parser.add_argument(
        "--side", type=int, default=224, help="of the film in pixels, for `step` and `profile` (default: 224)"
    )
    parser.add_argument("--rounds", type=int, default=9, help="times each contender is measured (default: 9)")
    parser.add_argument("--threads", type=int, help="CPU threads; default: all cores")
    parser.add_argument(
        "--only",
        help="contenders of `step` and `profile`, with commas between, the plain one being always there; parts of "
        "`federation` (simulation, task, tls, server, memory); default: all, and acm alone for `profile`",
    )
    parser.add_argument(
        "--files", type=int, default=2000, help="of the folder that `intake` walks (default: 2000)"
    )
    parser.add_argument("--output", type=Path, help="also write every single time as JSON")
    options = parser.parse_args(arguments)

    import torch

    from acm_core.files import write_text_atomically
    from simulations.benchmark import intake, op, profile, step

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    name = options.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if options.benchmark == "op":
        document = op.run(device, getattr(torch, options.precision), options.batch, options.rounds)
        text = op.table(document)
    elif options.benchmark == "intake":
        document = intake.run(options.rounds, options.files)
        text = intake.table(document)
    elif options.benchmark == "look_alikes":
        from simulations.benchmark import look_alikes

        if options.films is None:
            parser.error("expected --films, the folder of sites to measure on")
        document = look_alikes.run(options.films)
        text = look_alikes.table(document)
    elif options.benchmark == "near_pairs":
        from simulations.benchmark import near_pairs

        document = near_pairs.run()
        text = near_pairs.table(document)
    elif options.benchmark == "privacy":
        from simulations.benchmark import privacy

        document = privacy.run(device, options.rounds)
        text = privacy.table(document)
    elif options.benchmark == "encoding":
        from simulations.benchmark import encoding

        document = encoding.run(options.rounds)
        text = encoding.table(document)
    elif options.benchmark == "aggregation":
        from simulations.benchmark import aggregation

        document = aggregation.run(options.rounds)
        text = aggregation.table(document)
    elif options.benchmark == "joint_sum":
        from simulations.benchmark import joint_sum

        document = joint_sum.run(options.rounds)
        text = joint_sum.table(document)
    elif options.benchmark == "federation":
        from simulations.benchmark import federation

        parts = options.only.split(",") if options.only else list(federation.PARTS)
        if unknown := [part for part in parts if part not in federation.PARTS]:
            parser.error(f"--only: expected some of {', '.join(federation.PARTS)}, got {', '.join(unknown)}")
        document = federation.run(options.rounds, parts)
        text = federation.table(document)
    else:
        default = "acm" if options.benchmark == "profile" else ",".join(step.CONTENDERS[1:])
        wanted = (options.only or default).split(",")
        unknown = [name for name in wanted if name not in step.CONTENDERS]
        if unknown:
            parser.error(f"--only: expected some of {', '.join(step.CONTENDERS)}, got {', '.join(unknown)}")
        contenders = (step.CONTENDERS[0], *(name for name in wanted if name != step.CONTENDERS[0]))
        settings = (device, options.precision, options.batch, options.side)
        if options.benchmark == "step":
            document = step.run(*settings, options.rounds, contenders)
            text = step.table(document)
        else:
            document = profile.run(*settings, contenders)
            text = profile.table(document)
    print(text, end="")  # noqa: T201  # the command's own output
    if options.output is not None:
        write_text_atomically(options.output, json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    run_command(main, private=False)
