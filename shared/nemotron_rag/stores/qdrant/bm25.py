"""BM25 in the form that Qdrant stores: sparse vectors of term weights, which Qdrant multiplies by their rarity.

Score of a page: the sum over the query's words of idf(word) * tf * (k + 1) / (tf + k * (1 - b + b * length / usual))
(Robertson and Zaragoza 2009); the idf is Qdrant's (modifier IDF), so that it is right for the collection at any time.
Words are folded (case, accents), not stemmed.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter

from qdrant_client import models

__all__ = ["passage_terms", "query_terms"]

# The values that Qdrant's own BM25 takes.
_K = 1.2
_B = 0.75
_USUAL_LENGTH = 256  # words

_WORD = re.compile(r"\w+")


def passage_terms(text: str) -> models.SparseVector:
    """The weights of a passage's words, idf left out."""
    words = _words(text)
    floor = _K * (1 - _B + _B * len(words) / _USUAL_LENGTH)
    return _sparse({word: count * (_K + 1) / (count + floor) for word, count in Counter(words).items()})


def query_terms(query: str) -> models.SparseVector:
    """A query's words, each counted once."""
    return _sparse(dict.fromkeys(_words(query), 1.0))


def _words(text: str) -> list[str]:
    apart = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(letter for letter in apart if not unicodedata.combining(letter)))


def _sparse(weights: dict[str, float]) -> models.SparseVector:
    by_id = {_term_id(word): weight for word, weight in weights.items()}
    return models.SparseVector(indices=list(by_id), values=list(by_id.values()))


def _term_id(word: str) -> int:
    """31 bits of a hash: two of 100,000 words share one about twice, which costs next to nothing."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=4).digest(), "big") >> 1
