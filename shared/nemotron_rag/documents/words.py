"""The words of a text in any language, as they are compared in hybrid search.

Case, width, accents, vowel points and digits are folded; nothing is stemmed. Chinese, Japanese, Korean, Thai, Lao,
Khmer, Burmese and their like do not put spaces between words (Korean not between a word and its particles): there, runs
of one, two, and in the last four three characters stand for words, as in Lucene's CJKAnalyzer. A character there is one
with all of its marks. What was written with an older analysis must be searched with it.
"""
# ruff: noqa: RUF001  letters that look like others are what this is about

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

__all__ = ["ANALYSES", "CURRENT_ANALYSIS", "Bag", "Part", "folded", "parts", "passage_bag", "query_words"]

CURRENT_ANALYSIS = 2
"""Of new indexes. 1 took every run of letters for a word and dropped all marks."""

ANALYSES = (1, 2)
"""Which there are."""

_OLD_WORD = re.compile(r"\w+")
_ASCII_WORD = re.compile(r"[a-z0-9]+")

# Marks that words are written with and without: Latin, Greek and Cyrillic accents, Hebrew points, Arabic and Syriac
# vowels. Those of other scripts are letters to their readers. And what cannot be seen: joiners, soft hyphens, direction
# marks, spaces of no width (in Khmer some write them between words), the Arabic stretching of a line.
_DROPPED = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f"
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0711\u0730-\u074a"
    "\u00ad\u0640\u061c\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]+"
)
_PERSIAN_JOINT = re.compile("(?<=[\u0600-\u06ff])\u200c(?=[\u0600-\u06ff])")  # some write a space there
_NASAL = re.compile("[ङञणनम]्(?=[क-ह])|ँ")  # Devanagari: हिन्दी is हिंदी, and an anusvara what stands there
_NUKTA = "\u093c"  # the dot below of Urdu's sounds, which many leave out

