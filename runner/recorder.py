"""What a run writes down while it trains: curves, metrics, checkpoints, a line for each evaluation."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from runner import __version__, config, folder, report
from runner.checkpoint import Checkpoints
from runner.errors import Problem, RunFolderError, RunnerError
from runner.experiment import Experiment
from runner.files import write
from runner.metric import ranked
from runner.pictures import layers
from runner.result import to_json
from runner.resume import traces_of
from runner.table import Table
from runner.tensorboard import Board
from runner.trainer import Trainer
from runner.updates import checkpoint_every
from runner.visible import log


class Recorder:
    """Writes a run down.

    Args:
        seconds: returns how long the run has taken.

    To be entered; on the way out what is still being written is waited for.
    """

    def __init__(
        self, cfg: DictConfig, run_dir: Path, experiment: Experiment, trainer: Trainer, seconds: Callable[[], float]
    ) -> None:
        self.run_dir, self.experiment, self.trainer, self.seconds = run_dir, experiment, trainer, seconds
        self.checkpoints = Checkpoints(run_dir / "checkpoints")
        self.checkpoints.written = trainer.progress.step or None
        self._resume = folder.resume_command(cfg, run_dir)
        progress, wanted = trainer.progress, cfg.tensorboard.enabled
        behind = {record["step"] for record in progress.history}
        self.board = Board(run_dir / "tensorboard", behind, progress.step) if wanted else None
        self._every, self._keep = checkpoint_every(cfg), cfg.checkpoint.keep
        self._lines = report.EpochLines(cfg.facts.total_epochs, cfg.checkpoint.monitor)
        self._steps = cfg.tensorboard.steps if wanted else None
        self._gradients = layers.GradientNorms(experiment.model) if wanted and cfg.tensorboard.gradients else None
        self._histograms = layers.Histograms(experiment.model) if wanted and cfg.tensorboard.histograms else None
        self._observers = [each for each in (self._gradients, self._histograms) if each is not None]
        if self._gradients is not None and trainer.observed:
            self._gradients.load_state_dict(trainer.observed)
        trainer.gradient.observe = self._observe if self._observers else None
        # The same in every checkpoint: what the state belongs to.
        self._belongs = {
            "runner": __version__,
            "config": config.recorded(cfg),
            "traces": traces_of(cfg),
            "data": experiment.data.samples["train"].fingerprint,
            "split": experiment.data.split.hash,
        }
        self._saved = time.perf_counter()
        if progress.step:  # a run that was killed may have left one that it was about to remove
            self.checkpoints.prune(self._kept())
        self._write_metrics()

    def _observe(self) -> None:
        for each in self._observers:
            each.observe()

    def begin(self, tables: Mapping[str, Table], pictures: Mapping[str, Tensor], hparams: Mapping[str, Any]) -> None:
        """Put down what is known before training.

        Args:
            hparams: what tells the run from others.
        """
        if self.board is None:
            return
        self.board.begin(["loss", *self.experiment.metrics], hparams)
        self.board.text("config", (self.run_dir / "config.yaml").read_text(encoding="utf-8"))
        for tag, table in tables.items():
            self.board.table(tag, table)
        for tag, picture in pictures.items():
            self.board.image(tag, picture)
        self.board.flush()

    def add(self, record: dict[str, Any] | None) -> None:
        """Take in what `Trainer.fit` yielded."""
        progress = self.trainer.progress
        if self.board is not None and record is None and self._steps and progress.step % self._steps == 0:
            self.board.step(progress.step, self.trainer.last_loss, self.trainer.learning_rates)
        best = bool(record) and record is progress.best
        if record:
            self._evaluated(record, best)
        ended = None if record is None or progress.batch else progress.epoch
        due = self._every.due(ended, progress.step, time.perf_counter() - self._saved)
        kept = bool(record) and progress.step in self._kept()
        if best or due or kept or self.trainer.finished:
            self.save(best)

    def save(self, best: bool = False) -> None:
        """Write a checkpoint of the state as it is, in the background."""
        self.trainer.check()
        if self.board is not None:
            self.board.flush()  # points that a run which goes on from here does not draw again
        state = {
            **self.trainer.state_dict(),
            "gradients": None if self._gradients is None else self._gradients.state_dict(),
            "transform": self.experiment.data.transform.state_dict(),
            "seconds": self.seconds(),
            **self._belongs,
        }
        self.checkpoints.save(state, best, self._kept())
        self._saved = time.perf_counter()

    def rescue(self, is_whole: bool) -> str:
        """Save what can be of a run whose main thread waits for what does not come. Returns what is said of the rest.

        Args:
            is_whole: whether the state is that of a step that is done.
        """
        if is_whole:
            self.save()
            self.close()
            return ""
        stuck, last = self.trainer.progress.step + 1, self.checkpoints.written
        begins = "begins anew" if last is None else f"goes on from step {last:,}"
        return f" while stuck at step {stuck:,}, whose state is not saved: training {begins}"

    def _kept(self) -> list[int]:
        """The steps of the best evaluations, where several are kept."""
        if self._keep == 1:
            return []
        return [record["step"] for record in ranked(self.trainer.progress.history, self.trainer.better)[: self._keep]]

    def _evaluated(self, record: dict[str, Any], best: bool) -> None:
        # The curves before the checkpoint: what a resumed run does not measure again has to be there.
        if self.board is not None and self._gradients is not None:
            self.board.gradients(self._gradients.read(), record["step"])
        if self.board is not None and self._histograms is not None:
            for tag, values in self._histograms.read().items():
                self.board.histogram(tag, values, record["step"])
        if self.board is not None:
            self.board.record(record, self.trainer.learning_rates, self.trainer.measured)
        self._write_metrics()
        self._lines.add(record, self.trainer.measured["samples_per_second"], best)

    def _write_metrics(self) -> bool:
        """``metrics.jsonl``, from the history that the checkpoint holds: the two never disagree after a resume."""
        lines = [to_json(record) + "\n" for record in self.trainer.progress.history]
        try:
            write(self.run_dir / "metrics.jsonl", "".join(lines).encode())
        except OSError as error:
            log.warning("could not write metrics.jsonl (%s); it will be tried again", error.strerror)
            return False
        return True

    def close(self) -> None:
        """Wait until all is on the disk.

        Raises:
            RunnerError: it cannot be.
        """
        self.checkpoints.close(f"{self._resume}, to resume from the previous checkpoint")
        if not self._write_metrics():
            raise RunnerError(f"{self.run_dir / 'metrics.jsonl'} could not be written")

    def __enter__(self) -> Recorder:
        self.checkpoints.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.checkpoints.__exit__(*raised)
        if self.board is not None:
            self.board.close()


def check_space(cfg: DictConfig, run_dir: Path, trainer: Trainer) -> None:
    """That there is room for the checkpoints of a run.

    Raises:
        RunFolderError: there is not.
    """
    weights = sum(value.nbytes for value in trainer.model.state_dict().values() if isinstance(value, Tensor))
    # The last one, the best one, and the one that is being written; of several best ones each has a file besides, and
    # the one that falls out is there until the others are written.
    files = 3 + (0 if cfg.checkpoint.keep == 1 else cfg.checkpoint.keep + 1)
    needed = weights * (3 + (trainer.average is not None)) * files  # with an average, two moments of the optimizer
    there = next(path for path in (run_dir.absolute(), *run_dir.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        what = f"{run_dir}: checkpoints will take {needed / 2**20:,.0f} MiB, and {free / 2**20:,.0f} MiB are free there"
        raise RunFolderError(Problem("hydra.run.dir", what, remedy="hydra.run.dir=FOLDER, on another disk"))
