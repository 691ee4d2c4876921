"""A run that was trained: its model, what is done to an input before it, and what its outputs say.

It is built from the run folder alone, wherever that is now: the data it was trained on need not be there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from runner import config, device, folder, own_code
from runner.batch import sent
from runner.checks import entries, targets
from runner.draws import generator, seed_of
from runner.errors import ConfigError, Problem, RunFolderError, counted
from runner.eval_mode import Fitting, eval_mode
from runner.keys import is_below, short
from runner.loss import Readout
from runner.network import make_model, make_precision, set_backends
from runner.references import Again
from runner.result import from_json
from runner.runs import read_history
from runner.trained.reading import Reader
from runner.trained.weights import Weights, check_trained, read_weights
from runner.trained.writing import Layout
from runner.trainer import Precision
from runner.transform import Pipeline

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    Sample = Tensor | NDArray[Any] | Image | str | Path
    Given = Sample | Iterable[Sample] | pd.DataFrame

Array = NDArray[Any]


@dataclass(frozen=True)
class Predictions:
    """What a model says about some inputs. N is their number, C that of classes.

    Args:
        classes: their names, in the order of the columns of `probabilities`; empty where values are predicted.
        values: (N,) int64 index of the likeliest class; (N, C) of 0 and 1 where an input has several classes; or
            (N,) or (N, K) float64 values in the units of the targets.
        probabilities: (N, C) float64, or None where the model gives none.
    """

    classes: tuple[str, ...]
    values: Array
    probabilities: Array | None

    @property
    def labels(self) -> list[Any]:
        """For each input the name of its class, or a list of the names of its classes."""
        if self.values.ndim == 1:
            return [self.classes[value] for value in self.values.tolist()]
        return [[name for name, on in zip(self.classes, row, strict=True) if on] for row in self.values.tolist()]

    def __len__(self) -> int:
        return len(self.values)


class Run:
    """A trained run. Made by `load_run`.

    Attributes:
        folder: of the run.
        model: in eval mode, on `device`. It takes what `transform` makes of stored samples.
        transform: that of evaluation, as it was fitted to the train part.
        device: that it computes on.
    """

    def __init__(
        self, cfg: DictConfig, run_dir: Path, weights: Weights, net: nn.Module, transform: Pipeline,
        precision: Precision, readout: Readout,
    ) -> None:  # fmt: skip
        self.cfg, self.folder, self.weights = cfg, run_dir, weights
        self.model, self.transform, self.precision, self.readout = net, transform, precision, readout
        self.device = precision.device
        self.forward = precision.forward(net)
        self._fitting = Fitting(self.forward)
        self.reader = Reader.of(cfg, transform)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, weights={self.weights.path.name!r}, device={str(self.device)!r})"

    @property
    def words(self) -> str:
        """Which run it is, with which weights, on what."""
        held, threads = self.weights, torch.get_num_threads()
        epoch = "" if held.epoch is None else f", epoch {held.epoch}"
        name = short(self.cfg.model._target_)
        where = f"{device.describe(self.device)} · {counted(threads, 'thread')}"
        return f"{name} of {self.folder}: {held.path.name}{epoch} · {where}"

    @cached_property
    def classes(self) -> list[str]:
        """Their names, in the order of their indices; empty where values are predicted."""
        return [str(name) for name in self.cfg.facts.class_names or []]

    @property
    def task(self) -> str:
        """``classification``, ``multilabel``, ``soft`` or ``regression``."""
        return self.readout.task

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration, with what the data said under ``facts``; plain containers."""
        return config.recorded(self.cfg)

    @cached_property
    def result(self) -> dict[str, Any]:
        """What ``result.json`` says; empty if there is none."""
        return folder.result(self.folder)

    @cached_property
    def metrics(self) -> dict[str, Array]:
        """What was measured at each evaluation, by tag: ``epoch``, ``step``, ``val/loss`` and so on, (evaluations,)
        each; NaN where something was not measured. What was reached in the end, on test too, is in `result`."""
        records = read_history(self.folder)
        tags = dict.fromkeys(tag for record in records for tag in record)
        return _Curves({tag: np.array([from_json(record.get(tag)) for record in records]) for tag in tags})

    def predict(self, inputs: Given, batch_size: int = 256) -> Predictions:
        """What the model says about inputs that look like the samples it was trained on, before any transform.

        Args:
            inputs: (N, ...) stored samples as a tensor or an array, or one by one; pictures, or paths of pictures; a
                table with the columns that the run was trained on.
            batch_size: how many go through the model at once.

        Raises:
            DataError: they do not look like the samples of the run.
        """
        pieces = self.reader.pieces(inputs, batch_size)
        return self.read([self.say(self.prepare(stored, number * batch_size)) for number, stored in enumerate(pieces)])

    def prepare(self, stored: Tensor | Array, position: int = 0) -> Tensor:
        """(B, ...) what the model takes, on its device.

        Args:
            stored: (B, ...) samples as they are stored: bytes of pictures, cells of a table.
            position: of the first one, from which follows what a transform draws that draws in evaluation, too.
        """
        if not isinstance(stored, Tensor):
            stored = self.reader.array(stored)
        pipeline, seed, drawn, seeds = self.reader.rest, self.cfg.seed, None, None
        if pipeline.draws:
            drawn = torch.rand(len(stored), pipeline.draws, generator=generator(seed, "transform", 0, position))
        if pipeline.needs_seeds:
            seeds = [seed_of(seed, "sample", 0, position + i) for i in range(len(stored))]
        place = pipeline.place(self.device)
        made: Tensor = pipeline(sent(stored, place), None if drawn is None else drawn.to(place), seeds)
        return made.to(self.device)

    @torch.inference_mode()
    def say(self, inputs: Tensor, flips: Sequence[str] = ()) -> Tensor:
        """(B, C) probabilities or scores, or (B, ...) values, of prepared inputs.

        Args:
            flips: ``horizontal``, ``vertical``: the mean over the pictures and their mirror images.
        """
        with eval_mode(self.model) if self.model.training else nullcontext():
            views = [inputs]
            for name in flips:
                views += [each.flip({"horizontal": 3, "vertical": 2}[name]) for each in views]
            said = [self.readout(self._fitting(each)) for each in views]
        return said[0] if len(said) == 1 else torch.stack(said).mean(0)

    def cool(self, temperature: float) -> None:
        """Divide logits by a temperature from here on.

        Raises:
            ConfigError: the run gives no probabilities.
        """
        self.check_cools()
        self.readout = replace(self.readout, temperature=temperature)

    def check_cools(self) -> None:
        """That a temperature means something here."""
        if not self.readout.gives_probabilities:
            what = "is for class probabilities, but this run gives none"
            raise ConfigError(Problem("temperature", what, "null"))

    def cooled(self, inputs: Tensor) -> Tensor:
        """What the model makes of prepared inputs, with the temperature."""
        return self.readout.cooled(self.forward(inputs))

    def layout(self, keys: Sequence[str], **options: Any) -> Layout:
        """Which columns there are where its predictions are written; see `runner.trained.writing.Layout`."""
        if not self.readout.gives_probabilities:
            options["top_k"] = 0
        options.setdefault("exact", self.is_exact)
        return Layout(self.task, self.classes, keys, int(self.cfg.facts.num_outputs), **options)

    @property
    def is_exact(self) -> bool:
        """Return whether the values that it predicts are in float64, and not in float32."""
        return self.readout.std.dtype == torch.float64

    def read(self, said: Sequence[Tensor]) -> Predictions:
        """Batches of what `say` returned, together."""
        nothing = np.zeros((0, int(self.cfg.facts.num_outputs)))
        scores = torch.cat(list(said)).cpu().double().numpy() if said else nothing
        if self.task == "regression":
            return Predictions((), scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores, None)
        values = (scores > 0.5).astype(np.int64) if self.task == "multilabel" else scores.argmax(1)
        return Predictions(tuple(self.classes), values, scores if self.readout.gives_probabilities else None)


