"""Data sets in the layouts in which they are published: BEIR's, and those of ViDoRe V1, V2 and V3.

* BEIR: ``corpus``, ``queries`` and ``qrels``, each a file or a folder of JSON lines, TSV or Parquet
  (https://github.com/beir-cellar/beir). ViDoRe V2 and V3, and V1 in its form with ``_beir`` in the name, are the same
  with page images; V2 writes ``corpus-id``, V3 ``corpus_id``, and V3 counts pages from 0.
* ViDoRe V1: one table whose rows have a page and maybe a query for it (``query``, ``image``, ``image_filename``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.corpora import TableCorpus, first_of
from nemotron_rag.evaluation.dataset import Dataset, JudgedQuery
from nemotron_rag.evaluation.tables import TABLES, Row, read_rows, table_files

__all__ = ["is_published", "read_published"]

_PARTS = ("corpus", "queries", "qrels")
_QUERY_ID = ("query-id", "query_id", "_id", "id")
_CORPUS_ID = ("corpus-id", "corpus_id")
_QUERY_TEXT = ("query", "text", "question")
_LANGUAGES = ("language",)
_CATEGORIES = (
    "query_types",
    "query_format",
    "content_type",
    "source_type",
    "query_generator",
    "answer_type",
    "category",
)

T = TypeVar("T")


def is_published(folder: Path) -> bool:
    """Whether a folder looks like a published data set, not like a folder of documents."""
    files = table_files(folder)
    return bool(_parts(folder, files)) or any(path.name.endswith(".parquet") for path in files)


def read_published(folder: str | Path, *, split: str | None = None, subset: str | None = None) -> Dataset:
    """Read a data set in one of the published layouts.

    Args:
        folder: of the files.
        split: of the judgements; None for "test", or for the only one there is.
        subset: for data sets of several, such as "english" where files are in ``english-queries``; None for the only
            one there is.

    Raises:
        InputError: it has none of the layouts, or a row cannot be used.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    folder = Path(folder)
    files = table_files(folder)
    parts = _parts(folder, files)
    if not parts:
        return _flat(folder, [path for path in files if path.name.endswith((".parquet", ".jsonl"))], split)
    tables = _chosen("subset", parts, subset, folder, default="")
    if missing := [part for part in _PARTS if part not in tables]:
        raise InputError(f"{folder} has no {missing[0]}; BEIR's layout is corpus, queries and qrels, each a table")
    qrels = _of_split(tables["qrels"], split, folder)
    chosen = next(iter({_split_of(path) for path in qrels}))
    judgements = _judgements(qrels)
    corpus = TableCorpus(folder, _same_split(tables["corpus"], chosen))
    rows = (row for path in _same_split(tables["queries"], chosen) for row in read_rows(path))
    found = [_query(row, judgements) for row in rows]
    return Dataset.of(folder.name, _unjudged_left_out(found), corpus, [*_notes(found, judgements, corpus)])


