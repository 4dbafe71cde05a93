"""From what a retriever returns to the ids of judged pages, whatever framework it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nemotron_rag.documents.files import one_line
from nemotron_rag.errors import InputError
from nemotron_rag.evaluation.dataset import Dataset, file_page
from nemotron_rag.evaluation.query_files import file_name
from nemotron_rag.types import Hit, Page

__all__ = ["PageIds"]

_IDS = ("page_id", "corpus_id", "corpus-id", "doc_id", "_id", "id")
_SOURCES = ("source", "file_path", "file_name", "filename", "file")


class PageIds:
    """Names the pages that one retriever returns as a data set does.

    A page of a file is judged by the file's name and the page's number. The name in the judgements may be the last
    parts of the path that the retriever gives (``a.pdf`` of ``/data/reports/a.pdf``), or the other way round.

    Args:
        dataset: whose judgements are meant.
        key: names what a retriever returns, instead of the rules of `of`: a page id of the data set, or a file and a
            page number.

    Example:
        >>> from nemotron_rag.evaluation.dataset import JudgedQuery
        >>> query = JudgedQuery(id="1", text="sales?", judgements={"a.pdf#page=3": 1})
        >>> ids = PageIds(Dataset(name="mine", queries=(query,)))
        >>> ids.of(("reports/a.pdf", 3)), ids.of(("reports/b.pdf", 1))
        ('a.pdf#page=3', 'reports/b.pdf#page=1')
    """

    def __init__(self, dataset: Dataset, key: Callable[[Any], Any] | None = None) -> None:
        self._known = frozenset(dataset.corpus.ids()) if dataset.corpus is not None else None
        self._files = dataset.files
        self._by_last = _by_last_part(self._files)
        self._key = key
        self._sources: dict[str, str] = {}  # judged file -> the source that was taken for it
        self._names: dict[str, str] = {}
        self.judged = 0  # how many pages were of the data set

    @property
    def is_of_files(self) -> bool:
        """Whether pages are known by their file and number, not by ids of their own."""
        return self._known is None

    def of(self, found: Any) -> str:
        """The id of a page.

        Args:
            found: a `Hit` or `Page`; a document of LangChain or a node of LlamaIndex, with or without its score; a page
                id; or a file and a page number. Of documents and nodes counts ``page_number`` of the metadata, else
                LangChain's ``page``, which begins at 0, else LlamaIndex's ``page_label``; and ``source``, ``file_path``
                or ``file_name``. Where pages have ids of their own, their id does, or one in the metadata.

        Raises:
            InputError: it cannot be known which page that is, or two files would be the same one.
        """
        named = found if self._key is None else self._key(found)
        page = named.page if isinstance(named, Hit) else named
        page_id = self._of_corpus(page) if self._known is not None else self._of_file(*_place(page))
        self.judged += self._known is not None or page_id.rpartition("#page=")[0] in self._files
        return page_id

    def _of_corpus(self, page: Any) -> str:
        known = self._known or frozenset()
        for candidate in _ids(page):
            if candidate in known:
                return candidate
        raise InputError(
            f"a page has none of the data set's ids, got {one_line(repr(page))}; put its id into the metadata as "
            "page_id, or give key="
        )

    def _of_file(self, source: str, number: int) -> str:
        if source not in self._names:
            self._names[source] = self._judged_file(source)
        return file_page(self._names[source], number)

    def _judged_file(self, source: str) -> str:
        parts = file_name(source).split("/")
        tails = ["/".join(parts[i:]) for i in range(len(parts))]
        match = next((tail for tail in tails if tail in self._files), None)
        if match is None:  # judgements may know more of the path than the retriever
            longer = [file for file in self._by_last.get(parts[-1], ()) if f"/{file}".endswith(f"/{tails[0]}")]
            if len(longer) > 1:
                raise InputError(f"{one_line(source)!r} may be {' or '.join(longer)}; let the retriever give its path")
            match = longer[0] if longer else None
        if match is None:
            return tails[0]
        other = self._sources.setdefault(match, source)
        if other != source:
            raise InputError(
                f"judged file {match!r} is both {one_line(other)!r} and {one_line(source)!r}; write more of its path "
                "into the queries"
            )
        return match


def _by_last_part(files: Iterable[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in sorted(files):
        found.setdefault(file.rpartition("/")[2], []).append(file)
    return found


def _metadata(page: Any) -> tuple[Any, Mapping[str, Any]]:
    """A document or node and its metadata; a node may be in a wrapper with its score."""
    inner = getattr(page, "node", page)
    metadata = getattr(inner, "metadata", inner)
    return inner, metadata if isinstance(metadata, Mapping) else {}


def _ids(page: Any) -> Iterable[str]:
    if isinstance(page, str | int):
        yield str(page)
        return
    if isinstance(page, Page):
        yield page.id
        return
    inner, metadata = _metadata(page)
    for value in (*(metadata.get(name) for name in _IDS), *(getattr(inner, name, None) for name in ("id", "node_id"))):
        if isinstance(value, str | int):
            yield str(value)
    yield from (str(metadata[name]) for name in _SOURCES if isinstance(metadata.get(name), str))


def _place(page: Any) -> tuple[str, int]:
    """File and page number."""
    if isinstance(page, Page):
        return page.source, page.number
    if isinstance(page, tuple) and len(page) == 2:
        source, number = page
    elif isinstance(page, str):
        source, _, number = page.rpartition("#page=")
    else:
        _, metadata = _metadata(page)
        source = next((metadata[name] for name in _SOURCES if isinstance(metadata.get(name), str)), None)
        number = _number(metadata)
    try:
        if isinstance(source, str) and source and not isinstance(number, bool) and int(number) >= 1:
            return source, int(number)
    except (TypeError, ValueError):
        pass
    raise InputError(
        f"it cannot be known which page a retriever returned: wanted source and page_number in the metadata, got "
        f"{one_line(repr(page))}; give key=, a function of it that returns a file and a page number"
    )


def _number(metadata: Mapping[str, Any]) -> Any:
    if metadata.get("page_number") is not None:
        return metadata["page_number"]
    if type(metadata.get("page")) is int:
        return metadata["page"] + 1
    return metadata.get("page_label")
