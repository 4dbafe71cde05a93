"""What is measured: real pages out of ``cookbook/pdfs``, and texts out of their words. The same in every run."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

from nemotron_rag import Page, Passage
from nemotron_rag.pdf import read_pdf

__all__ = ["QUERIES", "mixed_passages", "mixed_texts", "page_pictures"]

_LONG = 2000  # words
_PDFS = Path(__file__).parents[1] / "cookbook" / "pdfs"

QUERIES = (
    "Which share of people between 25 and 64 had a disability?",
    "How are high-performance computing zones kept apart?",
    "What did the waste water of summer 2024 show?",
    "Who may log in to the management zone?",
)


@cache
def _read(folder: Path) -> list[Page]:
    return [page for path in sorted(folder.glob("*.pdf")) for page in read_pdf(path)]


def _pages() -> list[Page]:
    return _read(_PDFS)


def page_pictures(count: int) -> list[Passage]:
    """Pictures of pages, no two alike: where the PDFs are gone through again, a mark sets the copies apart."""
    found: list[Passage] = []
    for i in range(count):
        page = _pages()[i % len(_pages())]
        assert isinstance(page.image, Image.Image)
        picture = page.image.copy()
        if i >= len(_pages()):
            ImageDraw.Draw(picture).text((8, 8), str(i), fill="black")
        found.append(Passage(image=picture))
    return found


def mixed_texts(short: int, long: int) -> list[Passage]:
    """Many texts of 5 to 60 words and a few of 2,000, shuffled."""
    chance = random.Random(0)
    lengths = [chance.randint(5, 60) for _ in range(short)] + [_LONG] * long
    chance.shuffle(lengths)
    return [Passage(text) for text in _texts(lengths)]


def mixed_passages(pictures: int, both: int, texts: int) -> list[Passage]:
    """Page pictures, page pictures with their text layers, and texts of 5 to 60 words, shuffled."""
    chance = random.Random(1)
    pages = page_pictures(pictures + both)
    layers = [_pages()[i % len(_pages())].text for i in range(pictures, pictures + both)]
    found = pages[:pictures]
    found += [Passage(text, page.image) for page, text in zip(pages[pictures:], layers, strict=True)]
    found += [Passage(text) for text in _texts([chance.randint(5, 60) for _ in range(texts)])]
    chance.shuffle(found)
    return found


def _texts(lengths: list[int]) -> list[str]:
    """Texts of so many words, cut out of the PDFs' own one after the other, from the start again when they end."""
    words = [word for page in _pages() for word in page.text.split()]
    texts, start = [], 0
    for length in lengths:
        texts.append(" ".join(words[(start + i) % len(words)] for i in range(length)))
        start += length
    return texts
