"""Loaders: samples in the order of the epoch, as whole batches.

`Resident` holds the data in memory, on the device; `Workers` reads them sample by sample through torch's DataLoader.
`auto` takes the first where it can. Both give the same samples in the same order, whatever the number of workers, and
can enter an epoch at any batch. `Streaming` does what can be done of this for a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import IterableDataset

from runner.loader.order import Order
from runner.loader.resident import Resident
from runner.loader.workers import Streaming, Workers

if TYPE_CHECKING:
    from runner.dataset import Samples, Stream
    from runner.transform import Pipeline

__all__ = ["Loader", "Order", "Resident", "Streaming", "Workers", "auto"]

Loader = Resident | Workers | Streaming


def auto(
    samples: Samples | Stream, order: Order, transform: Pipeline, device: torch.device, *,
    memory_limit: float = 4e9, num_workers: int = 0, persistent_workers: bool = False, pin_memory: bool | None = None,
    prefetch_factor: int | None = None, timeout: float = 0, collate_fn: Callable[..., Any] | None = None,
    worker_init_fn: Callable[[int], None] | None = None,
) -> Loader:  # fmt: skip
    """`Resident` for data that are in memory already and fit there; else, or with workers or a ``collate_fn``,
    `Workers`.

    Args:
        samples: the data; of a stream, the loader is `Streaming`, whose workers persist.
        memory_limit: bytes that the data may take.
        persistent_workers, pin_memory, prefetch_factor, timeout, collate_fn, worker_init_fn: see `Workers`.
    """
    options: dict[str, Any] = {
        "pin_memory": pin_memory, "prefetch_factor": prefetch_factor, "timeout": timeout,
        "collate_fn": collate_fn, "worker_init_fn": worker_init_fn,
    }  # fmt: skip
    if isinstance(samples.source, IterableDataset):
        stream = cast("Stream", samples)
        return Streaming(stream, order, transform, device, num_workers=num_workers, **options)
    held = cast("Samples", samples)
    if collate_fn is None and num_workers == 0 and held.nbytes is not None and held.nbytes <= memory_limit:
        return Resident(held, order, transform, device)
    options |= {"num_workers": num_workers, "persistent_workers": persistent_workers}
    return Workers(held, order, transform, device, **options)
