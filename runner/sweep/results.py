"""The table of a sweep: ``results.csv`` and ``results.md``, which grow as jobs end, the terminal and TensorBoard."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Sequence

from omegaconf import DictConfig

from runner import ranking
from runner.files import write
from runner.ranking import Row, Setting
from runner.result import ENDED_WELL
from runner.sweep.record import Record
from runner.table import Table
from runner.tensorboard import Board
from runner.terminal import show

log = logging.getLogger("runner")


def write_files(record: Record, cfg: DictConfig) -> None:
    """Write ``results.csv``, every figure of every run that has ended, and ``results.md``, for people.

    Args:
        cfg: of the sweep.
    """
    rows = _rows(record)
    write(record.folder / "results.csv", ranking.csv_of(rows).encode())
    ended = f"{len({row.job for row in rows})} of {len(record.entries)} jobs have ended"
    failed = _failed(rows)
    parts = [f"# {record.folder.name}\n\n{ended}{f', {len(failed)} runs failed' if failed else ''}."]
    tag = _rank_by(cfg, rows)
    ranked, mode = _ranked(rows, cfg, tag)
    tables = [ranking.table(ranked, tag, mode), _runs(rows, tag)]
    for table in [*tables, *([_failures(failed)] if failed else [])]:
        parts.append(f"## {table.title}\n\n{table.markdown()}")
    write(record.folder / "results.md", ("\n\n".join(parts) + "\n").encode())


def tell(record: Record, cfg: DictConfig, flags: Sequence[str], seconds: float) -> int:
    """Say what a sweep reached, on the terminal and in TensorBoard, and return how many of its runs failed."""
    write_files(record, cfg)
    rows = _rows(record)
    tag, failed = _rank_by(cfg, rows), _failed(rows)
    ranked, mode = _ranked(rows, cfg, tag)
    table, runs = ranking.table(ranked, tag, mode), _runs(rows, tag)
    show(table.first(ranking.FITS))
    if failed:
        show(_failures(failed))
    board = Board(record.folder / "tensorboard")
    for name, each in {"ranking": table, "runs": runs, **({"failures": _failures(failed)} if failed else {})}.items():
        board.table(f"sweep/{name}", each)
    board.close()
    if cfg.debug == "dev_run":
        log.info("\nnothing was kept; it took %.1f s", seconds)
        return len(failed)
    log.info("\n%s in %.1f s", record.folder, seconds)
    log.info("  every figure           %s", record.folder / "results.csv")
    log.info("  curves and tables      tensorboard --logdir %s", shlex.quote(str(record.folder)))
    if ranked and ranked[0].completed:
        first = next(entry for entry in record.entries if entry.name == ranked[0].completed[0].job)
        own = [override for override in first.overrides if not re.match(r"[+~]*sweep[.=]", override)]
        log.info("  the best setting again %s", shlex.join(["python", "-m", "runner", *flags, *own]))
    return len(failed)


def _ranked(rows: Sequence[Row], cfg: DictConfig, tag: str) -> tuple[list[Setting], str]:
    """The settings, the best first, and which of the metric is better: where it decides in a run, as it does there."""
    mode = str(cfg.checkpoint.mode) if tag == cfg.checkpoint.monitor else "auto"
    return ranking.rank(rows, tag, mode), mode


def _rows(record: Record) -> list[Row]:
    """With the keys alone in which the jobs differ."""
    keys = ranking.differing([entry.keys for entry in record.entries])
    return [_row(row, [key for key in keys if key in row.keys]) for row in record.rows()]


def _row(row: Row, keys: Sequence[str]) -> Row:
    kept = {key: row.keys[key] for key in keys}
    fold = kept.pop("split.fold", "")  # of folds that were given as values of a key
    return Row(row.job, kept, int(fold) if fold.isdigit() else row.fold, row.result)


def _failed(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.state not in ENDED_WELL]


def _rank_by(cfg: DictConfig, rows: Sequence[Row]) -> str:
    """The metric of val by which the settings are ranked."""
    if cfg.sweep.rank_by is not None:
        return str(cfg.sweep.rank_by)
    return ranking.comparable(str(cfg.checkpoint.monitor), rows)


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
    return Table("Not completed", ["folder", "state", "why"], rows)
