"""`python -m client.explain --site=A --model export [--film FILE]`: where the model looked, on a page at the site.

Exit codes: 0 written; 1 the film cannot be used, or there are no test films; 2 wrong input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from acm_core.command import fail, run_command
from client.site.site_arguments import add_model_argument, add_site_arguments

OK, NO_FILM, WRONG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.explain",
        description="Write a page of films with where the model looked (K), what it compared that with (Q), their "
        "difference, and where each finding's score comes from. Without --film: for each finding the test films that "
        "the model scored highest and lowest, of those with and without the finding. For research only. The page shows "
        "films: it lies in the site's state folder and stays at the site.",
    )
    add_site_arguments(parser)
    add_model_argument(parser)
    parser.add_argument("--film", type=Path, help="one film: DICOM, PNG or JPEG")
    parser.add_argument(
        "--finding", action="append", default=[], help="only this one; may be given again (default: all)"
    )
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="attend-and-compare module, such as layer3.1.context; may be given again (default: each stage's last)",
    )
    parser.add_argument(
        "--group",
        action="append",
        type=int,
        default=[],
        help="group of these modules, from 0; may be given again (default: the two whose K and Q lie furthest apart)",
    )
    parser.add_argument("--each", type=int, default=2, help="films of each kind without --film (default: 2)")
    options = parser.parse_args(arguments)
    if options.each < 1:
        parser.error(f"--each: expected 1 or more, got {options.each}")

    from acm_core.config.loading import ConfigError
    from acm_core.data.label_file import LabelError
    from acm_core.data.set_aside import FilmSetAside
    from acm_core.deployment import DeploymentError
    from acm_core.training.weights import ModelMismatchError
    from client.model_use.explain_page import NoFilmsError, write_page
    from client.site.site_file import SiteFileError, load_site_file

    try:
        site = load_site_file(options.sites, options.site)
        path = write_page(
            site,
            options.model,
            options.film,
            options.finding,
            options.module,
            options.group,
            options.each,
        )
    except FilmSetAside as aside:
        return fail(
            f"{options.film}: cannot be used ({aside.reason}): {str(aside.reason).replace('_', ' ')}", NO_FILM
        )
    except NoFilmsError as error:
        return fail(str(error), NO_FILM)
    except (
        ConfigError,
        SiteFileError,
        DeploymentError,
        ModelMismatchError,
        LabelError,
        ValueError,
        OSError,
    ) as error:
        return fail(str(error), WRONG)
    print(path)  # noqa: T201  # the command's own output
    return OK


if __name__ == "__main__":
    run_command(main)
