"""The prompts that NVIDIA's Llama models were trained with, text and picture ones alike. It knows no tokens."""

from __future__ import annotations

from nemotron_rag.models._prompt import Prompt

__all__ = ["embed_prompt", "rerank_prompt"]


def embed_prompt(prefix: str, text: str, *, image_tokens: int = 0) -> Prompt:
    """An embedder's: prefix, image, text, each set off by a space; the space stays when the text is empty.

    Args:
        prefix: ``query:`` or ``passage:``, or nothing.
        text: the query or passage.
        image_tokens: 0 without an image.
    """
    start = f"{prefix} " if prefix else ""
    return Prompt(start, image_tokens, f" {text}") if image_tokens else Prompt(start + text)


def rerank_prompt(question: str, passage: str, *, template: str | None, image_tokens: int = 0) -> Prompt:
    """A reranker's: the image before the question; the odd spaces and line breaks are the models' own.

    Args:
        question: the query.
        passage: the text to judge; may be empty.
        template: ``v1`` for the labelled form, anything else for the bare one.
        image_tokens: 0 without an image.
    """
    text = f"question:{question} \n \n passage:{passage}" if template == "v1" else f"{question} \n {passage}"
    return Prompt("", image_tokens, f" {text}") if image_tokens else Prompt(text)
