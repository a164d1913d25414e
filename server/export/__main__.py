"""`python -m server.export runs/NAME`: the run's model in forms that others can use."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from acm_core.command import run_command


def main(arguments: list[str] | None = None) -> int:
    """Export; returns the exit code (0 written, 1 it cannot be)."""
    parser = argparse.ArgumentParser(
        prog="python -m server.export",
        description="Write RUN/export/: config.json and model.safetensors (what client.predict takes), "
        "model.pt2 (torch.export), model.onnx, monai_bundle/ and the model card. Every file is run and compared with "
        "the model before the command ends.",
    )
    parser.add_argument("run", type=Path, help="the run's folder, such as runs/demo")
    parser.add_argument(
        "--attention-maps",
        action="store_true",
        help="model.onnx and model.pt2 also give the findings' score maps and every module's key and query maps",
    )
    options = parser.parse_args(arguments)

    from safetensors import SafetensorError

    from acm_core.export import ExportError
    from acm_core.training.weights import ModelMismatchError
    from server.export.folder import export
    from server.round.run_folder import NoResultsError, RunFolder

    folder = RunFolder(options.run)
    try:
        for path in export(folder, attention_maps=options.attention_maps):
            print(path, flush=True)  # noqa: T201  # the command's own output
    except (ExportError, NoResultsError, ModelMismatchError, SafetensorError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 1
    return 0


if __name__ == "__main__":
    run_command(main)
