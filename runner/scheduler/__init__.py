"""Learning-rate schedules: torch's own, which every parameter group follows in proportion, with a warm-up if wanted."""

from runner.scheduler.curve import Curve, Plan
from runner.scheduler.lengths import LENGTHS, Lengths
from runner.scheduler.schedule import Rates, Schedule, milestones, rates_of

__all__ = ["LENGTHS", "Curve", "Lengths", "Plan", "Rates", "Schedule", "milestones", "rates_of"]
