"""The table of a sweep: ``results.csv`` and ``results.md``, which grow as jobs end, the terminal and TensorBoard."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from runner import program, ranking
from runner.direction import mode_of
from runner.errors import counted
from runner.files import write
from runner.ranking import Row, Setting
from runner.result import ENDED_WELL
from runner.sweep.record import Record
from runner.table import Table
from runner.tensorboard import Board
from runner.terminal import show
from runner.visible import log


@dataclass(frozen=True)
class Tables:
    """What a sweep reached: its settings, the best first, its runs that failed, and the tables by their names."""

    ranked: list[Setting]
    failed: list[Row]
    tables: dict[str, Table]


def write_files(record: Record, cfg: DictConfig) -> Tables:
    """Write ``results.csv``, every metric of every run that has ended, and ``results.md``, for people.

    Args:
        cfg: of the sweep.
    """
    rows = _rows(record)
    found = _tables(rows, cfg)
    write(record.folder / "results.csv", ranking.csv_of(rows).encode())
    ended = f"{len({row.job for row in rows})} of {counted(len(record.entries), 'job')} ended"
    failed = f", {counted(len(found.failed), 'run')} failed" if found.failed else ""
    parts = [f"# {record.folder.name}\n\n{ended}{failed}."]
    parts += [f"## {table.title}\n\n{table.markdown()}" for table in found.tables.values()]
    write(record.folder / "results.md", ("\n\n".join(parts) + "\n").encode())
    return found


def _tables(rows: Sequence[Row], cfg: DictConfig) -> Tables:
    there = dict.fromkeys(tag for row in rows for tag in row.result.get("metrics", {}))
    usual = ranking.comparable(str(cfg.checkpoint.monitor), {key for row in rows for key in row.keys}, there)
    tag = str(cfg.sweep.rank_by or usual)
    mode = mode_of(tag, cfg.checkpoint.monitor, cfg.checkpoint.mode)
    ranked, failed = ranking.rank(rows, tag, mode), [row for row in rows if row.state not in ENDED_WELL]
    tables = {"ranking": ranking.table(ranked, tag, mode), "runs": _runs(rows, tag)}
    return Tables(ranked, failed, tables | ({"failures": _failures(failed)} if failed else {}))


def report(record: Record, cfg: DictConfig, flags: Sequence[str], seconds: float) -> int:
    """Say what a sweep reached, on the terminal and in TensorBoard, and return how many of its runs failed."""
    found = write_files(record, cfg)
    show(found.tables["ranking"].first(ranking.FITS))
    if found.failed:
        show(found.tables["failures"])
    board = Board(record.folder / "tensorboard")
    for name, table in found.tables.items():
        board.table(f"sweep/{name}", table)
    board.close()
    if cfg.debug == "dev_run":
        log.info("\ndev run finished in %.1f s; nothing was kept", seconds)
        return len(found.failed)
    log.info("\n%s in %.1f s", record.folder, seconds)
    log.info("  all metrics (CSV)      %s", record.folder / "results.csv")
    shown = shlex.join([*program.start("tensorboard"), "--logdir", str(record.folder)])
    log.info("  curves and tables      %s", shown)
    if found.ranked and found.ranked[0].completed:
        first = next(entry for entry in record.entries if entry.name == found.ranked[0].completed[0].job)
        own = [override for override in first.overrides if not re.match(r"[+~]*sweep[.=]", override)]
        log.info("  rerun the best setting %s", shlex.join([*program.start("runner"), *flags, *own]))
    return len(found.failed)


def _rows(record: Record) -> list[Row]:
    """With the keys alone in which the jobs differ."""
    keys = ranking.differing([entry.keys for entry in record.entries])
    return [_row(row, [key for key in keys if key in row.keys]) for row in record.rows()]


def _row(row: Row, keys: Sequence[str]) -> Row:
    kept = {key: row.keys[key] for key in keys}
    fold = kept.pop("split.fold", "")  # of folds that were given as values of a key
    return Row(row.job, kept, int(fold) if fold.isdigit() else row.fold, row.result)


def _runs(rows: Sequence[Row], tag: str) -> Table:
    """A row for each run, with a few of its figures."""
    keys = list(dict.fromkeys(key for row in rows for key in row.keys))
    test = f"test/{tag.partition('/')[2]}"
    folds = [] if all(row.fold is None for row in rows) else ["fold"]
    cells = [
        [row.keys.get(key) for key in keys] + [row.fold for _ in folds]
        + [row.state, row.result.get("best_epoch"), _figure(row, tag), _figure(row, test), row.result.get("seconds")]
        for row in rows
    ]  # fmt: skip
    return Table("Runs", [*keys, *folds, "state", "best epoch", tag, test, "seconds"], cells)


def _figure(row: Row, tag: str) -> float | None:
    return row.figure(tag) if tag in row.result.get("metrics", {}) else None


def _failures(failed: Sequence[Row]) -> Table:
    rows = [
        [row.job if row.fold is None else f"{row.job}/fold-{row.fold}", row.state, ranking.line_of(row)["error"]]
        for row in failed
    ]
    return Table("Not completed", ["folder", "state", "reason"], rows)
