"""Pages as flat rows of plain values: what travels between processes, as dicts or as Arrow tables.

| column | type | what it is |
| --- | --- | --- |
| id, source, text, content_hash | string | of the page, see `Page` and `StoredPage` |
| number | int64 | of the page in its document, starting at 1 |
| content_metadata, metadata | string | JSON: what the content says, and what belongs to the document; null for none |
| image | binary | its image as a file, PNG unless `stored_image` says otherwise; null for none, or one elsewhere |
| stored_image | string | JSON: of an image that was stored, its key, size and pixel hash, and where; null else |
| others | string | JSON: other documents that hold the page, each with its metadata; null for none |
| words | binary | where its words stand, see `encode_word_boxes`; null if that is not known |
| replaces | bool | whether another page of its id is stored |
| vector | list of float32 | of one vector a page, or of all token vectors one after the other; null before embedding |
| tokens | int64 | rows of token vectors; 0 for one vector a page |
| error | string | why there is no page; null for a good one |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nemotron_rag.batch.pages import NewPage
from nemotron_rag.documents.images import encode_image, load_image
from nemotron_rag.documents.word_boxes import decode_word_boxes, encode_word_boxes
from nemotron_rag.errors import MissingExtraError
from nemotron_rag.stores.page_images import StoredImage
from nemotron_rag.types import Failure, ImageSource, Page, PageFile, PageVectors

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "Row",
    "bare",
    "failure_of",
    "failure_row",
    "from_row",
    "from_table",
    "good_and_bad",
    "to_row",
    "to_table",
    "vectors_of",
    "with_vectors",
]

Row: TypeAlias = dict[str, Any]
"""One page, or one failure; see the module."""

_NO_NUMBER = 0  # of a failure of a whole document


def to_row(new: NewPage, vectors: PageVectors | None = None) -> Row:
    """A page as a row; its image is encoded without loss.

    Args:
        new: the page.
        vectors: (dimensions,) or (tokens, dimensions).
    """
    page = new.page
    return {
        "id": page.id,
        "source": page.source,
        "number": page.number,
        "text": page.text,
        "content_hash": new.content_hash,
        "content_metadata": json.dumps(dict(page.metadata)),
        "metadata": None if new.metadata is None else json.dumps(dict(new.metadata)),
        "words": None if page.word_boxes is None else encode_word_boxes(page.word_boxes),
        "replaces": new.replaces,
        "others": json.dumps([[file.source, dict(file.metadata)] for file in new.others]) if new.others else None,
        "error": None,
        **_image_columns(page.image),
        **_vector_columns(vectors),
    }


def failure_row(failure: Failure) -> Row:
    """A failure as a row."""
    empty = dict.fromkeys(("metadata", "words", "others"))
    return {
        "id": "",
        "source": failure.source,
        "number": _NO_NUMBER if failure.number is None else failure.number,
        "text": "",
        "content_hash": "",
        "content_metadata": "{}",
        **empty,
        "replaces": False,
        "error": failure.reason,
        **_image_columns(None),
        **_vector_columns(None),
    }


def from_row(row: Mapping[str, Any]) -> NewPage:
    """The page of a good row; its image is decoded when it is used.

    Raises:
        InputError: the row is damaged.
    """
    page = Page(
        text=row["text"],
        image=_image_of(row),
        id=row["id"],
        source=row["source"],
        number=int(row["number"]),
        metadata=json.loads(row["content_metadata"]),
        word_boxes=None if row["words"] is None else decode_word_boxes(bytes(row["words"])),
    )
    metadata = None if row["metadata"] is None else json.loads(row["metadata"])
    others = tuple(PageFile(source, said) for source, said in json.loads(row["others"] or "[]"))
    return NewPage(page, row["content_hash"], metadata, bool(row["replaces"]), others)


def vectors_of(row: Mapping[str, Any]) -> PageVectors:
    """The vectors of an embedded row: (dimensions,) or (tokens, dimensions) float32."""
    flat = np.asarray(row["vector"], dtype=np.float32)
    return flat.reshape(int(row["tokens"]), -1) if row["tokens"] else flat


def with_vectors(row: Row, vectors: PageVectors) -> Row:
    """The row of a page with its vectors."""
    return {**row, **_vector_columns(vectors)}


def bare(row: Row) -> Row:
    """A row without what is large."""
    return {**row, "text": "", "words": None, **_image_columns(None), **_vector_columns(None)}


def failure_of(row: Mapping[str, Any]) -> Failure:
    """The failure of a bad row."""
    return Failure(row["source"], row["error"], int(row["number"]) or None)


def good_and_bad(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Pages, and failures."""
    return [row for row in rows if row["error"] is None], [row for row in rows if row["error"] is not None]


def to_table(rows: Sequence[Row]) -> pyarrow.Table:
    """Rows as an Arrow table, whose columns have the same types whatever the rows hold.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    arrow = _arrow()
    return arrow.Table.from_pylist(list(rows), schema=_schema())


def from_table(table: pyarrow.Table) -> list[Row]:
    """An Arrow table as rows; vectors come as arrays."""
    if "vector" not in table.column_names:  # of spans
        return list(table.to_pylist())
    rows: list[Row] = table.drop_columns(["vector"]).to_pylist()
    for row, vector in zip(rows, table.column("vector"), strict=True):
        row["vector"] = vector.values.to_numpy(zero_copy_only=False) if vector.is_valid else None
    return rows


def _image_columns(image: ImageSource | None) -> Row:
    if not isinstance(image, StoredImage):
        return {"image": None if image is None else encode_image(load_image(image), "png"), "stored_image": None}
    known = {"key": image.key, "size": image.size, "hash": image.pixel_hash, "root": image.root}
    return {"image": image.read_bytes(), "stored_image": json.dumps(known)}


def _image_of(row: Mapping[str, Any]) -> ImageSource | None:
    data = None if row["image"] is None else bytes(row["image"])
    if row["stored_image"] is None:
        return data
    known = json.loads(row["stored_image"])
    size = tuple(known["size"]) if known["size"] else None
    return StoredImage(known["root"], known["key"], size, known["hash"], data=data)


def _vector_columns(vectors: PageVectors | None) -> Row:
    if vectors is None:
        return {"vector": None, "tokens": 0}
    flat = np.ascontiguousarray(vectors, dtype=np.float32)
    return {"vector": flat.reshape(-1), "tokens": flat.shape[0] if flat.ndim == 2 else 0}


def _schema() -> Any:
    arrow = _arrow()
    text, number = arrow.string(), arrow.int64()
    return arrow.schema(
        {
            "id": text,
            "source": text,
            "number": number,
            "text": text,
            "content_hash": text,
            "content_metadata": text,
            "metadata": text,
            "image": arrow.large_binary(),
            "words": arrow.binary(),
            "replaces": arrow.bool_(),
            "others": text,
            "stored_image": text,
            "error": text,
            "vector": arrow.large_list(arrow.float32()),
            "tokens": number,
        }
    )


def _arrow() -> Any:
    try:
        import pyarrow  # noqa: PLC0415  of the extra
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow
