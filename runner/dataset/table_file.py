"""Reads a table from its file, of whatever form, and says where in it a row is."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any

from runner.dataset.columns import pd
from runner.dataset.dialect import Dialect
from runner.errors import ConfigError, DataError, Problem, reason_of
from runner.files import absent

ALLOWED = "a .csv, .tsv, .txt, .data, .jsonl, .json, .parquet or .xlsx file; texts also as .gz, .bz2, .xz, .zip"

UTF16 = (b"\xff\xfe", b"\xfe\xff")

FOREIGN = {
    b"PK\x03\x04": "an Excel file or a zip archive: its name has to end in .xlsx or .zip",
    b"\xd0\xcf\x11\xe0": "an old Excel file: save it as .xlsx or .csv",
    b"PAR1": "a Parquet file: its name has to end in .parquet",
    b"\x1f\x8b": "compressed: its name has to end in .gz",
    b"BZh": "compressed: its name has to end in .bz2",
    b"\xfd7zXZ": "compressed: its name has to end in .xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
    b"%PDF": "a PDF file, and no table",
    b"<!DOCTYPE": "a web page, and no table",
    b"<html": "a web page, and no table",
    b'{"': "JSON: its name has to end in .jsonl, or in .json",
    b'[{"': "JSON: its name has to end in .json",
}
"""Kinds of files that begin in such a way, though their names say that they are CSV files."""


def _gzip(path: Path) -> IO[bytes]:
    return io.BufferedReader(gzip.open(path))


def _zip(path: Path) -> IO[bytes]:
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} files, and not one")
        return archive.open(names[0])


COMPRESSED: dict[str, Callable[[Path], IO[bytes]]] = {".gz": _gzip, ".bz2": bz2.open, ".xz": lzma.open, ".zip": _zip}


def form_of(path: Path) -> str:
    """Return what the name of a file says of its form, such as ``.csv``, whether it is compressed or not."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED), "")


def unpacked(path: Path) -> IO[bytes]:
    """The bytes of a file as they were before it was compressed."""
    unpack = COMPRESSED.get(path.suffix.lower())
    return path.open("rb") if unpack is None else unpack(path)


def encoding_of(path: Path, dialect: Dialect) -> str:
    """Return the encoding to read a file in.

    Raises:
        DataError: it is none of texts, by how it begins.
    """
    with unpacked(path) as file:
        head = file.read(1 << 12)
    if head.startswith(UTF16):
        return "utf-16"
    kind = next((kind for begins, kind in FOREIGN.items() if head.lstrip()[:9].startswith(begins)), None)
    if kind is None and b"\0" in head and not (dialect.encoding or "").lower().replace("-", "").startswith("utf16"):
        kind = "no text"
    if kind is not None:
        raise DataError(Problem("dataset.path", f"{path} cannot be read as a table: it is {kind}", ALLOWED))
    return "utf-8-sig" if head.startswith(b"\xef\xbb\xbf") else (dialect.encoding or "utf-8")


@contextmanager
def text(path: Path, dialect: Dialect, errors: str = "strict") -> Iterator[io.TextIOWrapper]:
    """The text of a file, as it is needed.

    Args:
        errors: what becomes of bytes that are none of the encoding; see `open`.
    """
    encoding = encoding_of(path, dialect)
    with unpacked(path) as file, io.TextIOWrapper(file, encoding, errors, newline="") as lines:
        yield lines


def first_two(lines: Iterable[str]) -> list[str]:
    """The first lines that are not blank."""
    return list(islice((line for line in lines if line.strip()), 2)) or [""]


def read(path: Path, dialect: Dialect) -> pd.DataFrame:
    """The table in a file, as pandas reads it.

    Raises:
        ConfigError: there is no such encoding.
        DataError: there is no such file, or it cannot be read.
    """
    if problem := absent("dataset.path", path, ALLOWED):
        raise DataError(problem)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return READERS.get(form_of(path), _csv)(path, dialect)
    except pd.errors.ParserWarning as error:
        what = f"{path} cannot be read as a table: its rows have more cells than its first line"
        raise DataError(Problem("dataset.path", what, "a name for each column")) from error
    except ImportError as error:
        kind, package = ("Parquet", "pyarrow") if form_of(path) == ".parquet" else ("Excel", "openpyxl")
        what, remedy = f"{kind} files need {package}", f"uv pip install {package}"
        raise DataError(Problem("dataset.path", what, "the table saved as .csv", remedy)) from error
    except LookupError as error:
        if "encoding" not in str(error):
            raise DataError(Problem("dataset.path", f"{path} cannot be read as a table: {reason_of(error)}")) from error
        what, allowed = f"there is no encoding {dialect.encoding!r}", "utf-8, latin-1, cp1252, utf-16, …"
        raise ConfigError(Problem("dataset.encoding", what, allowed)) from error
    except UnicodeError as error:
        raise DataError(_not_of_the_encoding(path, dialect, error)) from error
    except (ValueError, OSError, StopIteration, EOFError, TypeError, zipfile.BadZipFile, lzma.LZMAError) as error:
        reason = (str(error) or "it is empty").strip().splitlines()[0]
        raise DataError(Problem("dataset.path", f"{path} cannot be read as a table: {reason}")) from error


