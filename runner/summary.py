"""What a model is made of, what it costs, what it holds in memory: the tables of a run, and of the command inspect."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from runner import debugger
from runner.errors import reason_of
from runner.eval_mode import eval_mode
from runner.experiment import Experiment
from runner.table import Table
from runner.trainer import searches
from runner.updates import make_optimizer
from runner.visible import log

SMALL = 2**28
"""Bytes of parameters up to which a step on a copy is taken at the start of every run, to see what memory it needs."""


def layers(model: nn.Module, example: Tensor) -> Table:
    """Every layer that has no layers of its own, or has parameters of its own.

    FLOPs count a multiplication and an addition as two; multiply-accumulates (MACs) are half of them. Both are of the
    forward pass of one sample, and count what torch's `FlopCounterMode` does: matrix products, convolutions, attention.

    Args:
        example: (B, ...) an input, of which two samples go through in eval mode, so that no statistics move.
    """
    example = example[:2]  # of the whole batch, the outputs of every layer need not fit into the memory
    names = {module: name for name, module in model.named_modules()}
    shapes: dict[str, tuple[int, ...]] = {}

    def see(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes.setdefault(names[module], tuple(output.shape))

    with ExitStack() as hooks, FlopCounterMode(display=False) as counter, torch.inference_mode(), eval_mode(model):
        for module in names:
            hooks.enter_context(module.register_forward_hook(see))
        model(example)
    flops = {name: sum(counts.values()) / len(example) for name, counts in counter.get_flop_counts().items()}
    root, rows = type(model).__name__, []
    for module, name in names.items():
        own = list(module.parameters(recurse=False))
        if (own or not list(module.children())) and name in shapes:
            count = flops.get(f"{root}.{name}" if name else root, 0)
            rows.append(_row(name, module, shapes[name], own, list(module.buffers(recurse=False)), count))
    everything = list(model.parameters()), list(model.buffers())
    rows.append(_row("all", model, shapes.get("", ()), *everything, flops.get("Global", 0)))
    columns = ["layer", "type", "output", "parameters", "trainable", "buffers", "MFLOPs", "MMACs"]
    return Table("Layers (output, FLOPs and MACs of one sample)", columns, rows)


def _row(
    name: str, module: nn.Module, shape: tuple[int, ...], parameters: list[nn.Parameter], buffers: list[Tensor],
    flops: float,
) -> list[Any]:  # fmt: skip
    count = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    output = "×".join(map(str, shape[1:]))
    return [
        name,
        type(module).__name__,
        output,
        count,
        trainable,
        sum(b.numel() for b in buffers),
        flops / 1e6,
        flops / 2e6,
    ]


def memory(cfg: DictConfig, experiment: Experiment) -> Table:
    """What a step holds in memory, measured by taking one on a copy.

    Activations are what the forward pass keeps for the backward pass, each storage counted once.
    """
    e, batch = experiment, experiment.data.example.to(experiment.device)
    model, criterion = copy.deepcopy(e.model), copy.deepcopy(e.loss)
    opt = make_optimizer(cfg, model, criterion)
    cuda = e.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(e.device)
    parameters = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *criterion.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = criterion.of(e.precision.forward(model)(batch.input), batch)
    total.backward()
    gradients = _bytes(p.grad for p in model.parameters() if p.grad is not None)
    if searches(opt):
        opt.step(lambda: total.item())  # it asks for the loss again, and finds the gradient as it is
    else:
        opt.step()
    state = _bytes(_tensors([list(of_one.values()) for of_one in opt.state.values()]))
    held = {
        "parameters and buffers": _bytes((*e.model.parameters(), *e.model.buffers())),
        "gradients": gradients,
        f"state of {type(opt).__name__}": state,
        f"activations, batch of {len(batch)}": sum(kept.values()),
    }
    if cuda:
        held["peak on the device, measured"] = torch.cuda.max_memory_allocated(e.device)
    return Table("Memory of a step", ["", "MiB"], [[what, count / 2**20] for what, count in held.items()])


def tables(cfg: DictConfig, experiment: Experiment) -> dict[str, Table]:
    """Both tables, for the record of a run; of a large model the layers alone, for the other takes a copy of it."""
    e = experiment
    made: dict[str, Callable[[], Table]] = {"model/layers": lambda: layers(e.model, e.data.example.input)}
    if _bytes(experiment.model.parameters()) <= SMALL and not debugger.on:
        made["model/memory"] = lambda: memory(cfg, experiment)
    found = {}
    for tag, table in made.items():
        try:
            found[tag] = table()
        except debugger.foreign() as error:  # whatever a model may not stand: a copy, a hook, a count of FLOPs
            log.info("the table %s was left out: %s", tag, reason_of(error))
    return found


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in lists of lists: L-BFGS keeps a history."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list):
            yield from _tensors(value)


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)
