"""Text of the PDF pages and of the HTML sections, as one JSON object a line."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pymupdf

from training.sources import is_held_out, is_skipped, language_of

__all__ = ["TextPage", "build_pages", "has_words", "load_pages"]

_PAGES_A_FILE = 20
_FEWEST_WORDS = 40
_HEADING = re.compile(r"<h[1-4][^>]*>(.*?)</h[1-4]>", re.IGNORECASE | re.DOTALL)
_DROPPED = re.compile(r"<(script|style|head|nav)\b.*?</\1>", re.IGNORECASE | re.DOTALL)
_BLOCK = re.compile(r"</?(p|div|br|li|tr|td|dt|dd|pre|table|ul|ol)\b[^>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[^>]+>")


@dataclass(frozen=True, slots=True)
class TextPage:
    """One page or section: where it came from, its title if known, and its text."""

    package: str
    file: str
    number: int
    language: str
    held_out: bool
    title: str
    text: str

    @property
    def document(self) -> str:
        """What hard negatives are drawn from."""
        return f"{self.package}/{self.file}"


def _plain(fragment: str) -> str:
    text = html.unescape(_TAG.sub(" ", _BLOCK.sub("\n", fragment)))
    return re.sub(r"[ \t]+", " ", re.sub(r"\s*\n\s*", "\n", text)).strip()


def _pdf_pages(path: Path, seed: str) -> Iterator[tuple[int, str, str]]:
    """A contiguous run of pages, so that neighbours can serve as hard negatives."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    with pymupdf.open(stream=data, filetype="pdf") as document:
        count = len(document)
        generator = random.Random(seed)
        start = generator.randint(0, max(0, count - _PAGES_A_FILE))
        for index in range(start, min(count, start + _PAGES_A_FILE)):
            yield index + 1, "", document[index].get_text()


def _html_sections(path: Path) -> Iterator[tuple[int, str, str]]:
    source = _DROPPED.sub(" ", path.read_text(encoding="utf-8", errors="replace"))
    parts = _HEADING.split(source)
    for number, (title, body) in enumerate(zip(parts[1::2], parts[2::2], strict=True), start=1):
        words = _plain(body).split(" ")
        yield number, _plain(title).replace("\n", " "), f"{_plain(title)}\n{' '.join(words[:600])}"


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for package in sorted(root.iterdir()):
        for path in sorted(package.rglob("*")):
            is_read = path.name.endswith((".pdf", ".pdf.gz", ".html", ".htm")) and not path.is_symlink()
            if is_read and path.is_file() and not is_skipped(package.name, str(path)):
                yield package.name, path


def has_words(text: str) -> bool:
    """Whether a page has enough words to make queries of, and is not mostly numbers and signs."""
    words = re.findall(r"[^\W\d_]{2,}", text)
    return len(words) >= _FEWEST_WORDS and sum(map(len, words)) > 0.5 * len(re.sub(r"\s", "", text))


def build_pages(root: Path, target: Path) -> None:
    """Write the text of all pages, one JSON object a line; about 6 minutes on one core.

    Args:
        root: the unpacked packages.
        target: the file to write.
    """
    seen: set[str] = set()
    pymupdf.TOOLS.mupdf_display_errors(False)
    with target.open("w", encoding="utf-8") as out:
        for package, path in _files(root):
            name = str(path.relative_to(root / package))
            held_out = is_held_out(package, name)
            if held_out and ".pdf" not in path.name:
                continue
            try:
                rows = list(_pdf_pages(path, name) if ".pdf" in path.name else _html_sections(path))
            except (RuntimeError, ValueError) as error:
                print(f"skipped {package}/{name}: {error}")
                continue
            for number, title, text in rows:
                digest = hashlib.sha1(text.encode()).hexdigest()
                if digest in seen or not has_words(text):
                    continue
                seen.add(digest)
                page = TextPage(package, name, number, language_of(package, name), held_out, title, text[:9000])
                out.write(json.dumps(asdict(page), ensure_ascii=False) + "\n")


def load_pages(path: Path, *, held_out: bool) -> list[TextPage]:
    """The pages of one side of the split, out of what `build_pages` wrote."""
    with path.open(encoding="utf-8") as lines:
        return [page for line in lines if (page := TextPage(**json.loads(line))).held_out == held_out]
