"""``runner compare PATH...``: a ranked table of runs and sweeps, and how sure its order is."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner import folder, program, ranking, terminal
from runner.compare import apart, significance
from runner.direction import mode_of
from runner.errors import ConfigError, Problem, RunFolderError, counted, nearest
from runner.files import typed
from runner.keys import is_below
from runner.ranking import Repetition, Row, Setting
from runner.result import started
from runner.runs import ALLOWED, Found, Run, find
from runner.table import Table

SPARED = ("95 % interval", "parameters", "seconds")
"""Columns that a narrow terminal does not have, the first one first."""

LISTED = 5
"""Runs up to which a note has them all."""


@dataclass(frozen=True)
class Typed:
    """What was asked for: `form` is ``csv``, ``md``, or nothing for a terminal."""

    paths: Sequence[Path]
    by: str | None
    form: str

    @property
    def command(self) -> str:
        by = [] if self.by is None else ["--by", self.by]
        return shlex.join([*program.start("runner"), "compare", *map(str, self.paths), *by])


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        InputError: nothing can be compared in this way.
    """
    typed = parse(arguments)
    found = find(typed.paths)
    completed = [run for run in found.runs if run.state == "completed"]
    if not completed and not (typed.form == "csv" and found.runs):
        what = f"nothing to compare: {'; '.join(_missing(found))}"
        remedy = f"{program.line('resume=FOLDER')}, to complete one"
        raise RunFolderError(Problem(" ".join(map(str, typed.paths)), what, "completed runs", remedy))
    runs = found.runs if typed.form == "csv" else completed
    rows = _rows(runs, typed.form == "csv")
    tag = _tag(typed.by, completed, rows)
    mode, kept = _mode(tag, completed), _newest(rows)
    ranked = ranking.rank(kept, tag, mode)
    _say([*_head(ranked, len(completed)), *_cautions(ranked, completed, tag), *_missing(found)], typed.form)
    _print(ranked, tag, mode, rows, typed)
    return 0


def parse(arguments: Sequence[str]) -> Typed:
    """Return what was asked for, from the arguments in any order.

    Raises:
        ConfigError: they cannot be meant so.
    """
    said = """\
Rank runs and sweeps, each setting with its mean over seeds and folds, and test the best one against the others.
With --csv and --md only the table goes to stdout; notes go to stderr."""
    parser = terminal.Parser("compare", said)
    where = f"{ALLOWED}, such as outputs; last: the newest run"
    parser.add_argument("paths", metavar="PATH", nargs="+", type=_path, help=where)
    what = "the metric to rank by, such as val/accuracy; by default checkpoint.monitor"
    parser.add_argument("--by", metavar="METRIC", help=what)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="one row per run with all metrics, unrounded")
    form.add_argument("--md", action="store_true", help="the tables as Markdown")
    found = parser.parse_intermixed_args(list(arguments))
    return Typed(found.paths, found.by, "csv" if found.csv else "md" if found.md else "")


def _path(argument: str) -> Path:
    path = typed(argument)
    if argument == "last" and not path.exists():
        return folder.newest() or path
    if "=" in argument and not path.exists():
        what = "is not a folder; compare takes paths and flags, not KEY=VALUE"
        raise ConfigError(Problem(argument, what, remedy=program.line("compare", "--help")))
    return path


def _rows(runs: Sequence[Run], exact: bool) -> list[Row]:
    # One that failed before it began has no configuration.
    told = iter(apart.keys([run for run in runs if run.config], exact))
    keys = [next(told) if run.config else {} for run in runs]
    return [
        Row(str(run.job), keys, run.repetition.fold, run.result, run.repetition)
        for run, keys in zip(runs, keys, strict=True)
    ]


def _newest(rows: Sequence[Row]) -> list[Row]:
    """The completed ones; of those that say the same in all that counts, the one that was started last."""
    completed = [row for row in rows if row.state == "completed"]
    found: dict[object, Row] = {}
    for row in sorted(completed, key=lambda row: started(row.result) or 0.0):
        found[_said(row)] = row
    return [row for row in completed if found[_said(row)] is row]


def _said(row: Row) -> tuple[object, ...]:
    return row.fold, *row.keys.items()


def _tag(by: str | None, completed: Sequence[Run], rows: Sequence[Row]) -> str:
    """The metric to rank by: what was typed, or what most runs chose their best epoch by."""
    there = list(dict.fromkeys(tag for run in completed for tag in run.result["metrics"]))
    if by is not None and by not in there:
        remedy = nearest(by, there, "--by ")
        raise ConfigError(Problem("--by", f"no completed run has {by!r}", ", ".join(there), remedy))
    monitors = Counter(str(run.config.get("checkpoint.monitor")) for run in completed)
    keys = {key for row in rows for key in row.keys}
    tag = by or ranking.comparable(monitors.most_common(1)[0][0] if monitors else "val/loss", keys, there)
    return tag if tag in there else next((tag for tag in there if tag.startswith("val/")), tag)


