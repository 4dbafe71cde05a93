"""Where a node stands in its file, and the nodes of the pages around it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from llama_index.core.schema import BaseNode, NodeWithScore

from llama_index_nemotron_rag.filters import Filters, plain_filter
from nemotron_rag.errors import InputError
from nemotron_rag.index.selection import numbers_around
from nemotron_rag.types import Filter

__all__ = ["FILE_KEYS", "file_of", "joinable_filter", "neighbour_node", "with_neighbours"]

FILE_KEYS = ("file_path", "source", "file_name")
"""Metadata keys that tell the file of a node; the first that is there does."""

_NEIGHBOUR = "neighbour_of"  # metadata key: the page that it stands beside
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")  # a page's label that is its number
_LARGEST = 10**9  # what others wrote may be anything


class _Place(NamedTuple):
    """A page: the metadata keys that tell file and page, and their values."""

    file_key: str
    file: str
    page_key: str
    number: int

    def around(self, reach: int) -> list[_Place]:
        return [self._replace(number=number) for number in numbers_around(self.number, reach)]

    def filter(self, reach: int) -> dict[str, Any]:
        numbers: list[Any] = [place.number for place in self.around(reach)]
        values = numbers if self.page_key == "page_number" else [*map(str, numbers)]
        return {self.file_key: self.file, self.page_key: values}


def file_of(node: BaseNode) -> str | None:
    """The file of a node; None if its metadata does not say."""
    key = _file_key(node)
    return None if key is None else str(node.metadata[key])


def neighbour_node(node: BaseNode, beside: str) -> NodeWithScore:
    """A copy without a score, which says beside which node it stands; neither LLM nor embedder sees that."""
    hidden = {
        name: [*getattr(node, name), _NEIGHBOUR]
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    marked = node.model_copy(update={"metadata": {**node.metadata, _NEIGHBOUR: beside}, **hidden})
    return NodeWithScore(node=marked, score=None)


def joinable_filter(filters: Filters | None) -> Filter:
    """Filters as a plain one that can be a part of another.

    Raises:
        InputError: it is a filter of Qdrant's own.
    """
    plain = plain_filter(filters)
    if plain is not None and not isinstance(plain, Mapping):
        raise InputError(
            f"wanted filters as MetadataFilters or a dict, which can be joined with others, got {type(plain).__name__}"
        )
    return plain or {}


def with_neighbours(
    items: Sequence[NodeWithScore], reach: int, filters: Filters | None, find: Callable[[Filter], Sequence[BaseNode]]
) -> list[NodeWithScore]:
    """Nodes, behind each those of the pages around it: none twice, and none of a page that was found itself.

    Args:
        items: with one of `FILE_KEYS`, and ``page_number`` or a ``page_label`` that is a number, in their metadata;
            others have no neighbours.
        reach: so many pages before and after each.
        filters: that neighbours must meet.
        find: gives the nodes that a filter matches.
    """
    places = [_place(item.node) for item in items]
    wanted = [place.filter(reach) for place in dict.fromkeys(places) if place is not None]
    if not wanted:
        return list(items)
    found: dict[_Place, list[BaseNode]] = defaultdict(list)
    for node in find({"and": [{"or": wanted}, joinable_filter(filters)]}):
        place = _place(node)
        if place is not None:
            found[place].append(node)
    taken, result = set(places), []
    for item, place in zip(items, places, strict=True):
        result.append(item)
        for near in [] if place is None else place.around(reach):
            if near not in taken:
                taken.add(near)
                result += [neighbour_node(node, item.node.node_id) for node in sorted(found[near], key=_position)]
    return result


def _file_key(node: BaseNode) -> str | None:
    return next((key for key in FILE_KEYS if isinstance(node.metadata.get(key), str) and node.metadata[key]), None)


def _place(node: BaseNode) -> _Place | None:
    file_key = _file_key(node)
    if file_key is None:
        return None
    for key in ("page_number", "page_label"):
        number = node.metadata.get(key)
        if key == "page_label":
            number = int(number) if isinstance(number, str) and _NUMBER.fullmatch(number) else None
        if type(number) is int and 0 < number < _LARGEST:
            return _Place(file_key, str(node.metadata[file_key]), key, number)
    return None


def _position(node: BaseNode) -> int:
    """Where on its page a chunk begins."""
    return getattr(node, "start_char_idx", None) or 0
