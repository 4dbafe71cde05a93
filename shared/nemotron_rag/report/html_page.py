"""Render search results as a self-contained HTML page.

The template ``page.html`` escapes all text, and the page's Content-Security-Policy forbids scripts and external
resources.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from nemotron_rag.documents.images import load_image, on_white, to_data_uri
from nemotron_rag.documents.text import excerpt, printable, split_marked
from nemotron_rag.errors import ImageError, InputError, NemotronRagError
from nemotron_rag.late_interaction.heatmap import Heatmap
from nemotron_rag.late_interaction.overlay import frame
from nemotron_rag.report.as_json import page_link
from nemotron_rag.types import Hit, ImageSource, Page, Passage, Region

__all__ = ["Answer", "HeatmapOf", "RegionsOf", "render_report", "write_report"]

_LONGEST_SIDE = 1200  # pixels; body text of an A4 page stays readable, and 50 images stay below 10 MB
_WEBP_QUALITY = 72
_log = logging.getLogger("nemotron_rag")
_POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"


HeatmapOf: TypeAlias = Callable[[Passage, str], Heatmap]
"""Computes the heatmap of a page and a query."""


RegionsOf: TypeAlias = Callable[[Page, str], Sequence[Region]]
"""Finds the regions of a page that answer a query."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One query and its hits: a section of the report.

    Args:
        query: the query.
        hits: best first.
        note: one line below the query, such as the time it took; empty for none.
        heatmap: computes heatmaps: `PageIndex.heatmap` of an open index with token vectors; None for none.
        regions: finds what is framed on the pages: `PageIndex.regions` of an open index; None for none.
        before: the hits before they were reranked, best first, to say at which rank each page stood; empty for none.
        fused: whether their scores join both orders: they were searched with ``fuse=True``.
    """

    query: str
    hits: Sequence[Hit]
    note: str = ""
    heatmap: HeatmapOf | None = None
    regions: RegionsOf | None = None
    before: Sequence[Hit] = ()
    fused: bool = False


def write_report(path: str | Path, answers: Sequence[Answer], *, title: str = "Search results", note: str = "") -> Path:
    """Write `render_report` to a file, replacing an existing one.

    Raises:
        InputError: the file cannot be written.
    """
    target = Path(path)
    try:
        target.write_text(render_report(answers, title=title, note=note), encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"cannot write the report to {target}: {error.strerror}; give another file") from error
    return target


def render_report(answers: Sequence[Answer], *, title: str = "Search results", note: str = "") -> str:
    """Render the page. Images are read and heatmaps computed here, one hit at a time.

    Args:
        answers: one section each, in this order.
        title: of the page.
        note: one line below the title; empty for none.

    Returns:
        An HTML document without scripts or external resources; images are embedded as WebP data URIs.

    Example:
        >>> from nemotron_rag.types import Hit, Page
        >>> page = Page("Apples are <b>round</b>.", id="1", source="fruit.pdf")
        >>> html = render_report([Answer("round apples", [Hit(page, score=0.8, retrieval_score=0.8, rank=1)])])
        >>> "<mark>Apples</mark> are &lt;b&gt;<mark>round</mark>&lt;/b&gt;." in html
        True
    """
    style = resources.files("nemotron_rag.report").joinpath("style.css").read_text(encoding="utf-8")
    policy = content_policy(style)
    return _template().render(answers=answers, title=title, note=note, style=style, policy=policy)


def content_policy(style: str) -> str:
    """A Content-Security-Policy that allows this style sheet and images in the page, nothing else."""
    return _POLICY.format(style=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii"))


class EmbeddedImage(NamedTuple):
    """An image as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def page_template(path: str, **called: Any) -> Template:
    """A template of this package that may extend ``report/layout.html``.

    Args:
        path: such as ``report/page.html``.
        **called: functions that it calls, besides `pieces`; its filter ``line`` puts a text on one printable line.
    """
    loader = PackageLoader("nemotron_rag", "")
    environment = Environment(autoescape=True, loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["line"] = lambda text: printable(" ".join(str(text).split()))
    environment.globals |= {"pieces": _pieces, **called}
    return environment.get_template(path)


@cache
def _template() -> Template:
    called = {
        "file_name": _file_name,
        "images": _images,
        "link": page_link,
        "rank_before": _rank_before,
        "scores": _scores,
    }
    return page_template("report/page.html", **called)


def _file_name(page: Page) -> str:
    return Path(page.source).name or page.source or page.id


def _scores(hit: Hit, answer: Answer) -> list[tuple[str, float]]:
    shown = [("retrieval", hit.retrieval_score)]
    if hit.score != hit.retrieval_score:
        shown.insert(0, ("both orders" if answer.fused else "reranker", hit.score))
    return [(stage, score) for stage, score in shown if math.isfinite(score)]


def _rank_before(hit: Hit, answer: Answer) -> int | None:
    return next((rank for rank, each in enumerate(answer.before, 1) if each.page.id == hit.page.id), None)


def _pieces(text: str, query: str) -> list[tuple[str, bool]]:
    """Return the excerpt in pieces, and whether each is a query word; nothing for a page without text."""
    return split_marked(excerpt(text, query), query) if text.strip() else []


def _images(hit: Hit, answer: Answer) -> Iterator[tuple[str, str, EmbeddedImage | str]]:
    """Yield the page image and its heatmap: prefix of the id, caption, and the image or why there is none."""
    if hit.page.image is None:
        yield "p", "", "no image"
        return
    yield "p", "", embed_image(hit.page.image, _regions(hit, answer))
    if answer.heatmap is None:
        return
    try:
        heatmap = answer.heatmap(hit.page, answer.query).image()
    except NemotronRagError as error:
        yield "w", "", str(error)
        return
    yield "w", ": where the words of the query match", embed_image(heatmap)


def _regions(hit: Hit, answer: Answer) -> Sequence[Region]:
    """What is framed on a page; nothing where that cannot be found, which must not cost the page."""
    if answer.regions is None:
        return ()
    try:
        return answer.regions(hit.page, answer.query)
    except NemotronRagError as error:
        _log.warning("a page is shown without its regions: %s", error)
        return ()


def embed_image(
    image: ImageSource, regions: Sequence[Region] = (), *, side: int = _LONGEST_SIDE, quality: int = _WEBP_QUALITY
) -> EmbeddedImage | str:
    """Shrink and encode an image, its longest side to so many pixels; returns the reason if it cannot be read."""
    try:
        small = on_white(load_image(image))  # a new image: the next line changes it
    except ImageError as error:
        return str(error)
    small.thumbnail((side, side))
    small = frame(small, [region.box for region in regions])
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality, method=4)
    return EmbeddedImage(to_data_uri(buffer.getvalue(), "webp"), *small.size)