def _mode(tag: str, completed: Sequence[Run]) -> str:
    """Which of a metric is better: where all runs are decided by it, as it is there."""
    modes = {mode_of(tag, *map(run.config.get, ("checkpoint.monitor", "checkpoint.mode"))) for run in completed}
    mode = modes.pop() if len(modes) == 1 else "auto"
    return mode if mode in ("min", "max") else "auto"


def _head(ranked: Sequence[Setting], number: int) -> list[str]:
    kept = sum(len(setting.rows) for setting in ranked)
    older = f"; {counted(number - kept, 'older run')} of the same configuration left out" if kept < number else ""
    return [f"{counted(number, 'run')}, {counted(len(ranked), 'setting')}{older}"]


def _missing(found: Found) -> list[str]:
    """The runs that are not completed, and those that cannot be read."""
    others = [f"{run.path} ({run.state})" for run in found.runs if run.state != "completed"]
    unreadable = [f"{path} ({why})" for path, why in found.unreadable.items()]
    return [*_listed("not completed", others), *_listed("cannot be read", unreadable)]


def _listed(what: str, names: Sequence[str]) -> list[str]:
    rest = [f"and {len(names) - LISTED:,} more"] if len(names) > LISTED else []
    return [f"{counted(len(names), 'run')} {what}: {', '.join([*names[:LISTED], *rest])}"] if names else []


def _cautions(ranked: Sequence[Setting], completed: Sequence[Run], tag: str) -> Iterator[str]:
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


def _say(notes: Sequence[str], form: str) -> None:
    screen = terminal.error_console if form else terminal.console
    for note in notes:
        screen.print(note, style="yellow" if note.startswith("caution") else None)


def _print(ranked: Sequence[Setting], tag: str, mode: str, rows: Sequence[Row], typed: Typed) -> None:
    if typed.form == "csv":
        placed = [row for setting in ranked for row in setting.rows]
        kept = set(map(id, placed))
        terminal.write(ranking.csv_of([*placed, *(row for row in rows if id(row) not in kept)]))
        return
    tables = [ranking.table(ranked, tag, mode, ("seconds", "parameters"))]
    tables += [] if (made := significance.table(ranked, tag, mode)) is None else [made]
    if typed.form == "md":
        terminal.write("\n\n".join(f"### {table.title}\n\n{table.markdown()}" for table in tables) + "\n")
        return
    for table in tables:
        shown = _fitted(table.first(ranking.FITS), {key for setting in ranked for key in setting.keys})
        terminal.console.print(f"\n{shown.title}\n{terminal.drawn(shown)}")
    for line in _farewell(ranked, typed, made):
        terminal.console.print(line)


def _fitted(table: Table, keys: Collection[str]) -> Table:
    """A table for the width of the terminal: with fewer columns, and at last with all keys in one of them."""
    width = terminal.width()
    for number in range(len(SPARED) + 1):
        shown = table.without(*SPARED[:number])
        if width is None or terminal.wide(shown) <= width:
            return shown
    return _merged(shown, keys)


def _merged(table: Table, keys: Collection[str]) -> Table:
    """A table with one column for all keys, which is folded: ``model=CNN seed=1``."""
    rest = [name for name in table.columns[1:] if name not in keys]
    rows = []
    for record in table.records():
        said = [f"{key}={record[key]}" for key in table.columns if key in keys and record[key] is not None]
        rows.append([record[""], " ".join(said), *(record[name] for name in rest)])
    return replace(table, columns=["", "setting", *rest], rows=rows)


def _farewell(ranked: Sequence[Setting], typed: Typed, tested: Table | None) -> Iterator[str]:
    """What is told below the tables."""
    if tested is not None:
        yield from _how(tested, any("×" in setting.count for setting in ranked))
    elif len(ranked) > 1:
        yield "\nNo significance test: no other setting shares at least two seeds or folds with the best."
    jobs = list(dict.fromkeys(row.job for row in ranked[0].rows))
    others = f" and {len(jobs) - 1:,} more" if len(jobs) > 1 else ""
    yield f"\n  folder of the best     {jobs[0]}{others}"
    yield f"  all metrics (CSV)      {typed.command} --csv"


def _how(tested: Table, both: bool) -> Iterator[str]:
    """How settings were compared with the best."""
    over = {str(record["pairs"]).rpartition(" ")[2] for record in tested.records()}
    less = "; of the tests over seeds and over folds, the one with the larger p" if both else ""
    yield f"  mean paired difference (> 0: the best setting is better){less}:"
    if "seeds" in over:
        yield "  seeds: paired t-test"
    if over - {"seeds"}:
        kinds = " and ".join(sorted(over - {"seeds"}))
        yield f"  {kinds}: corrected t-test of Nadeau and Bengio, because their training data overlap"
