"""What is wrong between groups of the configuration that are each right by themselves, and with the machine."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from runner.errors import ConfigError, Problem, nearest
from runner.targets import locate


def check_relations(cfg: DictConfig) -> list[Problem]:
    """What is wrong between groups that are each right by themselves."""
    found = []
    if cfg.trainer.max_epochs is None and cfg.trainer.max_steps is None:
        what = "is null, and so is trainer.max_steps: schedules would not know how long the run is"
        found.append(Problem("trainer.max_epochs", what, "one of the two", "trainer.max_epochs=30"))
    written = ["train/loss", "val/loss", *(f"val/{name}" for name in cfg.metric)]
    if cfg.checkpoint.monitor not in written:
        what = f"no evaluation writes {cfg.checkpoint.monitor!r}"
        remedy = nearest(cfg.checkpoint.monitor, written, "checkpoint.monitor=")
        found.append(Problem("checkpoint.monitor", what, ", ".join(written), remedy))
    if cfg.trainer.precision == "fp16" and (cfg.device == "cpu" or not _has_accelerator()):
        what = "'fp16' is for CUDA and MPS: a CPU computes slowly with it"
        found.append(Problem("trainer.precision", what, "fp32, bf16", "trainer.precision=bf16"))
    stopping = cfg.trainer.early_stopping.monitor
    if stopping is not None and stopping not in written:
        remedy = nearest(stopping, written, "trainer.early_stopping.monitor=")
        what = f"no evaluation writes {stopping!r}"
        found.append(Problem("trainer.early_stopping.monitor", what, ", ".join(written), remedy))
    if "lr_find" in cfg and cfg.lr_find.start >= cfg.lr_find.end:
        what = f"{cfg.lr_find.start:g} is not below lr_find.end, which is {cfg.lr_find.end:g}"
        found.append(Problem("lr_find.start", what, "a smaller rate"))
    rules = enumerate(cfg.optimizer.get("param_groups") or [])
    own = {f"optimizer.param_groups.{number}.scheduler": rule.get("scheduler") for number, rule in rules}
    for key, node in {"scheduler": cfg.scheduler, **own}.items():
        found += [] if node is None else _check_plateau(node, key, written)
    return found


def _has_accelerator() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _check_plateau(node: DictConfig, key: str, written: Sequence[str]) -> list[Problem]:
    """That a schedule that looks at a metric is told which, and that no other is."""
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    kind, monitor = locate(node._target_), node.get("monitor")
    if not (isinstance(kind, type) and issubclass(kind, ReduceLROnPlateau)):
        what = "does nothing: of torch's schedulers ReduceLROnPlateau alone looks at a metric"
        return [] if monitor is None else [Problem(f"{key}.monitor", what, "null", "scheduler=plateau")]
    if monitor in written:
        return []
    what = "is missing" if monitor is None else f"no evaluation writes {monitor!r}"
    remedy = f"{key}.monitor=val/loss" if monitor is None else nearest(monitor, written, f"{key}.monitor=")
    return [Problem(f"{key}.monitor", what, ", ".join(written), remedy)]


def check_machine(cfg: DictConfig) -> list[Problem]:
    """That the device is there. Whether it works is seen when it is used: before a fork it must not be."""
    from runner.device import resolve

    try:
        resolve(cfg.device)
    except ConfigError as error:
        return list(error.problems)
    return []