class _Curves(dict[str, Array]):
    def __missing__(self, tag: str) -> Array:
        words = f"no evaluation measured {tag!r}, only {', '.join(self)}"
        raise KeyError(f"{words}; the final metrics, also those of test, are in result['metrics']")


def load_run(
    place: str | Path = "last", *, weights: str | Path = "best", device: str = "auto",
    temperature: float | None = None, allow_targets: Sequence[str] = (),
) -> Run:  # fmt: skip
    """Open a trained run, wherever its folder is now.

    Args:
        place: the run folder, or ``last`` for the newest in ``outputs/``.
        weights: ``best`` (those behind the metrics in ``result.json``), ``last``, ``ema`` (their average), or a file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        temperature: by which logits are divided, as `runner evaluate … temperature=val` found it.
        allow_targets: patterns of code of your own that the folder may name, such as ``my_package.*``. A run folder can
            come from elsewhere: what it calls is for you to say.

    Raises:
        InputError: it is not the folder of a trained run, or its checkpoint is missing, damaged or of other code.
    """
    run_dir = folder.find(str(place), "run")
    if temperature is not None and not (isinstance(temperature, (int, float)) and 0 < temperature < math.inf):
        raise ConfigError(Problem("temperature", f"{temperature!r} is not allowed", "a number > 0, or None"))
    cfg = OmegaConf.create(config.load(run_dir / "config.yaml", facts=True))
    own_code.say_changes([run_dir])
    cfg.device, cfg.allow_targets = device, [*cfg.allow_targets, *allow_targets]
    # Whoever has other things to do in this process has told torch how, or is content with how it is.
    return open_run(cfg, run_dir, str(weights), temperature, as_trained=False)


