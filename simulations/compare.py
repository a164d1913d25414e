"""`python -m simulations.compare`: several context modules and seeds on the same sites, side by side in one table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from acm_core.federated.encoding import Encoding
    from server.run_folder import RunFolder
    from simulations.settings import SimulationConfig

_MODELS = ("local_only", "federated", "pooled")
_ROUNDS = (
    "sites",
    "rounds",
    "quorum",
    "aggregation",
    "proximal_mu",
    "normalisation",
    "encoding",
    "average_decay",
)


def main(arguments: list[str] | None = None) -> int:
    """Run what is not there yet, then write the tables; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.compare",
        description="Run a simulation for every context module and seed, each into runs/NAME-CONTEXT-SEED, and write "
        "the tables; also for several ε or encodings. Finished runs are kept and an interrupted one goes on, so the "
        "command can be given again.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("configs/real_sites.yaml"),
        help="the simulation's file that every run starts from (default: configs/real_sites.yaml)",
    )
    parser.add_argument(
        "--contexts",
        default="none,se,cbam,acm",
        help="values of model.context, with commas between (default: none,se,cbam,acm)",
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default="0,1,2",
        help="values of seed, with commas between (default: 0,1,2)",
    )
    parser.add_argument(
        "--epsilons",
        type=_epsilons,
        default=[None],
        help="ε of the whole run, such as off,8,3,1; default: as the configuration says",
    )
    parser.add_argument(
        "--encodings",
        type=_encodings,
        default=[None],
        help="how weights travel: float32,float16,int8; default: as the configuration says",
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)"
    )
    parser.add_argument(
        "--without", default="", help="sites to leave out, with commas between; default: every site stays"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at the same time, each on cores of its own (default: 1)"
    )
    parser.add_argument("--output", type=Path, help="Markdown file for the tables; default: the terminal")
    options = parser.parse_args(arguments)

    from acm_core.config.loading import ConfigError
    from acm_core.files import write_text_atomically
    from acm_core.processes import interruptible
    from server.command import load_run_file
    from simulations.settings import SimulationConfig

    try:
        base = load_run_file(options.config, SimulationConfig)
        cells = [
            variant(base, context, seed, _names(options.without), epsilon, encoding)
            for seed in options.seeds
            for context in options.contexts.split(",")
            for epsilon in options.epsilons
            for encoding in options.encodings
        ]
    except (ConfigError, VariantError) as error:
        print(error, file=sys.stderr)  # noqa: T201  # the command's own output
        return 2
    with interruptible():
        try:
            if options.jobs > 1:
                _run_side_by_side(cells, options)
            results = [_result(cell, options.runs) for cell in cells]
        except KeyboardInterrupt:
            print("interrupted; give the command again to go on", file=sys.stderr)  # noqa: T201
            return 130
        except ComparisonError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 1
    text = f"{tables(results)}\n{runs_table(results)}"
    if options.output is None:
        print(text)  # noqa: T201
    else:
        write_text_atomically(options.output, text)
    return 0


class ComparisonError(RuntimeError):
    """A run of the comparison failed."""


class VariantError(ValueError):
    """A context module, seed or choice of sites that cannot be simulated."""


