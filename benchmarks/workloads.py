"""What is measured: real pages out of ``cookbook/pdfs``, and texts out of their words. The same in every run.

Where there are no PDFs, or no library to read them, pages of the same size are drawn instead.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

from nemotron_rag import Page, Passage

__all__ = ["PDFS", "QUERIES", "draw_pages", "mixed_passages", "mixed_texts", "page_images"]

PDFS: Path | None = Path(__file__).parents[1] / "cookbook" / "pdfs"
"""Where pages come from; None to draw them, which gives the same everywhere and takes no time to read."""

_DRAWN, _COUNT, _LINES = "drawn", 24, 40
_SIZE = (1102, 1426)  # pixels of a rendered letter page
_WORDS = """
the of and to in a is that for it was on are as with they be at one have this from by hot but some what there we can out
other were all your when up use word how said each she which do their time if will way about many then valve pressure
table report share people water power number region limit month computer zone access network
"""

QUERIES = (
    "Which share of people between 25 and 64 had a disability?",
    "How are high-performance computing zones kept apart?",
    "What did the waste water of summer 2024 show?",
    "Who may log in to the management zone?",
)


@cache
def _read(folder: Path) -> list[Page]:
    try:
        from nemotron_rag.documents.pdf import read_pdf  # noqa: PLC0415  # which needs the extra `pdf`
    except ImportError:
        return []
    return [page for path in sorted(folder.glob("*.pdf")) for page in read_pdf(path)]


@cache
def draw_pages(count: int) -> list[Page]:
    """Pages of words in lines, as large as a PDF's are rendered; no two alike."""
    chance = random.Random(2)
    return [_draw_page(number, chance) for number in range(1, count + 1)]


def _draw_page(number: int, chance: random.Random) -> Page:
    image = Image.new("RGB", _SIZE, "white")
    paper = ImageDraw.Draw(image)
    lines = [" ".join(chance.choices(_WORDS.split(), k=10)) for _ in range(_LINES)]
    for n, line in enumerate(lines):
        paper.text((90, 90 + n * (_SIZE[1] - 180) // _LINES), line, fill="black", font_size=18)
    paper.rectangle((700, 900, 1000, 1000 + 5 * number), fill=(200, 30 * number % 255, 10))
    return Page(id=f"drawn-{number}", source=_DRAWN, text="\n".join(lines), image=image)


def _pages() -> list[Page]:
    return (_read(PDFS) if PDFS else []) or draw_pages(_COUNT)


def page_images(count: int) -> list[Passage]:
    """Return distinct page images; where the PDFs repeat, a mark distinguishes the copies."""
    found: list[Passage] = []
    for i in range(count):
        page = _pages()[i % len(_pages())]
        assert isinstance(page.image, Image.Image)
        image = page.image.copy()
        if i >= len(_pages()):
            ImageDraw.Draw(image).text((8, 8), str(i), fill="black")
        found.append(Passage(image=image))
    return found


def mixed_texts(short: int, long: int, *, words: int) -> list[Passage]:
    """Many texts of 5 to 60 words and a few of `words`, shuffled."""
    chance = random.Random(0)
    lengths = [chance.randint(5, 60) for _ in range(short)] + [words] * long
    chance.shuffle(lengths)
    return [Passage(text) for text in _texts(lengths)]


def mixed_passages(images: int, both: int, texts: int) -> list[Passage]:
    """Return page images, page images with text layers, and texts of 5 to 60 words, shuffled."""
    chance = random.Random(1)
    pages = page_images(images + both)
    layers = [_pages()[i % len(_pages())].text for i in range(images, images + both)]
    found = pages[:images]
    found += [Passage(text, page.image) for page, text in zip(pages[images:], layers, strict=True)]
    found += [Passage(text) for text in _texts([chance.randint(5, 60) for _ in range(texts)])]
    chance.shuffle(found)
    return found


def _texts(lengths: list[int]) -> list[str]:
    """Cut texts of these numbers of words out of the PDFs, one after the other, starting again at the end."""
    words = [word for page in _pages() for word in page.text.split()]
    texts, start = [], 0
    for length in lengths:
        texts.append(" ".join(words[(start + i) % len(words)] for i in range(length)))
        start += length
    return texts
