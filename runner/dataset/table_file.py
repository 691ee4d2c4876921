"""Reads a table from its file, and says where in it a row is."""

from __future__ import annotations

import csv
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import DataError, Problem
from runner.files import absent

if TYPE_CHECKING:
    import pandas as pd


def read(path: Path, header: bool | str) -> pd.DataFrame:
    """The table in a CSV or Parquet file, as pandas reads it.

    Args:
        header: see `runner.dataset.table`.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    import pandas as pd

    if problem := absent("dataset.path", path, "a .csv or .parquet file"):
        raise DataError(problem)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path).reset_index(drop=True)
        with path.open(newline="", encoding="utf-8") as file:
            delimiter, named = dialect(file.readline(), header)
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Without index_col, pandas would take cells that there are too many of for the names of the rows; with
            # low_memory it finds the type of a column piece by piece, and 1 and 1.0 become two categories.
            return pd.read_csv(
                path, sep=delimiter, header=0 if named else None, index_col=False, skipinitialspace=True,
                low_memory=False,
            )  # fmt: skip
    except pd.errors.ParserWarning as error:
        what = f"{path} cannot be read as a table: its rows have more cells than its first line"
        raise DataError(Problem("dataset.path", what, "a name for each column")) from error
    except ImportError as error:
        raise DataError(
            Problem("dataset.path", "Parquet files need pyarrow", remedy="uv pip install pyarrow")
        ) from error
    except (ValueError, OSError, StopIteration) as error:
        reason = (str(error) or "it is empty").strip().splitlines()[0]
        raise DataError(Problem("dataset.path", f"{path} cannot be read as a table: {reason}")) from error


def dialect(first: str, header: bool | str) -> tuple[str, bool]:
    """What separates the cells of a CSV file, and whether its `first` line names the columns.

    Args:
        header: see `runner.dataset.table`.

    Raises:
        StopIteration: the line is empty.
    """
    delimiter = max(",;\t", key=first.count)
    cells = next(csv.reader([first], delimiter=delimiter))
    return delimiter, header if isinstance(header, bool) else not any(map(is_number, cells))


def line_of(path: Path, header: bool | str, row: int) -> str:
    """Where in a CSV file a row is, as an editor counts lines: ``, line 5 of pets.csv``."""
    if path.suffix == ".parquet":
        return ""
    with path.open(newline="", encoding="utf-8") as file, suppress(csv.Error):  # of very long cells
        delimiter, named = dialect(file.readline(), header)
        file.seek(0)
        rows, begins, number = csv.reader(file, delimiter=delimiter, skipinitialspace=True), 1, -int(named)
        for cells in rows:
            if any(cells) or len(cells) > 1:  # pandas takes no row from an empty line
                if number == row:
                    return f", line {begins} of {path.name}"
                number += 1
            begins = rows.line_num + 1
    return ""


def is_number(text: str) -> bool:
    """Whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
