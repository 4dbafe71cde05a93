"""Draws training batches of queries and pages as token ids."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from tokenizers import Tokenizer

from training.pages import TextPage
from training.queries import QueryMaker

__all__ = ["PageBatches", "PairBatches", "encode"]

_WEIGHTS = {"en": 1, "fr": 3, "de": 3}
"""How much likelier a document is chosen for its language: there are fewer French and German ones."""


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids without the start token."""
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class PageBatches:
    """Queries with the pages they were made from; pages of one document come together, as hard negatives.

    Args:
        pages: to draw from.
        tokenizer: of the model.
        size: queries in a batch.
        together: pages drawn from one document.
        window: shortest and longest part of a page that is used, characters; any length is as likely as twice that
            length. None for whole pages. The query is made from the part.
    """

    def __init__(
        self,
        pages: Sequence[TextPage],
        tokenizer: Tokenizer,
        *,
        size: int,
        together: int = 4,
        window: tuple[int, int] | None = None,
    ) -> None:
        groups: dict[str, list[TextPage]] = defaultdict(list)
        for page in pages:
            groups[page.document if ".pdf" in page.file else page.package].append(page)
        self._groups = list(groups.values())
        self._chances = [min(len(group), 400) ** 0.7 * _WEIGHTS[group[0].language] for group in self._groups]
        self._tokenizer, self._size, self._together, self._limits = tokenizer, size, together, window
        self._queries = QueryMaker([page.text for page in pages[::3]])

    def texts(self, rng: random.Random) -> list[tuple[str, str]]:
        """Queries and page texts."""
        rows: list[tuple[str, str]] = []
        while len(rows) < self._size:
            (group,) = rng.choices(self._groups, self._chances)
            for page in rng.sample(group, min(len(group), self._together)):
                text = self._window(page.text, rng)
                rows.append((self._queries.rough(text, page.title, page.language, rng), text))
        return rows[: self._size]

    def _window(self, text: str, rng: random.Random) -> str:
        if self._limits is None:
            return text
        shortest, longest = self._limits
        length = min(len(text), round(shortest * (longest / shortest) ** rng.random()))
        start = rng.randint(0, len(text) - length)
        return text[start : start + length]

    def __call__(self, rng: random.Random) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of queries and pages."""
        queries, pages = zip(*self.texts(rng), strict=True)
        return encode(self._tokenizer, queries), encode(self._tokenizer, pages)


class PairBatches:
    """Short texts that mean the same, in either direction."""

    def __init__(self, pairs: Sequence[tuple[str, str]], tokenizer: Tokenizer, *, size: int) -> None:
        self._pairs, self._tokenizer, self._size = pairs, tokenizer, size

    def __call__(self, rng: random.Random) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of both sides."""
        rows = [pair if rng.random() < 0.5 else pair[::-1] for pair in rng.sample(self._pairs, self._size)]
        left, right = zip(*rows, strict=True)
        return encode(self._tokenizer, left), encode(self._tokenizer, right)
