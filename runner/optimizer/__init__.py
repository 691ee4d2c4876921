"""Optimizers: torch's own, over the parameters that are trained, in groups that can be audited."""

from runner.optimizer.build import base_rate, build, form
from runner.optimizer.groups import Rule, table
from runner.optimizer.muon import MuonAdamW

__all__ = ["MuonAdamW", "Rule", "base_rate", "build", "form", "table"]
