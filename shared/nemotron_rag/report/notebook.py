"""What was found, and what a chat model is sent, as notebooks show it: HTML with alternative texts, or plain text."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nemotron_rag.documents.images import load_image, on_white
from nemotron_rag.documents.text import excerpt, printable, split_marked
from nemotron_rag.errors import ImageError, InputError
from nemotron_rag.late_interaction.overlay import frame
from nemotron_rag.report.html_page import EmbeddedImage, RegionsOf, embed_image
from nemotron_rag.types import Box, Hit, ImageSource, Page, Region

__all__ = ["Shown", "draw_regions", "show_images", "show_messages", "show_pages"]

_WIDTH = 260  # pixels of a page beside others
_SIDE, _QUALITY = 1.8, 50  # longest side of an image by the width at which it is shown; a notebook keeps it for ever
_EXCERPT = 40  # words of a text
_ROW = "display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start;margin:4px 0"
_FIGURE = "margin:0;flex:0 1 {width}px;min-width:min(100%,140px);max-width:100%"
_IMAGE = "display:block;width:100%;height:auto;border:1px solid #8888;background:#fff"
_CAPTION = "font-size:13px;line-height:1.4;padding-top:4px;overflow-wrap:anywhere"
_MESSAGE = "border-left:3px solid #7a9a3c;padding:2px 0 2px 12px;margin:10px 0"
_SOURCES, _IMAGES = ("source", "file_path", "file_name"), ("image", "page_image_path")
_SCORES = {"relevance_score": "reranker", "retrieval_score": "retrieval"}


@dataclass(frozen=True, slots=True)
class Shown:
    """What a notebook shows as the last value of a cell, or by ``display``.

    Args:
        html: for notebooks; images are in it, each with an alternative text.
        text: the same in words, for consoles.
    """

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """The words."""
        return self.text


def draw_regions(image: ImageSource, regions: Sequence[Region | Mapping[str, Any]]) -> Image.Image:
    """A page with its regions framed, the first one strongest: a new RGB image.

    Args:
        image: of the page, in any form that `load_image` reads.
        regions: of `PageIndex.regions`, or as the metadata of frameworks' documents have them.

    Raises:
        ImageError: the image cannot be read.

    Example:
        >>> region = Region((0.1, 0.1, 0.9, 0.2), 1.0, "Sales grew.", "words")
        >>> draw_regions(Image.new("RGB", (200, 300), "white"), [region]).size
        (200, 300)
    """
    return frame(on_white(load_image(image)), [_box(region) for region in regions])


def show_images(images: Mapping[str, ImageSource], *, width: int = _WIDTH) -> Shown:
    """Images side by side, with their captions, which are their alternative texts too.

    Args:
        images: by caption.
        width: of each, pixels; less where the screen is narrow.

    Example:
        >>> show_images({"a chart": Image.new("RGB", (40, 30), "white")})
        a chart
    """
    return _row([_Figure(caption, image) for caption, image in images.items()], width)


def show_pages(
    pages: Iterable[Any],
    *,
    query: str = "",
    regions: RegionsOf | None = None,
    note: Callable[[Any], str] | None = None,
    width: int = _WIDTH,
) -> Shown:
    """Pages side by side, with file, number and scores, and frames around what answers the query.

    Args:
        pages: `Hit`, `Page`, LangChain's documents, LlamaIndex's nodes with or without scores. Regions in the metadata
            of these two are framed.
        query: in words; it is needed for `regions`, and marks its words in the texts of pages without an image.
        regions: finds what is framed on hits and pages: `PageIndex.regions` of an open index.
        note: a line more for each of them.
        width: of each, pixels; less where the screen is narrow.

    Raises:
        InputError: one of them is none of these.
        NemotronRagError: from `regions`.

    Example:
        >>> show_pages([Hit(Page("Sales grew.", id="1", source="a.pdf"), score=0.5, retrieval_score=0.5, rank=1)])
        1. a.pdf, page 1, retrieval 0.50
    """
    figures = []
    for rank, each in enumerate(pages, 1):
        found = _Found.of(each)
        boxes = found.regions if regions is None or found.page is None else regions(found.page, query)
        about = ", ".join(filter(None, [f"{rank}. {found.name}, page {found.number}", *found.scores]))
        more = "" if note is None else note(each)
        figures.append(_Figure(about, found.image, boxes, more, excerpt(found.text, query, words=_EXCERPT), query))
    return _row(figures, width)


def show_messages(messages: Any, *, words: int = _EXCERPT, width: int = 150) -> Shown:
    """What a chat model is sent, or an agent's run: each message with its role, texts shortened, images small.

    Args:
        messages: of LangChain or LlamaIndex, one or several.
        words: of each text at most.
        width: of each image, pixels.

    Raises:
        InputError: one of them is no message.
    """
    parts, lines = [], []
    for message in messages if isinstance(messages, Sequence) else [messages]:
        role, blocks = _blocks(message)
        shown = [_block(block, words, width) for block in blocks]
        body = "".join(each.html for each in shown) or "<i>nothing</i>"
        parts.append(f'<div style="{_MESSAGE}"><b>{html.escape(role)}</b>{body}</div>')
        lines += [f"{role}:", *(f"  {line}" for each in shown for line in each.text.splitlines())]
    return Shown("".join(parts), "\n".join(lines))


@dataclass(frozen=True, slots=True)
class _Figure:
    """An image with its caption; of a page without one, its text."""

    caption: str
    image: ImageSource | None
    boxes: Sequence[Region | Mapping[str, Any]] = ()
    note: str = ""
    text: str = ""
    query: str = ""

    def html(self, width: int) -> str:
        body = self._body(width)
        note = f"<br><b>{html.escape(self.note)}</b>" if self.note else ""
        caption = f'<figcaption style="{_CAPTION}">{html.escape(printable(self.caption))}{note}</figcaption>'
        return f'<figure style="{_FIGURE.format(width=width)}">{body}{caption}</figure>'

    def _body(self, width: int) -> str:
        shown: EmbeddedImage | str = "no image"
        if self.image is not None:
            shown = embed_image(self.image, _regions(self.boxes), side=round(_SIDE * width), quality=_QUALITY)
        if not isinstance(shown, str):
            framed = f", {len(self.boxes)} framed" if self.boxes else ""
            alternative = html.escape(printable(self.caption) + framed, quote=True)
            return f'<img src="{shown.uri}" alt="{alternative}" style="{_IMAGE}">'
        said = _marked(self.text, self.query) if self.image is None else ""
        return f'<div style="{_CAPTION}">{said or html.escape(printable(shown))}</div>'

    def plain(self) -> str:
        framed = [f"   {' '.join(str(_text_of(each)).split())}" for each in self.boxes]
        return "\n".join([" - ".join(filter(None, [printable(self.caption), self.note])), *map(printable, framed)])


@dataclass(frozen=True, slots=True)
class _Found:
    """A page, whatever found it."""

    name: str
    number: Any
    text: str
    image: ImageSource | None
    scores: tuple[str, ...] = ()
    regions: Sequence[Mapping[str, Any]] = ()
    page: Page | None = None

    @classmethod
    def of(cls, found: Any) -> _Found:
        page = found.page if isinstance(found, Hit) else found
        if isinstance(page, Page):
            scores = () if page is found else tuple(_hit_scores(found))
            return cls(Path(page.source).name or page.id, page.number, page.text, page.image, scores, (), page)
        node = getattr(found, "node", found)
        metadata = getattr(node, "metadata", None)
        if not isinstance(metadata, Mapping):
            raise InputError(f"wanted hits, pages, documents or nodes, got {type(found).__name__}")
        named = next((str(metadata[key]) for key in _SOURCES if metadata.get(key)), "")
        number = metadata.get("page_number", metadata.get("page_label", "?"))
        known = [(name, metadata.get(key)) for key, name in _SCORES.items()]
        if (score := getattr(found, "score", None)) is not None:
            known[0] = ("score", score)
        if known[0][1] == known[1][1]:  # nothing was reranked
            known = known[1:]
        scores = tuple(f"{name} {value:.2f}" for name, value in known if isinstance(value, float))
        text = str(getattr(node, "page_content", None) or getattr(node, "text", ""))
        return cls(Path(named).name, number, text, _image_of(node, metadata), scores, metadata.get("regions") or ())


def _image_of(node: Any, metadata: Mapping[str, Any]) -> ImageSource | None:
    if getattr(node, "image", None):
        return base64.b64decode(node.image)
    of_node = getattr(node, "image_path", None)
    return of_node or next((metadata[key] for key in _IMAGES if metadata.get(key) is not None), None)


def _hit_scores(hit: Hit) -> list[str]:
    first = [] if hit.score == hit.retrieval_score else [f"reranker {hit.score:.2f}"]
    return [*first, f"retrieval {hit.retrieval_score:.2f}"]


def _row(figures: Sequence[_Figure], width: int) -> Shown:
    inner = "".join(figure.html(width) for figure in figures) or "<i>nothing</i>"
    return Shown(f'<div style="{_ROW}">{inner}</div>', "\n".join(figure.plain() for figure in figures) or "nothing")


def _box(region: Region | Mapping[str, Any]) -> Box:
    box = region["box"] if isinstance(region, Mapping) else region.box
    left, top, right, bottom = box
    return (left, top, right, bottom)


def _text_of(region: Region | Mapping[str, Any]) -> Any:
    return region.get("text", "") if isinstance(region, Mapping) else region.text


def _regions(given: Sequence[Region | Mapping[str, Any]]) -> list[Region]:
    return [each if isinstance(each, Region) else Region(_box(each), 0.0, "", "words") for each in given]


def _marked(text: str, query: str) -> str:
    pieces = split_marked(printable(text), query) if query else [(printable(text), False)]
    return "".join(f"<mark>{html.escape(piece)}</mark>" if found else html.escape(piece) for piece, found in pieces)


def _blocks(message: Any) -> tuple[str, list[Any]]:
    """Role and content blocks of a message of either framework."""
    for role, content in (("type", "content_blocks"), ("role", "blocks")):
        if hasattr(message, role) and hasattr(message, content):
            said = getattr(message, role)
            return str(getattr(said, "value", said)), list(getattr(message, content))
    raise InputError(f"wanted messages of LangChain or LlamaIndex, got {type(message).__name__}")


def _block(block: Any, words: int, width: int) -> Shown:
    get = _getter(block)
    name, called = get("name") or get("tool_name"), get("args") or get("tool_kwargs")
    if called is not None and name:
        call = f"{name}({', '.join(f'{key}={value!r}' for key, value in dict(called).items())})"
        return Shown(f'<div style="{_CAPTION}"><code>{html.escape(printable(call))}</code></div>', printable(call))
    text = get("text")
    if isinstance(text, str):
        shown = printable(excerpt(text, "", words=words))
        return Shown(f'<div style="{_CAPTION}">{html.escape(shown)}</div>', shown)
    image = _sent_image(block, get)
    if image is None:
        kind = str(get("type") or get("block_type") or type(block).__name__)
        return Shown(f'<div style="{_CAPTION}"><i>{html.escape(printable(kind))}</i></div>', kind)
    try:
        size = "image of {} x {} pixels".format(*load_image(image).size)
    except ImageError as error:
        size = str(error)
    figure = _row([_Figure(size, image)], width)
    return Shown(figure.html, size)


def _getter(block: Any) -> Callable[[str], Any]:
    """Reads a field of a block, a dict in LangChain and an object in LlamaIndex; None where there is none."""

    def get(name: str) -> Any:
        return block.get(name) if isinstance(block, Mapping) else getattr(block, name, None)

    return get


def _sent_image(block: Any, get: Callable[[str], Any]) -> ImageSource | None:
    if isinstance(get("base64"), str):
        return base64.b64decode(get("base64"))
    resolve = getattr(block, "resolve_image", None)
    return None if resolve is None else resolve().read()
