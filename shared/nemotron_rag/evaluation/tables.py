"""Rows of the files of a data set: CSV, TSV, JSON lines (gzip too) and Parquet, one at a time and within limits.

Whoever wrote a data set may be anyone: nothing outside its folder is opened, nothing is unpickled or run.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

__all__ = ["MAX_ROWS", "TABLES", "Row", "read_rows", "table_files"]

Row = Mapping[str, Any]

TABLES = (".csv", ".tsv", ".jsonl", ".jsonl.gz", ".parquet")
"""File names that are tables end so."""

MAX_ROWS = 20_000_000
"""Most rows of a table."""

_MAX_LINE = 16 * 2**20  # characters of a row: of a text, in practice
_MAX_ROW_GROUP = 8 * 2**30  # bytes; published data sets have 100 to 1000 page images in one
_MAX_THRIFT = 64 * 2**20  # bytes of Parquet's own descriptions
_AT_ONCE = 16  # rows of Parquet held at a time: they may have images
_MAX_FILES = 10_000
_DEEPEST = 4
_TREC = ("query-id", "", "corpus-id", "score")


def table_files(folder: Path) -> list[Path]:
    """The tables in a folder and below it, sorted by name, as paths below it.

    A folder of the model hub's cache has links to its blobs; other links that lead out of the folder are refused.

    Raises:
        InputError: a table is a link that leads elsewhere, or there are too many files.
    """
    root = (folder.parents[1] if folder.parent.name == "snapshots" else folder).resolve()
    found: list[Path] = []
    for path in itertools.islice(_walk(folder, _DEEPEST), _MAX_FILES + 1):
        if not path.name.lower().endswith(TABLES):
            continue
        if not path.resolve().is_relative_to(root):
            raise InputError(f"{path} is a link that leads out of the data set, to {path.resolve()}; copy the file")
        found.append(path)
    if len(found) > _MAX_FILES:
        raise InputError(f"{folder} has more than {_MAX_FILES} tables; give the folder of one data set")
    return sorted(found)


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a table.

    Args:
        path: its name says what it is, see `TABLES`.
        columns: those needed; others may be left out. None for all. Missing ones are no error.

    Raises:
        InputError: it cannot be read, or a row is beyond the limits.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    name = path.name.lower()
    try:
        rows = _parquet(path, columns) if name.endswith(".parquet") else _text(path, name)
        for number, row in enumerate(rows, 1):
            if number > MAX_ROWS:
                raise InputError(f"{path} has more than {MAX_ROWS:,} rows; give a part of it")
            yield row
    except InputError:
        raise
    except (OSError, EOFError, ValueError, csv.Error, RecursionError) as error:  # pyarrow's are of these, too
        raise InputError(f"{path} cannot be read: {one_line(str(error)) or type(error).__name__}") from error


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if depth and not path.is_symlink():
                yield from _walk(path, depth - 1)
        elif path.is_file():
            yield path


def _text(path: Path, name: str) -> Iterator[Row]:
    with path.open("rb") as file:
        unpacked = cast("IO[bytes]", gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file)
        with unpacked, io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline="") as stream:
            lines = _lines(stream, path)
            if name.endswith((".jsonl", ".jsonl.gz")):
                yield from _json_rows(lines, path)
            else:
                yield from _separated(lines, "\t" if name.endswith(".tsv") else ",", path)


def _lines(stream: io.TextIOBase, path: Path) -> Iterator[str]:
    while line := stream.readline(_MAX_LINE + 1):
        if len(line) > _MAX_LINE:
            raise InputError(f"{path} has a line of more than {_MAX_LINE:,} characters; is it a table?")
        yield line


def _json_rows(lines: Iterable[str], path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: wanted a JSON object, got {type(row).__name__}")
        yield row


def _separated(lines: Iterator[str], separator: str, path: Path) -> Iterator[Row]:
    """Rows below a line of column names; judgements may also be in TREC's format, which has none."""
    csv.field_size_limit(_MAX_LINE)
    first = next(lines, "")
    parts = first.split()
    lines = itertools.chain([first], lines)
    if separator == "\t":
        if len(parts) == len(_TREC) and parts[3].lstrip("-").isdigit():
            for line in lines:
                yield dict(zip(_TREC, line.split(), strict=False))
            return
        reader: Iterator[list[str]] = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:  # spreadsheets in many countries write semicolons
        reader = csv.reader(lines, delimiter=max(",;\t", key=first.count))
    names = [name.strip() for name in next(reader, [])]
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if len(values) > len(names):
            raise InputError(
                f"{path}: a row has {len(values)} values below {len(names)} columns; put texts with commas in quotes"
            )
        yield dict(zip(names, values, strict=False))


def _parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    with path.open("rb") as file:
        table = _opened(file)
        names = [name for name in table.schema_arrow.names if columns is None or name in columns]
        for group in range(table.metadata.num_row_groups):
            if table.metadata.row_group(group).total_byte_size > _MAX_ROW_GROUP:
                raise InputError(f"{path} has more than {_MAX_ROW_GROUP >> 30} GB in one row group; write smaller ones")
            for batch in table.iter_batches(batch_size=_AT_ONCE, row_groups=[group], columns=names):
                yield from batch.to_pylist()


def _opened(file: IO[bytes]) -> ParquetFile:
    try:
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415  of an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyarrow", "evaluate") from error
    return ParquetFile(file, thrift_string_size_limit=_MAX_THRIFT, thrift_container_size_limit=_MAX_THRIFT)
