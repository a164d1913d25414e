"""`python -m client.adapt --site=NEW --model export films/`: a shared model for a hospital that did not train it.

Exit codes: 0 written; 1 too few of the files are films that can be used; 2 wrong input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from acm_core.command import run_command
from client.site.site_arguments import add_model_argument, add_site_arguments

OK, NO_FILMS, WRONG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Write the site's model; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.adapt",
        description="Measure the normalisation of a shared model on a hospital's own films, which need no labels, and "
        "write the model for this site into its state folder. Nothing leaves the site.",
        epilog="exit codes: 0 written; 1 too few films; 2 wrong input",
    )
    add_site_arguments(parser)
    add_model_argument(parser)
    parser.add_argument("films", type=Path, help="folder of DICOM, PNG or JPEG films, at any depth")
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError
    from acm_core.deployment import DeploymentError
    from acm_core.processes import interruptible
    from acm_core.training.weights import ModelMismatchError
    from client.model_use.adaptation import AdaptationError, TooFewFilmsError, adapt
    from client.site.site_file import SiteFileError, load_site_file

    try:
        site = load_site_file(options.sites, options.site)
        with interruptible():
            folder, films, aside = adapt(site, options.model, options.films)
    except TooFewFilmsError as error:
        return _fail(str(error), NO_FILMS)
    except (
        ConfigError,
        SiteFileError,
        DeploymentError,
        ModelMismatchError,
        AdaptationError,
        OSError,
    ) as error:
        return _fail(str(error), WRONG)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130)
    print(f"{folder}: normalisation measured on {films} films, {aside} files not used")  # noqa: T201
    return OK


def _fail(text: str, code: int) -> int:
    print(text, file=sys.stderr)  # noqa: T201  # the command's own output
    return code


if __name__ == "__main__":
    run_command(main)
