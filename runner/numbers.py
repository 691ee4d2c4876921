"""Checks that a model, which computes in float32, can tell numbers in memory apart when they are scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.batch import sent
from runner.dataset import Samples
from runner.dataset.tensors import LARGEST
from runner.errors import DataError, Problem
from runner.transform import Batched, Float, Pipeline, Table
from runner.visible import log

LOOKED_AT = 4096
"""Samples at a time, for picking the rows of a part copies them; and of those that are compared with one another."""

FAR = 1e6
"""Distance of another part's value from train's, in spans of train's values, that is worth a warning."""


def check_finite(
    samples: Mapping[str, Samples], indices: Mapping[str, Tensor], transform: Pipeline, example: Tensor
) -> None:
    """Check that the model gets finite numbers: of data in memory from every sample, else from the first batch.

    A number that no float32 holds is refused even if it is small after it is scaled, where all others are as nothing.

    Raises:
        DataError: it does not.
    """
    if not samples["train"].in_memory:
        _raise_at(~_finite(example), "of the first batch of train", len(example))
    for part, rows in indices.items():
        if not samples[part].in_memory:
            continue
        inputs = samples[part].arrays.inputs
        if not inputs.is_floating_point():
            continue
        gaps = torch.cat([some[~_finite(inputs[some])] for some in rows.split(LOOKED_AT)])
        if len(gaps):  # which a transform may fill
            made = evaluated(transform, inputs[gaps], example.device)
            table = getattr(samples[part].source, "features", None) and inputs[gaps].isnan().any()
            large = ((inputs[gaps].abs() > LARGEST) & inputs[gaps].isfinite()).reshape(len(gaps), -1).any(1)
            _raise_at(large, f"of {part}", len(rows), gaps, f"numbers beyond {LARGEST:.2g}")
            _raise_at(~_finite(made).cpu(), f"of {part}", len(rows), gaps, table=bool(table))


def evaluated(transform: Pipeline, inputs: Tensor, device: torch.device) -> Tensor:
    """Return what a transform makes of stored inputs, with what is drawn at random in the middle of its range."""
    place = transform.place(device)
    drawn = torch.full((len(inputs), transform.draws), 0.5, device=place)
    made: Tensor = transform(sent(inputs, place), drawn, range(len(inputs)))
    return made


def _finite(inputs: Tensor) -> Tensor:
    """(B,) whether each input is of numbers that a float32 can hold."""
    if not inputs.is_floating_point():
        return torch.ones(len(inputs), dtype=torch.bool)
    is_wide = inputs.dtype == torch.float64
    return ((inputs.abs() <= LARGEST) if is_wide else inputs.isfinite()).reshape(len(inputs), -1).all(1)


def _raise_at(
    bad: Tensor, where: str, total: int, index: Tensor | None = None, words: str = "NaN or infinity",
    table: bool = False,
) -> None:  # fmt: skip
    if bad.any():
        first = "" if index is None else f"; the first is sample {int(index[bad][0])}"
        what = f"{int(bad.sum()):,} of {total:,} inputs {where} contain {words}{first}"
        remedy = (
            "transform=table, which fills the missing values of a table"
            if table
            else "fix or remove these samples in the data set"
        )
        raise DataError(Problem("dataset", what, "finite numbers", remedy))


def mention_lost(
    samples: Mapping[str, Samples], indices: Mapping[str, Tensor], transform: Pipeline, device: torch.device
) -> None:
    """Say which columns of numbers in memory have values that are lost in a float32, or that are far from all of
    train."""
    step = transform.steps[0] if len(transform.steps) == 1 and isinstance(transform.steps[0], Batched) else None
    train = samples["train"]
    if step is None or not (train.in_memory and train.arrays.inputs.dtype == torch.float64):
        return
    if train.arrays.inputs.dim() != 2:
        return
    columns = step.numbers if isinstance(step, Table) else list(range(train.arrays.inputs.shape[1]))
    features = getattr(train.source, "features", None)
    names = features or [str(number) for number in columns]
    stored = train.arrays.inputs[indices["train"][:LOOKED_AT]]
    made = evaluated(transform, stored, device).cpu()
    remedy = f"\n  try: transform={'table' if features else 'normalize'}" if isinstance(step, Float) else ""
    _mention_alike(stored[:, columns], made[:, : len(columns)], [names[c] for c in columns], remedy)
    _mention_far(samples, indices, columns, names)


def _mention_alike(stored: Tensor, made: Tensor, names: Sequence[str], remedy: str) -> None:
    """Say in which columns (N, F) different values became one.

    Values that differ by less than a millionth of the spread of the middle half are taken for one, so that neither
    rounding errors nor a few values far from all others count; in a column of nothing but gaps, nothing does.
    """
    order = stored.nan_to_num(torch.inf).sort(0)
    values, after = order.values, made.gather(0, order.indices)
    quarter = len(values) // 4
    spread = (values[-1 - quarter] - values[quarter]).nan_to_num(torch.inf)
    gaps = (values.diff(dim=0) > 1e-6 * spread) & (spread > 0) & values[1:].isfinite()
    lost = (gaps & (after.diff(dim=0) == 0)).sum(0)
    for column in (lost > 0.1 * gaps.sum(0)).nonzero().flatten().tolist():
        there, largest = int(gaps[:, column].sum()) + 1, stored[:, column].nan_to_num(0.0).abs().max().item()
        what = "column %r has %s different values in the first %s train samples, of which the model gets %s"
        what += ": in a float32 the others are like one of these, beside values as large as %.6g"
        left = there - int(lost[column])
        log.warning(what + remedy, names[column], f"{there:,}", f"{len(stored):,}", f"{left:,}", largest)


def _mention_far(
    samples: Mapping[str, Samples], indices: Mapping[str, Tensor], columns: Sequence[int], names: Sequence[str]
) -> None:
    """Say which columns have a value in val or test that is far beyond all of train: it decides every mean alone."""
    low, high = _span(samples["train"], indices["train"], columns)
    for part in ("val", "test"):
        if not samples[part].in_memory:
            continue
        least, most = _span(samples[part], indices[part], columns)
        far = torch.maximum(low - least, most - high) > FAR * (high - low).clamp(min=1e-300)
        for number in (far & (high > low)).nonzero().flatten().tolist():
            column = samples[part].arrays.inputs[indices[part], columns[number]]
            row = int(column.nan_to_num(float(low[number])).sub(low[number]).abs().argmax())
            what = "column %r of %s holds %.6g (sample %s), while train has values from %.6g to %.6g"
            index = int(indices[part][row])
            log.warning(what, names[columns[number]], part, float(column[row]), index, float(low[number]),
                        float(high[number]))  # fmt: skip


def _span(samples: Samples, rows: Tensor, columns: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each column, gaps left out."""
    inputs: Any = samples.arrays.inputs
    pieces = [inputs[some][:, columns] for some in rows.split(LOOKED_AT)]
    least = torch.stack([piece.nan_to_num(torch.inf, torch.inf).amin(0) for piece in pieces]).amin(0)
    most = torch.stack([piece.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(0) for piece in pieces]).amax(0)
    return least, most
