"""Texts full of brackets and control tokens in the prompts of Nemotron 3.5: read as published, never as a control."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment, Template
from tokenizers import Tokenizer

from nemotron_rag.models._mistral.prompts import Prompts
from nemotron_rag.models._mistral.tokenizer import MistralTokenizer

DATA = Path(__file__).parents[1] / "data" / "reference"
IMAGE, BREAK, END = 10, 12, 13
pieces = [
    "[IMG]",
    "[IMG_BREAK]",
    "[",
    "]",
    "<s>",
    "</s>",
    "<",
    ">",
    "[INST]",
    "\u200c",
    " ",
    "\n",
    "IMG",
    "pump",
    "\ufdd0",
    "文",
]
texts = st.lists(st.sampled_from(pieces), max_size=12).map("".join) | st.text(max_size=20)


def _made(case: str, *, is_reranker: bool) -> tuple[MistralTokenizer, Prompts, Tokenizer, Template]:
    folder = DATA / case
    tokenizer = MistralTokenizer(folder, image_token_id=IMAGE, is_chat=True)
    prompts = Prompts(folder, is_chat=True, is_reranker=is_reranker, protect=tokenizer.protect)
    published = Tokenizer.from_file(str(folder / "tokenizer.json"))
    source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)  # no HTML
    return tokenizer, prompts, published, template


EMBED, EMBED_2, RERANK, RERANK_2 = (
    _made(f"nemotron35_{kind}_open_{n}", is_reranker=kind == "rerank") for kind in ("embed", "rerank") for n in (1, 2)
)


def _published(made, messages: list[dict], grid: tuple[int, int] | None) -> list[int]:
    """What the published processor makes of messages: the template, its image tokens, then the tokenizer as it is."""
    _, _, tokenizer, template = made
    rendered = template.render(messages=messages)
    if grid:
        rows, columns = grid
        block = "[IMG_BREAK]".join(["[IMG]" * columns] * rows) + "[IMG_END]"
        rendered = rendered.replace("[IMG]", block, 1)
    return tokenizer.encode(rendered).ids


def _content(text: str, grid: tuple[int, int] | None) -> list[dict]:
    blocks = [{"type": "image"}] if grid else []
    return blocks + ([{"type": "text", "text": text}] if text or not grid else [])


grids = st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.parametrize("made", [EMBED, EMBED_2], ids=["without a start token", "with one"])
@given(text=texts, grid=grids)
def test_passages_are_tokenized_as_published(made, text, grid):
    tokenizer, prompts, _, _ = made
    prompt = prompts.passage(text, has_image=grid is not None)
    found = tokenizer.encode(prompt, grid=grid, max_length=999, index=0)
    _holds_one_image(found, grid)
    system = {"role": "system", "content": [{"type": "text", "text": prompts._prefixes.passage}]}
    clean = text.replace("\ufdd0", "\ufffd")  # a noncharacter, which marks what looks like a control token
    assert found == _published(made, [system, {"role": "user", "content": _content(clean, grid)}], grid)


@pytest.mark.parametrize("made", [RERANK, RERANK_2], ids=["with words", "without"])
@given(query=texts, text=texts, grid=grids)
def test_pairs_are_tokenized_as_published(made, query, text, grid):
    tokenizer, prompts, _, _ = made
    prompt = prompts.pair(query, text, has_image=grid is not None)
    found = tokenizer.encode(prompt, grid=grid, max_length=999, index=0)
    _holds_one_image(found, grid)
    query, text = (part.replace("\ufdd0", "\ufffd") for part in (query, text))
    roles = ("query", _content(query, None)), ("document", _content(text, grid))
    assert found == _published(made, [{"role": role, "content": content} for role, content in roles], grid)


def _holds_one_image(ids: list[int], grid: tuple[int, int] | None) -> None:
    """Control tokens are the start token and those of the image, nothing of a text."""
    rows, columns = grid or (0, 0)
    block = (([IMAGE] * columns + [BREAK]) * rows)[:-1] + [END] * (rows > 0)
    assert [number for number in ids if number < 40] == [number for number in ids[:1] if number == 1] + block
