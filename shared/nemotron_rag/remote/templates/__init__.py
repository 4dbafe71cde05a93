"""Chat templates with which vLLM writes the prompts that the models were trained with."""

from __future__ import annotations

from pathlib import Path

from nemotron_rag.errors import InputError

__all__ = ["TEMPLATES", "chat_template"]

TEMPLATES = {
    "llama_nemotron_embed_vl": "nemotron_embed_vl.jinja",
    "llama_nemotron_rerank_vl": "nemotron_rerank.jinja",
    "llama_nemotron_text_rerank": "nemotron_rerank.jinja",
}
"""By the family of the catalog."""


def chat_template(family: str) -> Path:
    """The template of a model family, a file for ``vllm serve --chat-template``.

    Raises:
        InputError: there is none.

    Example:
        >>> chat_template("llama_nemotron_rerank_vl").name
        'nemotron_rerank.jinja'
    """
    if family not in TEMPLATES:
        raise InputError(f"there is no chat template for {family}; there is one for {', '.join(TEMPLATES)}")
    return Path(__file__).with_name(TEMPLATES[family])