def open_run(
    cfg: DictConfig, run_dir: Path, weights: str = "best", temperature: float | None = None, as_trained: bool = True
) -> Run:
    """Build the model of a run folder with its weights, and its transform as it was fitted.

    Args:
        cfg: the run's configuration, with its facts.
        as_trained: whether torch computes as it did in training, in the whole process: with as many threads, which add
            up in another order than others, and the same kinds of kernels.

    Raises:
        InputError: see `load_run`.
    """
    check_trained(run_dir)
    check(cfg)
    where = device.resolve(cfg.device)
    device.check(where, cfg.trainer.cudnn)
    if as_trained:
        set_backends(cfg)
        had = folder.result(run_dir).get("threads", 1)
        torch.set_num_threads(int(had if cfg.trainer.threads == "auto" else cfg.trainer.threads))
    net = make_model(cfg.model)
    held = read_weights(run_dir, weights, net)
    _restore(net, held.model, held.path, run_dir)
    config.mention_earlier(cfg)
    pipeline = Pipeline(config.build_all(cfg.transform.eval), config.is_exact(cfg))
    _restore(pipeline, held.transform, held.path, run_dir)
    precision = make_precision(cfg, where, net, torch.zeros(1, *cfg.facts.input_shape))
    net = precision.place(net).eval()
    moments = [sent(held.loss.get(name, torch.tensor(usual)), where) for name, usual in (("mean", 0.0), ("std", 1.0))]
    readout = Readout(cfg.facts.task, cfg.facts.output, moments[0], moments[1])
    run = Run(cfg, run_dir, held, net, pipeline.to(pipeline.place(where)), precision, readout)
    if temperature is not None:
        run.cool(temperature)
    return run


def check(cfg: DictConfig, groups: Sequence[str] = ("model",)) -> None:
    """Check what of a configuration will be called: `groups`, and what is done to an input. A run folder may come from
    anybody.

    Raises:
        ConfigError: with everything that was found.
    """
    tree, _ = config.plain(cfg)
    wanted: dict[str, Any] = {name: tree[name] for name in (*groups, "allow_targets") if name in tree}
    wanted["transform"] = {"eval": tree.get("transform", {}).get("eval")}
    wanted.setdefault("dataset", {"transform": tree.get("dataset", {}).get("transform")})
    # Of what is to be typed again, what is of no use here is asked for where it is used, if at all.
    needed = (*groups, "transform.eval", "dataset.transform")
    said = [p for p in config.check_keys(cfg) if not isinstance(p, Again) or is_below(p.key, *needed)]
    if found := [*said, *targets.check(wanted), *entries.check_entries(wanted)]:
        raise ConfigError(*dict.fromkeys(found))
    old = [name for name in ("sample_shape", "output") if name not in cfg.facts]
    if old:
        what = f"has no facts.{old[0]}: it was written by an earlier version of runner"
        raise ConfigError(Problem("run", what, remedy="train it again with this version"))


def _restore(module: nn.Module, state: Mapping[str, Tensor], path: Path, run_dir: Path) -> None:
    try:
        module.load_state_dict(dict(state))
    except (RuntimeError, KeyError, ValueError) as error:
        details = [line.strip() for line in str(error).splitlines() if line.strip()]
        more = f" (and {counted(len(details) - 2, 'more difference')})" if len(details) > 2 else ""
        what = f"does not match {run_dir / 'config.yaml'}: {details[min(1, len(details) - 1)]}{more}"
        own = path.is_relative_to(run_dir)
        remedy = "the code that it was written with" if own else "weights of this run, or of one with the same model"
        raise RunFolderError(Problem(str(path), what, remedy=remedy)) from error
