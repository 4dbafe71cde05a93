"""Plain BM25 over words: the yardstick, and the source of hard negatives."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bm25", "words_of"]

_WORD = re.compile(r"[^\W_]+")
_ACCENTS = re.compile("[\u0300-\u036f]")
_K1, _B = 1.2, 0.75  # the usual constants


def words_of(text: str) -> list[str]:
    """Lower-cased words without accents; letters and digits only."""
    return _WORD.findall(_ACCENTS.sub("", unicodedata.normalize("NFKD", text.lower())))


class Bm25:
    """Scores every page of a pool for a query.

    Args:
        texts: of the pages.

    Example:
        >>> int(Bm25(["red wine", "green tea"]).scores("a cup of tea").argmax())
        1
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(words_of(text)) for text in texts]
        lengths = np.array([sum(count.values()) for count in counts], dtype=np.float64)
        self._norm = _K1 * (1 - _B + _B * lengths / max(1.0, lengths.mean()))
        self._postings: dict[str, tuple[list[int], list[int]]] = {}
        for index, count in enumerate(counts):
            for word, times in count.items():
                where, how_often = self._postings.setdefault(word, ([], []))
                where.append(index)
                how_often.append(times)

    def scores(self, query: str) -> NDArray[np.float64]:
        """BM25 of every page, (pages,)."""
        total = np.zeros(len(self._norm))
        for word in set(words_of(query)):
            if word in self._postings:
                where, how_often = self._postings[word]
                times = np.array(how_often, dtype=np.float64)
                idf = math.log(1 + (len(total) - len(where) + 0.5) / (len(where) + 0.5))
                total[where] += idf * times * (_K1 + 1) / (times + self._norm[where])
        return total
