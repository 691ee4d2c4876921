"""What makes metrics of several runs impossible to compare, or not as they stand."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from runner.keys import is_below
from runner.ranking import Repetition, Setting
from runner.runs import Run


def of(ranked: Sequence[Setting], completed: Sequence[Run], tag: str) -> Iterator[str]:
    """What is to be said of a ranking.

    Args:
        completed: the runs that are in it.
        tag: the metric that it is by.
    """
    part, _, name = tag.partition("/")
    keys = {key for setting in ranked for row in setting.rows for key in row.keys}
    if name == "loss" and any(is_below(key, "loss") for key in keys):
        yield "caution: values of different loss functions cannot be compared; rank by another metric with --by METRIC"
    if part == "test":
        yield "caution: ranked by a test metric; the test result of a setting that was selected by it is too optimistic"
    metrics = [[(k, v) for k, v in run.config.items() if is_below(k, f"metric.{name}")]
               for run in completed if tag in run.result["metrics"]]  # fmt: skip
    if len(set(map(str, metrics))) > 1:
        yield f"caution: {tag} is not the same function in all runs"
    for what, group, differ in _of_samples(ranked, completed):
        if differ:
            why = ", ".join(sorted(key for key in keys if is_below(key, group)))
            why = f" ({why})" if why else ", although their configurations are the same"
            yield f"caution: not all settings use the same {what}{why}: their metrics cannot be compared directly"
            return


def _of_samples(ranked: Sequence[Setting], completed: Sequence[Run]) -> Iterator[tuple[str, str, bool]]:
    """Whether settings differ in their data, or in their splits. One that has less of them than another does not."""
    drawn = any(is_below(key, "dataset") for run in completed for key in run.references)  # by the seed of the run
    of = [{row.repetition for row in setting.rows} for setting in ranked]
    for what, group, field in (("data", "dataset", "data"), ("split", "split", "split")):
        each = [{getattr(repetition, field) for repetition in some} for some in of]
        apart = any(not some <= max(each, key=len) for some in each)
        yield what, group, apart or (not drawn and any(_is_mixed(some, field) for some in of))


def _is_mixed(repetitions: Collection[Repetition], field: str) -> bool:
    """Whether runs of one setting differ where their seeds of the split and their folds are the same."""
    found: dict[object, set[object]] = {}
    for each in repetitions:
        found.setdefault((each.split_seed, each.fold), set()).add(getattr(each, field))
    return any(len(values) > 1 for values in found.values())
