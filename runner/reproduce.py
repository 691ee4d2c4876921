"""`runner reproduce`: a run again, from its configuration, and whether every metric is the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import config, folder, own_code, program
from runner.checks import schema
from runner.errors import ConfigError, Problem, RunFolderError, counted
from runner.keys import is_below, texts
from runner.references import is_to_be_typed
from runner.runs import read_config, read_history
from runner.table import Table
from runner.terminal import show
from runner.visible import log

SHOWN = 12
"""Metrics that differ of which the table has the values."""


def tree(run_dir: Path) -> dict[str, Any]:
    """The configuration of a run, to be run again.

    Raises:
        RunFolderError: it has not come to its end, or is damaged, so that there is nothing to compare with.
    """
    result = folder.result(run_dir)
    state = result.get("state", "not started")
    if state != "completed":
        remedy = f"{program.line(f'resume={run_dir}')}, to complete it"
        raise RunFolderError(Problem("run", f"{run_dir} is not completed (state: {state})", "a completed run", remedy))
    _figures(run_dir)
    for place in _places(run_dir):
        _weights(place)  # what is damaged is found before everything is trained again
    made = config.load(run_dir / "config.yaml")
    first = folder.result(_places(run_dir)[0]) or result
    if made["trainer"]["threads"] == "auto" and "threads" in first:
        made["trainer"]["threads"] = first["threads"]  # on a machine with other cores it would be another number
    return made


def check(overrides: Sequence[str], saved: Mapping[str, Any]) -> None:
    """That nothing is typed that would make it another experiment.

    Args:
        saved: the configuration; what it does not hold may be typed.

    Raises:
        ConfigError: something is.
    """
    fixed = *schema.LENGTH, "resume", "debug", "facts", "check"
    free = [key for key in schema.resumable() if not is_below(key, *fixed)]
    again = {key for key, text in texts(saved) if is_to_be_typed(text)}
    found = []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key.partition(".")[0] in ("hydra", "run") or key.startswith("dataset.") or key in again:
            continue
        if not is_below(key, *free):
            what = "would make it a different experiment"
            found.append(Problem(key, what, f"dataset.*, {', '.join(free)}", f"remove {override}"))
    if found:
        raise ConfigError(*found)


def compare(before: Path, after: Path) -> bool:
    """Say whether a run came to the same as an earlier one, and if not, what may be the reason.

    Returns:
        whether every metric, and every weight of the best checkpoint, is the same.
    """
    then, now = _figures(before), _figures(after)
    own_code.say_changes([before])
    differing = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
    weights = [place.name for place in _places(after) if not _same_weights(before / place.relative_to(after), place)]
    if not differing and not weights:
        log.info("\n%s reproduced: all %s metric values and the weights are identical", before, f"{len(now):,}")
        return True
    also = ", but the weights do" if weights and not differing else ""
    count = counted(len(now), "metric value")
    log.info("\n%s not reproduced: %s of %s differ%s", before, f"{len(differing):,}", count, also)
    if differing:
        pairs = [(then.get(name), now.get(name)) for name in _first(differing)]
        gaps = [None if a is None or b is None else b - a for a, b in pairs]
        rows = [[name, *pair, gap] for name, pair, gap in zip(_first(differing), pairs, gaps, strict=True)]
        show(Table("First and final differences", ["metric", "original", "reproduced", "difference"], rows))
    _say_why(before, after)
    return False


def _places(run_dir: Path) -> list[Path]:
    """The run, or the folds of a cross-validation."""
    return [place for _, place in folder.folds(run_dir)] or [run_dir]


def _figures(run_dir: Path) -> dict[str, float | None]:
    """Every metric of every evaluation, and those of the end."""
    found: dict[str, float | None] = {}
    for place in _places(run_dir):
        fold = "" if place == run_dir else f"{place.name}, "
        for record in read_history(place):
            at = f"{fold}step {record['step']}: "
            found |= {at + tag: value for tag, value in record.items() if "/" in tag}
        found |= {f"{fold}end: {tag}": v for tag, v in folder.result(place).get("metrics", {}).items()}
    if _places(run_dir) != [run_dir]:
        found |= {f"end: {tag}": v for tag, v in folder.result(run_dir).get("metrics", {}).items()}
    return found


def _weights(place: Path) -> Mapping[str, Any]:
    from runner.checkpoint import BEST, read

    state: Mapping[str, Any] = read(place / "checkpoints" / BEST)["model"]
    return state


def _same_weights(before: Path, after: Path) -> bool:
    from torch import equal

    then, now = _weights(before), _weights(after)
    return then.keys() == now.keys() and all(equal(then[name], now[name]) for name in then)


def _first(differing: Sequence[str]) -> list[str]:
    """The first of what differs, and what differs at the end."""
    end = [name for name in differing if "end: " in name][:SHOWN]
    return [name for name in differing if name not in end][: SHOWN - min(len(end), SHOWN // 2)] + end[:SHOWN]


def _say_why(before: Path, after: Path) -> None:
    from runner.diff import configuration, environment_differences

    other = environment_differences(before, after)
    keys = [
        row for row in configuration(before, after).rows if str(row[0]).partition(".")[0] not in ("facts", "resume")
    ]
    for table in (other, Table("Configuration", ["key", "original", "reproduced"], keys)):
        if table.rows:
            show(Table(table.title, [table.columns[0], "original", "reproduced"], table.rows))
    if not other.rows and not keys:
        log.info(
            "no other difference was found: something random does not depend on the seed, such as a data set or a "
            "model with its own random generator"
        )
        if not read_config(before).get("trainer", {}).get("deterministic"):
            log.info("  try: trainer.deterministic=true, which reports operations that are not deterministic")
