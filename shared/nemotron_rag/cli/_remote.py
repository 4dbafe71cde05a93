"""The command ``vllm-template``: where the chat template is with which vLLM serves a model."""

from __future__ import annotations

from typing import Annotated

import typer

from nemotron_rag.cli import _output as output
from nemotron_rag.models.catalog import find
from nemotron_rag.remote.templates import chat_template

__all__ = ["vllm_template"]


def vllm_template(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Catalog id; `models` lists them.")],
) -> int:
    """Print the path of the chat template with which `vllm serve` gives the scores of the model's own code."""
    output.say(str(chat_template(find(model).family)))
    return 0
