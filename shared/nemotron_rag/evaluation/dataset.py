"""A data set: queries, which pages answer them, and the pages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from nemotron_rag.errors import InputError
from nemotron_rag.types import ImageSource, Page

__all__ = ["Corpus", "Dataset", "JudgedQuery", "file_page"]


def file_page(file: str, number: int) -> str:
    """The id of a page of a file in judgements: ``reports/a.pdf#page=3``."""
    return f"{file}#page={number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedQuery:
    """A query, and which pages answer it.

    Args:
        id: of the query.
        text: the query itself.
        judgements: by page id: 0 for not relevant, 1 or more for how relevant. For pages of files the id is that of
            `file_page`.
        groups: what kind of query it is, by what may be told apart: ``{"language": ("english",)}``.

    Example:
        >>> JudgedQuery(id="1", text="How much did sales grow?", judgements={file_page("a.pdf", 3): 1}).relevant
        ('a.pdf#page=3',)
    """

    id: str
    text: str
    judgements: Mapping[str, int]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def relevant(self) -> tuple[str, ...]:
        """Ids of the pages that answer it, the best ones first."""
        found = [page for page, grade in self.judgements.items() if grade >= 1]
        return tuple(sorted(found, key=lambda page: -self.judgements[page]))


class Corpus(Protocol):
    """The pages of a data set that brings them."""

    def pages(self) -> Iterator[Page]:
        """All pages, read anew; `Page.id` is what judgements call them."""

    def images(self, page_ids: Collection[str]) -> Mapping[str, ImageSource]:
        """The images of some pages; those without one are left out."""

    def ids(self) -> Sequence[str]:
        """Ids of all pages, without reading them."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Judged queries over some pages.

    Args:
        name: for people.
        queries: each with an id of its own and at least one relevant page.
        corpus: the pages, if the data set brings them; None if judgements name pages of files.
        notes: what was left out, and why, a line each.

    Raises:
        InputError: there is no query, or two have one id, or one has no relevant page.
    """

    name: str
    queries: tuple[JudgedQuery, ...]
    corpus: Corpus | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.queries:
            raise InputError(f"{self.name} has no query with a relevant page; see docs/evaluation.md for the formats")
        seen: set[str] = set()
        for query in self.queries:
            if query.id in seen:
                raise InputError(f"{self.name} has two queries with the id {query.id!r}; give each its own")
            if not query.text.strip() or not query.relevant:
                raise InputError(f"{self.name}: query {query.id!r} needs a text and at least one relevant page")
            seen.add(query.id)

    @classmethod
    def of(
        cls, name: str, queries: Iterable[JudgedQuery], corpus: Corpus | None = None, notes: Sequence[str] = ()
    ) -> Dataset:
        """A data set without the queries that nothing can be said of, which a note counts."""
        found = list(queries)
        kept = tuple(query for query in found if query.text.strip() and query.relevant)
        lost = len(found) - len(kept)
        said = [f"{lost} of {len(found)} queries have no text or no relevant page and are left out"] if lost else []
        return cls(name=name, queries=kept, corpus=corpus, notes=(*notes, *said))

    @property
    def files(self) -> frozenset[str]:
        """Names of the files that judgements speak of; empty if the data set brings its pages."""
        if self.corpus is not None:
            return frozenset()
        return frozenset(page.rpartition("#page=")[0] for query in self.queries for page in query.judgements)

    @property
    def digest(self) -> str:
        """SHA-256, hex, of queries and judgements, and of which pages there are."""
        content = [[query.id, query.text, dict(query.judgements)] for query in self.queries]
        pages = None if self.corpus is None else list(self.corpus.ids())
        return hashlib.sha256(json.dumps([content, pages]).encode()).hexdigest()

    def only(self, **groups: Sequence[str]) -> Dataset:
        """The queries of some groups alone, such as ``language=["english"]``.

        Raises:
            InputError: no query is of them; the message says which there are.
        """
        queries = self.queries
        for name, values in groups.items():
            known = sorted({value for query in queries for value in query.groups.get(name, ())})
            if missing := [value for value in values if value not in known]:
                raise InputError(f"{self.name} has no query of {name} {missing[0]!r}; there are: {', '.join(known)}")
            queries = tuple(query for query in queries if {*values} & {*query.groups.get(name, ())})
        return replace(self, queries=queries)
