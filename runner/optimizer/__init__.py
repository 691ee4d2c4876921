"""Optimizers: torch's own, over the parameters that are trained, in groups that can be audited."""

from runner.optimizer.build import build, form
from runner.optimizer.groups import Rule, table
from runner.optimizer.muon import MuonAdamW

__all__ = ["MuonAdamW", "Rule", "build", "form", "table"]
