"""What is wrong with a configuration, before data are read: all of it at once."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from runner import config
from runner.checks import offers
from runner.checks.origin import marked
from runner.checks.targets import locate
from runner.direction import direction
from runner.errors import ConfigError, Problem, nearest

DECIDING = ("checkpoint", "trainer.early_stopping")
"""Groups with a ``monitor``, beside those of schedules."""


def check(cfg: DictConfig) -> DictConfig:
    """Check the configuration of one run, and return it without Hydra's part.

    Raises:
        ConfigError: with everything that was found.
    """
    config.grant(cfg)
    offers.offer(cfg)
    ours = config.job(cfg)
    _check_values(cfg, ours)
    _check_declared(cfg, ours)
    return ours


def check_values(cfg: DictConfig) -> None:
    """Check all of a configuration that can be checked without calling what it names."""
    config.grant(cfg)
    offers.offer(cfg)
    _check_values(cfg, config.job(cfg))


def check_declared(cfg: DictConfig) -> None:
    """Check that the model takes samples of the declared shape."""
    _check_declared(cfg, config.job(cfg))


def _check_values(cfg: DictConfig, ours: DictConfig) -> None:
    found = offers.explained(cfg, config.check(ours))
    refuse(cfg, found or [*_check_relations(cfg), *_check_machine(cfg)])


def _check_declared(cfg: DictConfig, ours: DictConfig) -> None:
    from runner.trial import try_declared

    refuse(cfg, try_declared(ours))


def refuse(cfg: DictConfig, found: Sequence[Problem]) -> None:
    """Raise what was found, with the lines of the user's files that it is in."""
    if found:
        raise ConfigError(*(marked(cfg, found) if "hydra" in cfg else found))


def _check_relations(cfg: DictConfig) -> list[Problem]:
    """What is wrong between groups that are each right by themselves."""
    found = []
    if cfg.trainer.max_epochs is None and cfg.trainer.max_steps is None:
        what = "is null, and so is trainer.max_steps, so the length of the run is undefined"
        allowed = "a whole number for at least one of the two"
        found.append(Problem("trainer.max_epochs", what, allowed, "trainer.max_epochs=30"))
    for key, node in _schedules(cfg).items():
        found += _check_plateau(node, f"{key}.monitor")
    written, said = ["train/loss", *(f"val/{name}" for name in measured(cfg))], {problem.key for problem in found}
    for key, monitor in monitors(cfg).items():
        if monitor not in written and key not in said:
            remedy = nearest(monitor, written, f"{key}=")
            found.append(Problem(key, f"no evaluation writes {monitor!r}", ", ".join(written), remedy))
        found += _check_direction(cfg, key, monitor)
    found += _check_graph(cfg)
    if "lr_find" in cfg and cfg.lr_find.start >= cfg.lr_find.end:
        what = f"{cfg.lr_find.start:g} is not below lr_find.end, which is {cfg.lr_find.end:g}"
        found.append(Problem("lr_find.start", what, "a learning rate below lr_find.end"))
    return found


def _check_graph(cfg: DictConfig) -> list[Problem]:
    """That what a graph would hold for good does not change from step to step."""
    if not cfg.trainer.cuda_graph:
        return []
    found = []
    if cfg.trainer.precision == "fp16":
        what = "'fp16' is not possible with trainer.cuda_graph: the scale of the loss changes on the way"
        found.append(Problem("trainer.precision", what, "fp32, bf16", "trainer.precision=bf16"))
    if cfg.trainer.micro_batch == "auto":
        what = "'auto' is not possible with trainer.cuda_graph: batches are cut while they are computed"
        found.append(Problem("trainer.micro_batch", what, "a whole number, null", "trainer.micro_batch=null"))
    return found


def _check_direction(cfg: DictConfig, key: str, monitor: str) -> list[Problem]:
    """That no error is maximised because its metric has a name of its own."""
    mode_key = f"{key.removesuffix('monitor')}mode"
    target = str(OmegaConf.select(cfg, f"metric.{monitor.removeprefix('val/')}._target_") or "")
    if OmegaConf.select(cfg, mode_key) == "auto" and direction(monitor) == "max" and direction(target) == "min":
        what = f"auto means max for {monitor!r}, but lower values of {target} are better by its name"
        return [Problem(mode_key, what, "min, max", f"{mode_key}=min")]
    return []


def measured(cfg: DictConfig) -> list[str]:
    """The names of what an evaluation measures."""
    return ["loss", *(str(name) for name, node in cfg.metric.items() if node is not None)]


def monitors(cfg: DictConfig) -> dict[str, str]:
    """The figures that decide something (which epoch is best, when the run ends, when a rate falls), by their keys."""
    found = {f"{name}.monitor": OmegaConf.select(cfg, f"{name}.monitor") for name in DECIDING}
    found |= {f"{key}.monitor": node.get("monitor") for key, node in _schedules(cfg).items()}
    return {key: monitor for key, monitor in found.items() if monitor is not None}


def _schedules(cfg: DictConfig) -> dict[str, DictConfig]:
    """The schedule of the run, and those that rules for parameter groups have of their own."""
    rules = enumerate(cfg.optimizer.get("param_groups") or [])
    own = {f"optimizer.param_groups.{number}.scheduler": rule.get("scheduler") for number, rule in rules}
    return {"scheduler": cfg.scheduler, **{key: node for key, node in own.items() if node is not None}}


def _check_plateau(node: DictConfig, key: str) -> list[Problem]:
    """That a schedule that looks at a metric is told which, and that no other is."""
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    kind, monitor = locate(node._target_), node.get("monitor")
    looks = isinstance(kind, type) and issubclass(kind, ReduceLROnPlateau)
    if looks and monitor is None:
        return [Problem(key, "is not given", "val/METRIC, train/loss", f"{key}=val/loss")]
    if not looks and monitor is not None:
        what = f"{monitor!r} has no effect: only ReduceLROnPlateau follows a metric"
        return [Problem(key, what, "null", "scheduler=plateau")]
    return []


def _check_machine(cfg: DictConfig) -> list[Problem]:
    """That the device is there. Whether it works is seen when it is used: before a fork it must not be."""
    from runner.device import resolve

    try:
        where = resolve(cfg.device)
    except ConfigError as error:
        return list(error.problems)
    if cfg.trainer.precision == "fp16" and where.type == "cpu":
        what = "'fp16' is for CUDA and MPS, and slow on a CPU"
        return [Problem("trainer.precision", what, "fp32, bf16", "trainer.precision=bf16")]
    return []
