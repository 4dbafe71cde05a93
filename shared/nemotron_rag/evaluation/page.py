"""An evaluation as one HTML page: the table, differences, groups, and the misses with their pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Template

from nemotron_rag.errors import NemotronRagError
from nemotron_rag.evaluation.dataset import JudgedQuery
from nemotron_rag.evaluation.results import Answered, Evaluation, SystemResult
from nemotron_rag.evaluation.shown import (
    all_notes,
    bytes_text,
    difference_text,
    facts_text,
    interval_text,
    metric_text,
    seconds_text,
    shown_metrics,
)
from nemotron_rag.index import PageIndex
from nemotron_rag.report import HeatmapOf
from nemotron_rag.report.html_page import EmbeddedImage, content_policy, embed_image, page_template
from nemotron_rag.types import ImageSource, Passage

__all__ = ["Miss", "ShownPage", "render_evaluation"]

_MISSES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPage:
    """A page of a miss.

    Args:
        label: "found" or "wanted".
        name: of the file, or id.
        place: where it stands, for people.
        score: None if it has none that can be compared.
        text: the beginning of its text.
        images: its image, and where the query matches; or why there is none.
    """

    label: str
    name: str
    place: str
    score: float | None
    text: str
    images: tuple[tuple[str, EmbeddedImage | str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A query whose first page is not one that answers it.

    Args:
        query: the query.
        pages: the one found and the one wanted.
        ranks: by system, where it has the first page that answers the query; None for nowhere.
    """

    query: JudgedQuery
    pages: tuple[ShownPage, ...]
    ranks: Mapping[str, int | None] = field(default_factory=dict)


def render_evaluation(evaluation: Evaluation, *, misses: int = _MISSES, system: str | None = None) -> str:
    """Render the page. Images are read and heatmaps computed here.

    Args:
        evaluation: what was found.
        misses: most misses that are shown, the worst ones first.
        system: whose; None for the best one's.

    Returns:
        An HTML document without scripts or external resources.

    Raises:
        InputError: there is no such system.
    """
    shown = evaluation.best if system is None else evaluation[system]
    package = resources.files("nemotron_rag")
    sheets = [package / "report" / "style.css", package / "evaluation" / "page.css"]
    style = "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
    missed = evaluation.misses(shown)
    return _template().render(
        evaluation=evaluation,
        systems=sorted(evaluation.systems, key=lambda each: -each.intervals[evaluation.main].mean),
        shown=shown,
        missed=len(missed),
        misses_left=max(0, len(missed) - misses),
        misses=_misses(evaluation, shown, missed[:misses]),
        facts=facts_text(evaluation),
        metrics=shown_metrics(evaluation),
        notes=all_notes(evaluation),
        title=f"Evaluation on {evaluation.dataset.name}",
        style=style,
        policy=content_policy(style),
    )


def _misses(
    evaluation: Evaluation, system: SystemResult, missed: Sequence[tuple[JudgedQuery, Answered]]
) -> Iterator[Miss]:
    with _opened(system) as (index, heatmap):
        wanted_ids = {page for query, answer in missed for page in (*answer.pages[:1], _best(query, answer)[0])}
        images = _images(evaluation, wanted_ids, skip=index is not None)
        for query, answer in missed:
            pages = [each for each in (_found_page(answer), _wanted_page(query, answer)) if each is not None]
            yield Miss(
                query=query,
                pages=tuple(_with_images(page, key, query.text, index, images, heatmap) for page, key in pages),
                ranks={each.name: evaluation.rank_of_first(each, query) for each in evaluation.systems},
            )


@contextmanager
def _opened(system: SystemResult) -> Iterator[tuple[PageIndex | None, HeatmapOf | None]]:
    """The index of a system, which has the images, and what computes heatmaps; None for what there is not."""
    if system.index is None:
        yield None, system.heatmap
    elif isinstance(system.index, PageIndex):
        yield system.index, system.index.heatmap if system.index.is_multivector else None
    else:
        with closing(PageIndex(system.index, create=False)) as index:
            yield index, system.heatmap or (index.heatmap if index.is_multivector else None)


def _images(evaluation: Evaluation, pages: set[str], *, skip: bool) -> Mapping[str, ImageSource]:
    """Images of pages as the data set or its files have them."""
    if evaluation.files is not None:
        return evaluation.files.images(evaluation.dataset, pages) if not skip else {}
    corpus = evaluation.dataset.corpus
    return {} if corpus is None or skip else corpus.images(pages)


@dataclass(frozen=True, slots=True)
class _Key:
    """What a page is called in the judgements, and in the index."""

    page: str
    id: str = ""


def _found_page(answer: Answered) -> tuple[ShownPage, _Key] | None:
    if not answer.pages:
        return None
    page = ShownPage(
        label="found",
        name=answer.pages[0],
        place="at rank 1",
        score=_at(answer.scores, 0),
        text=_at(answer.texts, 0) or "",
    )
    return page, _Key(answer.pages[0], _at(answer.ids, 0) or "")


def _best(query: JudgedQuery, answer: Answered) -> tuple[str, int | None]:
    """The page that answers the query best, of those that were found if any was; and its place."""
    found = [page for page in answer.pages if page in query.relevant]
    return (found[0], answer.pages.index(found[0])) if found else (query.relevant[0], None)


def _wanted_page(query: JudgedQuery, answer: Answered) -> tuple[ShownPage, _Key]:
    name, place = _best(query, answer)
    if place is not None:
        page = ShownPage(
            label="wanted",
            name=name,
            place=f"at rank {place + 1}",
            score=_at(answer.scores, place),
            text=_at(answer.texts, place) or "",
        )
        return page, _Key(name, _at(answer.ids, place) or "")
    known = next((each for each in answer.wanted if each.page == name), None)
    page = ShownPage(
        label="wanted",
        name=name,
        place=f"not among the first {len(answer.pages)}",
        score=known.score if known else None,
        text=known.text if known else "",
    )
    return page, _Key(name, known.id if known else "")


def _with_images(
    page: ShownPage,
    key: _Key,
    query: str,
    index: PageIndex | None,
    images: Mapping[str, ImageSource],
    heatmap: HeatmapOf | None,
) -> ShownPage:
    source = images.get(key.page)
    if index is not None and key.id:
        source = index.page_images([key.id]).get(key.id)
    if source is None:
        return page
    found: list[tuple[str, EmbeddedImage | str]] = [("", embed_image(source))]
    if heatmap is not None:
        try:
            found.append((": where the query matches", embed_image(heatmap(Passage(image=source), query).image())))
        except NemotronRagError as error:
            found.append(("", str(error)))
    return ShownPage(
        label=page.label, name=page.name, place=page.place, score=page.score, text=page.text, images=tuple(found)
    )


def _at(values: Sequence[Any], place: int) -> Any:
    return values[place] if place < len(values) else None


@cache
def _template() -> Template:
    return page_template(
        "evaluation/page.html",
        metric=metric_text,
        interval=interval_text,
        difference=difference_text,
        seconds=seconds_text,
        size=bytes_text,
    )
