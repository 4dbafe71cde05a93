"""The same weights used in ways that servers are known to get wrong, to tell by their scores which one it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemotron_rag.models.families import family_of
from nemotron_rag.models.load import load_row
from nemotron_rag.types import ModelSpec

__all__ = ["Variant", "loaded", "variants_of"]

_CONFIG, _PROCESSOR = "config.json", "processor_config.json"  # the second takes precedence
_SENTENCE = "config_sentence_transformers.json"
_TILES = (1, 2, 4, 6, 8, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way of using a model that is not its own.

    Args:
        cause: what the server does, for people.
        edits: of the checkpoint's files, by name: keys and their values; those with a dot are of a part.
        options: of `LoadOptions`.
        needs_images: whether only images are scored otherwise.
    """

    cause: str
    edits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    needs_images: bool = False


_PREFIXES = "texts come without their prefixes: give dialect= and query_prefix, or the chat template and its roles"
_CAUSAL = "attention is causal: each token sees only those before it; the model needs both directions (is_causal=false)"
_TEMPLATE = "the prompt is not the model's: serve it with its chat template (`nemotron-rag vllm-template`)"


def variants_of(spec: ModelSpec) -> Iterator[Variant]:
    """What is known of a model's family, the likeliest first."""
    name, options = spec.family, family_of(spec.family).options
    both = (_CONFIG, _PROCESSOR)
    if name == "llama_nemotron_rerank_vl":
        yield Variant(cause=_TEMPLATE, edits={file: {"prompt_template": None} for file in both})
    if name in ("llama_nemotron_embed_vl", "llama_nemotron_colembed_vl"):
        bare = {"query_prefix": "", "passage_prefix": ""}
        yield Variant(cause=_PREFIXES, edits={file: bare for file in both})
    if name == "llama_nemotron_text_embed":
        yield Variant(cause=_PREFIXES, edits={_SENTENCE: {"prompts": {"query": "", "document": ""}}})
    if name.startswith("llama_nemotron"):
        key = "is_causal" if "text" in name else "llm_config.is_causal"
        yield Variant(cause=_CAUSAL, edits={_CONFIG: {key: True}})
    if "max_input_tiles" in options:
        for thumbnail in (True, False):
            for tiles in _TILES:
                cut = f"max_input_tiles={tiles}, use_thumbnail={thumbnail}"
                yield Variant(
                    cause=f"images are cut otherwise: {cut} gives these scores",
                    options={"max_input_tiles": tiles, "use_thumbnail": thumbnail},
                    needs_images=True,
                )


@contextmanager
def loaded(spec: ModelSpec, folder: Path, variant: Variant, **options: Any) -> Iterator[Any]:
    """The model of a catalog row as a variant has it, closed at the end.

    Args:
        spec: the row.
        folder: with its weights; nothing in it is changed.
        variant: what is different.
        **options: of `LoadOptions`.
    """
    with tempfile.TemporaryDirectory(prefix="nemotron-rag-") as made:
        place = folder if not variant.edits else _edited(folder, Path(made), variant.edits)
        model: Any = load_row(spec, folder=place, **{**options, **variant.options})
        try:
            yield model
        finally:
            model.close()


def _edited(folder: Path, made: Path, edits: Mapping[str, Mapping[str, Any]]) -> Path:
    for file in folder.iterdir():
        if file.name not in edits and file.is_file():
            (made / file.name).symlink_to(file.resolve())
    for name, changes in edits.items():
        source = folder / name
        content = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}
        for key, value in changes.items():
            _set(content, key.split("."), value)
        (made / name).write_text(json.dumps(content), encoding="utf-8")
    return made


def _set(content: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value
