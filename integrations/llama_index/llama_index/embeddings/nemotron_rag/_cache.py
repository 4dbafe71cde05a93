"""Embedding with vectors kept in a LlamaIndex key-value store, apart by model, role and content. It knows no node.

LlamaIndex's own cache is keyed by text alone, so that a question would get the vector of an equal passage.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import Literal

from llama_index.core.base.embeddings.base import Embedding
from llama_index.core.storage.kvstore.types import BaseKVStore

from nemotron_rag.images import load_image, to_rgb
from nemotron_rag.protocols import Embedder, FloatArray
from nemotron_rag.types import Passage

__all__ = ["COLLECTION", "Role", "aembed", "embed"]

COLLECTION = "nemotron_rag_embeddings"

Role = Literal["query", "passage"]


def embed(model: Embedder, passages: Sequence[Passage], role: Role, store: BaseKVStore | None) -> list[Embedding]:
    """One vector for each passage; those in the store are not computed again.

    Args:
        model: what computes them.
        passages: for the role ``query``, texts only.
        role: which of the model's prompts.
        store: None for no cache.

    Raises:
        ImageError: a picture cannot be read.
    """
    if store is None:
        return _listed(_compute(model, passages, role))
    passages, keys = _keyed(model, passages, role)
    found = [_vector(store.get(key, collection=COLLECTION)) for key in keys]
    missing = [i for i, vector in enumerate(found) if vector is None]
    computed = dict(zip(missing, _listed(_compute(model, [passages[i] for i in missing], role)), strict=True))
    for i, vector in computed.items():
        store.put(keys[i], {"embedding": vector}, collection=COLLECTION)
    return [computed[i] if vector is None else vector for i, vector in enumerate(found)]


async def aembed(
    model: Embedder, passages: Sequence[Passage], role: Role, store: BaseKVStore | None
) -> list[Embedding]:
    """The same as `embed`, without blocking the event loop."""
    if store is None:
        return _listed(await _acompute(model, passages, role))
    passages, keys = await asyncio.to_thread(_keyed, model, passages, role)
    found = [_vector(await store.aget(key, collection=COLLECTION)) for key in keys]
    missing = [i for i, vector in enumerate(found) if vector is None]
    computed = dict(zip(missing, _listed(await _acompute(model, [passages[i] for i in missing], role)), strict=True))
    for i, vector in computed.items():
        await store.aput(keys[i], {"embedding": vector}, collection=COLLECTION)
    return [computed[i] if vector is None else vector for i, vector in enumerate(found)]


def _compute(model: Embedder, passages: Sequence[Passage], role: Role) -> FloatArray:
    if role == "query":
        return model.embed_queries([passage.text for passage in passages])
    return model.embed_passages(passages)


async def _acompute(model: Embedder, passages: Sequence[Passage], role: Role) -> FloatArray:
    if role == "query":
        return await model.aembed_queries([passage.text for passage in passages])
    return await model.aembed_passages(passages)


def _listed(rows: FloatArray) -> list[Embedding]:
    vectors: list[Embedding] = rows.tolist()
    return vectors


def _vector(entry: dict[str, Embedding] | None) -> Embedding | None:
    return None if entry is None else entry["embedding"]


def _keyed(model: Embedder, passages: Sequence[Passage], role: Role) -> tuple[list[Passage], list[str]]:
    """The passages with their pictures decoded once, and one key for each out of all that decides its vector."""
    prefix = json.dumps([model.name, dict(model.identity), role], sort_keys=True).encode()
    decoded = [p if p.image is None else Passage(p.text, to_rgb(load_image(p.image))) for p in passages]
    return decoded, [_key(prefix, passage) for passage in decoded]


def _key(prefix: bytes, passage: Passage) -> str:
    digest = hashlib.sha256(prefix + b"\0" + passage.text.encode("utf-8", "surrogatepass") + b"\0")
    if passage.image is not None:
        image = to_rgb(load_image(passage.image))
        digest.update(f"{image.size}".encode() + image.tobytes())
    return digest.hexdigest()
