"""The prompts of Nemotron 3 and 3.5, rendered by the checkpoint's own chat template.

A template is a program in Jinja: it runs in Jinja's sandbox, as in `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nemotron_rag.errors import CheckpointError
from nemotron_rag.models._base.sentence import Prefixes, read_prefixes
from nemotron_rag.runtime.checkpoint import read_json

__all__ = ["Message", "Prompts"]

Message: TypeAlias = dict[str, Any]
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_PLACES = ("processor_config.json", "chat_template.json", "tokenizer_config.json")  # after chat_template.jinja


class Prompts:
    """Renders the inputs of one checkpoint to the strings that its tokenizer gets.

    Args:
        folder: the checkpoint.
        is_chat: whether inputs go through the chat template.
        is_reranker: whether it reads a query and a passage together.
        protect: marks text that looks like a control token; see `MistralTokenizer.protect`.

    Raises:
        CheckpointError: the template or the prompts are missing or broken.
    """

    def __init__(self, folder: Path, *, is_chat: bool, is_reranker: bool, protect: Callable[[str], str]) -> None:
        self._folder = folder
        self._protect = protect
        self._prefixes = Prefixes("", "") if is_reranker else read_prefixes(folder)
        self._special = _special_tokens(folder)
        self._template = self._compile(_read_template(folder)) if is_chat else None

    def query(self, query: str) -> str:
        """A query for an embedder."""
        return self._embedded(self._prefixes.query, query, has_image=False, task="query")

    def passage(self, text: str, *, has_image: bool) -> str:
        """A passage for an embedder."""
        return self._embedded(self._prefixes.passage, text, has_image=has_image, task="document")

    def pair(self, query: str, text: str, *, has_image: bool) -> str:
        """A query and a passage for a reranker."""
        messages = [
            {"role": "query", "content": self._content(query, has_image=False)},
            {"role": "document", "content": self._content(text, has_image=has_image)},
        ]
        return self._render(messages)

    def _embedded(self, prefix: str, text: str, *, has_image: bool, task: str) -> str:
        if self._template is None:
            return prefix + text
        messages = [{"role": "user", "content": self._content(text, has_image=has_image)}]
        if prefix:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": prefix}]})
        return self._render(messages, task=task)  # which a template may ask for, as in sentence-transformers

    def _content(self, text: str, *, has_image: bool) -> list[Message]:
        """The blocks of a message; an image without a text has no block for it, which would add a space."""
        blocks: list[Message] = [{"type": "image"}] if has_image else []
        if text or not has_image:
            blocks.append({"type": "text", "text": self._protect(text)})
        return blocks

    def _compile(self, source: str) -> Any:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise
        try:
            return environment.from_string(source)
        except TemplateError as error:
            raise CheckpointError(f"the chat template of checkpoint {self._folder} is broken: {error}") from error

    def _render(self, messages: list[Message], **names: str) -> str:
        assert self._template is not None  # a reranker has one
        try:
            given = self._special | names
            rendered: str = self._template.render(messages=messages, add_generation_prompt=False, **given)
        except Exception as error:  # whatever its expressions raise
            raise CheckpointError(
                f"the chat template of checkpoint {self._folder} does not take "
                f"{' and '.join(message['role'] for message in messages)}: {error!r}"
            ) from error
        return rendered


def _raise(message: str) -> None:
    raise TemplateError(message)


def _read_template(folder: Path) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read chat_template.jinja of checkpoint {folder}: {error}") from error
    for name in _PLACES:
        found = read_json(folder, name, optional=True).get("chat_template")
        if found:
            return _default(found)
    raise CheckpointError(f"checkpoint {folder} has no chat template; expected one in chat_template.jinja")


def _default(found: str | list[Mapping[str, str]] | Mapping[str, str]) -> str:
    """Of several templates by name the default one."""
    if isinstance(found, str):
        return found
    named = found if isinstance(found, Mapping) else {entry["name"]: entry["template"] for entry in found}
    return named["default"]


def _special_tokens(folder: Path) -> dict[str, str]:
    """The names of special tokens, which a template may use."""
    config = read_json(folder, "tokenizer_config.json", optional=True)
    given = {name: config[name] for name in _SPECIAL if config.get(name)}
    return {name: token["content"] if isinstance(token, Mapping) else str(token) for name, token in given.items()}
