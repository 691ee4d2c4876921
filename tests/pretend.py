"""A device that is not the CPU, made of the CPU: what mixes the two fails here as it does on CUDA.

Tensors on it hold a tensor of the CPU, and each operation is done on what they hold. As on a card, an operation on
tensors of both is refused, and NumPy does not take them. Nothing is faster, no memory is small, and there are no
generators of its own: what only a card can show is in `test_cuda`.

    python tests/pretend.py "device=mps trainer.max_epochs=1" "evaluate run=last device=mps"

runs command lines of runner with it in the place of ``mps``, and prints their exit statuses, the last thing on stdout.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretend")
DEVICE = torch.device("pretend", 0)
torch.inference_mode = torch.no_grad  # type: ignore[misc]  # in which subclasses of tensors have no views

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._unsafe_index.Tensor}
"""Take indices of the CPU on any device, but not the other way round."""
SAYING = {aten._local_scalar_dense.default, aten.equal.default, aten.is_same_size.default}
"""Return no tensors."""


class Held(torch.Tensor):
    """A tensor on the device."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Held:
        made: Held = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.raw.tolist()

    def untyped_storage(self) -> Any:
        return self.raw.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._to_copy.default:
            return _moved(args[0], **kwargs)
        if func is aten.copy_.default:
            _raw(args[0]).copy_(_raw(args[1]))
            return args[0]
        _check(func, args, tree_leaves((args, kwargs)))
        given = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        if given.get("device") == DEVICE:
            given["device"] = torch.device("cpu")
        made = func(*tree_map(_raw, args), **tree_map(_raw, given))
        if func in SAYING:
            return made
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_held, made))


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, Held) else value


def _held(value: Any) -> Any:
    return Held(value) if isinstance(value, Tensor) else value


def _check(func: Any, args: Any, leaves: list[Any]) -> None:
    """Numbers, and tensors that are one, may be on the CPU."""
    strangers = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Held) and leaf.dim()]
    if strangers and not (func in INDEXING and isinstance(args[0], Held)):
        raise RuntimeError(f"{func} got tensors of shape {strangers[0].shape} on the CPU and others on {DEVICE}")


def _moved(tensor: Tensor, device: torch.device | None = None, **options: Any) -> Tensor:
    options = {name: options[name] for name in ("dtype", "memory_format") if options.get(name) is not None}
    copy: Tensor = aten._to_copy.default(_raw(tensor), **options)
    return Held(copy) if device == DEVICE or (device is None and isinstance(tensor, Held)) else copy


def _empty(func: Any) -> Callable[..., Tensor]:
    def kernel(*args: Any, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
        given = {"dtype": dtype, **({"memory_format": memory_format} if memory_format is not None else {})}
        return Held(func(*args, **given, device="cpu"))

    return kernel


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _raw(target).copy_(_raw(source))
    return target


kernels = torch.library.Library("aten", "IMPL", "PrivateUse1")
kernels.impl("empty.memory_format", _empty(aten.empty.memory_format))
kernels.impl("empty_strided", _empty(aten.empty_strided.default))
kernels.impl("_copy_from", _copy)
kernels.impl("_to_copy", _moved)


def main(lines: list[str]) -> None:
    import composing

    from runner import device
    from runner.__main__ import main as command

    composing.remember()
    real = device.resolve
    device.resolve = lambda name: DEVICE if name == "mps" else real(name)
    print(json.dumps([command(shlex.split(line)) for line in lines]))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1:])