def _csv(path: Path, dialect: Dialect, **options: Any) -> pd.DataFrame:
    """A CSV file, or one with other separators."""
    encoding = encoding_of(path, dialect)
    with text(path, dialect) as lines:
        separator, named = dialect.first_lines(first_two(lines))
    is_plain = path.suffix.lower() not in COMPRESSED
    # Without index_col, pandas would take cells that there are too many of for the names of the rows; with
    # low_memory it finds the type of a column piece by piece, and 1 and 1.0 become two categories.
    options = {
        "sep": separator, "header": 0 if named else None, "index_col": False, "skipinitialspace": True,
        "low_memory": False, "encoding": encoding, "decimal": dialect.decimal,
        "na_values": list(dialect.missing) or None, **options,
    }  # fmt: skip
    with nullcontext(path) if is_plain else unpacked(path) as file:
        found: pd.DataFrame = pd.read_csv(file, compression=None, **options)
    return found


def settled(path: Path, dialect: Dialect) -> Dialect:
    """A dialect with the separator that a file has."""
    if form_of(path) in READERS:
        return dialect
    with text(path, dialect) as lines:
        return replace(dialect, separator=dialect.first_lines(first_two(lines))[0])


def as_texts(
    path: Path, dialect: Dialect, frame: pd.DataFrame, names: Collection[Any], rows: int | None = None
) -> pd.DataFrame:
    """Columns of a table again, with their cells as they are written; of its first `rows`, or all."""
    if form_of(path) in READERS:
        return frame[list(names)].map(_written, na_action="ignore")
    places = [at for at, name in enumerate(frame.columns) if name in names]
    found = _csv(path, dialect, usecols=places, dtype=str, nrows=rows)
    found.columns = frame.columns[places]
    return found


def texts_of(path: Path, dialect: Dialect, number: int) -> pd.Series[Any] | None:
    """A column as it is written in its file, where an empty cell is an empty text; None of a file that says itself
    which cells are empty."""
    if form_of(path) in READERS:
        return None
    found: pd.Series[Any] = _csv(path, dialect, usecols=[number], dtype=str, na_filter=False, na_values=None).iloc[:, 0]
    return found


def _written(cell: Any) -> str:
    whole = isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53
    return str(int(cell) if whole else cell)


def _parquet(path: Path, dialect: Dialect) -> pd.DataFrame:
    return _without(pd.read_parquet(path).reset_index(drop=True), dialect)


def _each_line(stream: IO[str]) -> list[Any]:
    found = []
    for number, line in enumerate(stream, 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number} is no JSON ({reason_of(error)})") from error
    return found


def _json(path: Path, dialect: Dialect, load: Callable[[IO[str]], Any] = json.load) -> pd.DataFrame:
    """Objects, one a row, or a list for each column; cells as they are, and no dates of what looks like one."""
    with unpacked(path) as file:
        head = file.read(2)
    encoding = "utf-16" if head in UTF16 else dialect.encoding or "utf-8-sig"
    with unpacked(path) as file, io.TextIOWrapper(file, encoding) as stream:
        held = load(stream)
    is_list = isinstance(held, list) and held and all(isinstance(row, dict) for row in held)
    if not is_list and not (isinstance(held, dict) and all(isinstance(each, list) for each in held.values())):
        raise ValueError("it does not hold objects, each of which is a row")
    frame = pd.DataFrame(held)
    for name in frame.columns:
        if any(isinstance(cell, (list, dict)) for cell in (frame[name] if frame[name].dtype == object else ())):
            raise ValueError(f"column {name!r} holds lists or objects, and not single values")
    return _without(frame, dialect)


