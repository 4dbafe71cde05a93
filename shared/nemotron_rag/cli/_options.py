"""The command line's arguments: their names, help texts and checks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from nemotron_rag.errors import InputError
from nemotron_rag.late_interaction.token_vectors import Pooling, TokenVectors
from nemotron_rag.remote.endpoint import DIALECTS
from nemotron_rag.stores.collection_options import CollectionOptions, Quantization
from nemotron_rag.stores.server import ConnectionOptions
from nemotron_rag.stores.tenant import TenantKey
from nemotron_rag.types import IndexedType
from nemotron_rag.types import TokenStorage as Storage

__all__ = [
    "DEFAULT_EMBEDDER",
    "DEFAULT_RERANKER",
    "RERANKER_FOR",
    "ApiKey",
    "BaseUrl",
    "Candidates",
    "Collection",
    "Compile",
    "Device",
    "Dialect",
    "Dimensions",
    "Diversity",
    "Dpi",
    "Dtype",
    "Embedder",
    "ErrorMode",
    "Headers",
    "Html",
    "Images",
    "Index",
    "Instruction",
    "Json",
    "MaxImageTokens",
    "MaxLength",
    "MaxRows",
    "MaxTiles",
    "MetadataIndexes",
    "MinScore",
    "Neighbours",
    "OcrMode",
    "Pages",
    "Password",
    "PayloadOnDisk",
    "PdfRenderer",
    "PerDocument",
    "Place",
    "Prefetch",
    "Quantized",
    "Query",
    "QueryImage",
    "QueryWords",
    "Regions",
    "Replicas",
    "RerankerBaseUrl",
    "Revision",
    "SearchMode",
    "Shards",
    "Stage",
    "Strict",
    "Tenant",
    "Thumbnail",
    "Timeout",
    "TokenPooling",
    "TokenStorage",
    "TopN",
    "VectorsOnDisk",
    "Where",
    "check_html",
    "check_pages",
    "collection_options",
    "index_or_stage",
    "parse_filter",
    "place",
    "reranker_place",
    "token_vectors",
]

_SIGNS = {"!=": "ne", ">=": "gte", "<=": "lte", "^=": "prefix", "~=": "contains", ">": "gt", "<": "lt"}
_OF_TEXTS = ("^=", "~=")
_CONDITION = re.compile(r"(?P<key>[^=<>]*?[^=<>!^~\s]\s*)(?P<sign>!=|>=|<=|\^=|~=|=|>|<)(?P<value>.*)", re.DOTALL)

DEFAULT_EMBEDDER = "llama-nemotron-embed-vl-1b-v2"
DEFAULT_RERANKER = "llama-nemotron-rerank-vl-1b-v2"
RERANKER_FOR = {"starter-embed-vl": "starter-rerank-vl"}  # the model of --rerank, by embedder; else the default


Index = Annotated[str, typer.Argument(metavar="INDEX", help="Folder of the index, or URL of a Qdrant server.")]
Query = Annotated[str, typer.Argument(metavar="QUERY", help="The query.")]
QueryWords = Annotated[str | None, typer.Argument(metavar="QUERY", help="The query; an --image may take its place.")]
QueryImage = Annotated[
    str | None,
    typer.Option("--image", metavar="FILE", help="Find pages by an image; with a query, by both (Qwen3-VL models)."),
]
Instruction = Annotated[
    str | None, typer.Option(help="What the query is for, for models that take it; by default theirs.")
]
Collection = Annotated[str, typer.Option(help="Name of the collection in the index.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Of a Qdrant server. Other users of the machine see arguments: better set the environment variable "
        "QDRANT_API_KEY.",
    ),
]
Headers = Annotated[
    list[str] | None,
    typer.Option("--header", metavar="NAME:VALUE", help="Sent to a Qdrant server with every request; repeatable."),
]
Tenant = Annotated[
    str | None,
    typer.Option(metavar="KEY=VALUE", help="Whose pages these are, such as customer=acme, in an index of several."),
]
Stage = Annotated[
    str | None,
    typer.Option(metavar="parquet://FOLDER", help="In the place of --to: write what would be stored, for `load`."),
]
Engine = Annotated[
    Literal["ray"] | None,
    typer.Option(help="Render and embed in many processes, on one machine or many (extra `ray`)."),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="auto|ray://HOST:PORT", help="Ray cluster; without it one is started on this machine."),
]
Shards = Annotated[int | None, typer.Option(min=1, help="Parts of a new collection in a cluster.")]
Replicas = Annotated[int | None, typer.Option(min=1, help="Nodes that have each part of a new collection.")]
VectorsOnDisk = Annotated[bool, typer.Option("--vectors-on-disk", help="Of a new collection: not in memory.")]
PayloadOnDisk = Annotated[bool, typer.Option("--payload-on-disk", help="Of a new collection: not in memory.")]
Quantized = Annotated[
    Quantization | None, typer.Option("--quantization", help="How a new collection holds vectors in memory in short.")
]
MetadataIndexes = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata-index",
        metavar="KEY=TYPE",
        help="Makes filters on a key fast: keyword, integer, float, bool or datetime; repeatable.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="A new collection refuses filters on keys without an index.")]
Timeout = Annotated[
    float | None, typer.Option(min=0.001, help="Seconds for one request to a Qdrant server; by default 60.")
]
Patience = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds to go on trying while a Qdrant server is busy or down; by default 120."),
]
Embedder = Annotated[str | None, typer.Option(help="Catalog id or local folder; by default the index's own model.")]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Of a server that has the models, instead of this process. Its key is in NEMOTRON_RAG_API_KEY.",
    ),
]
RerankerBaseUrl = Annotated[
    str | None,
    typer.Option(metavar="URL|none", help="Of another server for the reranker; none for this process."),
]
Dialect = Annotated[
    str | None, typer.Option(help=f"That the server speaks: {', '.join(DIALECTS)}; by default found out.")
]
Revision = Annotated[str | None, typer.Option(help="Of the model's hub repository, instead of the pinned one.")]
Dimensions = Annotated[int | None, typer.Option(min=1, help="Shorter vectors (Matryoshka), for models trained for it.")]
MaxLength = Annotated[int | None, typer.Option(min=1, help="Most tokens of a passage; by default the model's.")]
MaxImageTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Most tokens of a page image, for models without tiles; by default the model's."),
]
Thumbnail = Annotated[
    bool | None, typer.Option("--thumbnail/--no-thumbnail", help="Add the whole image as one small tile.")
]
Compile = Annotated[bool | None, typer.Option("--compile", help="Fuse the vision tower with torch.compile.")]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1 or mps, or several between commas; by default the best one available."),
]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default the device's.")]
MaxTiles = Annotated[int | None, typer.Option(min=1, help="Tiles per page image; by default the model's.")]
Pages = Annotated[str | None, typer.Option(help="Only these pages of each PDF, such as 1-3,7.")]
Password = Annotated[str | None, typer.Option(help="Password of protected PDFs.")]
OcrMode = Annotated[
    Literal["auto", "never", "always"],
    typer.Option(help="Which pages Tesseract reads; auto: those without a text layer."),
]
Dpi = Annotated[
    int | None, typer.Option(min=1, help="Resolution of the images; by default 6 tiles of 512 x 512 pixels.")
]
PdfRenderer = Annotated[
    Literal["auto", "mupdf", "pdfium"] | None,
    typer.Option(
        help="What renders PDFs; auto: MuPDF where it is installed, and pdfium where it fails or is not. By default "
        "auto, or as the index was made."
    ),
]
Images = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|URL|none",
        help="Where the page images are stored; by default beside a folder's index. Required for a server.",
    ),
]
SearchMode = Annotated[
    Literal["dense", "multi", "hybrid"] | None,
    typer.Option(help="By one vector a page, by token vectors, or also by words (hybrid); by default the model's."),
]
Candidates = Annotated[int | None, typer.Option(min=1, help="Pages fetched for reranking; by default 20.")]
Prefetch = Annotated[
    int | None, typer.Option(min=1, help="Pages whose token vectors are compared exactly; by default 200.")
]
TokenPooling = Annotated[Pooling | None, typer.Option(help="How token vectors are pooled; see TokenVectors.")]
MaxRows = Annotated[int | None, typer.Option(min=1, help="Most vectors of a page; by default Qdrant's limit.")]
TokenStorage = Annotated[
    Storage | None, typer.Option(help="Number format of token vectors on a server; by default float16.")
]
Prune = Annotated[bool, typer.Option("--prune", help="Remove what has vanished from the files and folders named.")]
ErrorMode = Annotated[
    Literal["skip", "raise"], typer.Option(help="Skip files that cannot be read, or stop at the first one.")
]
TopN = Annotated[int | None, typer.Option(min=1, help="Results to keep; by default all.")]
MinScore = Annotated[
    float | None, typer.Option(help="Smallest score of the vectors that a page must have, before it is reranked.")
]
PerDocument = Annotated[int | None, typer.Option(min=1, help="Pages of one document to return at most.")]
Diversity = Annotated[
    float | None, typer.Option(min=0, max=1, help="Return pages unlike each other: from 0, by score alone, to 1.")
]
Neighbours = Annotated[int, typer.Option(min=0, help="So many pages before and after each page found come with it.")]
Regions = Annotated[
    bool, typer.Option("--regions", help="Show where on each page the query is answered, and frame it with --html.")
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="KEY=VALUE",
        help="Only pages with this value; repeat a key to allow several values. Also KEY!=VALUE, KEY>=VALUE, "
        'KEY<VALUE, KEY^=BEGINNING, KEY~=PART; or JSON, as in \'{"or": [{"year": {"lt": 2020}}, {"draft": true}]}\'.',
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Html = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write an HTML page with the page images.")]


def token_vectors(pooling: Pooling | None, max_rows: int | None, storage: Storage | None) -> TokenVectors | None:
    """Return the settings of the three options; None if none was given."""
    if pooling is None and max_rows is None and storage is None:
        return None
    return TokenVectors(pooling=pooling, max_rows=max_rows, storage=storage)


class Place(ConnectionOptions, total=False):
    """How a server is reached, and whose pages are meant."""

    tenant: TenantKey | None


def place(
    api_key: str | None,
    headers: Iterable[str] | None,
    timeout: float | None,
    tenant: str | None,
    *,
    patience: float | None = None,
) -> Place:
    """Return what was given of these."""
    options: Place = {"tenant": _tenant(tenant)}
    if api_key is not None:
        options["api_key"] = api_key
    if headers:
        options["headers"] = dict(map(_header, headers))
    if timeout is not None:
        options["timeout"] = timeout
    if patience is not None:
        options["patience"] = patience
    return options


def index_or_stage(to: str | None, stage: str | None) -> str:
    """Return the one of ``--to`` and ``--stage`` that was given."""
    if (to is None) == (stage is None):
        raise typer.BadParameter("give --to INDEX, or --stage parquet://FOLDER")
    if stage is not None and not stage.startswith("parquet://"):
        raise typer.BadParameter(f"--stage takes parquet:// and a folder or URL, got {stage!r}")
    return str(stage if to is None else to)


def reranker_place(url: str | None) -> dict[str, Any]:
    """Where a reranker is that is not where the embedder is; empty if that was not given."""
    return {} if url is None else {"reranker_options": {"base_url": None if url == "none" else url}}


def _tenant(text: str | None) -> TenantKey | None:
    """``customer=acme`` -> ``("customer", "acme")``."""
    if text is None:
        return None
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise typer.BadParameter(f"--tenant takes KEY=VALUE, such as customer=acme; got {text!r}")
    return key, value


def collection_options(*, metadata_indexes: Iterable[str] | None, **given: Any) -> CollectionOptions | None:
    """Return the settings of a new collection; None if none was given."""
    options = {name: value for name, value in given.items() if value not in (None, False)}
    indexes = dict(map(_index, metadata_indexes or ()))
    return CollectionOptions(metadata_indexes=indexes, **options) if options or indexes else None


def _index(text: str) -> tuple[str, Any]:
    key, equals, kind = text.partition("=")
    if not equals or not key or kind not in get_args(IndexedType):
        raise typer.BadParameter(f"--metadata-index takes KEY={'|'.join(get_args(IndexedType))}; got {text!r}")
    return key, kind


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    if not separator or not name.strip():
        raise typer.BadParameter("--header takes NAME:VALUE, such as 'X-Team: search'")  # not shown: it may be secret
    return name, value


def check_pages(pages: str | None) -> None:
    """Refuse invalid page ranges before any work is done."""
    from nemotron_rag.documents.pdf import parse_pages  # noqa: PLC0415  not needed by the other commands

    try:
        parse_pages(pages)
    except InputError as error:
        raise typer.BadParameter(f"--pages: {error}") from error


def parse_filter(conditions: Iterable[str]) -> dict[str, Any] | None:
    """``["year=2024", "source=a.pdf", "source=b.pdf"]`` -> ``{"year": 2024, "source": ["a.pdf", "b.pdf"]}``.

    A value that is a JSON number, true, false or null is read as such, everything else as text; put a text that looks
    like a number in double quotes. A condition in braces is a filter in JSON. All conditions must hold.
    """
    found: dict[str, list[Any]] = {}
    others: list[dict[str, Any]] = []
    for condition in conditions:
        parts = _CONDITION.fullmatch(condition)
        if condition.lstrip().startswith("{"):
            others.append(_json_filter(condition))
        elif parts is None:
            raise typer.BadParameter(f"--filter takes KEY=VALUE; got {condition!r}")
        elif parts["sign"] == "=":
            found.setdefault(parts["key"].strip(), []).append(_value(parts["value"]))
        else:
            value = parts["value"] if parts["sign"] in _OF_TEXTS else _value(parts["value"])
            others.append({parts["key"].strip(): {_SIGNS[parts["sign"]]: value}})
    equal = {key: values[0] if len(values) == 1 else values for key, values in found.items()}
    return {"and": [*([equal] if equal else []), *others]} if others else equal or None


def _json_filter(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise typer.BadParameter(f"--filter got something in braces that is not JSON: {error}") from error


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