_PAIRED = (  # Han, Kana, Bopomofo, Hangul, Yi: words are mostly of two characters
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u30ff\u3105-\u318e\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua48c\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_TRIPLED = (  # Thai and Lao, Burmese, Khmer, Tai scripts, Balinese, Javanese: of three and more
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"
)
_PARTS = re.compile(f"([{_PAIRED}]+)|([{_TRIPLED}]+)|[^{_PAIRED}{_TRIPLED}]+")

# Letters that many write as other ones, beyond what Unicode decomposes; the Arabic ones as in Lucene's normalizers.
_FOLDED = {
    **{"ı": "i", "ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe"},
    **{"ٱ": "ا", "ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه", "ہ": "ه"},
    **{"ൺ": "ണ്", "ൻ": "ന്", "ർ": "ര്", "ൽ": "ല്", "ൾ": "ള്", "ൿ": "ക്"},  # Malayalam: one character, or letter and virama
    **{"_": " ", "\u02bc": " "},  # the second is an apostrophe that counts as a letter
}


class Bag(NamedTuple):
    """The words of a passage.

    Args:
        counts: how often each stands there, runs of characters among them.
        length: of the passage, in words or in characters of scripts without spaces.
    """

    counts: Counter[str]
    length: int


def passage_bag(text: str, analysis: int = CURRENT_ANALYSIS) -> Bag:
    """The words by which a passage is found.

    Args:
        text: of the passage.
        analysis: one of `ANALYSES`.

    Example:
        >>> sorted(passage_bag("Klärung 税率").counts)
        ['klarung', '税', '税率', '率']
    """
    if analysis == 1:
        words = _old_words(text)
        return Bag(Counter(words), len(words))
    words, runs = _words(text)
    terms = [*words]
    for characters, longest in runs:
        for size in range(1, longest + 1):
            terms += _neighbours(characters, size)
    return Bag(Counter(terms), len(words) + sum(len(characters) for characters, _ in runs))


def query_words(query: str, analysis: int = CURRENT_ANALYSIS) -> list[str]:
    """What is looked for in passages, each once: of the runs of characters only long ones, which tell more.

    Args:
        query: in words.
        analysis: that of the passages.

    Example:
        >>> query_words("消費税率 米")
        ['消費', '費税', '税率', '米']
    """
    if analysis == 1:
        return list(dict.fromkeys(_old_words(query)))
    words, runs = _words(query)
    terms = [*words]
    for characters, longest in runs:
        for size in range(min(2, len(characters)), longest + 1):
            terms += _neighbours(characters, size)
    return list(dict.fromkeys(terms))


class Part(NamedTuple):
    """A word of a text, or a character of words that are not spaced.

    Args:
        start: of its first letter in the text.
        end: behind its last.
        spaced: whether it is a word of its own.
    """

    start: int
    end: int
    spaced: bool


def parts(text: str) -> list[Part]:
    """Where the words of a text are, in order; see `passage_bag` for what one is.

    Example:
        >>> [text[part.start : part.end] for text in ["Klärung 税率"] for part in parts(text)]
        ['Klärung', '税', '率']
    """
    found: list[Part] = []
    marked = _tables().marked
    for word in marked.finditer(text):
        for part in _PARTS.finditer(text, word.start(), word.end()):
            if part.lastindex is None:
                found.append(Part(part.start(), part.end(), spaced=True))
            else:
                each = _tables().character.finditer(text, part.start(), part.end())
                found += [Part(one.start(), one.end(), spaced=False) for one in each]
    return found


def folded(word: str) -> str:
    """A word as it is compared with others."""
    return _tables().fold(word)


def _words(text: str) -> tuple[list[str], list[tuple[list[str], int]]]:
    """Words between spaces; and runs of characters that may be words together, with the length of the longest."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower()), []
    marked, character, fold = _tables()
    words: list[str] = []
    runs: list[tuple[list[str], int]] = []
    for word in marked.findall(fold(text)):
        if word.isascii():
            words.append(word)
            continue
        for part in _PARTS.finditer(word):
            if part.lastindex is None:
                words.append(part.group())
            else:
                runs.append((character.findall(part.group()), part.lastindex + 1))
    return words, runs


def _neighbours(characters: list[str], size: int) -> list[str]:
    return ["".join(characters[i : i + size]) for i in range(len(characters) - size + 1)]


class _Tables(NamedTuple):
    """Runs of letters, marks and digits; characters with their marks; and the folding."""

    marked: re.Pattern[str]
    character: re.Pattern[str]
    fold: Callable[[str], str]


@cache
def _tables() -> _Tables:
    """Made at first use."""
    kinds = [(code, unicodedata.category(chr(code))) for code in range(0x300, 0x1EA00)]
    marks = _ranges([code for code, kind in kinds if kind.startswith("M")])
    digits = {code: str(unicodedata.decimal(chr(code))) for code, kind in kinds if kind == "Nd"}
    table = digits | str.maketrans(_FOLDED)

    def fold(text: str) -> str:
        apart = unicodedata.normalize("NFKD", _PERSIAN_JOINT.sub(" ", text).casefold())
        plain = _NASAL.sub("ं", _DROPPED.sub("", apart).replace(_NUKTA, ""))
        return unicodedata.normalize("NFC", plain.translate(table))

    return _Tables(re.compile(rf"[\w{marks}]+"), re.compile(f"[^{marks}][{marks}]*|[{marks}]+"), fold)


def _ranges(codes: list[int]) -> str:
    """Ascending code points as ranges of a character class."""
    starts = [code for code, before in zip(codes, [-1, *codes], strict=False) if code != before + 1]
    ends = [code for code, after in zip(codes, [*codes[1:], -1], strict=True) if code + 1 != after]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))


def _old_words(text: str) -> list[str]:
    if text.isascii():
        return _OLD_WORD.findall(text.casefold())
    apart = unicodedata.normalize("NFKD", text.casefold())
    return _OLD_WORD.findall("".join(letter for letter in apart if not unicodedata.combining(letter)))
