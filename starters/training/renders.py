"""Training pages as grey images, with the place of every character and piece.

A page is rendered with its own proportions and squashed to its tile grid, as nemotron-rag does before it cuts tiles.
"""

from __future__ import annotations

import gzip
import random
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from training.network import choose_grid
from training.pages import TextPage

__all__ = ["ALPHABET", "Render", "build_renders", "load_renders", "render_page", "render_some"]

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
"""Characters told apart, from class 1 on; class 0 is paper, the last class any other character."""

_OTHER = len(ALPHABET) + 1
_CLASSES = {character: number for number, character in enumerate(ALPHABET, start=1)}
_TILE, _TILES = 512, 6
_PAGES_A_FILE = 8
_SHARD = 400
_FILES = 40  # given to the processes at a time


@dataclass(frozen=True, slots=True)
class Render:
    """A page: its pixels and what stands where.

    Attributes:
        pixels: (height, width) uint8, white is 255.
        characters: (n, 5) int16: class, left, top, right, bottom in pixels.
        pieces: (n, 5) int32: token id, left, top, right, bottom in pixels.
    """

    pixels: NDArray[np.uint8]
    characters: NDArray[np.int16]
    pieces: NDArray[np.int32]


def render_page(page: Any, *, tiles: int = _TILES) -> Image.Image:
    """A PDF page as a grey image of its tile grid's size."""
    width, height = page.rect.width, page.rect.height
    scale = (tiles * _TILE * _TILE / (width * height)) ** 0.5
    pixels = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), colorspace=pymupdf.csGRAY, alpha=False)
    image = Image.frombytes("L", (pixels.width, pixels.height), pixels.samples)
    columns, rows = choose_grid(image.width, image.height, max_tiles=tiles)
    return image.resize((columns * _TILE, rows * _TILE))


def _folded(character: str) -> list[int]:
    """The classes of what a character is made of: two for a ligature."""
    plain = [part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part)]
    return [_CLASSES.get(part.lower(), _OTHER) for part in plain if not part.isspace()]


def _split(box: Sequence[float], classes: list[int]) -> Iterator[list[float]]:
    """One box per class, side by side."""
    left, top, right, bottom = box
    step = (right - left) / max(1, len(classes))
    for number, which in enumerate(classes):
        yield [which, left + number * step, top, left + (number + 1) * step, bottom]


def _lines(page: Any) -> Iterator[list[tuple[str, Sequence[float]]]]:
    """Characters with their boxes, line by line, in the image's pixels over the page's size."""
    for block in page.get_text("rawdict", flags=pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP)[
        "blocks"
    ]:
        for line in block.get("lines", ()):
            yield [(char["c"], char["bbox"]) for span in line["spans"] for char in span["chars"]]


def _render(data: bytes, numbers: Sequence[int], tokenizer: Tokenizer) -> Iterator[Render]:
    with pymupdf.open(stream=data, filetype="pdf") as document:
        for number in numbers:
            page = document[number - 1]
            image = render_page(page)
            stretch = np.array([image.width / page.rect.width, image.height / page.rect.height] * 2)
            characters: list[list[float]] = []
            pieces: list[list[float]] = []
            for line in _lines(page):
                boxes = np.array([box for _, box in line]).reshape(-1, 4) * stretch
                for (character, _), box in zip(line, boxes, strict=True):
                    characters += _split(box, _folded(character))
                encoding = tokenizer.encode("".join(character for character, _ in line), add_special_tokens=False)
                for piece, (first, last) in zip(encoding.ids, encoding.offsets, strict=True):
                    inked = [i for i in range(first, min(last, len(line))) if not line[i][0].isspace()]
                    if inked:
                        own = boxes[inked]
                        pieces.append([piece, *own[:, :2].min(axis=0), *own[:, 2:].max(axis=0)])
            yield Render(
                np.asarray(image),
                np.array(characters).reshape(-1, 5).clip(-30000, 30000).astype(np.int16),
                np.array(pieces).reshape(-1, 5).clip(-30000, 30000).astype(np.int32),
            )


def _render_file(path: Path, numbers: Sequence[int], tokenizer_file: Path) -> list[Render]:
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    pymupdf.TOOLS.mupdf_display_errors(False)
    try:
        return list(_render(data, numbers, tokenizer))
    except (RuntimeError, SystemError, ValueError) as error:
        print(f"skipped {path}: {error}")
        return []


