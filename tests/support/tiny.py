"""Tiny random checkpoints for sentence-transformers, made on the spot, and look-alikes of its models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SHAPE = {
    "vocab_size": 57,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
}


def save_bert(folder: Path, *, labels: int | None = None, seed: int = 0) -> str:
    """A checkpoint of a random BERT that reads letters; with `labels` a cross-encoder's."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = [chr(code) for code in range(97, 123)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, **{f"{key}_token": token for key, token in named.items()}
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    if labels is None:
        model = transformers.BertModel(transformers.BertConfig(**SHAPE))
    else:
        config = transformers.BertConfig(**SHAPE, num_labels=labels)
        model = transformers.BertForSequenceClassification(config)
        model.classifier.weight.data.normal_()  # logits that differ
    model.save_pretrained(folder)
    return str(folder)


class Encodes:
    """Has the methods of a ``SentenceTransformer`` that reads what `reads` says, and notes what it was given."""

    def __init__(self, reads: tuple[Any, ...] = ("text",), *, dimensions: int | None = 4) -> None:
        self.reads, self.given, self.options = reads, [], []
        if dimensions is not None:
            self.get_embedding_dimension = lambda: dimensions

    def supports(self, modality: Any) -> bool:
        return modality in self.reads

    def encode_query(self, inputs: list[Any], **options: Any) -> np.ndarray:
        return self._rows(inputs, options)

    def encode_document(self, inputs: list[Any], **options: Any) -> np.ndarray:
        return self._rows(inputs, options)

    encode = encode_document

    def similarity(self, ones: Any, others: Any) -> Any:
        return ones @ others.T

    def _rows(self, inputs: list[Any], options: dict[str, Any]) -> np.ndarray:
        self.given += inputs
        self.options.append(options)
        return np.array([[3, 4, 0, 0]] * len(inputs), dtype=np.float64)


class Predicts:
    """Has the methods of a ``CrossEncoder``: a score is the length of the second text, or 0.5."""

    num_labels = 1

    def __init__(self, reads: tuple[Any, ...] = ("text",)) -> None:
        self.reads, self.given = reads, []

    def supports(self, modality: Any) -> bool:
        return modality in self.reads

    def predict(self, inputs: list[Any], *, activation_fn: Any, **options: Any) -> np.ndarray:
        self.given += inputs
        logits = np.array([len(text) if isinstance(text, str) else 0.5 for _, text in inputs], dtype=np.float32)
        return np.asarray(activation_fn(logits))

    def rank(self, query: Any, documents: list[Any], **options: Any) -> list[Any]:
        raise AssertionError("not needed")