def _parts(folder: Path, files: Sequence[Path]) -> dict[str, dict[str, list[Path]]]:
    """The files of corpus, queries and qrels, by subset; nothing if it has not at least queries and a corpus."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in files:
        subset, part = _part_of(path.relative_to(folder))
        if part:
            found.setdefault(subset, {}).setdefault(part, []).append(path)
    for tables in found.values():
        if "qrels" not in tables and (loose := [path for path in files if path.parent.name in ("default", "data")]):
            tables["qrels"] = loose
    return {subset: tables for subset, tables in found.items() if {"corpus", "queries"} <= tables.keys()}


def _part_of(path: Path) -> tuple[str, str]:
    """``english-queries/test-0.parquet`` is of subset "english" and part "queries"; "" for no part."""
    name = path.name
    for suffix in sorted(TABLES, key=len, reverse=True):
        name = name.removesuffix(suffix)
    for piece in (*path.parts[:-1], name):
        for part in _PARTS:
            if piece == part or piece.startswith(f"{part}-0"):
                return "", part
            if piece.endswith(f"-{part}"):
                return (piece.removesuffix(f"-{part}") if piece != name else ""), part
    return "", ""


def _split_of(path: Path) -> str:
    """``qrels/test.tsv``, ``qrels/test-00000-of-00001.parquet`` and ``qrels/test/0000.parquet`` are of "test"."""
    name = path.name.partition(".")[0]
    if name.replace("-of-", "").replace("-", "").isdigit():
        return path.parent.name
    return name.partition("-0")[0]


def _of_split(files: Sequence[Path], split: str | None, folder: Path) -> list[Path]:
    by_split: dict[str, list[Path]] = {}
    for path in files:
        by_split.setdefault(_split_of(path), []).append(path)
    return _chosen("split", by_split, split, folder, default="test")


def _chosen(what: str, known: Mapping[str, T], wanted: str | None, folder: Path, *, default: str) -> T:
    if wanted is None:
        wanted = default if default in known else next(iter(known)) if len(known) == 1 else None
    if wanted is None or wanted not in known:
        asked = "several" if wanted is None else f"no {what} {wanted!r}"
        raise InputError(f"{folder} has {asked}; give {what}= one of {', '.join(map(repr, sorted(known)))}")
    return known[wanted]


def _same_split(files: Sequence[Path], split: str) -> list[Path]:
    """The files of a split, where a table has splits by that name; else all of it."""
    return [path for path in files if _split_of(path) == split] or list(files)


def _judgements(files: Iterable[Path]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for path in files:
        for number, row in enumerate(read_rows(path), 1):
            query, page, score = (first_of(row, names) for names in (_QUERY_ID, _CORPUS_ID, ("score",)))
            try:
                grade = float(score) if score is not None else 1.0
            except (TypeError, ValueError):
                grade = math.nan
            if query is None or page is None or not grade.is_integer():
                shown = one_line(str(dict(row)))
                raise InputError(f"{path}, row {number}: wanted query-id, corpus-id and a whole score, got {shown}")
            found.setdefault(str(query), {})[str(page)] = int(grade)
    return found


def _query(row: Row, judgements: Mapping[str, Mapping[str, int]]) -> JudgedQuery:
    key, text = first_of(row, _QUERY_ID), first_of(row, _QUERY_TEXT)
    if key is None or not isinstance(text, str):
        raise InputError(f"a query needs an id and a text, got {one_line(str(dict(row)))}")
    return JudgedQuery(id=str(key), text=text, judgements=judgements.get(str(key), {}), groups=_groups(row))


def _groups(row: Row) -> dict[str, tuple[str, ...]]:
    groups: dict[str, tuple[str, ...]] = {}
    for name in (*_LANGUAGES, *_CATEGORIES):
        given = row.get(name)
        values = given if isinstance(given, list) else [given]
        kept = tuple(dict.fromkeys(str(value) for value in values if value not in (None, "")))
        if kept:
            groups[name] = kept
    return groups


def _unjudged_left_out(queries: Iterable[JudgedQuery]) -> Iterator[JudgedQuery]:
    """Splits share their queries: those that this one does not judge are not of it."""
    return (query for query in queries if query.judgements)


def _notes(
    queries: Sequence[JudgedQuery], judgements: Mapping[str, Mapping[str, int]], corpus: TableCorpus
) -> Iterable[str]:
    lost = judgements.keys() - {query.id for query in queries}
    if lost:
        yield f"{len(lost)} judged queries are not among the queries, and are left out"
    known = {*corpus.ids()}
    strange = {page for judged in judgements.values() for page in judged} - known
    if strange:
        yield f"{len(strange)} judged pages are not in the corpus; they count as not found"


def _flat(folder: Path, files: Sequence[Path], split: str | None) -> Dataset:
    """ViDoRe V1: a page is known by its file name; a query that stands at several pages is one query."""
    if not files:
        raise InputError(f"{folder} is no data set: it has neither corpus, queries and qrels, nor a table of pages")
    chosen = _of_split(files, split, folder)
    corpus = TableCorpus(folder, chosen)
    judgements: dict[str, dict[str, int]] = {}
    groups: dict[str, dict[str, tuple[str, ...]]] = {}
    ids = iter(corpus.ids(every_row=True))
    for row in (row for path in chosen for row in read_rows(path, ("query", *_LANGUAGES, *_CATEGORIES))):
        page, text = next(ids), row.get("query")
        if isinstance(text, str) and text.strip():
            judgements.setdefault(text, {})[page] = 1
            groups.setdefault(text, _groups(row))
    queries = [
        JudgedQuery(id=text, text=text, judgements=judged, groups=groups[text]) for text, judged in judgements.items()
    ]
    return Dataset.of(folder.name, queries, corpus, corpus.notes)
