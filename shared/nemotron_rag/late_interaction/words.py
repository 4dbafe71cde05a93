"""Map the words of a query to its token vectors."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.documents.text import content_words

__all__ = ["content_word_indices", "word_tokens"]

_RUN = re.compile(r"\S+")


def word_tokens(query: str, spans: NDArray[np.int64]) -> list[tuple[str, NDArray[np.intp]]]:
    """Return the words of a query in order, each with the indices of its tokens; words without a token are left out.

    Words are separated by white space; punctuation around them is removed.

    Args:
        query: the text.
        spans: (tokens, 2) character spans, as `LocatingEmbedder.locate_queries` returns them.

    Example:
        >>> word_tokens("Why tornadoes?", np.array([[0, 0], [0, 3], [3, 8], [8, 13], [13, 14]]))
        [('Why', array([1])), ('tornadoes', array([2, 3, 4]))]
    """
    starts, ends = spans.T
    found = []
    for run in _RUN.finditer(query):
        word = _strip_punctuation(run.group())
        tokens = np.flatnonzero((starts < run.end()) & (ends > run.start()) & (starts < ends))
        if word and len(tokens):
            found.append((word, tokens))
    return found


def content_word_indices(words: Sequence[str]) -> list[int]:
    """Return the indices of the content words among a query's words, or of all words if none is one."""
    content = content_words(" ".join(words))
    return [i for i, word in enumerate(words) if content_words(word) & content] or list(range(len(words)))


def _strip_punctuation(run: str) -> str:
    """Remove punctuation and symbols at both ends."""
    marks = "".join(character for character in run if unicodedata.category(character)[0] in "PS")
    return run.strip(marks)
