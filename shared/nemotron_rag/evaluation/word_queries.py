"""Queries made of the pages' own words, without any model: for documents that nobody has judged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from nemotron_rag.documents.text import one_line
from nemotron_rag.documents.words import folded, parts
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.dataset import JudgedQuery, file_page
from nemotron_rag.evaluation.query_files import file_name
from nemotron_rag.ranking import check_count
from nemotron_rag.types import Page

__all__ = ["WORDS_WARNING", "WordKind", "queries_from_words"]

WordKind: TypeAlias = Literal["sentence", "keywords"]
"""A stretch of a page's text, or rare words of it."""

WORDS_WARNING = (
    "These queries are made of the pages' own words: they tell whether a page is found again by what it says. They "
    "favour search by words, say nothing of questions in other words or about figures, and leave out pages with none."
)
"""What must be known of such queries."""

_SENTENCE = 12  # words
_KEYWORDS = 4
_RARE = 0.1  # share of the pages that may have a keyword
_SHORTEST = 3  # letters of a keyword
_TRIES = 20


@dataclass(frozen=True, slots=True)
class _Text:
    """A page's text: where its words are, and what they are compared as."""

    page: Page
    line: str
    spans: Sequence[tuple[int, int]]
    words: Sequence[str]

    @classmethod
    def of(cls, page: Page) -> _Text:
        line = one_line(page.text)
        found = parts(line)
        spans = [(part.start, part.end) for part in found]
        return cls(page, line, spans, [folded(line[start:end]) for start, end in spans])


def queries_from_words(
    pages: Iterable[Page],
    *,
    count: int = 100,
    kinds: Sequence[WordKind] = ("sentence", "keywords"),
    seed: int = 0,
    name: Callable[[Page], str] | None = None,
) -> list[JudgedQuery]:
    """Make queries of the words of pages; read `WORDS_WARNING`.

    Every page that has the same stretch, or all of the keywords, is judged relevant. Kinds take turns.

    Args:
        pages: with their texts, which are held in memory; images are not needed.
        count: how many, if the pages have enough words.
        kinds: "sentence" for 12 words in a row, "keywords" for 4 words that few pages have.
        seed: of the choice of pages and words: equal pages and seeds give equal queries.
        name: what the file of a page is called in the judgements; None for `Page.source`.

    Raises:
        InputError: `count` or `kinds` cannot be used, or no page has enough words.

    Example:
        >>> words = "Red apples keep best in the cold rooms of an old cellar, said the farmer."
        >>> (query,) = queries_from_words([Page(words, id="1", source="a.pdf")], count=1)
        >>> query.judgements, query.groups
        ({'a.pdf#page=1': 1}, {'category': ('sentence',)})
    """
    check_count("count", count)
    if not kinds or any(kind not in get_args(WordKind) for kind in kinds):
        raise InputError(f"kinds must be of {', '.join(get_args(WordKind))}; got {kinds!r}")
    texts = [_Text.of(page) for page in pages]
    makers = {kind: _Maker(texts, kind) for kind in kinds}
    rng = random.Random(seed)  # noqa: S311  no secret
    order = rng.sample(range(len(texts)), len(texts))
    found: dict[str, JudgedQuery] = {}
    for turn in range(min(count * _TRIES, _TRIES * max(1, len(texts)))):
        if len(found) == count or not texts:
            break
        kind = kinds[turn % len(kinds)]
        text = makers[kind].draw(texts[order[(turn // len(kinds)) % len(texts)]], rng)
        if text is not None and text not in found:
            found[text] = makers[kind].judged(text, name or _source)
    if not found:
        raise InputError("no page has enough words to make a query of; scans need OCR first (see `PageIndex.add`)")
    return [*found.values()]


class _Maker:
    """Makes queries of one kind."""

    def __init__(self, texts: Sequence[_Text], kind: WordKind) -> None:
        self._texts, self._kind = texts, kind
        self._spread = Counter(word for text in texts for word in set(text.words))
        self._rare = max(1, int(_RARE * len(texts)))
        self._wanted: dict[str, tuple[str, ...]] = {}

    def draw(self, text: _Text, rng: random.Random) -> str | None:
        """A query of a page; None if it has too few words."""
        if self._kind == "sentence":
            if len(text.words) < _SENTENCE:
                return None
            start = rng.randrange(len(text.words) - _SENTENCE + 1)
            query = text.line[text.spans[start][0] : text.spans[start + _SENTENCE - 1][1]]
            self._wanted[query] = tuple(text.words[start : start + _SENTENCE])
            return query
        rare = [i for i, word in enumerate(text.words) if self._is_keyword(word)]
        distinct = sorted({text.words[i]: i for i in reversed(rare)}.values())
        if len(distinct) < _KEYWORDS:
            return None
        chosen = sorted(rng.sample(distinct, _KEYWORDS))
        query = " ".join(text.line[slice(*text.spans[i])] for i in chosen)
        self._wanted[query] = tuple(text.words[i] for i in chosen)
        return query

    def judged(self, query: str, name: Callable[[Page], str]) -> JudgedQuery:
        """The query with every page that it would be right to find."""
        wanted = self._wanted[query]
        pages = [text.page for text in self._texts if self._has(text, wanted)]
        judgements = {file_page(file_name(name(page)), page.number): 1 for page in pages}
        return JudgedQuery(id=query, text=query, judgements=judgements, groups={"category": (self._kind,)})

    def _is_keyword(self, word: str) -> bool:
        return len(word) >= _SHORTEST and word.isalpha() and self._spread[word] <= self._rare

    def _has(self, text: _Text, wanted: tuple[str, ...]) -> bool:
        if self._kind == "keywords":
            return {*wanted} <= {*text.words}
        starts = (i for i, word in enumerate(text.words) if word == wanted[0])
        return any(tuple(text.words[i : i + len(wanted)]) == wanted for i in starts)


def _source(page: Page) -> str:
    return page.source
