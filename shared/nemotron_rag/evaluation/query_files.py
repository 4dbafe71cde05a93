"""Queries about files, as CSV or JSON lines: which pages of which file answer them. Read and written here."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nemotron_rag.documents.files import one_line, write_whole
from nemotron_rag.documents.pdf import parse_pages, resolve_pages
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.dataset import Dataset, JudgedQuery, file_page
from nemotron_rag.evaluation.tables import Row, read_rows

__all__ = ["COLUMNS", "file_name", "queries_of_rows", "read_query_file", "write_query_file"]

COLUMNS = ("question", "file", "page")
"""The columns that there must be; "query" and "pages" may stand for the first and the last."""

_OTHERS = {"id", "relevance", "language", "category"}
_ALIASES = {"query": "question", "pages": "page", "kind": "category"}
_MOST_PAGES = 10_000  # of one row
_RELEVANCE = 1000
_WHOLE = re.compile(r"\b([0-9]+)\.0+\b")  # spreadsheets and data frames write 3.0


def file_name(name: str) -> str:
    """A file's name as it is compared: slashes, no ``./``, composed letters."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")


def read_query_file(path: str | Path) -> Dataset:
    """Read queries about files.

    Columns are question, file and page, and if there are id, relevance (a whole number, 1 by default, 0 for a page that
    looks right and is not), language and category. page is a number, or several as in "1-3,7". Rows with the same
    question, or the same id, are one query. No file named in it is opened.

    Raises:
        InputError: it cannot be read; the message names the row.
    """
    path = Path(path)
    queries: dict[str, _Draft] = {}
    ignored: set[str] = set()
    for number, row in enumerate(read_rows(path), 1):
        named = {_ALIASES.get(str(key).strip().lower(), str(key).strip().lower()): value for key, value in row.items()}
        ignored |= named.keys() - {*COLUMNS} - _OTHERS
        try:
            _add(queries, named)
        except InputError as error:
            raise InputError(f"{path}, row {number}: {error}") from error
    notes = [f"columns not used: {', '.join(sorted(map(one_line, ignored)))}"] if ignored else []
    return Dataset.of(path.name, [draft.query(key) for key, draft in queries.items()], notes=notes)


def write_query_file(path: str | Path, queries: Iterable[JudgedQuery]) -> int:
    """Write queries about files as a CSV that `read_query_file` reads, and spreadsheets open; returns its rows.

    Texts that begin with a sign that spreadsheets take for a formula are written as they are: open the file as text
    if you do not know where its queries come from.

    Raises:
        InputError: it cannot be written, or a judged page is not of a file.
    """
    rows: list[tuple[Any, ...]] = []
    groups = ("language", "category")
    for query in queries:
        kinds = ["|".join(query.groups.get(name, ())) for name in groups]
        for page, grade in query.judgements.items():
            file, separator, number = page.rpartition("#page=")
            if not separator:
                raise InputError(f"query {query.id!r}: page {page!r} is not of a file; only those can be written")
            rows.append((query.id, query.text, file, number, grade, *kinds))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", *COLUMNS, "relevance", *groups))
    writer.writerows(rows)
    try:
        write_whole(Path(path), text.getvalue().encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"cannot write queries to {path}: {error.strerror}; give another file") from error
    return len(rows)


class _Draft:
    """A query whose rows are being read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.judgements: dict[str, int] = {}
        self.groups: dict[str, tuple[str, ...]] = {}

    def query(self, key: str) -> JudgedQuery:
        return JudgedQuery(id=key, text=self.text, judgements=self.judgements, groups=self.groups)


def _add(queries: dict[str, _Draft], row: Row) -> None:
    for name in COLUMNS:
        if row.get(name) in (None, "", []):
            raise InputError(f"{name} is missing; wanted columns are {', '.join(COLUMNS)}")
    text = str(row["question"]).strip()
    key = str(row["id"]).strip() if row.get("id") not in (None, "") else text
    draft = queries.setdefault(key, _Draft(text))
    if draft.text != text:
        raise InputError(f"id {one_line(key)!r} is of another question above")
    file, grade = file_name(str(row["file"])), _grade(row.get("relevance"))
    for number in _numbers(row["page"]):
        page = file_page(file, number)
        draft.judgements[page] = max(grade, draft.judgements.get(page, grade))
    for name in ("language", "category"):
        if row.get(name) not in (None, "", []):
            draft.groups[name] = _values(row[name])


def _values(given: Any) -> tuple[str, ...]:
    parts = given if isinstance(given, list) else str(given).split("|")
    return tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def _grade(given: Any) -> int:
    try:
        grade = 1 if given in (None, "") else float(given)
        whole = int(grade)
    except (TypeError, ValueError, OverflowError):
        whole, grade = -1, 0
    if whole != grade or not 0 <= whole <= _RELEVANCE:
        raise InputError(f"relevance must be a whole number from 0 to {_RELEVANCE}, got {one_line(str(given))!r}")
    return whole


def _numbers(given: Any) -> Sequence[int]:
    """``3``, ``"3"``, ``"1-3,7"`` or a list of numbers."""
    wanted = f"page must be numbers from 1 to {_MOST_PAGES}, as in 3 or 1-3,7; got {one_line(str(given))!r}"
    if not isinstance(given, str | int | float | list) or isinstance(given, bool):
        raise InputError(wanted)
    text = ",".join(map(str, given)) if isinstance(given, list) else str(given)
    try:
        ranges = parse_pages(_WHOLE.sub(r"\1", text.replace(";", ",")).strip())
    except InputError as error:
        raise InputError(wanted) from error
    if any(last is None or last > _MOST_PAGES for _, last in ranges):
        raise InputError(wanted)
    return resolve_pages(ranges, _MOST_PAGES)


def queries_of_rows(rows: Iterable[Mapping[str, Any]], name: str = "queries") -> Dataset:
    """Queries about files from rows in memory: mappings with the columns of a query file.

    Raises:
        InputError: a row cannot be used.
    """
    drafts: dict[str, _Draft] = {}
    for number, row in enumerate(rows, 1):
        try:
            _add(drafts, {_ALIASES.get(key, key): value for key, value in row.items()})
        except InputError as error:
            raise InputError(f"{name}, row {number}: {error}") from error
    return Dataset.of(name, [draft.query(key) for key, draft in drafts.items()])
