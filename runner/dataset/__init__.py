"""Data sets: what an option of the `dataset` group returns, and how the rest of the run reads it.

An option names a map-style `torch.utils.data.Dataset`, or `Parts` where a data set comes with parts of its own. What
can be held in memory is an `ArrayDataset`, kept as it is stored. A sample is ``(input, target)``, ``(input, target,
anything)`` or a dict; `Samples` reads them all in one way. The train part may be an `IterableDataset`, a `Stream`.
"""

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, TensorDataset

from runner import debugger
from runner.dataset.libraries import breast_cancer, diabetes, digits, iris, synthetic, wine
from runner.dataset.libraries import torchvision_dataset as torchvision
from runner.dataset.pictures import image_folder
from runner.dataset.samples import Samples
from runner.dataset.stream import Stream, check_varied, facts
from runner.dataset.table import table
from runner.dataset.tensors import ArrayDataset, Parts, as_input, as_targets
from runner.errors import FOR_THE_TRACEBACK, ConfigError, DataError, Problem, cause_of

__all__ = [
    "ArrayDataset", "Parts", "Samples", "Stream", "breast_cancer", "check_varied", "diabetes", "digits", "facts",
    "image_folder", "iris", "read", "synthetic", "table", "torchvision", "wine",
]  # fmt: skip

LIMIT = 1_000_000
"""Samples after which a stream that has to end is taken for one that does not."""


def read(
    built: Any, keys: Mapping[str, str] | None = None, layout: str | None = None, ignore_index: float | None = None,
    exact: bool = True,
) -> dict[str, Samples | Stream]:  # fmt: skip
    """The parts of what an option of the `dataset` group returned: ``train``, and ``val`` and ``test`` if there are.

    Streams of val and test are read to their end, once, and held in memory.

    Args:
        keys, layout, ignore_index, exact: see `Samples`.

    Raises:
        DataError: a part is empty, or neither map-style nor iterable.
    """
    parts = built if isinstance(built, Parts) else Parts(built)
    if parts.train is None:
        raise DataError(Problem("dataset", "there is no train part", "a data set, or Parts(train=DATASET, …)"))
    if missing := [name for name in ("input", "target") if keys is not None and name not in keys]:
        problem = Problem(f"dataset.keys.{missing[0]}", "is missing", "{input: KEY, target: KEY, NAME: KEY, …}")
        raise ConfigError(problem)
    if keys is not None and isinstance(parts.train, ArrayDataset):
        raise ConfigError(Problem("dataset.keys", "only applies to data sets whose samples are dicts", "null"))
    # A table says itself what stands for no target, as its classes have numbers of their own.
    own = parts.train.ignore_index if isinstance(parts.train, ArrayDataset) else None
    how = keys, layout, ignore_index if own is None else own, exact
    found: dict[str, Samples | Stream] = {}
    for name, source in parts.items():
        if isinstance(source, IterableDataset):
            found[name] = Stream(source, *how) if name == "train" else Samples(_to_its_end(source, name), *how)
        elif not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
            what = f"a {type(source).__name__} has no __len__ or no __getitem__"
            raise DataError(Problem("dataset", what, "a torch.utils.data.Dataset or IterableDataset"))
        else:
            found[name] = Samples(_in_memory(source, layout, exact), *how)
            if len(source) == 0:
                raise DataError(Problem("dataset", f"the {name} part is empty", "at least 1 sample"))
    return found


def _in_memory(source: Any, layout: str | None, exact: bool) -> Any:
    """torch's own data set of tensors as ours, which need not be read sample by sample; any other as it is, or was."""
    if isinstance(source, ArrayDataset) and not exact:
        return source.as_earlier()
    # One that was given attributes may have said by them what its classes are.
    if type(source) is not TensorDataset or vars(source).keys() != {"tensors"} or len(source.tensors) != 2:
        return source
    inputs, targets = source.tensors
    kinds = (torch.uint8, torch.float32, *([torch.float64] if exact else []))  # as read by earlier versions, or ours
    as_it_is = layout in (None, "chw") and inputs.dtype in kinds and not inputs.requires_grad
    if not as_it_is or len(source) == 0 or not inputs.device.type == targets.device.type == "cpu":
        return source
    as_input(inputs[0], layout)  # refuses pictures whose channels look as if they were last
    return ArrayDataset(inputs, as_targets(targets, exact))


def _to_its_end(source: IterableDataset[Any], name: str) -> list[Any]:
    try:
        held = list(islice(source, LIMIT + 1))
    except debugger.foreign() as error:  # whatever a data set of the user's may raise
        what = f"the {name} part cannot be read: {cause_of(error, kind=True)}"
        raise DataError(Problem("dataset", what, remedy=FOR_THE_TRACEBACK)) from error
    if not 0 < len(held) <= LIMIT:
        what = "is empty" if not held else f"is a stream that has not ended after {LIMIT:,} samples"
        raise DataError(Problem("dataset", f"the {name} part {what}", f"1 to {LIMIT:,} samples"))
    return held
