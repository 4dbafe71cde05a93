"""Pairs of short texts that mean the same: synonyms, glosses, translations."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LETTERS", "load_pairs"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
"""Digits of dictd's numbers, of base 64."""

_TRANSLATIONS = ("deu-eng", "eng-deu", "fra-eng", "eng-fra")


def _number(text: str) -> int:
    value = 0
    for letter in text:
        value = value * 64 + LETTERS.index(letter)
    return value


def _dictionary(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """Headword and body of a dictd dictionary."""
    content = gzip.decompress((folder / f"{name}.dict.dz").read_bytes())
    for line in (folder / f"{name}.index").read_text(encoding="utf-8", errors="replace").splitlines():
        word, start, length = line.split("\t")[:3]
        if word.startswith("00"):
            continue
        body = content[_number(start) : _number(start) + min(_number(length), 600)].decode("utf-8", "replace")
        yield word, re.sub(r"/[^/\n]*/|<[^>]*>|\[[^\]]*\]|\{|\}", " ", body.partition("\n")[2]).strip()


def _wordnet(folder: Path) -> Iterator[tuple[str, str]]:
    """Words and gloss of a synset, and pairs of its words."""
    for path in sorted(folder.glob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):
                continue
            fields, _, gloss = line.partition(" | ")
            parts = fields.split(" ")
            words = [parts[4 + 2 * i].replace("_", " ").partition("(")[0] for i in range(int(parts[3], 16))]
            yield " ".join(words[:4]), gloss
            if len(words) > 1:
                yield words[0], words[1]


def load_pairs(root: Path) -> list[tuple[str, str]]:
    """All pairs out of the unpacked packages, sorted and without doubles; about 10 s.

    Args:
        root: the unpacked packages.
    """
    pairs = set(_wordnet(root / "wordnet-base/usr/share/wordnet"))
    pairs |= set(_dictionary(root / "dict-foldoc/usr/share/dictd", "foldoc"))
    for languages in _TRANSLATIONS:
        pairs |= set(_dictionary(root / f"dict-freedict-{languages}/usr/share/dictd", f"freedict-{languages}"))
    return sorted((left, right) for left, right in pairs if len(left) > 2 and len(right) > 2)