def variant(
    base: SimulationConfig,
    context: str,
    seed: int,
    without: Sequence[str] = (),
    epsilon: float | Literal["off"] | None = None,
    encoding: Encoding | None = None,
) -> SimulationConfig:
    """The base configuration with another context module, seed, ε, encoding and fewer sites, and a name that says so.

    Args:
        epsilon, encoding: None: as in the base configuration.

    Raises:
        VariantError: what is not valid, what was expected and the nearest valid name.
    """
    from pydantic import ValidationError

    from acm_core.config.explanation import explain, nearest

    for site in without:
        if site not in base.federation.sites:
            known = ", ".join(base.federation.sites)
            hint = nearest(site, base.federation.sites)
            raise VariantError(f"--without: expected some of {known}, got {site!r}{hint}")
    sites = tuple(site for site in base.federation.sites if site not in without)
    if not sites:
        raise VariantError(f"--without: expected at least one site to stay, got all of {', '.join(without)}")
    if epsilon is not None and base.privacy is None:
        raise VariantError(
            f"--epsilons: expected a configuration with a privacy section, got privacy: off in {base.name}"
        )
    settings = base.model_dump()
    privacy = [] if epsilon is None else ["open" if epsilon == "off" else f"epsilon_{epsilon:g}"]
    travels = [] if encoding is None else [encoding]
    names = [base.name, *(f"without_{site}" for site in without), *privacy, *travels, context, str(seed)]
    settings["name"] = "-".join(names)
    if epsilon == "off":
        settings["privacy"] = "off"
    elif epsilon is not None:
        settings["privacy"]["epsilon"] = epsilon
    if encoding is not None:
        settings["federation"]["encoding"] = encoding
    settings["seed"] = seed
    settings["model"]["context"] = context
    settings["federation"]["sites"] = sites
    settings["federation"]["quorum"] = min(base.federation.quorum, len(sites))
    simulation = settings["simulation"]
    simulation["folders"] = {site: path for site, path in simulation["folders"].items() if site in sites}
    simulation["hospitals"] = [spec for spec in simulation["hospitals"] if spec["name"] in sites]
    try:
        return type(base).model_validate(settings)
    except ValidationError as error:
        problems = explain(error, type(base))
        raise VariantError(
            "\n".join(f"{'.'.join(map(str, location))}: {problem}" for location, problem in problems)
        ) from None


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


def _run_side_by_side(cells: Sequence[SimulationConfig], options: argparse.Namespace) -> None:
    """Run the unfinished cells, `options.jobs` at a time, each in a process that keeps to its share of the cores."""
    from acm_core.processes import Child
    from server.run_folder import RunFolder

    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[job :: options.jobs] or cores for job in range(options.jobs)]
    waiting = [cell for cell in cells if _finished(RunFolder(options.runs / cell.name), cell) is None]
    running: dict[int, tuple[Child, SimulationConfig]] = {}
    try:
        while waiting or running:
            for job, share in enumerate(shares):
                if job in running and running[job][0].exit_code is not None:
                    child, cell = running.pop(job)
                    print(f"{cell.name}: ended with {child.exit_code}, {len(waiting)} to go", flush=True)  # noqa: T201
                if job not in running and waiting:
                    cell = waiting.pop(0)
                    log = options.runs / f"{cell.name}.log"
                    print(f"{cell.name}: started, see {log}", flush=True)  # noqa: T201
                    running[job] = (Child(_command(cell, options), log, {}, cores=share), cell)
            time.sleep(1.0)
    finally:
        for child, _ in running.values():
            child.stop()


def _command(cell: SimulationConfig, options: argparse.Namespace) -> list[str]:
    chosen = ["--contexts", cell.model.context, "--seeds", str(cell.seed), "--without", options.without]
    if options.epsilons != [None]:
        chosen += ["--epsilons", "off" if cell.privacy is None else str(cell.privacy.epsilon)]
    if options.encodings != [None]:
        chosen += ["--encodings", cell.federation.encoding]
    places = ["--config", str(options.config), "--runs", str(options.runs)]
    return [sys.executable, "-m", "simulations.compare", *places, *chosen]


