"""The golden cases of ``tests/data/reference``: what each family gives for them, beside what it should give."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from nemotron_rag import Passage, load_embedder, load_multivector_embedder, load_reranker
from nemotron_rag.models.families import Family, find_family
from nemotron_rag.protocols import FloatArray
from nemotron_rag.types import Kind, Query

__all__ = ["REFERENCE", "Call", "Case", "all_cases"]

REFERENCE = Path(__file__).parents[2] / "tests" / "data" / "reference"

_LOAD: dict[str, Callable[..., Any]] = {
    "embedder": load_embedder,
    "multivector_embedder": load_multivector_embedder,
    "reranker": load_reranker,
}
_JINA_BIAS = 2.65  # which the reference's logits have, and the score of the protocol has not


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the reference.

    Args:
        name: of the call.
        run: makes the same call of a loaded model; rows that belong to `expected`.
        expected: what the reference gave.
    """

    name: str
    run: Callable[[Any], FloatArray]
    expected: FloatArray


class Case:
    """One tiny checkpoint of random weights, with what the published implementation makes of some inputs.

    Args:
        folder: the case.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config, calls = (
            json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("config", "inputs")
        )
        self._calls: list[dict[str, Any]] = calls["calls"]
        kinds: tuple[Kind, ...] = ("reranker",) if "pairs" in self._calls[0] else ()  # files of Qwen3-VL do not tell
        self.family: Family = find_family(config, *kinds)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def is_score(self) -> bool:
        """Whether it gives scores, else vectors of length 1."""
        return self.family.kind == "reranker"

    def load(self, **options: Any) -> Any:
        """The model of its kind."""
        return _LOAD[self.family.kind](self.folder, **options)

    @cached_property
    def calls(self) -> list[Call]:
        """Those that need no settings but the checkpoint's own."""
        return [self._pairs(call) if "pairs" in call else self._rows(call) for call in self._calls if _is_plain(call)]

    def _rows(self, call: dict[str, Any]) -> Call:
        is_query = call["name"].startswith("quer")
        images = call.get("images", [""] * len(call["texts"]))
        passages = [self._passage(text, image) for text, image in zip(call["texts"], images, strict=True)]

        def run(model: Any) -> FloatArray:
            rows = model.embed_queries(call["texts"]) if is_query else model.embed_passages(passages)
            return np.concatenate([np.atleast_2d(row) for row in rows])

        if self.family.kind == "embedder":
            return Call(call["name"], run, self._expected(f"{call['name']}.embeddings_l2"))
        padded, mask = (self._expected(f"{call['name']}.{what}") for what in ("token_embeddings", "attention_mask"))
        return Call(call["name"], run, padded[mask == 1])

    def _pairs(self, call: dict[str, Any]) -> Call:
        pairs = [_as_list(pair) for pair in call["pairs"]]
        as_image = call.get("doc_type") == "image" or self.family.module == "monoqwen2_vl"
        documents = [self._passage("", pair[1]) if as_image else self._passage(*pair[1:]) for pair in pairs]
        queries = self._queries(call, [pair[0] for pair in pairs])

        def run(model: Any) -> FloatArray:
            rows = zip(queries, documents, strict=True)
            return np.concatenate([model.score(query, [document]) for query, document in rows])

        return Call(call["name"], run, self._expected_scores(call["name"]))

    def _queries(self, call: dict[str, Any], texts: Sequence[str]) -> list[Query]:
        """Those of a call's pairs: words, images, or both."""
        if call.get("query_type") == "image":
            return [self._passage("", image) for image in texts]
        images = call.get("query_images")
        return [self._passage(*both) for both in zip(texts, images, strict=True)] if images else list(texts)

    def _expected_scores(self, name: str) -> FloatArray:
        if self.family.module == "monoqwen2_vl":
            false, true = self._expected("false_true_logits").T
            return np.asarray(true - false, dtype=np.float32)
        bias = _JINA_BIAS if self.family.module == "jina_reranker_m0" else 0.0
        return np.asarray(self._expected(f"{name}.logits").reshape(-1) - bias, dtype=np.float32)

    def _passage(self, text: str, image: str | None = None) -> Passage:
        return Passage(text, self.folder / "images" / image if image else None)

    def _expected(self, name: str) -> NDArray[Any]:
        tensors = self._tensors
        found: NDArray[Any] = tensors[f"{name}.pil" if f"{name}.pil" in tensors else name].numpy()
        return found

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        return load_file(self.folder / "expected.safetensors")


def all_cases() -> list[Case]:
    """In the order of their names: one of each family, then the second ones."""
    folders = [folder for folder in REFERENCE.iterdir() if (folder / "inputs.json").exists()]
    cases = [Case(folder) for folder in sorted(folders)]
    first = {case.family.module: case for case in reversed(cases)}.values()
    return sorted(cases, key=lambda case: case not in first)


def _is_plain(call: dict[str, Any]) -> bool:
    other_settings = any(key in call for key in ("processor_overrides", "instruction", "kwargs", "max_length", "edge"))
    return not other_settings and call["name"] != "trunc" and call.get("kind") != "texts_raw"


def _as_list(pair: Sequence[Any] | dict[str, Any]) -> Sequence[Any]:
    return [pair["query"], pair["image"]] if isinstance(pair, dict) else pair
