"""`python -m client.export --site=A --model STATE/models/RUN`: the site's own model in forms that others can use.

Exit codes: 0 written; 1 a form cannot be made; 2 wrong input.
"""

from __future__ import annotations

import argparse

from acm_core.command import fail, run_command
from client.site.site_arguments import add_model_argument, add_site_arguments

OK, FAILED, WRONG = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Export; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m client.export",
        description="Write model.pt2 (torch.export), model.onnx and monai_bundle/ beside the site's own model, with "
        "its normalisation; of a mixture the mean of both models. Every file is run and compared with the model before "
        "the command ends. Nothing leaves the site.",
        epilog="exit codes: 0 written; 1 a form cannot be made; 2 wrong input",
    )
    add_site_arguments(parser)
    add_model_argument(parser)
    parser.add_argument(
        "--attention-maps",
        action="store_true",
        help="model.onnx and model.pt2 also give the findings' score maps and every module's key and query maps",
    )
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError
    from acm_core.deployment import CARD, DeploymentError, load_model
    from acm_core.export import ExportError, write_forms
    from acm_core.training.weights import ModelMismatchError
    from client.site.site_file import SiteFileError, load_site_file

    try:
        load_site_file(options.sites, options.site)
        deployment, members = load_model(options.model)
    except (ConfigError, SiteFileError, DeploymentError, ModelMismatchError, OSError) as error:
        return fail(str(error), WRONG)
    if deployment.site != options.site:
        whose = "the shared one" if deployment.site is None else f"that of site {deployment.site}"
        return fail(
            f"{options.model}: expected the model of site {options.site}, got {whose}: a site's own lies in its state "
            "folder, under models/RUN; server.export writes the shared one",
            WRONG,
        )
    try:
        card = (options.model / CARD).read_text(encoding="utf-8")
        for path in write_forms(
            options.model, deployment, members, card, attention_maps=options.attention_maps
        ):
            print(path, flush=True)  # noqa: T201  # the command's own output
    except (ExportError, OSError) as error:
        return fail(str(error), FAILED)
    return OK


if __name__ == "__main__":
    run_command(main)
