"""Clean texts for terminals, HTML and messages; content words of a query, and excerpts with the most of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from nemotron_rag.documents.words import Part, folded, parts, query_words

__all__ = ["content_words", "excerpt", "one_line", "printable", "split_marked"]

_LONG = 4  # letters; shorter words ("of", "der") are stop words, unless they are numbers or acronyms
_UNIT = re.compile(r"\S{1,24}(?: |$)|\S{1,9} ?")  # a word, or a piece of a text without spaces
_CHARACTERS_PER_WORD = 9  # limit for scripts without spaces between words
_JOINERS = "\u200c\u200d"  # not "printable", but Persian and Indic words are wrong without them


def printable(text: str) -> str:
    r"""Escape control and unprintable characters, as in ``\x1b``, so that no terminal interprets them."""
    return "".join(c if _is_visible(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """Put a text on one line: runs of white space become one space, unprintable characters are dropped."""
    return " ".join("".join(c for c in text if c.isspace() or _is_visible(c)).split())


def content_words(query: str) -> set[str]:
    """Return the content words of a query, folded: short words are left out, unless all are short.

    Of words that are not spaced, as in Chinese or Thai, these are runs of characters; see `documents.words`.
    """
    found = parts(query)
    words = [query[part.start : part.end] for part in found if part.spaced]
    content = [w for w in words if len(w) >= _LONG or not w.isalpha() or (w.isupper() and len(w) > 1)]
    unspaced = list(query)
    for part in found:
        if part.spaced:
            unspaced[part.start : part.end] = " " * (part.end - part.start)
    runs = query_words("".join(unspaced))
    return {*runs, *(folded(word) for word in content or ([] if runs else words))} - {""}


def excerpt(text: str, query: str, *, words: int = 60) -> str:
    """Return the first stretch of `text` with the most different content words of `query`.

    Args:
        text: of a page.
        query: the query.
        words: most words to return.

    Returns:
        One line; an ellipsis marks text that was left out.
    """
    line = one_line(text)
    units = [unit.group() for unit in _UNIT.finditer(line)]
    content = content_words(query)
    best, start = 0, 0
    for first in range(0, max(1, len(units) - words + 1), max(1, words // 4)):
        score = len({word for word, _, _ in _found("".join(units[first : first + words]), content)})
        if score > best:
            best, start = score, first
    rest = "".join(units[start:]).strip(" ")
    shown = "".join(units[start : start + words])[: words * _CHARACTERS_PER_WORD].strip(" ")
    return ("… " if start else "") + shown + (" …" if len(shown) < len(rest) else "")


def split_marked(text: str, query: str) -> list[tuple[str, bool]]:
    """Split `text` into (piece, whether it is a content word of the query); joined, the pieces are the text."""
    pieces: list[tuple[str, bool]] = []
    end = 0
    for _, start, stop in _found(text, content_words(query)):
        if start < end and pieces:  # runs of characters that overlap are one piece
            start, _ = end - len(pieces[-1][0]), pieces.pop()
        pieces += [(text[end if start >= end else start : start], False), (text[start:stop], True)]
        end = stop
    pieces.append((text[end:], False))
    return [piece for piece in pieces if piece[0]]


def _found(text: str, content: set[str]) -> Iterator[tuple[str, int, int]]:
    """The content words in a text, each with where it begins and ends; by their beginnings."""
    run: list[Part] = []
    for part in [*parts(text), Part(len(text), len(text), spaced=True)]:
        if run and (part.spaced or part.start != run[-1].end):
            yield from _in_run(text, run, content)
            run = []
        if not part.spaced:
            run.append(part)
        elif (word := folded(text[part.start : part.end])) in content:
            yield word, part.start, part.end


def _in_run(text: str, run: Sequence[Part], content: set[str]) -> Iterator[tuple[str, int, int]]:
    """The longest content word at each character of words that are not spaced."""
    characters = [folded(text[part.start : part.end]) for part in run]
    for first in range(len(run)):
        for size in (3, 2, 1):
            word = "".join(characters[first : first + size])
            if first + size <= len(run) and word in content:
                yield word, run[first].start, run[first + size - 1].end
                break


def _is_visible(character: str) -> bool:
    return character.isprintable() or character in _JOINERS
