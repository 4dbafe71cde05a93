"""What a checkpoint's files for sentence-transformers say: prompts, pooling and the longest input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nemotron_rag.errors import CheckpointError
from nemotron_rag.models._base.folders import saved_as
from nemotron_rag.runtime.checkpoint import read_json

__all__ = ["Pooling", "Prefixes", "pooling_named", "read_max_length", "read_pooling", "read_prefixes", "renders_chats"]

Pooling: TypeAlias = Literal["avg", "cls", "last"]
"""How hidden states are pooled: the mean over all tokens, the first one, or the last one."""

_POOLINGS: Mapping[str, Pooling] = {
    **{"mean": "avg", "avg": "avg", "cls": "cls", "lasttoken": "last", "last": "last"},
    "cls_last": "cls",  # another name in the published code of the Llama models
}
_FLAGS = {  # before sentence-transformers 5.5
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_MODULES = ("Transformer", "Pooling", "Normalize")
_HEAD = "Dense"  # of a reranker; `load_score_head` reads it
_NO_LIMIT = 10**9  # what transformers writes for a tokenizer without a limit is far above


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What the checkpoint puts before queries and passages; empty for nothing."""

    query: str
    passage: str


def read_prefixes(folder: Path, *, without: Prefixes | None = None) -> Prefixes:
    """Read the prompts as sentence-transformers chooses them for `encode_query` and `encode_document`.

    Args:
        folder: the checkpoint.
        without: what it puts before them if there is no such file; None if there must be one.

    Raises:
        CheckpointError: the file is missing. Without it vectors would be wrong, and nothing would say so.
    """
    config = read_json(folder, "config_sentence_transformers.json", optional=without is not None)
    if not config and without is not None:
        return without
    prompts = config.get("prompts") or {}
    default = prompts.get(config.get("default_prompt_name")) or ""

    def first(names: Sequence[str]) -> str:
        return str(next((prompts[name] for name in names if prompts.get(name) is not None), default))

    return Prefixes(query=first(["query"]), passage=first(["document", "passage", "corpus"]))


def pooling_named(name: str, *, is_reranker: bool) -> Pooling:
    """Return the pooling that a checkpoint's files call by a name.

    Raises:
        CheckpointError: it is not implemented.
    """
    if name == "weighted_avg" and not is_reranker:  # in the published code of the Llama models: the sum
        return "avg"  # of the same direction
    if name not in _POOLINGS:
        raise CheckpointError(f"has pooling={name!r}, only {', '.join(_POOLINGS)} are implemented")
    return _POOLINGS[name]


def read_pooling(folder: Path, config: Mapping[str, Any]) -> Pooling:
    """Read how a checkpoint pools: by the module for it, or without one by config.json.

    Raises:
        CheckpointError: the pooling, or a module of the checkpoint, is not implemented.
    """
    is_reranker = any("SequenceClassification" in name for name in config.get("architectures") or ())
    is_reranker = is_reranker or saved_as(folder) == "CrossEncoder"
    known = (*_MODULES, _HEAD) if is_reranker else _MODULES
    fields = read_json(folder / _pooling_folder(folder, known), "config.json", optional=True)
    named = fields.get("pooling_mode") or [mode for flag, mode in _FLAGS.items() if fields.get(flag)]
    modes = [named] if isinstance(named, str) else list(named) or [str(config.get("pooling", "avg"))]
    pooling = pooling_named(" + ".join(modes), is_reranker=is_reranker)
    if not fields.get("include_prompt", True) and not renders_chats(folder):
        raise CheckpointError("pools without its prompts (include_prompt=false), which is not implemented")
    return pooling


def read_max_length(folder: Path, config: Mapping[str, Any]) -> int:
    """Read the most tokens of an input, as sentence-transformers does.

    Args:
        folder: the checkpoint.
        config: its config.json. The positions of the network limit the tokenizer's length only where they stand on top,
            as in text models; where the tokenizer has no length, they are the length.
    """
    given = read_json(folder, "sentence_bert_config.json", optional=True).get("max_seq_length")
    if given:
        return int(given)
    length = read_json(folder, "tokenizer_config.json", optional=True).get("model_max_length")
    if length and length < _NO_LIMIT:
        return min(int(length), int(config.get("max_position_embeddings", length)))
    return int((config.get("text_config") or config)["max_position_embeddings"])


def renders_chats(folder: Path) -> bool:
    """Whether inputs go through the chat template, as sentence-transformers decides it."""
    return "message" in read_json(folder, "sentence_bert_config.json", optional=True).get("modality_config", {})


def _pooling_folder(folder: Path, known: Sequence[str]) -> str:
    """The folder of the pooling module; a name in the checkpoint, never a path out of it."""
    found = "1_Pooling"
    for module in _modules(folder):
        name = str(module["type"]).rpartition(".")[2]
        if name not in known:
            raise CheckpointError(f"has a module {name} in modules.json; only {', '.join(known)} are implemented")
        found = str(module["path"]) if name == "Pooling" else found
    if Path(found).name != found:
        raise CheckpointError(f"has its pooling at {found!r} in modules.json, expected a folder inside it")
    return found


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        modules: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"has no readable modules.json: {error}") from error
    return modules
