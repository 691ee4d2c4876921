"""`python -m runner inspect`: what a model is made of, what it costs, what it holds in memory. Trains nothing."""

from __future__ import annotations

from omegaconf import DictConfig

from runner import optimizer, summary
from runner.experiment import assemble
from runner.terminal import show
from runner.updates import make_optimizer, make_schedule


def main(cfg: DictConfig) -> None:
    """Print the tables of the model that `cfg` describes.

    Raises:
        InputError: the data or the model are not what the configuration needs.
    """
    experiment = assemble(cfg)
    opt = make_optimizer(cfg, experiment.model, experiment.loss)
    schedule = make_schedule(cfg, opt)
    show(summary.layers(experiment.model, experiment.data.example.input))
    show(summary.memory(cfg, experiment))
    show(optimizer.table(opt))
    for table in schedule.tables():
        show(table)
