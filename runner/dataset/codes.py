"""Reads rows of other tables as those of one table were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from runner.dataset.dialect import Dialect
from runner.dataset.tensors import LARGEST

GAPS = frozenset([
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
])  # fmt: skip
"""Texts that pandas takes for a gap."""

PLAIN = Dialect()


class Codes:
    """Reads rows of other tables as those of one table were read: numbers as they are, categories as their codes there.

    Args:
        features, categories: see `ArrayDataset`.
        dialect: how its cells were written, and those of the rows are.

    Attributes:
        unknown: by column, how many cells held a category that the table did not have; each is a gap.
    """

    def __init__(
        self, features: Sequence[str], categories: Sequence[Sequence[str] | None], dialect: Dialect | None = None
    ) -> None:
        self.features = list(features)
        self.dialect = Dialect() if dialect is None else dialect
        self.codes = [None if names is None else {name: i for i, name in enumerate(names)} for names in categories]
        self.unknown: Counter[str] = Counter()

    def read(self, rows: Sequence[Sequence[Any]]) -> tuple[torch.Tensor, dict[int, str]]:
        """Rows with a cell for each feature, as texts or values.

        Returns:
            (N, F) float64 inputs, NaN where there is a gap; and what is wrong with a row, by its position.
        """
        inputs = np.full((len(rows), len(self.features)), np.nan)
        wrong: dict[int, str] = {}
        for number, row in enumerate(rows):
            try:
                inputs[number] = [
                    self._code(name, codes, cell)
                    for name, codes, cell in zip(self.features, self.codes, row, strict=True)
                ]
            except ValueError as error:
                wrong[number] = str(error)
        return torch.from_numpy(inputs), wrong

    def _code(self, feature: str, codes: dict[str, int] | None, cell: Any) -> float:
        text = str(cell)
        if text in GAPS or self.dialect.is_gap(text, codes is None):
            return np.nan
        if codes is None:
            value = (self.dialect if isinstance(cell, str) else PLAIN).number(text)
            if value is None or abs(value) > LARGEST:
                what = "too large a number" if value is not None else "not a number"
                raise ValueError(f"column {feature!r} holds {text!r}, which is {what}")
            return value
        if codes.keys() <= {"True", "False"}:
            text = text.capitalize()  # as pandas reads true and TRUE
        elif text not in codes and isinstance(cell, float) and cell.is_integer():
            text = str(int(cell))  # where there are gaps, whole numbers are read as floats
        if text not in codes:
            self.unknown[feature] += 1
        return codes.get(text, np.nan)
