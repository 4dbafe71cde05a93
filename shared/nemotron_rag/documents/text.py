"""Clean texts for terminals, HTML and messages; content words of a query, and excerpts with the most of them."""

from __future__ import annotations

import re

__all__ = ["content_words", "excerpt", "one_line", "printable", "split_marked"]

_WORD = re.compile(r"\w+")
_LONG = 4  # letters; shorter words ("of", "der") are stop words, unless they are numbers or acronyms
_CHARACTERS_PER_WORD = 9  # limit for scripts without spaces between words
_JOINERS = "\u200c\u200d"  # not "printable", but Persian and Indic words are wrong without them


def printable(text: str) -> str:
    r"""Escape control and unprintable characters, as in ``\x1b``, so that no terminal interprets them."""
    return "".join(c if _is_visible(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """Put a text on one line: runs of white space become one space, unprintable characters are dropped."""
    return "".join(c for c in " ".join(text.split()) if _is_visible(c))


def content_words(query: str) -> set[str]:
    """Return the content words of a query in lower case: short words are left out, unless all are short."""
    words = _WORD.findall(query)
    content = [w for w in words if len(w) >= _LONG or not w.isalpha() or (w.isupper() and len(w) > 1)]
    return {w.casefold() for w in content or words}


def excerpt(text: str, query: str, *, words: int = 60) -> str:
    """Return the first stretch of `text` with the most different content words of `query`.

    Args:
        text: of a page.
        query: the query.
        words: most words to return.

    Returns:
        One line; an ellipsis marks text that was left out.
    """
    tokens = one_line(text).split(" ")
    content = content_words(query)
    found = [{w.casefold() for w in _WORD.findall(token)} & content for token in tokens]
    best, start = 0, 0
    for first in range(0, max(1, len(tokens) - words + 1), max(1, words // 4)):
        score = len(set().union(*found[first : first + words]))
        if score > best:
            best, start = score, first
    rest = " ".join(tokens[start:])
    shown = " ".join(tokens[start : start + words])[: words * _CHARACTERS_PER_WORD]
    return ("… " if start else "") + shown + (" …" if len(shown) < len(rest) else "")


def split_marked(text: str, query: str) -> list[tuple[str, bool]]:
    """Split `text` into (piece, whether it is a content word of the query); joined, the pieces are the text."""
    content = content_words(query)
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _WORD.finditer(text):
        if match.group().casefold() in content:
            pieces += [(text[end : match.start()], False), (match.group(), True)]
            end = match.end()
    pieces.append((text[end:], False))
    return [piece for piece in pieces if piece[0]]


def _is_visible(character: str) -> bool:
    return character.isprintable() or character in _JOINERS
