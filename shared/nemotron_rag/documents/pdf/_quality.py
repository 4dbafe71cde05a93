"""How good a text looks: whether its characters could be decoded, or stand for nothing."""

from __future__ import annotations

import unicodedata
from itertools import groupby

__all__ = ["is_undecodable", "legible", "quality_of"]

_WORST = 0.7  # of a page's characters, which must be decoded for it to count as text
_SOUP_LENGTH, _SOUP_KINDS, _SOUP_SHARE = 20, 8, 0.75  # characters, kinds of signs among them, and their share


def quality_of(text: str) -> float:
    """Return the share of characters that could be decoded, from 0 to 1; 1 for no text.

    Not decoded are those that a font maps to nothing (U+FFFD), to private use, or to no character of Unicode.
    """
    characters = "".join(text.split())
    return 1.0 if not characters else sum(map(_is_decoded, characters)) / len(characters)


def is_undecodable(text: str) -> bool:
    """Whether a text is junk, as of fonts that do not say which characters they draw."""
    return quality_of(text) < _WORST or _is_soup(text)


def legible(text: str) -> str:
    """What of a text that is partly junk can be read: the lines with letters or digits, without what is not decoded."""
    if _is_soup(text):
        return ""
    lines = (" ".join("".join(filter(_is_legible, line)).split()) for line in text.splitlines())
    return "\n".join(line for line in lines if any(map(str.isalnum, line)))


def _is_legible(character: str) -> bool:
    return character.isspace() or _is_decoded(character)


def _is_decoded(character: str) -> bool:
    return character != "\ufffd" and unicodedata.category(character) not in ("Co", "Cn", "Cc", "Cs")


def _is_soup(text: str) -> bool:
    """Whether a text is made of many kinds of signs and few letters; rows of dots and lines count once."""
    signs = [character for character, _ in groupby("".join(text.split()))]
    odd = [character for character in signs if unicodedata.category(character)[0] in "PS"]
    return len(signs) >= _SOUP_LENGTH and len(set(odd)) >= _SOUP_KINDS and len(odd) > _SOUP_SHARE * len(signs)
