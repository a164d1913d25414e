"""The same job as a simulation of ours, written plainly on Flower as its quickstarts are: the rival of the benchmark.

`python -m simulations.benchmark.quickstart CONFIG TIMES`: FedAvg over the sites of a simulation's file. When each
training began and ended, in seconds since the epoch, is appended to the file TIMES.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from acm_core.processes import OFFLINE, usable_cores

# Read by Flower and Ray when they are imported.
os.environ.update(OFFLINE, RAY_USAGE_STATS_ENABLED="0", RAY_ENABLE_UV_RUN_RUNTIME_ENV="0")

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from acm_core.config.loading import load_config
from acm_core.config.site import SiteConfig
from acm_core.data.site_films import load_site
from acm_core.nn import Classifier, build_classifier
from acm_core.training.local import Schedule, make_optimizer, predict, train
from simulations.settings import SimulationConfig
from simulations.sites import prepare_sites

CPU = torch.device("cpu")


def main(config_file: Path, times: Path) -> None:
    """Run the job."""
    config = load_config(config_file, SimulationConfig)
    sites = [*prepare_sites(config, config.simulation.processes or 1, _quietly, resume=False).values()]
    client_app, server_app = ClientApp(), ServerApp()

    @client_app.train()
    def train_site(message: Message, context: Context) -> Message:
        site = sites[int(str(context.node_config["partition-id"]))]
        model = _model(config)
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        number = int(str(message.content.config_records["config"]["server-round"]))
        films, metrics = _train(config, site, model, number, times)
        content = RecordDict(
            {
                "arrays": ArrayRecord(model.state_dict()),
                "metrics": MetricRecord({**metrics, "num-examples": films}),
            }
        )
        return Message(content, reply_to=message)

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001  # Flower calls it with both
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=len(sites), min_available_nodes=len(sites))
        start = ArrayRecord(_model(config).state_dict())
        result = strategy.start(grid, start, num_rounds=config.federation.rounds)
        torch.save(result.arrays.to_torch_state_dict(), times.with_suffix(".pt"))

    run_simulation(
        server_app,
        client_app,
        len(sites),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": config.simulation.processes or 1, "include_dashboard": False},
        },
    )


def _train(
    config: SimulationConfig, site: SiteConfig, model: Classifier, number: int, times: Path
) -> tuple[int, dict[str, float]]:
    """One round at a site; the films used and what it measured."""
    torch.set_num_threads(site.threads or usable_cores())  # Ray says one
    films = load_site(site, config.findings, config.model.image_size)
    started = time.time()
    epochs = config.training.epochs
    metrics = {"validation_loss": predict(model, films.validation, config.training.batch_size, CPU)[1]}
    metrics["train_loss"] = train(
        model,
        make_optimizer(model, config.training),
        films.train,
        config.training,
        Schedule((number - 1) * epochs, epochs, config.federation.rounds * epochs),
        seeds=lambda epoch: epoch,
        device=CPU,
    )
    with times.open("a", encoding="utf-8") as file:
        file.write(f"{started} {time.time()}\n")
    return len(films.train), metrics


def _model(config: SimulationConfig) -> Classifier:
    return build_classifier(config.model, len(config.findings), seed=0).to(memory_format=torch.channels_last)


def _quietly(_site: str, _done: int, _total: int) -> Any:
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
