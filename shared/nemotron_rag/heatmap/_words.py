"""Which vectors of a query belong to which of its words. It knows characters, not tokenizers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nemotron_rag._excerpt import telling_words

__all__ = ["telling_places", "word_tokens"]

_RUN = re.compile(r"\S+")


def word_tokens(query: str, spans: NDArray[np.int64]) -> list[tuple[str, NDArray[np.intp]]]:
    """The words of a query, in order, each with the tokens it was split into; words without a token are left out.

    A word is what stands between spaces, without the punctuation around it.

    Args:
        query: the text.
        spans: (tokens, 2), as `LocatingEmbedder.locate_queries` gives them.

    Example:
        >>> word_tokens("Why tornadoes?", np.array([[0, 0], [0, 3], [3, 8], [8, 13], [13, 14]]))
        [('Why', array([1])), ('tornadoes', array([2, 3, 4]))]
    """
    starts, ends = spans.T
    found = []
    for run in _RUN.finditer(query):
        word = _bare(run.group())
        tokens = np.flatnonzero((starts < run.end()) & (ends > run.start()) & (starts < ends))
        if word and len(tokens):
            found.append((word, tokens))
    return found


def telling_places(words: Sequence[str]) -> list[int]:
    """Which of a query's words say what is wanted: their places, at least one if there are words."""
    wanted = telling_words(" ".join(words))
    return [i for i, word in enumerate(words) if telling_words(word) & wanted] or list(range(len(words)))


def _bare(run: str) -> str:
    """Without the punctuation and symbols at its ends."""
    marks = "".join(character for character in run if unicodedata.category(character)[0] in "PS")
    return run.strip(marks)
