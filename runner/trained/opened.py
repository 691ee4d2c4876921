"""A run folder as the configuration of a command; `runner.trained.opening` opens it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict, read_write

from runner import config


@dataclass
class Opened:
    """A run folder, as a command has it.

    Args:
        cfg: the run's configuration with its facts, and with what was typed.
        options: the command's own keys.
        typed: dotted keys of what was typed.
    """

    folder: Path
    cfg: DictConfig
    options: DictConfig
    typed: list[str]
    own_data: DictConfig
    """The data set that the run was trained on."""
    allowed: list[str]
    """Patterns of what the folder may have called; what is typed beside it may be called, too."""
    sources: dict[str, Any]
    """The data sets that were read, of all runs that were opened with it; see `runner.data.read`."""

    def with_own_data(self) -> Opened:
        """With the data set of the run again, if another one was typed."""
        if "dataset" not in self.typed and self.cfg.dataset.get("_target_") == self.own_data.get("_target_"):
            return self
        cfg = config.copied(self.cfg)
        with read_write(cfg), open_dict(cfg):
            cfg.dataset, cfg.allow_targets = self.own_data, self.allowed
        return replace(self, cfg=cfg, typed=[key for key in self.typed if key.partition(".")[0] != "dataset"])

    @property
    def has_other_data(self) -> bool:
        """Whether a data set was typed, which need not be that of the run."""
        return any(key.partition(".")[0] == "dataset" for key in self.typed)
