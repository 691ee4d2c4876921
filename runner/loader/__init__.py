"""Loaders: samples in the order of the epoch, as whole batches.

`Resident` holds the data in memory, on the device; `Workers` reads them sample by sample through torch's DataLoader.
`auto` takes the first where it can. Both give the same samples in the same order, whatever the number of workers, and
can enter an epoch at any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from runner.loader.order import Order
from runner.loader.resident import Resident
from runner.loader.workers import Workers

if TYPE_CHECKING:
    from runner.dataset import Samples
    from runner.transform import Pipeline

__all__ = ["Loader", "Order", "Resident", "Workers", "auto"]

Loader = Resident | Workers


def auto(
    samples: Samples, order: Order, transform: Pipeline, device: torch.device, *,
    memory_limit: float = 4e9, num_workers: int = 0, **options: Any,
) -> Loader:  # fmt: skip
    """`Resident` for data that are in memory already and fit there; else, or with workers, `Workers`.

    Args:
        memory_limit: bytes that the data may take.
        options: of `Workers`.
    """
    size = samples.nbytes
    if num_workers == 0 and size is not None and size <= memory_limit:
        return Resident(samples, order, transform, device)
    return Workers(samples, order, transform, device, num_workers=num_workers, **options)
