"""Makes queries out of pages: exact ones for evaluation, rougher ones for training."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence

from training.bm25 import words_of

__all__ = ["KINDS", "QueryMaker"]

KINDS = ("sentence", "keywords4", "keywords2")
"""The kinds that are evaluated."""

_TEMPLATES = {
    "en": ("what is {}?", "how does {} work?", "how do I use {}?", "which {}?", "explain {}", "what about {}?",
           "where is {} described?", "why {}?", "when {}?", "tell me about {}", "what are the {}?", "{}?",
           "how many {} are there?", "what does the document say about {}?", "can I {}?", "who {}?"),
    "fr": ("qu'est-ce que {} ?", "comment {} ?", "comment utiliser {} ?", "quel est {} ?", "pourquoi {} ?", "{} ?",
           "que dit le document sur {} ?", "quelles sont les {} ?", "ou se trouve {} ?", "combien de {} ?"),
    "de": ("was ist {}?", "wie funktioniert {}?", "wie verwende ich {}?", "welche {}?", "warum {}?", "{}?",
           "was sagt das Dokument ueber {}?", "wo steht {}?", "wann {}?", "wie viele {} gibt es?"),
}  # fmt: skip


def _typo(word: str, rng: random.Random) -> str:
    """Swap, drop or double one letter."""
    if len(word) < 5:
        return word
    at = rng.randrange(1, len(word) - 1)
    return rng.choice((word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at + 1 :],
                       word[:at] + word[at] + word[at:]))  # fmt: skip


def _inflect(word: str, rng: random.Random) -> str:
    """Another ending of the kind that English, French and German words change by."""
    if len(word) < 5:
        return word
    stem = re.sub(r"(ing|ed|es|s|en|er|e|ly|tion|ment)$", "", word)
    if len(stem) < 4:
        return word + "s"
    return stem + rng.choice(("", "s", "e", "es", "ed", "ing", "er", "en"))


class QueryMaker:
    """Draws queries from pages.

    Args:
        texts: the pages whose word frequencies say which words are rare.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._pages = len(texts)
        self._spread = Counter(word for text in texts for word in set(words_of(text)))

    def _rare(self, words: Sequence[str], share: float) -> list[str]:
        limit = max(1, share * self._pages)
        return [word for word in set(words) if len(word) > 2 and word.isalpha() and self._spread[word] <= limit]

    def exact(self, text: str, kind: str, rng: random.Random) -> str | None:
        """A query of one of `KINDS`, or None if the page has too few words for it."""
        words = words_of(text)
        if kind == "sentence":
            if len(words) < 12:
                return None
            start = rng.randrange(len(words) - 11)
            return " ".join(words[start : start + 12])
        count = int(kind.removeprefix("keywords"))
        rare = sorted(self._rare(words, 0.1))
        return " ".join(rng.sample(rare, count)) if len(rare) >= count else None

    def rough(self, text: str, title: str, language: str, rng: random.Random) -> str:
        """A training query: a span, keywords, a title, a query made of either; sometimes damaged."""
        words = words_of(text)
        roll = rng.random()
        if title and roll < 0.25:
            base = words_of(title)
        elif roll < 0.6:
            length = rng.randint(4, 16)
            start = rng.randrange(max(1, len(words) - length))
            base = words[start : start + length]
        else:
            rare = sorted(self._rare(words, rng.choice((0.01, 0.05, 0.2)))) or words
            base = rng.sample(rare, min(len(rare), rng.randint(2, 6)))
        if rng.random() < 0.4:
            base = self._damage(base, rng)
        query = " ".join(base)
        if rng.random() < 0.35:
            query = rng.choice(_TEMPLATES[language]).format(query)
        return query

    def _damage(self, words: list[str], rng: random.Random) -> list[str]:
        kept = [word for word in words if rng.random() > 0.15] or words
        if rng.random() < 0.5:
            kept = rng.sample(kept, len(kept))
        changed = []
        for word in kept:
            roll = rng.random()
            changed.append(_typo(word, rng) if roll < 0.08 else _inflect(word, rng) if roll < 0.25 else word)
        return changed