def _choose(pages: Sequence[TextPage], root: Path, rng: random.Random) -> list[tuple[Path, list[int]]]:
    files: dict[Path, list[int]] = defaultdict(list)
    for page in pages:
        if ".pdf" in page.file:
            files[root / page.package / page.file].append(page.number)
    chosen = [(path, sorted(rng.sample(numbers, min(len(numbers), _PAGES_A_FILE)))) for path, numbers in files.items()]
    rng.shuffle(chosen)
    return chosen


def _save(renders: Sequence[Render], folder: Path, number: int) -> None:
    """One shard: every field of all pages end to end, and where each page starts."""
    fields: dict[str, NDArray[Any]] = {"shapes": np.array([render.pixels.shape for render in renders])}
    for name in ("characters", "pieces"):
        parts = [getattr(render, name) for render in renders]
        fields[name] = np.concatenate(parts)
        fields[f"{name}_ends"] = np.cumsum([len(part) for part in parts])
    np.savez(folder / f"{number:02}.npz", allow_pickle=False, **fields)
    partial = folder / f"{number:02}.part"
    np.concatenate([render.pixels.reshape(-1) for render in renders]).tofile(partial)
    partial.rename(folder / f"{number:02}.pixels")  # a shard is there once its pixels are


def build_renders(
    texts: Sequence[TextPage],
    root: Path,
    tokenizer_file: Path,
    folder: Path,
    *,
    pages: int,
    workers: int,
    seed: int = 0,
) -> None:
    """Render pages of PDFs and write them in shards of 400; about 0.2 s a page and core.

    Args:
        texts: the pages to choose from.
        root: the unpacked packages.
        tokenizer_file: whose pieces get boxes.
        folder: for the shards.
        pages: how many; fewer if there are no more.
        workers: processes; 1 for this one alone.
        seed: of the choice.
    """
    folder.mkdir(exist_ok=True)
    waiting: list[Render] = []
    done = 0
    for rendered in _rendered(_choose(texts, root, random.Random(seed)), tokenizer_file, workers):
        waiting += rendered
        while len(waiting) >= _SHARD:
            _save(waiting[:_SHARD], folder, done // _SHARD)
            waiting, done = waiting[_SHARD:], done + _SHARD
            print(f"{done} pages rendered", flush=True)
        if done + len(waiting) >= pages:
            break
    rest = waiting[: max(0, pages - done)]
    if rest:
        _save(rest, folder, done // _SHARD)


def _rendered(chosen: Sequence[tuple[Path, list[int]]], tokenizer_file: Path, workers: int) -> Iterator[list[Render]]:
    """The pages of some files at a time."""
    if workers == 1:
        for path, numbers in chosen:
            yield _render_file(path, numbers, tokenizer_file)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for start in range(0, len(chosen), _FILES):
            paths, pages = zip(*chosen[start : start + _FILES], strict=True)
            done = pool.map(_render_file, paths, pages, repeat(tokenizer_file), chunksize=5)
            yield [render for renders in done for render in renders]


def render_some(
    texts: Sequence[TextPage], root: Path, tokenizer_file: Path, *, pages_a_file: int = 3, seed: int = 5
) -> list[Render]:
    """Some pages of every file, to watch training by; arguments are those of `build_renders`."""
    chosen = _choose(texts, root, random.Random(seed))
    return [render for path, numbers in chosen for render in _render_file(path, numbers[:pages_a_file], tokenizer_file)]


def load_renders(folder: Path) -> list[Render]:
    """What `build_renders` wrote; the pixels stay on disk until they are looked at."""
    renders = []
    for path in sorted(folder.glob("*.pixels")):
        fields = np.load(path.with_suffix(".npz"))
        pixels, start = np.memmap(path, dtype=np.uint8, mode="r"), 0
        parts = [np.split(fields[name], fields[f"{name}_ends"][:-1]) for name in ("characters", "pieces")]
        for shape, characters, pieces in zip(fields["shapes"], *parts, strict=True):
            size = int(shape[0]) * int(shape[1])
            renders.append(Render(pixels[start : start + size].reshape(shape), characters, pieces))
            start += size
    return renders
