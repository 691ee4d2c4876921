"""The model that a configuration describes, and how it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from runner import debugger
from runner.checks import offers
from runner.config import calling, factory
from runner.errors import ConfigError, Problem, memory
from runner.model import Networks
from runner.trainer import Precision, wants_channels_last


def set_backends(cfg: DictConfig) -> None:
    """Tell torch how to compute: as the configuration has it, for the whole process."""
    # Not use_deterministic_algorithms, which imports the compiler: 2 s of every start.
    torch.set_deterministic_debug_mode("error" if cfg.trainer.deterministic else "default")
    torch.autograd.set_detect_anomaly(cfg.debug == "anomaly")
    if debugger.on:  # else gradients on a card are computed in another thread
        torch.autograd.set_multithreading_enabled(False)
    benchmark = cfg.trainer.cudnn_benchmark
    torch.backends.cudnn.enabled = cfg.trainer.cudnn
    torch.backends.cudnn.benchmark = not cfg.trainer.deterministic if benchmark is None else benchmark
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = cfg.trainer.tf32
    # Deterministic mode also fills fresh memory with NaN to expose bugs, at a price in every run.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class _InMemory(TorchFunctionMode):
    """While entered, no more is made than this machine can hold. The system promises more, and kills who takes it.

    Raises:
        MemoryError: by whoever makes a tensor, before it is filled.
    """

    MAKERS = ("empty", "zeros", "ones", "full", "rand", "randn", "arange", "eye")

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.device.type == "cpu" and getattr(func, "__name__", "") in self.MAKERS:
            self._bytes += made.nbytes
            if self._bytes > memory():
                raise MemoryError(f"cannot allocate {self._bytes} bytes")
        return made


def make_model(options: DictConfig) -> nn.Module:
    """The model of a configuration, as it initialises itself; a dict of networks is made one.

    Raises:
        ConfigError: it cannot be built, or is no module.
    """
    with offers.naming(options), calling("model"), _InMemory():
        made = factory(options)()
    model = Networks(made) if isinstance(made, dict) else made
    if not isinstance(model, nn.Module):
        raise ConfigError(Problem("model", f"{options._target_} returns a {type(model).__name__}", "a torch.nn.Module"))
    return model


def make_precision(cfg: DictConfig, where: torch.device, model: nn.Module, example: Tensor) -> Precision:
    """The number format and memory layout that a model computes in.

    Args:
        example: (B, ...) an input.
    """
    choice = cfg.trainer.channels_last
    if choice == "auto" and str(cfg.optimizer._target_).endswith(".LBFGS"):
        choice = False  # which looks at gradients as vectors, and cannot in another layout
    kind = cfg.trainer.precision
    return Precision(where, kind, wants_channels_last(choice, where, kind, model, example))
