"""Our models with the methods of sentence-transformers' classes, so that a model card's code runs with this import.

`SentenceTransformer`, `MultiVectorEncoder` and `CrossEncoder` take the models of the catalog. Batches are cut to what
the device has room for, whatever ``batch_size`` says; ``show_progress_bar`` shows none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemotron_rag.compat.inputs import as_passages, is_single
from nemotron_rag.compat.loading import Loaded, options_from
from nemotron_rag.errors import InputError
from nemotron_rag.models.load import ModelName
from nemotron_rag.runtime import import_local
from nemotron_rag.types import Kind, Passage

__all__ = ["CrossEncoder", "MultiVectorEncoder", "SentenceTransformer"]

_QUERY = ("query", "queries")
_DOCUMENT = ("document", "passage", "corpus")
_ALLOWED: dict[str, Sequence[Any]] = {
    "output_value": ("sentence_embedding", "token_embeddings"),
    "precision": ("float32",),
    "normalize_embeddings": (True, False),
    "apply_softmax": (False,),
}


class _Encoder(Loaded):
    """What the two encoders have in common."""

    _kind: Kind

    def __init__(
        self,
        model_name_or_path: ModelName | Any,
        *,
        trust_remote_code: bool = False,
        image_hosts: Sequence[str] = (),
        **arguments: Any,
    ) -> None:
        options = options_from(arguments)
        super().__init__(model_name_or_path, self._kind, image_hosts=image_hosts, **options)

    def get_embedding_dimension(self) -> int:
        """Length of a vector."""
        return int(self.native.dimensions)

    get_sentence_embedding_dimension = get_embedding_dimension

    def encode_query(self, inputs: Any, **options: Any) -> Any:
        """Embed queries."""
        raise NotImplementedError

    def encode_document(self, inputs: Any, **options: Any) -> Any:
        """Embed passages."""
        raise NotImplementedError

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        task: str | None = None,
        **options: Any,
    ) -> Any:
        """`encode_query` with ``prompt_name="query"`` or ``task="query"``, else `encode_document`.

        Args:
            inputs: see there.
            prompt_name: "query" or "document".
            prompt: None: these models have their own.
            task: as `prompt_name`.
            **options: see there.

        Raises:
            InputError: an input cannot be read, or an argument means nothing here.
        """
        is_query = self._role(prompt_name, prompt, task) == "query"
        return self.encode_query(inputs, **options) if is_query else self.encode_document(inputs, **options)

    def _computed(self, inputs: Any, role: str, options: dict[str, Any]) -> Any:
        _check(type(self).__name__, options)
        single = is_single(inputs)
        passages = as_passages([inputs] if single else inputs, access=self._access)
        if role == "query":
            rows = self.native.embed_queries([each.text if each.image is None else each for each in passages])
        else:
            rows = self.native.embed_passages(passages)
        return rows[0] if single else rows

    def _role(self, prompt_name: str | None, prompt: str | None, task: str | None) -> str:
        name = type(self).__name__
        if prompt is not None:
            raise InputError(f"{name} has the model's own prompts, got prompt={prompt!r}; call encode_query instead")
        asked = prompt_name or task or "document"
        if asked not in (*_QUERY, *_DOCUMENT):
            raise InputError(f"prompt_name must be 'query' or 'document', got {asked!r}")
        return "query" if asked in _QUERY else "document"


class SentenceTransformer(_Encoder):
    """A model of one vector a text or image, with the methods of sentence-transformers' class of this name.

    Args:
        model_name_or_path: a catalog id, its hub repository, a local folder, or a loaded `Embedder`.
        trust_remote_code: understood, and not needed: no code of a checkpoint is run.
        image_hosts: hosts from which images named by their address may be fetched; others are refused.
        **arguments: of sentence-transformers' class as far as they mean something here (``device``, ``truncate_dim``,
            ``revision``, ``model_kwargs`` with a dtype, ``processor_kwargs`` with ``max_input_tiles`` or
            ``p_max_length``, ...), and of `LoadOptions`.

    Raises:
        InputError: an argument means nothing here, or the model is of another kind.
        UnknownModelError: there is no such model.

    Example:
        >>> model = SentenceTransformer("starter-embed-vl", trust_remote_code=True)
        >>> queries = model.encode_query(["Where do tornadoes form?"])
        >>> model.similarity(queries, model.encode_document(["Tornadoes form in storms.", "Bread"])).shape
        torch.Size([1, 2])
    """

    _kind: Kind = "embedder"

    def encode_query(self, inputs: Any, *, convert_to_tensor: bool = False, **options: Any) -> Any:
        """Embed queries: (n, dimensions) float32 of length 1, or (dimensions,) for one that is not in a list.

        Args:
            inputs: texts; for models that read such queries also images and dicts, as of `encode_document`.
            convert_to_tensor: a tensor on the CPU in place of an array.
            **options: as of sentence-transformers.

        Raises:
            InputError: an input cannot be read, or an option means nothing here.
        """
        return _as(self._computed(inputs, "query", options), convert_to_tensor)

    def encode_document(self, inputs: Any, *, convert_to_tensor: bool = False, **options: Any) -> Any:
        """Embed passages: texts, images (PIL, paths in a dict, arrays), or dicts with ``text`` and ``image``.

        Args:
            inputs: passages.
            convert_to_tensor: see `encode_query`.
            **options: as of sentence-transformers.

        Returns:
            (n, dimensions) float32 of length 1, or (dimensions,) for one that is not in a list.

        Raises:
            InputError: an input cannot be read, or an option means nothing here.
        """
        return _as(self._computed(inputs, "document", options), convert_to_tensor)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines: (n, m) tensor."""
        return _tensors().similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of row i with row i: (n,) tensor."""
        return _tensors().similarity(embeddings1, embeddings2, pairwise=True)


class MultiVectorEncoder(_Encoder):
    """A late-interaction model with the methods of sentence-transformers' class of this name.

    Args: see `SentenceTransformer`.

    Example:
        >>> model = MultiVectorEncoder("starter-colembed")
        >>> queries = model.encode_query(["Where do tornadoes form?"])
        >>> model.similarity(queries, model.encode_document(["Tornadoes form in storms.", "Bread"])).shape
        torch.Size([1, 2])
    """

    _kind: Kind = "multivector_embedder"

    def encode_query(self, inputs: Any, *, convert_to_numpy: bool = False, **options: Any) -> Any:
        """Embed queries: a list of (tokens, dimensions) tensors on the CPU, or arrays; one for one input."""
        return _as_list(self._computed(inputs, "query", options), convert_to_numpy)

    def encode_document(self, inputs: Any, *, convert_to_numpy: bool = False, **options: Any) -> Any:
        """Embed passages: a list of (tokens, dimensions) tensors on the CPU, or arrays; one for one input."""
        return _as_list(self._computed(inputs, "document", options), convert_to_numpy)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """MaxSim: (n, m) tensor."""
        tensors = _tensors()
        scores = self.native.score(tensors.to_arrays(embeddings1), tensors.to_arrays(embeddings2))
        return tensors.to_tensor(scores)


class CrossEncoder(Loaded):
    """A reranker with the methods of sentence-transformers' class of this name.

    Scores are raw logits, as NVIDIA's rerankers give them; ``activation_fn=torch.nn.Sigmoid()`` makes them 0 to 1.

    Args:
        model_name_or_path: a catalog id, its hub repository, a local folder, or a loaded `Reranker`.
        trust_remote_code: understood, and not needed: no code of a checkpoint is run.
        activation_fn: of the scores, given a tensor; None for none.
        image_hosts: hosts from which images named by their address may be fetched; others are refused.
        **arguments: see `SentenceTransformer`; ``max_length`` counts the query too.

    Example:
        >>> model = CrossEncoder("starter-rerank-vl", trust_remote_code=True)
        >>> documents = ["Bread needs flour.", "Tornadoes form in storms."]
        >>> model.rank("tornadoes", documents, top_k=1, return_documents=True)[0]["text"]
        'Tornadoes form in storms.'
    """

    def __init__(
        self,
        model_name_or_path: ModelName | Any,
        *,
        trust_remote_code: bool = False,
        activation_fn: Callable[[Any], Any] | None = None,
        num_labels: int = 1,
        image_hosts: Sequence[str] = (),
        **arguments: Any,
    ) -> None:
        if num_labels != 1:
            raise InputError(f"num_labels must be 1, for a reranker gives one score; got {num_labels}")
        super().__init__(model_name_or_path, "reranker", image_hosts=image_hosts, **options_from(arguments))
        self.activation_fn = activation_fn

    def predict(
        self,
        inputs: Any,
        *,
        activation_fn: Callable[[Any], Any] | None = None,
        convert_to_tensor: bool = False,
        **options: Any,
    ) -> Any:
        """Score pairs of a query and a passage: (n,) float32, or one number for one pair that is not in a list.

        Args:
            inputs: pairs; each half a text, an image, or a dict with ``text`` and ``image``.
            activation_fn: of these scores; None for that of the model.
            convert_to_tensor: a tensor on the CPU in place of an array.
            **options: as of sentence-transformers.

        Raises:
            InputError: an input is no pair or cannot be read, or an option means nothing here.
        """
        _check("CrossEncoder", options)
        single = len(inputs) == 2 and is_single(inputs[0])
        pairs = [inputs] if single else list(inputs)
        for index, pair in enumerate(pairs):
            if is_single(pair) or len(pair) != 2:
                raise InputError(f"pair {index} must be a query and a passage, got {type(pair).__name__}")
        scores = _activated(self._scores(pairs), activation_fn or self.activation_fn)
        return _as(scores[0] if single else scores, convert_to_tensor)

    def rank(
        self,
        query: Any,
        documents: Sequence[Any],
        top_k: int | None = None,
        return_documents: bool = False,
        *,
        activation_fn: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """The documents from best to worst, each as ``corpus_id`` and ``score``; equal scores keep their order.

        Args:
            query: a text; for models that read such queries also an image, or a dict.
            documents: as the second halves of `predict`.
            top_k: at most so many; None for all.
            return_documents: add each document as ``text``.
            activation_fn: see `predict`.
            **options: as of sentence-transformers.

        Raises:
            InputError: an input cannot be read, or an option means nothing here.
        """
        scores = self.predict([(query, each) for each in documents], activation_fn=activation_fn, **options)
        order = np.argsort(-scores, kind="stable").tolist()[:top_k]
        found = [{"corpus_id": place, "score": float(scores[place])} for place in order]
        return [each | {"text": documents[each["corpus_id"]]} for each in found] if return_documents else found

    def _scores(self, pairs: Sequence[Any]) -> NDArray[np.float32]:
        """Logits of pairs; those of one query after another are read together."""
        queries = as_passages([query for query, _ in pairs], access=self._access)
        passages = as_passages([passage for _, passage in pairs], access=self._access)
        scores, start = np.zeros(len(pairs), dtype=np.float32), 0
        for end in range(1, len(pairs) + 1):
            if end == len(pairs) or not _same(pairs[start][0], pairs[end][0]):
                scores[start:end] = self.native.score(_query(queries[start]), passages[start:end])
                start = end
        return scores


def _same(one: Any, other: Any) -> bool:
    return one is other or (isinstance(one, str) and isinstance(other, str) and one == other)


def _query(passage: Passage) -> Any:
    return passage.text if passage.image is None else passage


def _activated(scores: NDArray[np.float32], activation: Callable[[Any], Any] | None) -> NDArray[np.float32]:
    if activation is None or not len(scores):
        return scores
    (values,) = _tensors().to_arrays([activation(_tensors().to_tensor(scores))])
    return np.asarray(values, dtype=np.float32)


def _check(name: str, options: dict[str, Any]) -> None:
    """Refuse options that would change what is computed."""
    for option, value in options.items():
        if option in ("batch_size", "show_progress_bar", "convert_to_numpy", "chunk_size") or value is None:
            continue
        if value not in _ALLOWED.get(option, ()):
            raise InputError(f"{option}={value!r} means nothing to {name}; leave it out, or set it where it is made")


def _as(rows: Any, tensor: bool) -> Any:
    return _tensors().to_tensor(np.asarray(rows)) if tensor else rows


def _as_list(rows: Any, arrays: bool) -> Any:
    if arrays:
        return rows
    return [_tensors().to_tensor(row) for row in rows] if isinstance(rows, list) else _tensors().to_tensor(rows)


def _tensors() -> Any:
    return import_local("nemotron_rag.runtime.tensors")
