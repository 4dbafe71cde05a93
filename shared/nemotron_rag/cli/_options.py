"""The command line's arguments: their names, help texts and checks. It knows no command and loads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from nemotron_rag.errors import InputError
from nemotron_rag.token_vectors import TokenVectors

__all__ = [
    "DEFAULT_EMBEDDER",
    "DEFAULT_RERANKER",
    "RERANKER_FOR",
    "Candidates",
    "Collection",
    "Device",
    "Dpi",
    "Dtype",
    "Embedder",
    "ErrorMode",
    "Html",
    "Images",
    "Index",
    "Json",
    "MaxRows",
    "MaxTiles",
    "Mode",
    "Ocr",
    "OcrMode",
    "OnError",
    "Pages",
    "Password",
    "Query",
    "SearchMode",
    "TokenPooling",
    "TokenStorage",
    "TopN",
    "Where",
    "check_html",
    "check_pages",
    "parse_filter",
    "token_vectors",
]


DEFAULT_EMBEDDER = "llama-nemotron-embed-vl-1b-v2"
DEFAULT_RERANKER = "llama-nemotron-rerank-vl-1b-v2"
RERANKER_FOR = {"starter-embed-vl": "starter-rerank-vl"}  # what --rerank means, by embedder; else the default


class Ocr(StrEnum):
    """Which pages Tesseract reads."""

    AUTO = "auto"
    NEVER = "never"
    ALWAYS = "always"


class Mode(StrEnum):
    """How pages are found."""

    DENSE = "dense"
    MULTI = "multi"
    HYBRID = "hybrid"


class TokenPoolingName(StrEnum):
    """How the many vectors of a page become fewer."""

    HIERARCHICAL = "hierarchical"
    GRID = "grid"
    NONE = "none"


class TokenStorageName(StrEnum):
    """In which number format a server keeps many vectors."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    BINARY = "binary"
    TURBO4 = "turbo4"


class OnError(StrEnum):
    """What a file that cannot be read does to the run."""

    SKIP = "skip"
    RAISE = "raise"


Index = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of the index, or URL of a Qdrant server.")]
Query = Annotated[str, typer.Argument(metavar="QUERY", help="The question.")]
Collection = Annotated[str, typer.Option(help="Name of the collection in the index.")]
Embedder = Annotated[str | None, typer.Option(help="Catalog id or local folder; by default the index's own model.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 or mps, or several between commas; by default the best there is.")
]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default what suits the device.")]
MaxTiles = Annotated[int | None, typer.Option(min=1, help="Tiles per page picture; by default the model's own number.")]
Pages = Annotated[str | None, typer.Option(help="Only these pages of every PDF, such as 1-3,7.")]
Password = Annotated[str | None, typer.Option(help="Opens protected PDFs.")]
OcrMode = Annotated[Ocr, typer.Option(help="Which pages Tesseract reads; auto: those without a text layer.")]
Dpi = Annotated[int | None, typer.Option(min=1, help="Resolution of the pictures; by default what the tiles need.")]
Images = Annotated[str | None, typer.Option(metavar="FOLDER|URL", help="Where the page pictures are kept.")]
SearchMode = Annotated[
    Mode | None,
    typer.Option(help="By one vector a page, by many, or also by words; by default what the index's model gives."),
]
Candidates = Annotated[
    int | None, typer.Option(min=1, help="Pages whose many vectors are compared one by one; by default 200.")
]
TokenPooling = Annotated[
    TokenPoolingName | None, typer.Option(help="For many vectors a page: how they become fewer; see TokenVectors.")
]
MaxRows = Annotated[int | None, typer.Option(min=1, help="Most vectors of a page; by default as many as Qdrant takes.")]
TokenStorage = Annotated[
    TokenStorageName | None, typer.Option(help="Number format of many vectors on a server; by default float16.")
]
ErrorMode = Annotated[OnError, typer.Option(help="What a file that cannot be read does to the run.")]
TopN = Annotated[int | None, typer.Option(min=1, help="Results to keep; by default all.")]
Where = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="KEY=VALUE", help="Only pages with this value; the same key again means either."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page with the page pictures.")]


def token_vectors(
    pooling: TokenPoolingName | None, max_rows: int | None, storage: TokenStorageName | None
) -> TokenVectors | None:
    """What the three options say; None if none was given."""
    if pooling is None and max_rows is None and storage is None:
        return None
    return TokenVectors(
        pooling=pooling.value if pooling else None, max_rows=max_rows, storage=storage.value if storage else None
    )


def check_pages(pages: str | None) -> None:
    """Refuse page numbers that cannot be read before any work is done."""
    from nemotron_rag.pdf._source import parse_pages  # noqa: PLC0415  needless for the other commands

    try:
        parse_pages(pages)
    except InputError as error:
        raise typer.BadParameter(f"--pages: {error}") from error


def parse_filter(conditions: Iterable[str]) -> dict[str, Any] | None:
    """``["year=2024", "source=a.pdf", "source=b.pdf"]`` -> ``{"year": 2024, "source": ["a.pdf", "b.pdf"]}``.

    A value that is a JSON number, true, false or null is taken as such, everything else as text; put a text that looks
    like a number in double quotes.
    """
    found: dict[str, list[Any]] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals or not key.strip():
            raise typer.BadParameter(f"--filter takes KEY=VALUE; got {condition!r}")
        found.setdefault(key.strip(), []).append(_value(value))
    return {key: values[0] if len(values) == 1 else values for key, values in found.items()} or None


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict | list) else value


def check_html(path: Path | None) -> None:
    """Refuse a report that cannot be written before any work is done for it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise typer.BadParameter(f"--html takes a file in a folder that exists; got {str(path)!r}")
