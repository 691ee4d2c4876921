"""`runner export`: a trained model as one file that needs nothing of this package.

What goes in is stored samples (bytes of pictures, cells of a table), what comes out probabilities or values: the
transform is inside. The file is run, and compared with the model on real samples, before it is there.
"""

from __future__ import annotations

import copy
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from runner import __version__, checkpoint, config
from runner.batch import by
from runner.errors import FOR_THE_TRACEBACK, ConfigError, DataError, Problem, RunnerError, reason_of
from runner.files import typed
from runner.network import make_model
from runner.part_names import PARTS
from runner.trained.inputs import pieces
from runner.trained.opened import Opened
from runner.trained.run import Run, open_run
from runner.trained.writing import check_output
from runner.transform import Pipeline
from runner.visible import log

NAMES = {"torch_export": "model.pt2", "onnx": "model.onnx", "safetensors": "model.safetensors"}
COMPARED = 64
"""Samples on which a file is compared with the model."""

Ask = Callable[[Tensor], Tensor]
"""What a file makes of stored samples."""


def main(opened: Opened) -> None:
    """Write the model of a run to a file, run that, and say how far it is from the model.

    Raises:
        InputError: the run, the samples or the format are not what they have to be.
        RunnerError: the file says something else than the model; it is not kept.
    """
    options = opened.options
    opened.cfg.device = "cpu"
    run = open_run(opened.cfg, opened.folder, options.weights, options.temperature)
    log.info("%s", run.words)
    path = opened.folder / NAMES[options.format] if options.output is None else typed(options.output)
    check_output(path)
    _require(options.format)
    samples = _samples(str(options.input), opened, run)
    if len(samples) == 1:  # of which torch would take the number of samples for a fixed one
        samples = torch.cat([samples, samples])
    whole = Whole(run).eval()
    facts = describe(run, samples)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(Problem("output", f"'{path.parent}' is not writable", remedy="output=FILE, somewhere else"))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as place:
        made = Path(place) / path.name
        with torch.no_grad():
            ask = _written(options.format, run, whole, samples, facts, made)
            _compare(whole(samples), ask(samples), options.tolerance, path, (whole.mean, whole.std))
        os.replace(made, path)
    shape = ", ".join(map(str, ["N", *samples.shape[1:]]))
    log.info("%s, %.1f MB: input (%s) %s, output %s", path, path.stat().st_size / 1e6, shape, facts["input"]["type"],
             facts["output"])  # fmt: skip
    if facts["before"]:
        log.info("not part of the file; apply to each image yourself first: %s", ", ".join(facts["before"]))


class Whole(nn.Module):
    """Transform, model and readout of a run as one module, in float32."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.transform = copy.deepcopy(run.reader.rest).cpu()
        self.model = copy.deepcopy(run.model).cpu().to(memory_format=torch.contiguous_format)
        self.readout = run.readout
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", run.readout.mean.cpu().clone())
        self.register_buffer("std", run.readout.std.cpu().clone())

    def forward(self, samples: Tensor) -> Tensor:
        """(B, ...) stored samples -> (B, C) float32 probabilities or scores, or (B, K) values."""
        readout = replace(self.readout, mean=self.mean, std=self.std)
        return readout.read(self.model(self.transform(samples)))


def _written(kind: str, run: Run, whole: nn.Module, samples: Tensor, facts: dict[str, Any], path: Path) -> Ask:
    """Write the file, and return what it makes of samples."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters, about themselves
            return FORMATS[kind](run, whole, samples, facts, path)
    except Exception as error:  # whatever torch's exporters say of code that they cannot follow
        log.debug("", exc_info=True)
        what = f"{kind} cannot store this model: {reason_of(error)}"
        remedy = f"{FOR_THE_TRACEBACK}; or another format"
        raise ConfigError(Problem("format", what, ", ".join(FORMATS), remedy)) from error


def describe(run: Run, samples: Tensor) -> dict[str, Any]:
    """What a reader of the file has to know beside its graph: written into it as JSON, under ``runner``."""
    cfg, held = run.cfg, run.weights
    output = "values" if run.task == "regression" else "probabilities" if run.readout.gives_probabilities else "scores"
    codes = run.reader.codes
    before = [] if run.reader.own is None else [str(cfg.dataset.transform._target_)]
    before += [str(node._target_) for node in cfg.transform.eval[: len(run.reader.steps)]]
    return {
        "runner": __version__, "task": run.task, "classes": run.classes,
        "input": {"shape": list(samples.shape[1:]), "type": str(samples.dtype).removeprefix("torch.")},
        "output": output, "transform": config.recorded(cfg.transform.eval), "before": before,
        "features": None if codes is None else codes.features, "categories": config.value(cfg.facts.categories),
        "temperature": run.readout.temperature, "model": config.recorded(cfg.model),
        "weights": {"sha256": checkpoint.sha256(held.path), "epoch": held.epoch, "step": held.step},
    }  # fmt: skip


def _samples(given: str, opened: Opened, run: Run) -> Tensor:
    """(B, ...) some stored samples."""
    if run.reader.rest.draws or run.reader.rest.needs_seeds:
        what = "is random, which an exported model cannot be"
        raise ConfigError(Problem("transform.eval", what, "deterministic transforms"))
    if given not in PARTS:
        found = next(pieces(given, [opened], [run]))
        if not found.samples:
            raise DataError(Problem("input", f"none of the first samples of {given!r} can be read", "readable samples"))
        return found.samples[0][:COMPARED]
    from runner.trained.part import part_of

    try:
        part = part_of(opened, run, given)
    except DataError as error:
        what = f"the {given} part of the run's data cannot be read"
        remedy = "input=FILE (an image, a folder of images, a .csv or .npy file), to compare the exported model on"
        raise DataError(*error.problems, Problem("input", what, remedy=remedy)) from error
    rows = part.indices[:COMPARED].tolist()
    return torch.stack([part.samples.read(row, run.reader.steps)[0] for row in rows])


def _torch_export(run: Run, whole: nn.Module, samples: Tensor, facts: dict[str, Any], path: Path) -> Ask:
    program = torch.export.export(whole, (samples,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, path, extra_files={"runner": json.dumps(facts)})
    module = torch.export.load(path).module()
    return lambda given: cast(Tensor, module(given))


def _onnx(run: Run, whole: nn.Module, samples: Tensor, facts: dict[str, Any], path: Path) -> Ask:
    import onnxruntime

    program = torch.onnx.export(
        whole, (samples,), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False,
        input_names=["samples"], output_names=[facts["output"]],
    )  # fmt: skip
    assert program is not None
    program.model.metadata_props["runner"] = json.dumps(facts)
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(session.run(None, {"samples": given.numpy()})[0])


def _safetensors(run: Run, whole: nn.Module, samples: Tensor, facts: dict[str, Any], path: Path) -> Ask:
    """The weights alone, with those of the transform; what they mean is in the metadata."""
    from safetensors.torch import load_file, save

    state = {name: tensor.contiguous().clone() for name, tensor in whole.state_dict().items()}
    path.write_bytes(save(state, metadata={"runner": json.dumps(facts)}))
    again = cast(Whole, copy.deepcopy(whole))
    again.model, again.transform = (
        make_model(run.cfg.model).eval(),
        Pipeline(config.build_all(run.cfg.transform.eval), config.is_exact(run.cfg)),
    )
    if run.reader.steps:
        again.transform = again.transform.stages()[1]
    again.load_state_dict(load_file(path))
    return again


FORMATS: dict[str, Callable[[Run, nn.Module, Tensor, dict[str, Any], Path], Ask]] = {
    "torch_export": _torch_export, "onnx": _onnx, "safetensors": _safetensors,
}  # fmt: skip

NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}


def _require(kind: str) -> None:
    """That the packages are there which a format is written and run with."""
    missing = [name for name in NEEDS.get(kind, ()) if find_spec(name) is None]
    if missing:
        what = f"{kind} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        remedy = f"uv pip install {' '.join(missing)}, or format=torch_export"
        raise ConfigError(Problem("format", what, ", ".join(FORMATS), remedy))


def _compare(
    model: Tensor, file: Tensor, tolerance: float, path: Path,
    scaling: tuple[Tensor | float, Tensor | float] = (0.0, 1.0),
) -> None:  # fmt: skip
    """Say how far the file is from the model.

    Args:
        scaling: mean and standard deviation of values: what is far is measured by how much these differ.
    """
    if model.shape != file.shape:
        what = f"{path.name} returns outputs of shape {by(file.shape)}, but the model of {by(model.shape)}"
        raise RunnerError(f"{what}; it was not kept\n  try: format=safetensors, which stores the weights alone")
    model, file = ((each - scaling[0]) / scaling[1] for each in (model, file))
    scale = max(float(model.abs().max()), 1.0)  # of probabilities 1
    largest = float((model - file).abs().max()) / scale
    if not math.isfinite(largest):
        what = f"{path.name} cannot be compared with the model: some of their outputs are not finite"
        raise RunnerError(f"{what}; it was not kept\n  try: input=FILE with other samples, or another format")
    if largest > tolerance:
        what = f"{path.name} differs from the model by up to {largest:.1e} on {len(model)} samples"
        raise RunnerError(
            f"{what}, more than tolerance={tolerance:g}; it was not kept\n"
            f"  try: tolerance={10 ** math.ceil(math.log10(largest)):g}, if that is close enough"
        )
    log.info("on %d samples the largest difference from the model is %.1e", len(model), largest)
