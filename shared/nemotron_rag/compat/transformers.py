"""Our models with the methods of NVIDIA's remote code: the Transformers part of a model card runs with this import.

`AutoModel` gives ``encode_queries`` and ``encode_documents``, or ``forward_queries``, ``forward_images`` and
``get_scores``; `AutoProcessor` and `AutoModelForSequenceClassification` together give logits. Nothing else of
Transformers is here: its own classes load other models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemotron_rag.compat.inputs import image_of
from nemotron_rag.compat.loading import Loaded, options_from
from nemotron_rag.documents.access import ImageAccess
from nemotron_rag.errors import InputError
from nemotron_rag.models.load import ModelName
from nemotron_rag.runtime import import_local
from nemotron_rag.types import Passage

__all__ = ["AutoModel", "AutoModelForSequenceClassification", "AutoProcessor", "Logits"]

_TILES = ("max_input_tiles", "use_thumbnail")


class AutoProcessor:
    """The settings of inputs, and pairs of a query and a passage on their way to a reranker.

    ``p_max_length``, ``rerank_max_length``, ``q_max_length``, ``max_input_tiles`` and ``use_thumbnail`` may be set at
    any time; None is the model's own.

    Example:
        >>> processor = AutoProcessor.from_pretrained("starter-rerank-vl", max_input_tiles=6, rerank_max_length=2048)
        >>> batch = processor.process_queries_documents_crossencoder([{"question": "a", "doc_text": "b"}])
        >>> AutoModelForSequenceClassification.from_pretrained("starter-rerank-vl")(**batch).logits.shape
        torch.Size([1, 1])
    """

    def __init__(self, *, image_hosts: Sequence[str] = (), **settings: Any) -> None:
        self.p_max_length: int | None = settings.pop("p_max_length", None)
        self.rerank_max_length: int | None = settings.pop("rerank_max_length", None)
        self.q_max_length: int | None = settings.pop("q_max_length", None)
        self.max_input_tiles: int | None = settings.pop("max_input_tiles", None)
        self.use_thumbnail: bool | None = settings.pop("use_thumbnail", None)
        options_from(settings)  # refuses what means nothing
        self._access = ImageAccess(hosts=image_hosts)

    @classmethod
    def from_pretrained(
        cls, model_name_or_path: ModelName, *, trust_remote_code: bool = False, **settings: Any
    ) -> AutoProcessor:
        """The settings for a model; nothing is loaded, and no code of a checkpoint is run.

        Raises:
            InputError: a setting means nothing here.
        """
        return cls(**settings)

    def options(self) -> dict[str, Any]:
        """What these settings are among `LoadOptions`."""
        length: Any = self.p_max_length or self.rerank_max_length
        if self.q_max_length is not None:
            of_passages = {} if length is None else dict.fromkeys(("text", "image", "image_text"), length)
            length = of_passages | {"query": self.q_max_length}
        tiles = {name: getattr(self, name) for name in _TILES if getattr(self, name) is not None}
        return tiles if length is None else tiles | {"max_length": length}

    def process_queries_documents_crossencoder(
        self, features: Sequence[Mapping[str, Any]], **kwargs: Any
    ) -> dict[str, Any]:
        """Pairs as keyword arguments for the model, which alone computes with them.

        Args:
            features: each with ``question``, ``doc_text`` and ``doc_image``; empty or None for what a document has not.
            **kwargs: of the published method; lengths and tiles are settings of the processor.

        Returns:
            One tensor, which carries the pairs wherever it is moved.

        Raises:
            InputError: a pair has other keys.
        """
        pairs = [self._pair(each, index) for index, each in enumerate(features)]
        carrier = import_local("nemotron_rag.runtime.tensors").Carrier.of([self, pairs])
        return {"pairs": carrier}

    def _pair(self, feature: Mapping[str, Any], index: int) -> tuple[str, Passage]:
        unknown = feature.keys() - {"question", "doc_text", "doc_image"}
        if unknown or "question" not in feature:
            raise InputError(f"pair {index} must have question, doc_text and doc_image; got {', '.join(feature)}")
        image = image_of(feature.get("doc_image"), access=self._access)
        return feature["question"], Passage(feature.get("doc_text") or "", image)


class AutoModel(Loaded):
    """An embedder, with one vector an input or many, with the methods of NVIDIA's remote code.

    Vectors are float32 tensors on the CPU, of length 1; the card's own division by their length changes nothing.

    Example:
        >>> model = AutoModel.from_pretrained("starter-embed-vl", trust_remote_code=True).eval()
        >>> model.processor.max_input_tiles = 4
        >>> model.encode_documents(texts=["Sales grew.", "Bread"]).shape
        torch.Size([2, 1024])
    """

    def __init__(self, model: ModelName | Any, **arguments: Any) -> None:
        hosts = arguments.pop("image_hosts", ())
        super().__init__(model, "embedder", "multivector_embedder", image_hosts=hosts, **options_from(arguments))
        self.processor = AutoProcessor(image_hosts=hosts)

    @classmethod
    def from_pretrained(
        cls, model_name_or_path: ModelName | Any, *, trust_remote_code: bool = False, **arguments: Any
    ) -> AutoModel:
        """An embedder of the catalog, a folder, or a loaded one; no code of a checkpoint is run.

        Raises:
            InputError: an argument means nothing here, or the model is of another kind.
            UnknownModelError: there is no such model.
        """
        return cls(model_name_or_path, **arguments)

    def encode_queries(self, queries: Sequence[str], **kwargs: Any) -> Any:
        """Embed queries: (n, dimensions), or (n, longest, dimensions) filled up with zeros."""
        return self._tensor(self._ready().embed_queries(list(queries)))

    def encode_documents(
        self, images: Sequence[Any] | None = None, texts: Sequence[str] | None = None, **kwargs: Any
    ) -> Any:
        """Embed images, texts, or both, row i of the one with row i of the other.

        Raises:
            InputError: there are neither, or not as many of the one as of the other.
        """
        return self._tensor(self._ready().embed_passages(list(self._passages(images, texts))))

    def forward_queries(self, queries: Sequence[str], batch_size: int = 8, **kwargs: Any) -> Any:
        """`encode_queries` under the name that late-interaction models have for it."""
        return self.encode_queries(queries)

    def forward_images(self, images: Sequence[Any], batch_size: int = 8, **kwargs: Any) -> Any:
        """Embed images."""
        return self.encode_documents(images=images)

    def forward_documents(self, documents: Sequence[Mapping[str, Any]], batch_size: int = 8, **kwargs: Any) -> Any:
        """Embed dicts with ``image`` and ``text``."""
        images = [each.get("image") for each in documents]
        return self.encode_documents(images=images, texts=[each.get("text") or "" for each in documents])

    def forward_passages(self, passages: Sequence[Any], batch_size: int = 8, **kwargs: Any) -> Any:
        """Embed images, or dicts as of `forward_documents`."""
        as_documents = bool(passages) and all(isinstance(each, Mapping) for each in passages)
        return self.forward_documents(passages) if as_documents else self.forward_images(passages)

    def get_scores(self, queries: Any, passages: Any, batch_size: int = 128, **kwargs: Any) -> Any:
        """MaxSim of token vectors, or cosines of vectors: (queries, passages) float32."""
        tensors = import_local("nemotron_rag.runtime.tensors")
        model = self._ready()
        if model.kind == "embedder":
            return tensors.similarity(queries, passages)
        return tensors.to_tensor(model.score(tensors.unpadded(queries), tensors.unpadded(passages)))

    def _ready(self) -> Any:
        """The model under the processor's present settings."""
        self._set(**self.processor.options())
        return self.native

    def _tensor(self, rows: Any) -> Any:
        tensors = import_local("nemotron_rag.runtime.tensors")
        return tensors.padded(rows) if isinstance(rows, list) else tensors.to_tensor(rows)

    def _passages(self, images: Sequence[Any] | None, texts: Sequence[str] | None) -> Iterator[Passage]:
        if images is None and texts is None:
            raise InputError("encode_documents needs images=, texts= or both, got neither")
        if images is not None and texts is not None and len(images) != len(texts):
            raise InputError(f"images and texts belong together, got {len(images)} and {len(texts)}; give as many")
        count = len(images if images is not None else texts or ())
        for index in range(count):
            image = None if images is None else image_of(images[index], access=self._access)
            yield Passage("" if texts is None else texts[index] or "", image)


