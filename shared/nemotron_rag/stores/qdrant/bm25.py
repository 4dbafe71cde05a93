"""BM25 in the form that Qdrant stores: sparse vectors of term weights, which Qdrant multiplies by their rarity.

Score of a page: the sum over the query's words of idf(word) * tf * (k + 1) / (tf + k * (1 - b + b * length / usual))
(Robertson and Zaragoza 2009); the idf is Qdrant's (modifier IDF), so that it is right for the collection at any time.
What a word is, in every language, says `nemotron_rag.documents.words`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from qdrant_client import models

from nemotron_rag.documents.words import ANALYSES, CURRENT_ANALYSIS, passage_bag, query_words
from nemotron_rag.errors import StoreError

__all__ = ["analysis_of", "passage_terms", "query_terms"]

# The values that Qdrant's own BM25 takes.
_K = 1.2
_B = 0.75
_USUAL_LENGTH = 256  # words
_REMEMBERED = 2**16  # ids of words


def analysis_of(record: Mapping[str, Any]) -> int:
    """How the words of an index were found, by its record: under ``words``; an index from before has none.

    Raises:
        StoreError: a later version of this package wrote it.
    """
    analysis = record.get("words", ANALYSES[0])
    if analysis not in ANALYSES:
        raise StoreError(f"the words of this index were found in a way {analysis!r} of later; update nemotron-rag")
    return int(analysis)


def passage_terms(text: str, analysis: int = CURRENT_ANALYSIS) -> models.SparseVector:
    """The weights of a passage's words, idf left out; see `nemotron_rag.documents.words` for `analysis`."""
    counts, length = passage_bag(text, analysis)
    floor = _K * (1 - _B + _B * length / _USUAL_LENGTH)
    weights = {count: count * (_K + 1) / (count + floor) for count in set(counts.values())}
    return _sparse({word: weights[count] for word, count in counts.items()})


def query_terms(query: str, analysis: int = CURRENT_ANALYSIS) -> models.SparseVector:
    """A query's words, each counted once."""
    return _sparse(dict.fromkeys(query_words(query, analysis), 1.0))


def _sparse(weights: dict[str, float]) -> models.SparseVector:
    by_id = dict(zip(map(_term_ids.__getitem__, weights), weights.values(), strict=True))
    # not validated: a page has hundreds of them
    return models.SparseVector.model_construct(indices=list(by_id), values=list(by_id.values()))


class _TermIds(dict[str, int]):
    """31 bits of a hash of each word: two of 100,000 words share one about twice, which costs next to nothing."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=4).digest()
        self[word] = found = int.from_bytes(digest, "big") >> 1
        return found


_term_ids = _TermIds()
