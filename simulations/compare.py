"""`python -m simulations.compare`: several context modules and seeds on the same sites, side by side in one table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.run_folder import RunFolder
    from simulations.settings import SimulationConfig

_MODELS = ("local_only", "federated", "pooled")


def main(arguments: list[str] | None = None) -> int:
    """Run what is not there yet, then write the tables; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.compare",
        description="Run a simulation for every context module and seed, each into runs/NAME-CONTEXT-SEED, and write "
        "the tables. Finished runs are kept and an interrupted one goes on, so the command can be given again.",
    )
    parser.add_argument("--config", type=Path, default=Path("configs/real_sites.yaml"))
    parser.add_argument("--contexts", default="none,se,cbam,acm", help="default: none,se,cbam,acm")
    parser.add_argument("--seeds", default="0,1,2", help="default: 0,1,2")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--without", default="", help="sites to leave out, comma-separated")
    parser.add_argument("--output", type=Path, help="Markdown file for the tables; default: the terminal")
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError, load_config
    from acm_core.processes import interruptible
    from simulations.settings import SimulationConfig

    contexts, seeds = options.contexts.split(","), [int(seed) for seed in options.seeds.split(",")]
    try:
        base = load_config(options.config, SimulationConfig)
        cells = [
            variant(base, context, seed, _names(options.without)) for context in contexts for seed in seeds
        ]
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 2
    with interruptible():
        try:
            results = [_result(cell, options.runs) for cell in cells]
        except KeyboardInterrupt:
            print("interrupted; give the command again to go on", file=sys.stderr)  # noqa: T201
            return 130
        except ComparisonError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 1
    text = tables(results)
    if options.output is None:
        print(text)  # noqa: T201
    else:
        options.output.write_text(text, encoding="utf-8")
    return 0


class ComparisonError(RuntimeError):
    """A run of the comparison failed."""


def variant(base: SimulationConfig, context: str, seed: int, without: Sequence[str] = ()) -> SimulationConfig:
    """The base configuration with another context module, seed and fewer sites, and a name that says so."""
    settings = base.model_dump()
    settings["name"] = "-".join([base.name, *(f"without_{site}" for site in without), context, str(seed)])
    settings["seed"] = seed
    settings["model"]["context"] = context
    sites = tuple(site for site in base.federation.sites if site not in without)
    settings["federation"]["sites"] = sites
    settings["federation"]["quorum"] = min(base.federation.quorum, len(sites))
    simulation = settings["simulation"]
    simulation["folders"] = {site: path for site, path in simulation["folders"].items() if site in sites}
    simulation["hospitals"] = [spec for spec in simulation["hospitals"] if spec["name"] in sites]
    return type(base).model_validate(settings)


def _result(config: SimulationConfig, runs: Path) -> dict[str, Any]:
    from server.run_folder import RunFolder
    from simulations.run import run

    folder = RunFolder((runs / config.name).resolve())
    metrics = _finished(folder, config)
    if metrics is None:
        resume = folder.config.exists()
        folder.open(config, resume=resume)
        code = run(config, folder, resume=resume)
        metrics = _finished(folder, config)
        if code != 0 or metrics is None:
            raise ComparisonError(f"{config.name} failed: see {folder.folder}")
    return metrics


def _finished(folder: RunFolder, config: SimulationConfig) -> dict[str, Any] | None:
    if not folder.metrics.exists():
        return None
    metrics: dict[str, Any] = json.loads(folder.metrics.read_text(encoding="utf-8"))
    # A run that was stopped before the pooled model is not finished.
    whole = "pooled" in metrics["mean_over_sites"] or not config.simulation.pooled
    return metrics if whole else None


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a table of AUROC by site and finding, a row a context module and model, mean ± range over seeds."""
    contexts = list(dict.fromkeys(result["context"] for result in results))
    columns = [
        (site, finding)
        for site in results[0]["sites"]
        for finding in results[0]["findings"]
        if _aurocs(results, site, finding, "federated")
    ]
    lines = [
        "| context | model | "
        + " | ".join(f"{site}: {finding}" for site, finding in columns)
        + " | mean over sites |",
        "| --- " * (3 + len(columns)) + "|",
    ]
    for context in contexts:
        chosen = [result for result in results if result["context"] == context]
        for model in _MODELS:
            cells = [_over_seeds(_aurocs(chosen, site, finding, model)) for site, finding in columns]
            means = [r["mean_over_sites"][model]["value"] for r in chosen if model in r["mean_over_sites"]]
            lines.append(
                f"| {context} | {model.replace('_', '-')} | "
                + " | ".join(cells)
                + f" | {_over_seeds(means)} |"
            )
    return "\n".join([*lines, ""])


def _aurocs(results: Sequence[dict[str, Any]], site: str, finding: str, model: str) -> list[float]:
    return [
        estimate["value"]
        for result in results
        if model in result["sites"][site]["models"]
        and (estimate := result["sites"][site]["models"][model]["findings"][finding]["auroc"]) is not None
    ]


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return "not defined"
    mean = sum(values) / len(values)
    return f"{mean:.3f} ({min(values):.3f}–{max(values):.3f})" if len(values) > 1 else f"{mean:.3f}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
    sys.exit(main())
