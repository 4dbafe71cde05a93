"""The requests that the server understands, checked by pydantic."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nemotron_rag.index import Mode
from nemotron_rag.index.regions import RegionsBy
from nemotron_rag.serve.inputs import Input, Modality

__all__ = ["EmbeddingsRequest", "HeatmapRequest", "RankingRequest", "RegionsRequest", "RerankRequest", "SearchRequest"]

_MOST_RETURNED, _MOST_NEIGHBOURS, _MOST_REGIONS = 1000, 10, 50


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str = Field(default="", description="A name out of /v1/models; empty for the only one.")


class EmbeddingsRequest(_Request):
    """OpenAI, NVIDIA NIM, OpenRouter and Ollama shapes."""

    input: Input | list[Input] = Field(
        description='A text, a data URI of an image, a text with a data URI behind it, {"text", "image"}, '
        '{"content": [parts]}, or a list of those.'
    )
    input_type: Literal["query", "passage", "document", "search_query", "search_document"] | None = Field(
        default=None, description="What the inputs are; or let the model's name end with -query or -passage."
    )
    modality: Modality | list[Modality] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    encoding_format: Literal["float", "base64"] = "float"
    truncate: Literal["NONE", "END"] = Field(default="END", description="Longer text is cut at its end either way.")


class _Text(BaseModel):
    model_config = ConfigDict(extra="allow")

    text: str = ""


class RankingRequest(_Request):
    """NVIDIA NIM: answered with raw logits."""

    query: _Text
    passages: list[dict[str, Any]]
    truncate: Literal["NONE", "END"] = Field(default="END", description="Longer text is cut at its end either way.")


class RerankRequest(_Request):
    """Cohere, Jina and vLLM: answered with scores from 0 to 1, the raw logits beside them."""

    query: Input
    documents: list[Input] | dict[str, Any]
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False


class SearchRequest(BaseModel):
    """Over the pages of the index; the fields are the arguments of `PageIndex.search`."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=10_000)
    k: int = Field(default=10, ge=1, le=_MOST_RETURNED)
    candidates: int | None = Field(default=None, ge=1, le=_MOST_RETURNED)
    rerank: bool = True
    filter: dict[str, Any] | None = None
    mode: Mode | None = None
    min_score: float | None = None
    per_document: int | None = Field(default=None, ge=1)
    diversity: float | None = Field(default=None, ge=0, le=1)
    neighbours: int = Field(default=0, ge=0, le=_MOST_NEIGHBOURS)
    excerpts: bool = Field(default=False, description="Add to each hit the pieces of its text around the query.")


class HeatmapRequest(BaseModel):
    """Where on a page the words of a query match."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(max_length=64, description="The path of a hit's image, or its last part.")
    query: str = Field(min_length=1, max_length=10_000)


class RegionsRequest(HeatmapRequest):
    """Where on a page a query is answered; the other fields are the arguments of `PageIndex.regions`."""

    k: int = Field(default=3, ge=1, le=_MOST_REGIONS)
    by: RegionsBy = "auto"
    rerank: bool = False
