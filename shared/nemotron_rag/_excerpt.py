"""The part of a page's text that answers a query best, and where the query's words stand in it.

It knows words, not meaning, and nothing of terminals or HTML.
"""

from __future__ import annotations

import re

__all__ = ["excerpt", "one_line", "printable", "split_marked", "telling_words"]

_WORD = re.compile(r"\w+")
_LONG = 4  # letters; shorter words ("of", "der") say little, unless they are numbers or acronyms
_JOINERS = "\u200c\u200d"  # not "printable", but Persian and Indic words are wrong without them
_CHARACTERS_PER_WORD = 9  # bound for scripts that put no space between words


def printable(text: str) -> str:
    r"""The text with everything a terminal could obey, or not show, written as an escape such as ``\x1b``."""
    return "".join(c if _shows(c) else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """The text on one line: runs of white space become one space, unprintable characters are left out."""
    return "".join(c for c in " ".join(text.split()) if _shows(c))


def excerpt(text: str, query: str, *, words: int = 60) -> str:
    """Cut the stretch of `text` that holds the most different words of `query`; the first such one.

    Args:
        text: of a page.
        query: the question.
        words: most words to return.

    Returns:
        One line; an ellipsis stands where text was left out.
    """
    tokens = one_line(text).split(" ")
    wanted = telling_words(query)
    found = [{w.casefold() for w in _WORD.findall(token)} & wanted for token in tokens]
    best, start = 0, 0
    for first in range(0, max(1, len(tokens) - words + 1), max(1, words // 4)):
        score = len(set().union(*found[first : first + words]))
        if score > best:
            best, start = score, first
    rest = " ".join(tokens[start:])
    shown = " ".join(tokens[start : start + words])[: words * _CHARACTERS_PER_WORD]
    return ("… " if start else "") + shown + (" …" if len(shown) < len(rest) else "")


def split_marked(text: str, query: str) -> list[tuple[str, bool]]:
    """Split `text` into (piece, is one of the query's words); the pieces joined are the text again."""
    wanted = telling_words(query)
    pieces: list[tuple[str, bool]] = []
    end = 0
    for match in _WORD.finditer(text):
        if match.group().casefold() in wanted:
            pieces += [(text[end : match.start()], False), (match.group(), True)]
            end = match.end()
    pieces.append((text[end:], False))
    return [piece for piece in pieces if piece[0]]


def telling_words(query: str) -> set[str]:
    """The words of a query, in lower case, that say what is wanted: not the short ones, unless all are short."""
    words = _WORD.findall(query)
    telling = [w for w in words if len(w) >= _LONG or not w.isalpha() or (w.isupper() and len(w) > 1)]
    return {w.casefold() for w in telling or words}


def _shows(character: str) -> bool:
    return character.isprintable() or character in _JOINERS