def _finished(folder: RunFolder, config: SimulationConfig) -> dict[str, Any] | None:
    """The metrics of a finished run, or None.

    Raises:
        ComparisonError: the run was made with other settings, so that its figures belong in no table with the rest.
    """
    if not folder.metrics.exists():
        return None
    from acm_core.config.yaml_lines import LocatedData

    # As plain data: a run made by an older version may lack keys, which is a difference and no error.
    made_with = _settings(LocatedData(folder.config.read_text(encoding="utf-8")).data)
    wanted = _settings(config.model_dump(mode="json"))
    changed = [key for key in wanted if made_with[key] != wanted[key]]
    if changed:
        raise ComparisonError(
            f"{folder.folder}: expected a run with the settings asked for; {', '.join(changed)} changed since. Remove "
            "the folder, put the settings back, or give the configuration another name."
        )
    metrics: dict[str, Any] = json.loads(folder.metrics.read_text(encoding="utf-8"))
    # A run that was stopped before the pooled model is not finished.
    whole = "pooled" in metrics["mean_over_sites"] or not config.simulation.pooled
    return metrics if whole else None


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the figures depend on: not where films or a start lie, how long is waited, how many sites run at a time."""
    federation, simulation = config["federation"], config["simulation"]
    model = {key: value for key, value in config["model"].items() if key != "weights"}
    return {
        **{key: config.get(key) for key in ("seed", "findings", "privacy", "training", "evaluation")},
        "model": model,
        **{key: federation.get(key) for key in _ROUNDS},
        "hospitals": simulation.get("hospitals"),
    }


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: AUROC by site and finding, a row a context module and model: mean (smallest–largest) over seeds."""
    labels = list(dict.fromkeys(map(_label, results)))
    columns = _columns(results)
    heads = [f"{site}: {finding}" for site, finding in columns]
    rows = [["context", "model", *heads, "mean over sites"]]
    for label in labels:
        chosen = [result for result in results if _label(result) == label]
        for model in (name for name in _MODELS if any(name in r["mean_over_sites"] for r in chosen)):
            cells = [_over_seeds(_aurocs(chosen, site, finding, model)) for site, finding in columns]
            means = [mean["value"] for r in chosen if (mean := r["mean_over_sites"].get(model)) is not None]
            rows.append([label, model.replace("_", "-"), *cells, _over_seeds(means)])
    return markdown(rows)


def runs_table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: every run's own figures with their 95 % intervals, a row a run and model.

    The last column is the federated less the local-only model, paired on the same resamples of patients.
    """
    from server.results import difference_text, interval_text

    columns = _columns(results)
    heads = [f"{site}: {finding}" for site, finding in columns]
    rows = [["context", "seed", "model", *heads, "mean over sites", "federated less local-only"]]
    for result in results:
        for model in (name for name in _MODELS if name in result["mean_over_sites"]):
            cells = [interval_text(_auroc(result, site, finding, model)) for site, finding in columns]
            gain = result["federated_gain"] if model == "federated" else None
            difference = difference_text(gain) if gain else ""
            mean = interval_text(result["mean_over_sites"][model])
            name = model.replace("_", "-")
            rows.append([_label(result), str(result["seed"]), name, *cells, mean, difference])
    return markdown(rows)


def _label(result: Mapping[str, Any]) -> str:
    """The context module, and ε where there is one, and the encoding where it rounds."""
    epsilon, encoding = result["privacy"]["target"], result["encoding"]
    private = [] if epsilon is None else [f"ε = {epsilon:g}"]
    return ", ".join([result["context"], *private, *([] if encoding == "float32" else [encoding])])


def _columns(results: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The sites and findings that have an AUROC of the federated model in some run."""
    sites = dict.fromkeys(site for result in results for site in result["sites"])
    findings = results[0]["findings"]
    return [
        (site, finding)
        for site in sites
        for finding in findings
        if _aurocs(results, site, finding, "federated")
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row its head."""
    ruled = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(row)} |\n" for row in ruled)


def _auroc(result: dict[str, Any], site: str, finding: str, model: str) -> dict[str, Any] | None:
    models = result["sites"].get(site, {"models": {}})["models"]
    return models[model]["findings"][finding]["auroc"] if model in models else None


def _aurocs(results: Sequence[dict[str, Any]], site: str, finding: str, model: str) -> list[float]:
    estimates = (_auroc(result, site, finding, model) for result in results)
    return [estimate["value"] for estimate in estimates if estimate is not None]


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return "not defined"
    mean = sum(values) / len(values)
    return f"{mean:.3f} ({min(values):.3f}–{max(values):.3f})" if len(values) > 1 else f"{mean:.3f}"


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers with commas between, got {text!r}") from None


def _epsilons(text: str) -> list[float | str]:
    try:
        return [word if word == "off" else float(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected numbers or off with commas between, got {text!r}"
        ) from None


def _encodings(text: str) -> list[Encoding]:
    from acm_core.federated.encoding import ENCODINGS

    words = text.split(",")
    if unknown := [word for word in words if word not in ENCODINGS]:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(ENCODINGS)}, got {unknown[0]!r}")
    return [encoding for encoding in ENCODINGS if encoding in words]


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


if __name__ == "__main__":
    sys.exit(main())