def _excel(path: Path, dialect: Dialect) -> pd.DataFrame:
    """The first sheet. Cells that hold texts stay texts, though they look like numbers."""
    import_module("openpyxl")  # before pandas looks into the file
    try:
        held = pd.read_excel(path, header=None, dtype=object)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is no Excel file ({reason_of(error)}); save it as .csv") from error
    if held.empty:
        raise ValueError("it is empty")
    rows = [["" if pd.isna(cell) else _written(cell) for cell in row] for row in held[:2].to_numpy()]
    texts = io.StringIO()
    csv.writer(texts).writerows(rows)
    _, named = Dialect(dialect.header, ",").first_lines(texts.getvalue().splitlines())
    if named:
        held.columns = pd.Index(unique(rows[0]))
        held = held[1:].reset_index(drop=True)
    return _without(held.infer_objects(), dialect)


def is_unnamed(frame: pd.DataFrame) -> bool:
    """Return whether the first row of a table was not taken for the names of its columns."""
    return pd.api.types.is_integer_dtype(frame.columns)


def unique(names: Iterable[str]) -> list[str]:
    """Names of columns as pandas has them: the second one of a name with .1, and one without by its place."""
    found: list[str] = []
    for at, given in enumerate(names):
        name = given or f"Unnamed: {at}"
        number, new = 0, name
        while new in found:
            number += 1
            new = f"{name}.{number}"
        found.append(new)
    return found


def _without(frame: pd.DataFrame, dialect: Dialect) -> pd.DataFrame:
    """A table in which the cells that stand for a gap are one."""
    if not dialect.missing:
        return frame
    for name in frame.columns:
        is_numeric = pd.api.types.is_numeric_dtype(frame[name])
        known = {cell: dialect.is_gap(_written(cell), is_numeric) for cell in frame[name].dropna().unique()}
        if any(known.values()):
            frame[name] = frame[name].mask(frame[name].map(known).eq(True)).infer_objects()
    return frame


READERS: dict[str, Callable[[Path, Dialect], pd.DataFrame]] = {
    ".parquet": _parquet,
    ".jsonl": partial(_json, load=_each_line),
    ".ndjson": partial(_json, load=_each_line),
    ".json": _json,
    ".xlsx": _excel,
    ".xlsm": _excel,
}
"""Readers of the files whose names end so; every other one is read as text with separators."""


def _not_of_the_encoding(path: Path, dialect: Dialect, error: UnicodeError) -> Problem:
    """Say where a file is not in its encoding, and in which it may be: each byte is something in latin-1."""
    used = dialect.encoding or "utf-8"
    where, remedy = "", "" if dialect.encoding else "dataset.encoding=latin-1"
    with suppress(UnicodeError, OSError), unpacked(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode(used)
            except UnicodeDecodeError as found:
                where = f", line {number}: {reason_of(found)}"
                if any(0x80 <= byte < 0xA0 for byte in line) and not dialect.encoding:
                    line.decode("cp1252")  # which has letters there, as Windows writes them
                    remedy = "dataset.encoding=cp1252"
                break
    return Problem("dataset.path", f"{path} is not in {used}{where}", "a file in UTF-8, or the encoding it has", remedy)


def lines_of(path: Path, dialect: Dialect, rows: Collection[int]) -> dict[int, int]:
    """Return in which lines of a CSV file rows begin, as an editor counts lines."""
    form, found = form_of(path), dict[int, int]()
    if form in READERS:
        return {row: row + 1 for row in rows} if form in (".jsonl", ".ndjson") else {}
    wanted = set(rows)
    with text(path, dialect, "replace") as lines, suppress(csv.Error):  # of very long cells
        separator, named = dialect.first_lines(first_two(lines))
        lines.seek(0)
        reader, begins, number = dialect.rows(lines, separator), 1, -int(named)
        for cells in reader:
            if any(cells) or len(cells) > 1:  # pandas takes no row from an empty line
                if number in wanted:
                    found[number] = begins
                    if len(found) == len(wanted):
                        break
                number += 1
            begins = reader.line_num + 1
    return found


def line_of(path: Path, dialect: Dialect, row: int) -> str:
    """Say where in its file a row is: ``, line 5 of pets.csv``; nothing where there are no lines."""
    line = lines_of(path, dialect, [row]).get(row)
    return "" if line is None else f", line {line} of {path.name}"
