"""The prompts that NVIDIA's Llama models were trained with."""

from __future__ import annotations

from nemotron_rag.models._llama.tokenizer import Prompt

__all__ = ["embed_prompt", "rerank_prompt"]


def embed_prompt(prefix: str, text: str, *, image_tokens: int = 0) -> Prompt:
    """Build an embedder's prompt: prefix, image and text, separated by spaces, even when the text is empty.

    Args:
        prefix: ``query:`` or ``passage:``, or nothing.
        text: the query or passage.
        image_tokens: 0 without an image.
    """
    start = f"{prefix} " if prefix else ""
    return Prompt(start, image_tokens, f" {text}") if image_tokens else Prompt(start + text)


def rerank_prompt(query: str, passage: str, *, template: str | None, image_tokens: int = 0) -> Prompt:
    """Build a reranker's prompt: image, query, passage; the odd spaces and line breaks are those of the models.

    Args:
        query: the query.
        passage: text of the passage; may be empty.
        template: ``v1`` for the labelled form, anything else for the bare one.
        image_tokens: 0 without an image.
    """
    text = f"question:{query} \n \n passage:{passage}" if template == "v1" else f"{query} \n {passage}"
    return Prompt("", image_tokens, f" {text}") if image_tokens else Prompt(text)
