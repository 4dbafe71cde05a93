"""Hits as one self-contained HTML page with the page pictures. It knows hits, not how they were found.

Everything that comes from a document is escaped, and the page's own policy forbids scripts and every outside resource.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from nemotron_rag._excerpt import excerpt, printable, split_marked
from nemotron_rag.errors import ImageError, InputError, NemotronRagError
from nemotron_rag.images import load_image, to_rgb
from nemotron_rag.types import Hit, ImageSource

__all__ = ["Answer", "render_report", "write_report"]

_LONGEST_SIDE = 1200  # pixels; body text of an A4 page stays readable, and 50 pictures stay below 10 MB
_WEBP_QUALITY = 72
_POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Answer:
    """One query and its hits: a section of the report.

    Args:
        query: the question as it was asked.
        hits: best first.
        note: one line below the question, such as the time it took; empty for none.
    """

    query: str
    hits: Sequence[Hit]
    note: str = ""


def write_report(path: str | Path, answers: Sequence[Answer], *, title: str = "Search results", note: str = "") -> Path:
    """Write `render_report` to a file, replacing what is there.

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
    """Build the page. Hits of late interaction are shown with their heatmap beside the page, computed here.

    Args:
        answers: one section each, in this order.
        title: of the page.
        note: one line below the title; empty for none.

    Returns:
        A whole HTML document without scripts or outside resources; pictures are embedded as WebP data URIs.

    Example:
        >>> from nemotron_rag.types import Hit, Page
        >>> page = Page("Apples are <b>round</b>.", id="1", source="fruit.pdf")
        >>> html = render_report([Answer("round apples", [Hit(page, score=0.8, retrieval_score=0.8, rank=1)])])
        >>> "<mark>Apples</mark> are &lt;b&gt;<mark>round</mark>&lt;/b&gt;." in html
        True
    """
    style = resources.files("nemotron_rag").joinpath("html_report.css").read_text(encoding="utf-8")
    policy = _POLICY.format(style=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii"))
    sections = "".join(_section(number, answer) for number, answer in enumerate(answers, start=1))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header class="top"><h1>{_text(title)}</h1>{_paragraph(note)}{_contents(answers)}</header>\n'
        f"<main>\n{sections}</main>\n</body>\n</html>\n"
    )


def _contents(answers: Sequence[Answer]) -> str:
    if len(answers) < 2:
        return ""
    links = "".join(
        f'<li dir="auto"><a href="#q{number}">{_text(answer.query)}</a></li>'
        for number, answer in enumerate(answers, start=1)
    )
    return f"<nav><ol>{links}</ol></nav>"


def _section(number: int, answer: Answer) -> str:
    cards = "".join(_card(f"{number}-{place}", hit, answer.query) for place, hit in enumerate(answer.hits, start=1))
    body = f'<ol class="hits">{cards}</ol>' if cards else '<p class="none">No page was found.</p>'
    heading = f'<h2 dir="auto">{_text(answer.query)}</h2>'
    return f'<section id="q{number}"><header>{heading}{_paragraph(answer.note)}</header>{body}</section>\n'


def _card(key: str, hit: Hit, query: str) -> str:
    name = Path(hit.page.source).name or hit.page.source or hit.page.id
    label = f"{name}, page {hit.page.number}"
    return (
        f'<li class="hit" id="h{key}"><div class="pictures">{_pictures(key, hit, label, query)}</div>'
        f'<div class="facts">'
        f'<h3><b class="rank">{hit.rank}</b> <span title="{_text(hit.page.source)}">{_text(name)}</span> '
        f'<span class="page">page {hit.page.number}</span></h3>{_scores(hit)}'
        f'<p class="text" dir="auto">{_marked(hit.page.text, query)}</p></div></li>'
    )


def _scores(hit: Hit) -> str:
    shown = [("retrieval", hit.retrieval_score)]
    if hit.score != hit.retrieval_score:
        shown.insert(0, ("reranker", hit.score))
    pairs = "".join(f"<div><dt>{name}</dt><dd>{score:.3f}</dd></div>" for name, score in shown if math.isfinite(score))
    return f"<dl>{pairs}</dl>"


def _marked(text: str, query: str) -> str:
    if not text.strip():
        return _none("This page has no text, only its picture.")
    pieces = split_marked(excerpt(text, query), query)
    return "".join(f"<mark>{html.escape(piece)}</mark>" if found else html.escape(piece) for piece, found in pieces)


def _pictures(key: str, hit: Hit, label: str, query: str) -> str:
    """The page, and for late interaction where the question's words match on it."""
    if hit.page.image is None:
        return _none("no picture")
    page = _picture(f"p{key}", hit.page.image, label, back=f"h{key}")
    if hit.locate is None:
        return page
    try:
        heatmap = hit.heatmap(query)
    except NemotronRagError as error:
        return page + _none(str(error))
    return page + _picture(f"w{key}", heatmap, f"{label}: where the words of the question match", back=f"h{key}")


def _picture(key: str, image: ImageSource, label: str, *, back: str) -> str:
    """A picture with its own address: following the link shows it over the page, following it again goes back."""
    try:
        uri, (width, height) = _data_uri(image)
    except ImageError as error:
        return _none(str(error))
    return (
        f'<figure id="{key}"><a class="open" href="#{key}" aria-label="Enlarge {_text(label)}">'
        f'<img src="{uri}" width="{width}" height="{height}" loading="lazy" alt="{_text(label)}"></a>'
        f'<a class="shut" href="#{back}" aria-label="Close"></a></figure>'
    )


def _data_uri(image: ImageSource) -> tuple[str, tuple[int, int]]:
    picture = to_rgb(load_image(image))  # a new image: the next line changes it
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=_WEBP_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), picture.size


def _none(reason: str) -> str:
    return f'<span class="none">{_text(reason)}</span>'


def _paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>" if text else ""


def _text(text: str) -> str:
    return html.escape(printable(" ".join(text.split())))