@dataclass(frozen=True, slots=True)
class Logits:
    """What a reranker gives.

    Args:
        logits: (n, 1) float32 tensor on the CPU.
    """

    logits: Any


class AutoModelForSequenceClassification(Loaded):
    """A reranker: called with what `AutoProcessor` made of pairs, it gives their logits.

    Example: see `AutoProcessor`.
    """

    def __init__(self, model: ModelName | Any, **arguments: Any) -> None:
        hosts = arguments.pop("image_hosts", ())
        super().__init__(model, "reranker", image_hosts=hosts, **options_from(arguments))

    @classmethod
    def from_pretrained(
        cls, model_name_or_path: ModelName | Any, *, trust_remote_code: bool = False, **arguments: Any
    ) -> AutoModelForSequenceClassification:
        """A reranker of the catalog, a folder, or a loaded one; arguments and errors as of `AutoModel`."""
        return cls(model_name_or_path, **arguments)

    def __call__(self, *, pairs: Any = None, return_dict: bool = True, **inputs: Any) -> Logits:
        """Logits of pairs.

        Raises:
            InputError: they do not come from `AutoProcessor.process_queries_documents_crossencoder`.
        """
        carried = getattr(pairs, "inputs", None)
        if not carried:
            given = ", ".join(inputs) or "nothing"
            raise InputError(
                f"the model reads what AutoProcessor.process_queries_documents_crossencoder gives, got {given}; take "
                "AutoProcessor from this module too"
            )
        processor, features = carried
        self._set(**processor.options())
        scores, start = np.zeros(len(features), dtype=np.float32), 0
        for end in range(1, len(features) + 1):
            if end == len(features) or features[end][0] != features[start][0]:
                passages = [passage for _, passage in features[start:end]]
                scores[start:end] = self.native.score(features[start][0], passages)
                start = end
        return Logits(import_local("nemotron_rag.runtime.tensors").to_tensor(scores[:, None]))
