"""`python -m client.predict --site=A --model export in/ out.csv`: a trained model's answers for a folder of films.

Exit codes: 0 every film has its answer; 1 some files could not be used, the table says which and why; 2 wrong input;
130 interrupted, the next run goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from acm_core.command import run_command
from client.site.site_arguments import add_model_argument, add_site_arguments

OK, SET_ASIDE, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Predict; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.predict",
        description="Write a CSV with a row a file: each finding's probability, and whether it is at or above the "
        "model's threshold for a specificity. For research only: not a medical device. Nothing leaves the site; the "
        "table names the files as the folder does.",
        epilog="exit codes: 0 every film has its answer; 1 some files could not be used; 2 wrong input; 130 "
        "interrupted, the next run goes on",
    )
    add_site_arguments(parser)
    add_model_argument(parser)
    parser.add_argument(
        "--specificity",
        type=float,
        default=0.9,
        help="whose thresholds decide between present and absent (default: 0.9)",
    )
    parser.add_argument("films", type=Path, help="folder of DICOM, PNG or JPEG films, at any depth")
    parser.add_argument("table", type=Path, help="CSV file to write")
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError
    from acm_core.deployment import DeploymentError
    from acm_core.processes import interruptible
    from acm_core.training.weights import ModelMismatchError
    from client.model_use.prediction import PredictionError, predict_folder
    from client.site.site_file import SiteFileError, load_site_file

    try:
        site = load_site_file(options.sites, options.site)
        with interruptible():
            deployment, answered, aside = predict_folder(
                site, options.model, options.films, options.table, options.specificity, _progress
            )
    except (
        ConfigError,
        SiteFileError,
        DeploymentError,
        ModelMismatchError,
        PredictionError,
        OSError,
    ) as error:
        return _fail(str(error), WRONG)
    except KeyboardInterrupt:
        return _fail("interrupted; what was answered is kept, run it again to go on", INTERRUPTED)
    if deployment.warning:
        print(deployment.warning, file=sys.stderr)  # noqa: T201
    print(f"{deployment.summary}\n{options.table}: {answered} films answered, {aside} files not used")  # noqa: T201
    return SET_ASIDE if aside else OK


def _progress(done: int, files: int) -> None:
    end = "\n" if done == files or not sys.stderr.isatty() else "\r"
    print(f"{done} of {files} files", end=end, file=sys.stderr, flush=True)  # noqa: T201  # the command's output


def _fail(text: str, code: int) -> int:
    print(text, file=sys.stderr)  # noqa: T201  # the command's own output
    return code


if __name__ == "__main__":
    run_command(main)
